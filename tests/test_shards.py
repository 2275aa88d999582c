"""Arrays that do not fit into one file: weights folders and states of a training in shards, and results kept for others."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from xdiff import checkpoint
from xdiff.budget import OutOfTime, time_budget
from xdiff.checkpoint import FILE, Tensors, keep_once, read_state, read_weights, write_state, write_weights
from xdiff.errors import InputError

CONFIG = {"method": "probe", "params": {}, "seconds": 3.0}
LIMIT = 2**17  # bytes of a shard here
RNG = np.random.default_rng(0)
LARGE: Tensors = {
    "wide": RNG.random((1, 60_000), dtype=np.float32),  # more than a shard, and only one row
    "long": RNG.random((700, 3, 5, 7)).astype(np.float16).transpose(0, 2, 1, 3),  # more than a shard, not contiguous
    "whole": np.arange(5000),
    "last": RNG.random(9000, dtype=np.float32),
    "flag": np.array([True, False]),
}
SMALL = {"whole": np.arange(5)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_MIB", LIMIT / 2**20)


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


def fail_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die in the call-th os.replace from now, as kill -9 would before it."""
    left, replace = iter(range(call)), os.replace

    def killed(source: Path, target: Path) -> None:
        if next(left) == call - 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)


# Weights folders ----------------------------------------------------------------------------------------------------


def test_arrays_larger_than_a_shard_come_back(tmp_path: Path) -> None:
    sha = write_weights(tmp_path, LARGE, CONFIG)
    tensors, config = read_weights(tmp_path / FILE)
    assert_same(tensors, LARGE)
    files = [FILE, *(f"weights-{i}.safetensors" for i in range(2, len(config["shards"]) + 1))]
    assert len(files) >= 4 and {p.name for p in tmp_path.iterdir()} == {*files, "config.json"}
    assert max((tmp_path / name).stat().st_size for name in files) <= LIMIT
    assert config["shards"] == [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in files]
    assert config["sha256"] == sha == hashlib.sha256("".join(config["shards"]).encode()).hexdigest()


def test_pieces_are_flat_and_named_by_their_elements(tmp_path: Path) -> None:
    """So that they can be joined without this code."""
    write_weights(tmp_path, {"wide": LARGE["wide"]}, CONFIG)
    found = {k: v for path in tmp_path.glob("*.safetensors") for k, v in load_file(path).items()}
    ordered = sorted(found, key=lambda key: int(key.removeprefix("wide[").split(":")[0]))
    np.testing.assert_array_equal(np.concatenate([found[key] for key in ordered]), LARGE["wide"][0])
    assert ordered[-1].endswith(":60000]") and len(ordered) == 4


def test_the_sha_of_shards_is_reproducible_and_tells_arrays_and_config(tmp_path: Path) -> None:
    sha = write_weights(tmp_path / "a", LARGE, CONFIG)
    assert write_weights(tmp_path / "b", dict(reversed(LARGE.items())), {**CONFIG, "seconds": 9.0}) == sha
    assert write_weights(tmp_path / "c", LARGE, {**CONFIG, "method": "other"}) != sha
    assert write_weights(tmp_path / "d", {**LARGE, "wide": LARGE["wide"] + 1}, CONFIG) != sha


