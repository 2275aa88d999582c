"""Where numbers come from: the configuration that was run, commit, versions of packages, machine."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from xdiff.config import Config, parts_of
from xdiff.plain import to_json

PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "scikit-image", "torch", "monai", "nnunetv2", "snakemake")


def selected(config: Config) -> dict[str, Any]:
    """Of a configuration as plain data, what `run` selects: its cohorts (those trained on too), grids, methods and sweeps."""
    plain = dataclasses.asdict(config)
    run = plain["run"]
    chosen = {**run, "cohorts": [*run["cohorts"], *(part for name in run["trained_on"] for part in parts_of(name))]}
    used = {k: {n: e for n, e in plain[k].items() if n in chosen[k]} for k in ("cohorts", "grids", "methods", "sweeps")}
    return {**used, "run": run}


def commit() -> str:
    """The commit of the working directory, `-dirty` where files differ from it; empty outside a checkout or without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of PACKAGES, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sha256_of(config: dict[str, Any]) -> str:
    """Of a configuration as plain data, whatever the order of its keys."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def here(config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Commit, versions and machine now, and the configuration where there is one, as the report page shows them."""
    about = {"commit": commit(), "python": platform.python_version(), "packages": versions(), "machine": platform.platform()}
    return about | ({"config": config, "config_sha256": sha256_of(config)} if config else {})
