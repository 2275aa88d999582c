"""A limit on wall-clock time that a long training asks about; so that it stops where it can go on, not where it is killed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class OutOfTime(Exception):
    """The budget is spent and what was done so far is saved: the same command goes on."""


@contextmanager
def time_budget(minutes: float) -> Iterator[None]:
    """Inside, `time_left_s` counts down from `minutes` (or from an outer budget, if that ends sooner)."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + 60 * minutes))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left_s() -> float:
    """Seconds until the budget is spent, at least 0; infinite where there is none."""
    return max(0.0, _deadline.get() - time.monotonic())
