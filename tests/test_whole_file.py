"""A file is the old or the new one, whatever happens while it is written, and where it cannot be written the error names it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xdiff.checkpoint import read_state, write_state
from xdiff.errors import InputError
from xdiff.plain import write_json
from xdiff.volumes import write_volume
from xdiff.whole_file import whole_file


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_it_takes_its_name_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [full(), KeyboardInterrupt(), ValueError("of the block")], ids=lambda e: type(e).__name__)
def test_what_was_there_stays_and_nothing_is_left_beside_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises((InputError, KeyboardInterrupt, ValueError)), whole_file(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(InputError) as raised, whole_file(path):
        raise full()
    assert str(raised.value).startswith(f"{path}: found No space left on device")


def test_a_folder_that_is_not_there_is_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no/a.json: found No such file"):
        write_json(tmp_path / "no" / "a.json", {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "volume.nii": lambda folder: write_volume(folder / "volume.nii", np.ones((40, 40, 40), np.float32), np.eye(4)),
    "numbers.json": lambda folder: write_json(folder / "numbers.json", list(range(50_000))),
    "state.json": lambda folder: write_state(folder / "state.json", {"a": np.ones(50_000)}, {"step": 2}),
}
LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
import test_whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
test_whole_file.WRITERS[sys.argv[1]](Path(sys.argv[2]))
"""


@pytest.mark.parametrize("name", WRITERS)
def test_every_large_writer_names_its_file_where_there_is_no_room(name: str, tmp_path: Path) -> None:
    """In a process of its own whose files may not grow beyond 100 kB, which the system tells as it tells a full disk."""
    command = [sys.executable, "-c", LIMITED, name, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xdiff.errors.InputError") and str(tmp_path / name.split(".")[0]) in last and "File too large" in last
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_stays_where_the_next_one_has_no_room(tmp_path: Path) -> None:
    index = tmp_path / "state.json"
    write_state(index, {"a": np.zeros(3)}, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match="state-.*safetensors: found File too large"):
            WRITERS["state.json"](tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    arrays, counters = read_state(index)
    assert counters == {"step": 1} and arrays["a"].shape == (3,)
