"""Processes: every item once, a death told by name and not waited for, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from xdiff.data.workers import each
from xdiff.errors import InputError


def work(item: str) -> tuple[str, int]:
    """Upper case and the process; some names are trouble."""
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exits":
        os._exit(3)
    if item == "bad":
        raise InputError(item, "trouble", "none")
    if item == "bug":
        raise ZeroDivisionError("of all things")
    return item.upper(), os.getpid()


def name(item: str) -> str:
    return f"item {item}"


def gone(pid: int) -> bool:
    """True for a process that has ended, whether or not anybody has asked how."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_item_has_its_result_and_a_bad_one_its_error(workers: int) -> None:
    items = [*"abc", "bad", *"defgh"]
    found = dict(each(work, items, workers, name))
    assert list(sorted(found)) == sorted(items) and str(found.pop("bad")) == "bad: found trouble, expected none"
    assert {item: result[0] for item, result in found.items()} == {item: item.upper() for item in found}
    pids = {result[1] for result in found.values()}
    assert (os.getpid() in pids) == (workers == 1) and len(pids) <= workers
    assert workers == 1 or all(gone(pid) for pid in pids)


@pytest.mark.parametrize(("trouble", "told"), [("killed", "signal 9"), ("exits", "exit code 3")])
def test_a_dead_process_is_an_error_of_its_item_and_the_rest_is_done(trouble: str, told: str) -> None:
    start = time.monotonic()
    items = ["a", trouble, *"bcdef"]
    found = dict(each(work, items, 2, name))
    assert set(found) == set(items) and time.monotonic() - start < 10
    error = found.pop(trouble)
    assert isinstance(error, InputError) and (error.where, told in error.found) == (f"item {trouble}", True)
    assert all(result[0] == item.upper() for item, result in found.items())


def test_all_processes_may_die() -> None:
    found = dict(each(work, ["killed", "exits"], 2, name))
    assert all(isinstance(result, InputError) for result in found.values()) and len(found) == 2


def test_a_bug_ends_all_and_names_its_item() -> None:
    seen = []
    with pytest.raises(RuntimeError, match="(?s)item bug: Traceback.*of all things"):
        for item, _ in each(work, ["a", "bug", *"bcdef"], 2, name):
            seen.append(item)
    assert "bug" not in seen
    with pytest.raises(ZeroDivisionError):
        list(each(work, ["bug"], 1, name))


ORPHANS = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_workers import name
from xdiff.data.workers import each

def slow(item):
    print(os.getpid(), flush=True)
    time.sleep(0.3)

list(each(slow, range(1000), 3, name))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc: processes that ended could not be told")
def test_processes_end_soon_after_their_parent_is_killed() -> None:
    code = ORPHANS.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    pids = {int(parent.stdout.readline()) for _ in range(3)}
    parent.kill()
    parent.wait()
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)
