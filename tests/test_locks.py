"""What two processes would make at once is made by one after the other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from xdiff.budget import OutOfTime, time_budget
from xdiff.locks import one_at_a_time

# notes when it is inside and when it has left
RUN = """
import sys, time
from pathlib import Path
from xdiff.locks import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def other(path: Path, seconds: float) -> subprocess.Popen:
    """A process that is inside when this returns."""
    command = [sys.executable, "-c", RUN, str(path), str(seconds)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def test_who_comes_later_waits(tmp_path: Path) -> None:
    process, started = other(tmp_path / "deep/weights", 0.6), time.monotonic()
    with one_at_a_time(tmp_path / "deep/weights"):
        assert time.monotonic() - started > 0.4
    assert process.wait(timeout=10) == 0


def test_another_path_is_another_lock(tmp_path: Path) -> None:
    process = other(tmp_path / "a", 20)
    with one_at_a_time(tmp_path / "b"):
        assert process.poll() is None
    process.kill()
    process.wait()


def test_the_lock_of_a_killed_process_is_lifted(tmp_path: Path) -> None:
    process = other(tmp_path / "a", 60)
    process.kill()
    process.wait()
    with time_budget(5 / 60), one_at_a_time(tmp_path / "a"):
        pass


def test_waiting_ends_with_the_time_budget(tmp_path: Path) -> None:
    process = other(tmp_path / "a", 60)
    with (
        pytest.raises(OutOfTime, match="the wait for a, which another process makes"),
        time_budget(0.3 / 60),
        one_at_a_time(tmp_path / "a"),
    ):
        pass
    process.kill()
    process.wait()
