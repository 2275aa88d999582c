"""Training for a GPU: what can be on the CPU with the switch set, streams and events against stand-ins, and on a GPU the rest."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lines import SETTINGS, Line, history, on_cpu, same  # noqa: F401
from torch import Tensor, nn

from xdiff import cuda, loop
from xdiff.budget import OutOfTime, time_budget
from xdiff.checkpoint import read_state
from xdiff.loop import LoopSettings, Scores, Trainer, fit
from xdiff.progress import Progress

GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the CPU as on a GPU: bfloat16, channels last, a fused optimiser, losses looked at every fifth step."""
    monkeypatch.setattr(cuda, "is_fast", lambda device: True)
    monkeypatch.setattr(loop, "LOOK_EVERY", 5)


class Convolutions(nn.Module):
    """A 3D and then a 2D convolution of (B, 1, X, Y, Z), the result alike; notes the type of what the layers return."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.volume, self.norm, self.section = nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 1, 3, padding=1)
        self.types: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.volume(x))
        out = self.section(features.permute(0, 4, 1, 2, 3).flatten(0, 1)).unflatten(0, (len(x), x.shape[-1]))
        self.types |= {features.dtype, out.dtype}
        return out.permute(0, 2, 3, 4, 1)


class Blur(Line):
    """Learn to blur. on: where batches are made."""

    def __init__(self, on: str = "cpu") -> None:
        super().__init__()
        self.network, self.on = Convolutions(), on
        self.losses: list[torch.dtype] = []

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append(step)
        x = torch.randn(2, 1, 8, 10, 6, generator=torch.Generator().manual_seed(step)).to(self.on)
        return x, nn.functional.avg_pool3d(x, 3, 1, 1)

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        device = next(network.parameters()).device
        x, y = (b.to(device) for b in batch)
        value = ((network(x) - y) ** 2).mean()
        self.losses.append(value.dtype)
        return value

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        self.seen.append({k: v.clone() for k, v in network.state_dict().items()})
        with torch.no_grad():
            return -self.loss(network, Blur.batch(self, 1000), torch.Generator()).item(), {}


class Poisoned(Blur):
    """A batch that is not a number at step 7."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = super().batch(step)
        return x, y * (float("nan") if step == 6 else 1.0)


# The fast way -------------------------------------------------------------------------------------------------------


def test_products_are_bfloat16_and_everything_kept_is_float32(fast: None) -> None:
    problem = Blur()
    trainer = Trainer(problem, SETTINGS)
    trainer.update(problem.batch(0))
    assert trainer.network.types == {torch.bfloat16} and trainer._loss(problem.batch(1)).dtype == torch.float32
    kept = [*trainer.network.state_dict().values(), *trainer.average.state_dict().values(), *trainer.best.values()]
    kept += [v for s in trainer.optimiser.state_dict()["state"].values() for v in s.values()]
    kept += [p.grad for p in trainer.network.parameters()]
    assert {v.dtype for v in kept} == {torch.float32}
    problem.losses.clear()
    trainer.check()
    assert trainer.average.types == {torch.float32}  # checked as it will be used


def test_on_a_cpu_nothing_is_bfloat16_or_fused() -> None:
    trainer = Trainer(Blur(), SETTINGS)
    trainer.update(trainer.problem.batch(0))
    assert trainer.network.types == {torch.float32} and not trainer.optimiser.defaults["fused"] and trainer.look_every == 1


def test_channels_last_changes_the_order_in_memory_and_no_value() -> None:
    network = Convolutions()
    x, before = torch.randn(2, 1, 8, 10, 6), {k: v.clone() for k, v in network.state_dict().items()}
    expected = network(x)
    cuda.channels_last(network)
    assert network.volume.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert network.section.weight.is_contiguous(memory_format=torch.channels_last) and not network.section.weight.is_contiguous()
    assert same(network.state_dict(), before)
    torch.testing.assert_close(network(x), expected)


