"""The models that travel with the package, by name: `xdiff models` lists them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xdiff.checkpoint import CONFIG, read_weights
from xdiff.errors import InputError

SHIPPED = Path(__file__).parent / "weights"
COLUMNS = ("name", "trained_on", "contrasts", "grid", "sha256", "mib")


def find_model(name_or_path: str | Path) -> Path:
    """The weights folder of a shipped model's name or of a path, a folder first. Raises InputError where there is neither."""
    path = Path(name_or_path)
    if (path / CONFIG).is_file():
        return path
    shipped = SHIPPED / str(name_or_path)
    if path.name == str(name_or_path) and (shipped / CONFIG).is_file():
        return shipped
    names = ", ".join(names_of(SHIPPED)) or "none"
    raise InputError(path, f"no {CONFIG} in it, and no shipped model of this name", f"a weights folder, or one of: {names}")


def spacing_of(config: Mapping[str, Any]) -> tuple[float, float, float]:
    """Spacing (3,) in mm of a model's array, of which its config says one number where all are equal."""
    spacing = config["spacing_mm"]
    return (float(spacing),) * 3 if isinstance(spacing, int | float) else tuple(spacing)


def names_of(folder: Path) -> list[str]:
    """Names of the models in a folder of weights folders, sorted."""
    return sorted(config.parent.name for config in folder.glob(f"*/{CONFIG}"))


def table(folder: Path) -> pd.DataFrame:
    """One row of COLUMNS per model. Raises InputError where weights do not fit their sha256."""
    return pd.DataFrame([_row(folder / name) for name in names_of(folder)], columns=COLUMNS)


def _row(weights: Path) -> dict[str, str | float]:
    _, config = read_weights(weights)
    size_bytes = sum(file.stat().st_size for file in weights.iterdir())
    shape = " x ".join(str(n) for n in config["shape"])
    return {
        "name": weights.name,
        "trained_on": config["trained_on"],
        "contrasts": ",".join(config["contrasts"]),
        "grid": f"{shape} at {config['spacing_mm']} mm",
        "sha256": config["sha256"][:12],
        "mib": round(size_bytes / 2**20, 1),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff models", description="List the models that travel with the package.")
    parser.parse_args(argv)
    found = table(SHIPPED)
    print(found.to_string(index=False) if len(found) else f"no model in {SHIPPED}")
