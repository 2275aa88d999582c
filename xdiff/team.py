"""Training in several processes, one per GPU, as torchrun starts them (RANK, WORLD_SIZE, LOCAL_RANK in the environment).

All processes run the same program on the same seeds. Of every global batch each takes its own volumes; gradients are averaged,
so that the result does not depend on how many there are, but for rounding. The first one alone validates, decides by the
clock, and writes. Networks are not wrapped in DistributedDataParallel: losses call parts of them, not `forward`, and one
all-reduce of some million numbers a step is no bottleneck. Without torchrun there is one process, nothing is exchanged, and
torch is not imported here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from xdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # the others wait while the first fits a core or validates; torchrun ends all when one dies
_size, _rank = 1, 0


@contextmanager
def team() -> Iterator[None]:
    """Inside, the processes that torchrun started work together; on CPUs by gloo, on GPUs by NCCL."""
    global _size, _rank
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    _size, _rank = dist.get_world_size(), dist.get_rank()
    try:
        yield
    finally:
        _size, _rank = 1, 0
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, the first process works as if it were the only one, while the others wait for it."""
    global _size
    before, _size = _size, 1
    try:
        yield
    finally:
        _size = before


def size() -> int:
    """Number of processes."""
    return _size


def rank() -> int:
    return _rank


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return _rank == 0


def from_first(value: T) -> T:
    """The first process's value, in all of them; they wait for it."""
    if _size == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device="cpu")
    return box[0]


def wait() -> None:
    """Until all processes are here."""
    if _size == 1:
        return
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.zeros(1))  # of the CPU's group: a barrier of NCCL would need to know the device


def own(items: Sequence[T]) -> Sequence[T]:
    """This process's part of a global batch: places rank, rank + size ... InputError where they cannot be shared equally."""
    if len(items) % _size:
        raise InputError("methods.*.params.volumes", f"{len(items)} for {_size} processes", "a multiple of their number")
    return items[_rank::_size]


def own_noise(draw: Callable[..., Tensor], copies: int, count: int, *shape: int) -> Tensor:
    """(copies * count, *shape): this process's part of draw(copies * count of all, *shape), which all of them draw alike.

    count: volumes of this process. Each volume is there `copies` times, all of them once before any is there again.
    """
    whole = draw(copies * count * _size, *shape)
    return whole.unflatten(0, (copies, count * _size))[:, _rank::_size].flatten(0, 1)


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one dtype and device by their means over the processes, in one message."""
    if _size == 1:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= _size
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
