"""Weights folders: arrays and config come back, nothing is a pickle, and tampering is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from xdiff.checkpoint import FILE, read_weights, write_weights
from xdiff.errors import InputError

CONFIG = {"method": "gaussian", "params": {"kind": "gaussian", "max_volumes": 400}, "shape": [4, 5, 6]}
TENSORS = {
    "rows": np.random.default_rng(0).random((2, 1, 4, 5, 6)).astype(np.float16),
    "lambdas": np.geomspace(1e-5, 3, 18).reshape(3, 6),
    "steps": np.arange(3),
    "strided": np.arange(24).reshape(4, 6)[::2, ::-1],
}


def test_arrays_and_config_come_back(tmp_path: Path) -> None:
    sha = write_weights(tmp_path / "w", TENSORS, CONFIG)
    for path in (tmp_path / "w", tmp_path / "w" / FILE, str(tmp_path / "w")):
        tensors, config = read_weights(path)
        assert config == {**CONFIG, "sha256": sha}
        assert set(tensors) == set(TENSORS)
        for name, array in TENSORS.items():
            assert tensors[name].dtype == array.dtype
            np.testing.assert_array_equal(tensors[name], array)


def test_the_config_is_inside_the_weights_file_too(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, CONFIG)
    with safe_open(tmp_path / FILE, framework="numpy") as handle:
        assert json.loads(handle.metadata()["config"]) == CONFIG


def test_the_sha256_is_that_of_the_file_and_reproducible(tmp_path: Path) -> None:
    sha = write_weights(tmp_path / "a", TENSORS, CONFIG)
    assert sha == hashlib.sha256((tmp_path / "a" / FILE).read_bytes()).hexdigest()
    assert write_weights(tmp_path / "b", TENSORS, dict(reversed(CONFIG.items()))) == sha
    assert write_weights(tmp_path / "c", TENSORS, {**CONFIG, "seed": 1}) != sha


def test_a_method_that_learns_nothing_has_weights_without_arrays(tmp_path: Path) -> None:
    write_weights(tmp_path, {}, CONFIG)
    assert (tmp_path / FILE).exists()
    assert read_weights(tmp_path)[0] == {}


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, CONFIG)
    assert {p.name for p in tmp_path.iterdir()} == {FILE, "config.json"}


@pytest.mark.parametrize("name", [FILE, "config.json"])
def test_an_incomplete_folder(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path, TENSORS, CONFIG)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: found no such file, expected a weights folder with"):
        read_weights(tmp_path)


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    sha = write_weights(tmp_path, TENSORS, CONFIG)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(InputError, match=rf"{FILE}: found sha256 [0-9a-f]{{12}}, expected {sha[:12]} as config\.json says"):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["{not json", '{"method": "gaussian"}', "[]"])
def test_a_config_that_is_no_weights_config(tmp_path: Path, text: str) -> None:
    write_weights(tmp_path, TENSORS, CONFIG)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: found .*expected .*sha256"):
        read_weights(tmp_path)
