"""What a training does on a GPU and not on a CPU: fast kernels, batches in a stream of their own, and how busy the device is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

IN_FLIGHT = 4  # steps queued on the device: enough that it never waits for the next one, few enough to stop soon


def training_device() -> torch.device:
    """The current GPU (of several processes each has its own, see team.py), or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_fast(device: torch.device) -> bool:
    """Whether to train with bfloat16 products, channels last and a fused optimiser (bfloat16 on a CPU: 10 to 30 times slower)."""
    return device.type == "cuda"


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """Inside, on CUDA: TF32 products of float32 matrices, and convolutions chosen by trial. As before afterwards, so that what
    is sampled in the same process is what a process of its own would sample.

    These switches are the process's, not the thread's: batches made on the device meanwhile see them too, and where 10 bits
    of a product are too few they ask for float64.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def channels_last(network: nn.Module) -> None:
    """Store the kernels of 2D and 3D convolutions with channels last, as tensor cores want them; activations follow. Values and
    shapes stay. Before an optimiser is made: its moments follow, too."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def in_own_stream(make: Callable[[int], Any], device: torch.device) -> Callable[[int], Any]:
    """`make`, its work on the device done beside what else runs there, and finished when it returns. On a CPU: `make`."""
    if device.type != "cuda":
        return make
    stream = torch.cuda.Stream(device)
    torch.cuda.synchronize(device)  # what was put on the device so far is there: a stream does not wait for another

    def made(step: int) -> Any:
        with torch.cuda.stream(stream):
            batch = make(step)
        stream.synchronize()
        return batch

    return made


class Queue:
    """The training steps queued on a GPU, at most IN_FLIGHT. On a CPU it does nothing.

    It keeps the batch of a step until the step's kernels are done: memory of a batch belongs to the stream that made it,
    which would otherwise use it again while it is still being read. busy_s: seconds from the first kernel of each step to
    its last, added up; pauses between kernels of one step count as busy.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.real = device, device.type == "cuda"
        self.busy_s = 0.0
        self._steps: deque[tuple[Any, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def step(self, batch: Any) -> Iterator[None]:
        """Everything queued inside is one step; waits for the oldest one where there are too many."""
        if not self.real:
            yield
            return
        while len(self._steps) >= IN_FLIGHT:
            self._finish()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._steps.append((batch, start, end))

    def drain(self) -> None:
        """Wait for all steps."""
        while self._steps:
            self._finish()

    def _finish(self) -> None:
        batch, start, end = self._steps.popleft()
        end.synchronize()
        del batch
        self.busy_s += start.elapsed_time(end) / 1000

    def peak_mib(self) -> float:
        """Most memory that tensors took on the device so far."""
        return torch.cuda.max_memory_allocated(self.device) / 2**20
