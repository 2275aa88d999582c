"""One process at a time: what two of them would make in the same folder is made once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from xdiff.budget import OutOfTime, time_left_s


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Inside, no other process is inside for the same `path`, which need not exist: who comes later waits.

    At most as long as the time budget lasts (then OutOfTime). The system lifts the lock of a process that is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, left_s = FileLock(path.with_name(f".{path.name}.lock")), time_left_s()
    try:
        held = lock.acquire(timeout=-1 if math.isinf(left_s) else left_s)
    except Timeout as busy:
        raise OutOfTime(f"the wait for {path.name}, which another process makes") from busy
    with held:
        yield