def test_the_fast_way_learns_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, steps=60, validate_every=30, learning_rate=0.02)
    fit(Blur(), settings, tmp_path / "plain")
    monkeypatch.setattr(cuda, "is_fast", lambda device: True)
    fit(Blur(), settings, tmp_path / "fast")
    plain, fast = (history(tmp_path / name) for name in ("plain", "fast"))
    for a, b in zip(plain, fast, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05) and b["score"] == pytest.approx(a["score"], rel=0.1)
    assert fast[1]["loss"] < 0.5 * fast[0]["loss"]


def test_losses_are_looked_at_now_and_then_and_none_is_lost(fast: None) -> None:
    problem = Blur()
    trainer = Trainer(problem, SETTINGS)
    told = [trainer.update(problem.batch(step)) for step in range(12)]
    assert [value is not None for value in told] == [(step + 1) % 5 == 0 for step in range(12)]
    trainer.flush()
    assert trainer.loss_count == 12 and trainer.loss_sum > sum(5 * value for value in told if value)
    assert trainer.mean_loss() > 0 and not trainer.unseen


@pytest.mark.parametrize("pieces", [1, 12])
def test_interrupted_it_ends_the_same(fast: None, tmp_path: Path, pieces: int) -> None:
    """Also in the memory format of weights and moments, which a fused optimiser relies on."""
    whole = fit(Blur(), SETTINGS, tmp_path / "whole")
    for _ in range(pieces - 1):
        with pytest.raises(OutOfTime), time_budget(0):
            fit(Blur(), SETTINGS, tmp_path / "pieces")
    assert same(fit(Blur(), SETTINGS, tmp_path / "pieces"), whole)
    assert [(r["step"], r["loss"]) for r in history(tmp_path / "pieces")] == [
        (r["step"], r["loss"]) for r in history(tmp_path / "whole")
    ]
    again = Trainer(Blur(), SETTINGS)
    again.resume(tmp_path / "pieces" / loop.CHECKPOINT)
    for i, parameter in enumerate(again.network.parameters()):
        moments = again.optimiser.state_dict()["state"][i]
        assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()


@pytest.mark.parametrize(
    ("settings", "every_s"),
    [
        (replace(SETTINGS, validate_every=8), 600.0),  # before a check
        (replace(SETTINGS, validate_every=100), 0.0),  # before a checkpoint
        (replace(SETTINGS, steps=7, validate_every=100), 600.0),  # at the end
    ],
    ids=["check", "checkpoint", "end"],
)
def test_what_is_not_finite_reaches_no_check_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LoopSettings, every_s: float
) -> None:
    """Not looked at for 50 steps, unless something is to be kept."""
    monkeypatch.setattr(cuda, "is_fast", lambda device: True)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", every_s)
    problem = Poisoned()
    with pytest.raises(FloatingPointError, match="loss nan, gradient norm nan at step 7, expected finite ones"):
        fit(problem, settings, tmp_path)
    assert len(problem.seen) == 1  # of the untrained network
    index = tmp_path / loop.CHECKPOINT
    assert index.exists() == (every_s == 0)
    if index.exists():
        arrays, counters = read_state(index)
        assert counters["step"] == 6 and all(np.isfinite(a).all() for a in arrays.values())


def test_after_it_nothing_can_be_saved(fast: None, tmp_path: Path) -> None:
    problem = Poisoned()
    trainer = Trainer(problem, SETTINGS)
    for step in range(7):
        trainer.update(problem.batch(step))
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="at step 7"):
            trainer.save(tmp_path / loop.CHECKPOINT)
    assert not list(tmp_path.iterdir())


# Switches, streams and events, with stand-ins -----------------------------------------------------------------------


def switches() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark


def test_fast_kernels_are_for_the_training_alone() -> None:
    before = switches()
    assert before != (True, True, True)
    with cuda.fast_kernels(torch.device("cpu")):
        assert switches() == before
    with pytest.raises(KeyError), cuda.fast_kernels(GPU):
        assert switches() == (True, True, True)
        raise KeyError
    assert switches() == before


