"""The training harness: weights folders, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import probe_methods
import pytest
from conftest import Prepared

from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.errors import InputError
from xdiff.plain import to_json
from xdiff.train import load_module, main, train

LINEAR = MethodEntry("baselines.interpolation", {"kind": "linear"}, learns=False, min_k=2)
PROBE = MethodEntry("probe_methods", {"level": 0.5})


def files_of(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_unlearned_method_gets_a_weights_folder(field: Prepared, tmp_path: Path) -> None:
    train("linear", LINEAR, field.store, field.split, tmp_path / "linear")
    tensors, config = read_weights(tmp_path / "linear")
    assert tensors == {}
    assert (config["method"], config["params"], config["trained_on"]) == ("linear", {"kind": "linear"}, "gaussian-field")
    assert (config["shape"], config["split"], config["data"]) == ([20, 24, 18], field.split.sha, field.store.fingerprint)
    assert not (tmp_path / "linear.checkpoints").exists()


def test_second_training_is_a_no_op(field: Prepared, tmp_path: Path) -> None:
    probe_methods.TRAININGS.clear()
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    before = files_of(tmp_path / "probe")
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    assert files_of(tmp_path / "probe") == before
    assert len(probe_methods.TRAININGS) == 1


def test_changed_params_train_again_and_say_so(field: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    assert "starting clean" not in capsys.readouterr().out
    train("probe", MethodEntry("probe_methods", {"level": 0.25}), field.store, field.split, tmp_path / "probe")
    tensors, config = read_weights(tmp_path / "probe")
    assert tensors["level"].tolist() == [0.25]
    assert config["params"] == {"level": 0.25}
    assert "starting clean" in capsys.readouterr().out
    # each parameter set has its own folder for checkpoints
    assert len(list((tmp_path / "probe.checkpoints").iterdir())) == 2


def test_damaged_weights_are_trained_again(field: Prepared, tmp_path: Path) -> None:
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    flip_last_byte(tmp_path / "probe/weights.safetensors")
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    assert read_weights(tmp_path / "probe")[0]["level"].tolist() == [0.5]


def test_resources_of_the_entry_do_not_change_the_weights(field: Prepared, tmp_path: Path) -> None:
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    before = files_of(tmp_path / "probe")
    more = MethodEntry("probe_methods", {"level": 0.5}, threads=8, runtime_min=999, estimates=("mean", "sample"))
    train("probe", more, field.store, field.split, tmp_path / "probe")
    assert files_of(tmp_path / "probe") == before


@pytest.mark.parametrize("kind", ["plain", "iterates"])
def test_the_history_of_a_training_stands_beside_its_weights(field: Prepared, tmp_path: Path, kind: str) -> None:
    entry = MethodEntry("probe_methods", {"kind": kind})
    train("probe", entry, field.store, field.split, tmp_path / "probe")
    history = tmp_path / "probe/history.jsonl"
    left = list((tmp_path / "probe.checkpoints").glob("*/history.jsonl"))
    assert len(left) == (kind == "iterates") and history.read_text() == "".join(path.read_text() for path in left)
    history.unlink()
    probe_methods.TRAININGS.clear()
    train("probe", entry, field.store, field.split, tmp_path / "probe")
    assert len(probe_methods.TRAININGS) == 1 and history.exists()


def test_an_old_history_never_stands_beside_new_weights(field: Prepared, tmp_path: Path) -> None:
    train("probe", MethodEntry("probe_methods", {"kind": "iterates"}), field.store, field.split, tmp_path / "probe")
    assert (tmp_path / "probe/history.jsonl").read_text()
    train("probe", PROBE, field.store, field.split, tmp_path / "probe")
    assert (tmp_path / "probe/history.jsonl").read_text() == ""


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_refused_naming_file_and_sha(tmp_path: Path) -> None:
    sha = write_weights(tmp_path, {"a": np.arange(5.0)}, {"method": "probe"})
    flip_last_byte(tmp_path / "weights.safetensors")
    with pytest.raises(InputError) as refused:
        read_weights(tmp_path)
    assert refused.value.where == str(tmp_path / "weights.safetensors")
    assert refused.value.found.startswith("sha256 ") and sha[:12] not in refused.value.found
    assert sha[:12] in refused.value.expected


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_an_incomplete_weights_folder_is_refused(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path, {"a": np.arange(5.0)}, {"method": "probe"})
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: found no such file"):
        read_weights(tmp_path)


def test_weights_survive_the_round_trip_and_their_hash_ignores_the_clock(tmp_path: Path) -> None:
    tensors = {"b": np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2], "a": np.full((), 2.5)}
    first = write_weights(tmp_path / "x", tensors, {"method": "probe", "seconds": 1.0})
    second = write_weights(tmp_path / "y", tensors, {"method": "probe", "seconds": 2.0})
    assert first == second
    assert first != write_weights(tmp_path / "z", tensors, {"method": "other", "seconds": 1.0})
    read, config = read_weights(tmp_path / "y/weights.safetensors")
    assert set(read) == {"a", "b"} and config["seconds"] == 2.0
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_module_that_is_no_method_is_refused() -> None:
    with pytest.raises(InputError, match="baselines.no_such"):
        load_module(MethodEntry("baselines.no_such"))
    with pytest.raises(InputError, match="no function `load`"):
        load_module(MethodEntry("xdiff.planes"))


def test_command_line_trains_and_names_an_unknown_key(field: Prepared, tmp_path: Path) -> None:
    arguments = ["--method", "linear", "--data", str(field.store.folder), "--split", str(field.split_file)]
    arguments += ["--out", str(tmp_path / "linear"), "--entry"]
    main([*arguments, to_json(LINEAR)])
    assert read_weights(tmp_path / "linear")[1]["module"] == "baselines.interpolation"
    with pytest.raises(InputError, match=r"methods.linear: found unknown key 'modul'"):
        main([*arguments, json.dumps({"modul": "x"})])
