"""Weights folders: `weights.safetensors` (arrays, config inside) and `config.json` with its sha256. No pickles."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from xdiff.errors import InputError

Tensors = dict[str, np.ndarray]
FILE = "weights.safetensors"


def write_weights(folder: Path, tensors: Tensors, config: dict) -> str:
    """Write a weights folder, the config last; returns the sha256 of the weights file.

    `seconds` stays out of the hashed file: the same training gives the same bytes, however long it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # a safetensors file needs at least one tensor to be worth a file; methods that learn nothing have an empty one
    hashed = json.dumps({k: v for k, v in config.items() if k != "seconds"}, sort_keys=True)
    data = save(contiguous or {"empty": np.zeros(1, np.uint8)}, metadata={"config": hashed})
    sha = hashlib.sha256(data).hexdigest()
    _replace(folder / FILE, data)
    _replace(folder / "config.json", (json.dumps({**config, "sha256": sha}, indent=1, sort_keys=True) + "\n").encode())
    return sha


def read_weights(folder: Path) -> tuple[Tensors, dict]:
    """Arrays and config of a weights folder (or its weights file). Raises InputError where the sha256 does not fit."""
    folder = Path(folder).parent if Path(folder).name == FILE else Path(folder)
    config_path, path = folder / "config.json", folder / FILE
    for needed in (config_path, path):
        if not needed.exists():
            raise InputError(needed, "no such file", "a weights folder with weights.safetensors and config.json")
    config = _read_config(config_path)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha != config["sha256"]:
        raise InputError(path, f"sha256 {sha[:12]}", f"{config['sha256'][:12]} as {config_path.name} says")
    with safe_open(path, framework="numpy") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys() if name != "empty"}  # noqa: SIM118
    return tensors, config


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(path, f"broken JSON ({error})", "the config of a weights folder, with its sha256") from error
    if not isinstance(config, dict) or "sha256" not in config:
        raise InputError(path, "no key 'sha256'", "the config of a weights folder, with its sha256")
    return config


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