def test_a_batch_is_finished_in_its_own_stream_before_it_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU

        def synchronize(self) -> None:
            told.append("finished")

    @contextlib.contextmanager
    def stream(own: Stream) -> Iterator[None]:
        told.append(f"in {threading.current_thread().name[:10]}")
        yield
        told.append("out")

    fake = SimpleNamespace(Stream=Stream, stream=stream, synchronize=lambda device: told.append("all there"))
    monkeypatch.setattr(torch, "cuda", fake)
    problem = SimpleNamespace(batch=lambda step: told.append(f"batch {step}") or step)
    batches = loop.batches(problem, 0, 1, GPU)
    assert [batch for batch, _ in batches] == [0]
    assert told == ["all there", "in ThreadPool", "batch 0", "out", "finished"]
    told.clear()
    assert [batch for batch, _ in loop.batches(problem, 0, 1, torch.device("cpu"))] == [0]
    assert told == ["batch 0"]


class Clock:
    """Events of a device whose kernels take as long as `took` says; done only when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took_ms: float) -> None:
        clock = self
        self.waited: list[int] = []

        class Event:
            made = 0

            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                Event.made += 1
                self.number = Event.made

            def record(self) -> None: ...

            def synchronize(self) -> None:
                clock.waited.append(self.number // 2)  # the second of a pair: number of the step

            def elapsed_time(self, end: Event) -> float:
                assert end.number == self.number + 1
                return took_ms

        monkeypatch.setattr(torch.cuda, "Event", Event)


def test_a_batch_is_kept_until_the_device_is_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, queue, batches = Clock(monkeypatch, 20.0), cuda.Queue(GPU), []
    for _ in range(6):
        batch = torch.zeros(3)
        batches.append(weakref.ref(batch))
        with queue.step([batch]):
            del batch
    gc.collect()
    assert clock.waited == [1, 2]  # no more than four at a time
    assert [ref() is None for ref in batches] == [True, True, False, False, False, False]
    queue.drain()
    gc.collect()
    assert clock.waited == [1, 2, 3, 4, 5, 6] and all(ref() is None for ref in batches)
    assert queue.busy_s == pytest.approx(0.12)


def test_a_cpu_has_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, queue = Clock(monkeypatch, 20.0), cuda.Queue(torch.device("cpu"))
    with queue.step([torch.zeros(3)]):
        pass
    queue.drain()
    assert queue.busy_s == 0 and not clock.waited and not queue.real


def test_history_tells_how_busy_the_device_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    queue = cuda.Queue(GPU)
    trainer = SimpleNamespace(step=0, seconds=0.0, queue=queue, by_clock=False, schedule=(0, 100))
    with Progress(trainer, tmp_path) as progress:
        for step, seconds, busy_s in ((40, 10.0, 9.0), (80, 15.0, 10.0)):
            trainer.step, trainer.seconds, queue.busy_s = step, seconds, busy_s
            progress.after_check({"step": step}, 1.0)
    told = [(r["steps_per_s"], r["busy"], r["peak_mib"]) for r in history(tmp_path)]
    assert told == [(4.0, 0.9, 3.0), (8.0, 0.2, 3.0)]  # each of the steps since the one before


# On a GPU -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(cuda, "training_device", lambda: GPU)


@needs_gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_training_on_a_gpu_learns_and_resumes(on_gpu: None, tmp_path: Path, place: str) -> None:
    settings = replace(SETTINGS, steps=200, validate_every=100, learning_rate=0.02)
    with pytest.raises(OutOfTime), time_budget(0):
        fit(Blur(place), settings, tmp_path)
    best = fit(Blur(place), settings, tmp_path)
    assert {v.device.type for v in best.values()} == {"cuda"}
    first, last = history(tmp_path)
    assert last["loss"] < 0.5 * first["loss"]
    assert 0 < last["busy"] <= 1.02 and last["peak_mib"] > 0 and last["steps_per_s"] > 0


@needs_gpu
def test_on_a_gpu_what_is_not_finite_is_not_kept(on_gpu: None, tmp_path: Path) -> None:
    problem = Poisoned()
    with pytest.raises(FloatingPointError, match="at step 7"):
        fit(problem, replace(SETTINGS, validate_every=8), tmp_path)
    assert not (tmp_path / loop.CHECKPOINT).exists() and len(problem.seen) == 1
