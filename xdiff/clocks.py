"""Seconds of a call and of the network in it (a GPU has ended whenever a clock is read), and of which commit they are."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xdiff.budget import time_left_s

LEAST = 3  # repeats: quartiles of two are nothing
SLOW_S = 20.0  # a call that takes longer is warmed up once, not twice


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any]) -> float:
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of `repeats` calls after one or two that warm up; of fewer where the time budget would end before."""
    return [seconds_of(call) for _ in range(warmed(call, repeats))]


def warmed(call: Callable[[], Any], repeats: int) -> int:
    """Warms up with one call or two; returns how many of `repeats` more the time budget has room for, but no fewer than LEAST."""
    seconds = seconds_of(call)
    if seconds < SLOW_S:
        seconds = seconds_of(call)
    return repeats if seconds * repeats <= time_left_s() else max(LEAST, int(time_left_s() / seconds))


@functools.cache
def commit() -> str:
    """Short hash of the checkout when first asked; empty where there is none to ask."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class NetworkClock:
    """Seconds that a network, or the parts of it where it is X-Diffusion's, takes of each call that is timed. On CUDA by events,
    which nothing waits for while it runs."""

    def __init__(self, network: nn.Module) -> None:
        self.on_cuda = next(network.parameters()).is_cuda
        self.marks: list[tuple[Any, Any]] = []
        parts = [network.trunk, network.sections] if hasattr(network, "sections") else [network]
        pairs = (
            (p.register_forward_pre_hook(self._before), p.register_forward_hook(self._after)) for p in parts if p is not None
        )
        self.hooks = [hook for pair in pairs for hook in pair]

    def _mark(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, *_: Any) -> None:
        self.marks.append((self._mark(), None))

    def _after(self, *_: Any) -> None:
        self.marks[-1] = (self.marks[-1][0], self._mark())

    def take(self) -> float:
        """Seconds since it was last asked; the device has ended."""
        seconds = sum(a.elapsed_time(b) / 1000 if self.on_cuda else b - a for a, b in self.marks)
        self.marks.clear()
        return seconds

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