def test_fewer_shards_leave_no_stale_ones(tmp_path: Path) -> None:
    write_weights(tmp_path, LARGE, CONFIG)
    read, config = read_weights(tmp_path)
    write_weights(tmp_path, {"whole": read["whole"][:5]}, config)
    assert {p.name for p in tmp_path.iterdir()} == {FILE, "config.json"}
    tensors, config = read_weights(tmp_path)
    assert_same(tensors, SMALL)
    assert "shards" not in config and config["sha256"] == hashlib.sha256((tmp_path / FILE).read_bytes()).hexdigest()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_weights(tmp_path, LARGE, CONFIG)
    (tmp_path / "weights-3.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights-3\.safetensors: found no such file, expected one of \d shards as"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", [FILE, "weights-2.safetensors", "weights-4.safetensors"])
def test_a_flipped_byte_of_any_shard_is_noticed(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path, LARGE, CONFIG)
    data = bytearray((tmp_path / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: found sha256 [0-9a-f]{{12}}, expected [0-9a-f]{{12}} as config\.json says"):
        read_weights(tmp_path)


def test_a_shard_left_out_of_the_config_is_noticed(tmp_path: Path) -> None:
    write_weights(tmp_path, LARGE, CONFIG)
    config = json.loads((tmp_path / "config.json").read_text())
    config["shards"].pop()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: found sha256 .*as its shards' hashes give"):
        read_weights(tmp_path)


# States of a training -----------------------------------------------------------------------------------------------

COUNTERS = {"step": 3, "best_score": -float("inf"), "seconds": 0.1 + 0.2}


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {**LARGE, "scalar": np.array(7.0, np.float32)}
    write_state(tmp_path / "checkpoint.json", state, COUNTERS)
    tensors, counters = read_state(tmp_path / "checkpoint.json")
    assert_same(tensors, state)
    assert counters == COUNTERS
    assert max(p.stat().st_size for p in tmp_path.iterdir()) <= LIMIT


def test_a_state_killed_at_any_moment_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of its replacements in turn, until one write needs no more of them."""
    index, new = tmp_path / "checkpoint.json", {name: array[::-1] for name, array in LARGE.items()}
    kills = 0
    while True:
        write_state(index, LARGE, COUNTERS)
        try:
            with monkeypatch.context() as patch:
                fail_at(kills + 1, patch)
                write_state(index, new, {**COUNTERS, "step": 4})
            break
        except KeyboardInterrupt:
            kills += 1
        tensors, counters = read_state(index)
        assert_same(tensors, LARGE)
        assert counters == COUNTERS
    assert kills >= 5  # some shards and the index
    tensors, counters = read_state(index)
    assert_same(tensors, new)
    assert counters["step"] == 4
    assert len(list(tmp_path.iterdir())) == 1 + len(json.loads(index.read_text())["shards"])  # nothing stale


def test_a_state_killed_before_old_shards_are_removed_is_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, new = tmp_path / "checkpoint.json", {name: array[::-1] for name, array in LARGE.items()}
    write_state(index, LARGE, COUNTERS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        write_state(index, new, COUNTERS)
    assert_same(read_state(index)[0], new)
    write_state(index, new, COUNTERS)
    assert len(list(tmp_path.iterdir())) == 1 + len(json.loads(index.read_text())["shards"])


def test_shards_that_did_not_change_are_not_written_again(tmp_path: Path) -> None:
    index = tmp_path / "checkpoint.json"
    write_state(index, LARGE, COUNTERS)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.safetensors")}
    write_state(index, {**LARGE, "flag": ~LARGE["flag"]}, COUNTERS)
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.safetensors")}
    assert len(after) == len(before) and 1 <= len(set(after.items()) - set(before.items())) < len(after)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "checkpoint.json"
    write_state(index, LARGE, COUNTERS)
    shard = next(tmp_path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{shard.name}: found sha256 .* as checkpoint\.json says"):
        read_state(index)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: found no such file"):
        read_state(index)
    index.write_text("{}")
    with pytest.raises(InputError, match="found no key 'shards', expected the index of a checkpoint"):
        read_state(index)


# Kept results -------------------------------------------------------------------------------------------------------


def counted(calls: list[int]) -> Callable[[], Tensors]:
    return lambda: (calls.append(1), LARGE)[1]


def test_a_kept_result_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        assert_same(keep_once(tmp_path / "deep/kept", counted(calls)), LARGE)
    assert len(calls) == 1
    assert_same(read_weights(tmp_path / "deep/kept")[0], LARGE)


def test_two_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []
    found: list[Tensors] = []

    def slow() -> Tensors:
        time.sleep(0.2)
        return counted(calls)()

    threads = [threading.Thread(target=lambda: found.append(keep_once(tmp_path / "kept", slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(found) == 3 and len(calls) == 1
    assert_same(found[2], LARGE)


@pytest.mark.parametrize("error", [OutOfTime("step 3 of 9"), ValueError("no subject")], ids=["time", "error"])
def test_a_result_that_was_not_made_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def fails() -> Tensors:
        raise error

    with pytest.raises(type(error), match=str(error)):
        keep_once(tmp_path / "kept", fails)
    assert not (tmp_path / "kept").exists()
    calls: list[int] = []
    keep_once(tmp_path / "kept", counted(calls))
    assert len(calls) == 1


def test_a_result_half_written_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_at(3, patch)
        keep_once(tmp_path / "kept", counted(calls))
    assert (tmp_path / "kept/weights-2.safetensors").exists()
    assert_same(keep_once(tmp_path / "kept", counted(calls)), LARGE)
    assert len(calls) == 2


def test_the_wait_for_another_ends_with_the_budget(tmp_path: Path) -> None:
    making, done = threading.Event(), threading.Event()

    def slow() -> Tensors:
        making.set()
        assert done.wait(timeout=20)
        return SMALL

    other = threading.Thread(target=lambda: keep_once(tmp_path / "kept", slow))
    other.start()
    try:
        assert making.wait(timeout=20)
        with pytest.raises(OutOfTime, match="the wait for kept"), time_budget(0.1 / 60):
            keep_once(tmp_path / "kept", lambda: pytest.fail("made twice"))
    finally:
        done.set()
        other.join(timeout=20)
    assert_same(keep_once(tmp_path / "kept", lambda: pytest.fail("made twice")), SMALL)
