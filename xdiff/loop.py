"""The training loop that all iterative methods share: EMA weights, cosine learning rate, validation, early stop, resuming.

Everything random comes from (seed, step), so that an interrupted training and an undisturbed one see the same draws and,
on the same CPU, end in the same weights. On a GPU (cuda.py) products are made in bfloat16; weights, averages, moments and the
loss are float32 everywhere.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from xdiff import cuda, team
from xdiff.budget import OutOfTime, time_left_s
from xdiff.checkpoint import read_state, write_state
from xdiff.draws import DrawSettings
from xdiff.errors import InputError
from xdiff.local_fit import CoreSettings
from xdiff.plain import from_dict
from xdiff.progress import Progress

CHECKPOINT = "checkpoint.json"  # the index; its shards lie beside it
CHECKPOINT_SECONDS = 60.0
CPU = torch.device("cpu")
AHEAD = 3  # batches prepared in advance
LOOK_EVERY = 50  # steps between looks at the losses on a GPU, which stands still while it is looked at
COUNTERS = (
    *("step", "best_step", "best_score", "seconds", "check_seconds", "shares_checked"),
    *("checks_since_best", "loss_sum", "loss_count"),
)

Scores = dict[str, dict[int, dict[str, float]]]  # side -> K -> {"psnr": dB, "gaussian": dB}


class Problem(Protocol):
    """What is trained."""

    network: nn.Module

    def batch(self, step: int) -> Any:
        """Training data of one step, a function of (seed, step) alone; called in another thread."""

    def loss(self, network: nn.Module, batch: Any, generator: torch.Generator) -> Tensor:
        """Scalar to descend."""

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """A score in dB, larger is better, and PSNR beside the gaussian row's on the sides `validation` and `training`."""


@dataclass(frozen=True)
class LoopSettings:
    """steps of AdamW with a cosine learning rate; ema: decay of the averaged weights, which are the ones validated and kept;
    patience: checks without a better one before training stops (0: never).

    minutes: where above 0, the learning rate falls, and training ends, by the clock: after that many minutes of training over
    all resumptions. Steps and the waits for their data count, checks and checkpoints do not, so that checking more often does
    not train less. `steps` is then an upper bound, and the schedule is as far as the further one of the two.
    checks: so many, at equal shares of the schedule; 0: one every validate_every steps. A last one is made at the end anyway.
    """

    steps: int = 2000
    minutes: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.998
    validate_every: int = 250
    checks: int = 0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("minutes", "checks"):
            if getattr(self, name) < 0:
                raise InputError(f"methods.*.params.{name}", getattr(self, name), "0 (not used) or more")


@dataclass(frozen=True)
class TrainingSettings(LoopSettings):
    """What the parameters of all iterative methods have in common: the loop; volumes of a training step; the K and the number
    of subjects on which it is checked; patients: so many of the training side only, 0 for all; the estimate it starts from
    (base: see Core), and how cases are drawn. A method adds its own."""

    volumes: int = 2
    patients: int = 0
    base: str = "core"
    validate_k: tuple[int, ...] = (1, 5)
    validate_subjects: int = 4
    core: CoreSettings = field(default_factory=CoreSettings)
    draws: DrawSettings = field(default_factory=DrawSettings)

    @classmethod
    def of(cls, params: dict) -> Self:
        return from_dict(cls, params, "methods.*.params")


def fit(problem: Problem, settings: LoopSettings, workdir: Path) -> dict[str, Tensor]:
    """Train to the end, or go on from `workdir` and do so; returns the averaged weights of the best check.

    The best check is the one with the largest score (the last one of equal ones, so without a validation side the last).
    Raises OutOfTime, with a checkpoint written, where the time budget ends first.
    In several processes (team.py) all return the same weights; what is written is written by the first.
    """
    trainer = Trainer(problem, settings)
    trainer.resume(workdir / CHECKPOINT)
    size = sum(p.numel() for p in problem.network.parameters())
    shared = f", {team.size()} processes" if team.size() > 1 else ""
    print(f"training {size} parameters from {trainer.place} on {trainer.device}{shared}", flush=True)
    with cuda.fast_kernels(trainer.device), Progress(trainer, workdir) as progress:
        if trainer.step == 0:  # the untrained network is a candidate too: training that only harms is not kept
            progress.after_check(trainer.check(), trainer.first_loss())
        saved = time.perf_counter()
        for batch, waited in batches(problem, trainer.step, trainer.step if trainer.ended else settings.steps, trainer.device):
            trainer.seconds = team.from_first(trainer.seconds + waited)
            progress.after_step(trainer.update(batch), waited)
            # clocks differ between processes: one decides
            spent, late = team.from_first((time_left_s() <= 0, time.perf_counter() - saved > CHECKPOINT_SECONDS))
            save = spent or late
            if save:
                trainer.flush()  # which takes time, and may end the minutes: before it is asked whether they have ended
            if trainer.check_is_due:
                progress.after_check(trainer.check(), trainer.mean_loss())
            if save:
                trainer.save(workdir / CHECKPOINT)
                saved = time.perf_counter()
            if trainer.ended:
                break
            if spent:
                raise OutOfTime(trainer.place)
    trainer.save(workdir / CHECKPOINT)
    print(f"best at step {trainer.best_step}: validation score {trainer.best_score:+.3f} dB")
    return trainer.best


class Trainer:
    """Network, its moving average, the best so far, optimiser and counters: what a checkpoint holds."""

    def __init__(self, problem: Problem, settings: LoopSettings) -> None:
        self.problem, self.settings = problem, settings
        self.device = cuda.training_device()
        self.fast = cuda.is_fast(self.device)
        self.look_every = LOOK_EVERY if self.fast else 1
        self.queue = cuda.Queue(self.device)
        self.network = problem.network.to(self.device)
        cuda.channels_last(self.network)
        self.average = copy.deepcopy(self.network).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=decay, fused=self.fast or None)
        self.step = self.best_step = 0
        self.best_score = -math.inf
        self.seconds = self.check_seconds = 0.0  # trained and checked so far, over all resumptions
        self.checks_since_best = self.shares_checked = 0
        self.loss_sum, self.loss_count = 0.0, 0  # since the last check
        self.unseen: list[tuple[int, Tensor]] = []  # step, and on the device its loss and gradient norm

    @property
    def by_clock(self) -> bool:
        return self.settings.minutes > 0 and self.settings.steps > 0

    @property
    def schedule(self) -> tuple[float, float]:
        """How much of the schedule is done, and the whole: in steps, or by the clock in trained seconds."""
        settings = self.settings
        if not self.by_clock:
            return self.step, settings.steps
        whole = 60 * settings.minutes
        return min(whole, max(self.seconds, whole * self.step / settings.steps)), whole

    @property
    def place(self) -> str:
        place = f"step {self.step} of {self.settings.steps}"
        return place + (f", minute {self.seconds / 60:.1f} of {self.settings.minutes:g}" if self.by_clock else "")

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train: the schedule has ended, or patience."""
        done, whole = self.schedule
        return done >= whole or 0 < self.settings.patience <= self.checks_since_best

    @property
    def check_is_due(self) -> bool:
        if self.ended:
            return True
        if self.settings.checks:
            return self._share() > self.shares_checked
        return self.step % self.settings.validate_every == 0

    def _share(self) -> int:
        done, whole = self.schedule
        return int(done * self.settings.checks / whole) if whole else 0  # no steps: the untrained network

    def update(self, batch: Any) -> float | None:
        """One optimiser step; returns its loss, on a GPU every LOOK_EVERY steps the mean of theirs and else None."""
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        with self.queue.step(batch):
            loss = self._loss(batch)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            loss = loss.detach()
            team.average_([loss, *(p.grad for p in self.network.parameters() if p.grad is not None)])
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.unseen.append((self.step + 1, torch.stack([loss, norm])))
            # on a CPU before it reaches the weights, on a GPU before the weights reach a check or a checkpoint
            value = self._look() if len(self.unseen) >= self.look_every else None
            self.optimiser.step()
            self.step += 1
            # a short memory at first, so that a short training is not mostly its beginning
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self.seconds = team.from_first(self.seconds + time.perf_counter() - started)
        return value

    def _rate(self) -> float:
        """Learning rate of the step to come: a short rise, then a cosine over the schedule."""
        settings, (done, whole) = self.settings, self.schedule
        warm_up = min(1.0, (self.step + 1) / min(100, max(1, settings.steps // 10)))
        return settings.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * done / whole))

    def _loss(self, batch: Any) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast):
            return self.problem.loss(self.network, batch, self._generator()).float()

    def first_loss(self) -> float:
        """Loss of the untrained network on the first batch."""
        with torch.no_grad():
            loss = self._loss(self.problem.batch(0))
        team.average_([loss])
        return loss.item()

    def _generator(self) -> torch.Generator:
        """Of the noise of the step to come."""
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)

    def _look(self) -> float:
        """Mean loss of the steps not looked at before. Raises FloatingPointError where one has a loss or a gradient that is not
        finite, and again whenever it is asked: then nothing can be checked or saved any more."""
        values = torch.stack([value for _, value in self.unseen]).tolist()
        for (step, _), (loss, norm) in zip(self.unseen, values, strict=True):
            if not math.isfinite(loss + norm):
                found = f"loss {loss}, gradient norm {norm} at step {step}"
                raise FloatingPointError(f"{found}, expected finite ones; the last checkpoint is kept")
        self.unseen.clear()
        losses = [loss for loss, _ in values]
        for loss in losses:
            self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1
        return sum(losses) / len(losses)

    def flush(self) -> None:
        """Wait for the device, and look at what was not looked at."""
        started = time.perf_counter()
        if self.unseen:
            self._look()
        self.queue.drain()
        self.seconds = team.from_first(self.seconds + time.perf_counter() - started)

    def mean_loss(self) -> float:
        """Mean training loss since it was last asked for."""
        mean = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def check(self) -> dict[str, Any]:
        """Validate the averaged weights, keep them if they are the best; returns the record for the history."""
        self.flush()
        self.shares_checked = self._share()
        started = time.perf_counter()
        score, scores = team.from_first(self._validate() if team.is_first() else None)
        score = float(score)  # of numpy's, the checkpoint could not be read
        best = score >= self.best_score
        self.checks_since_best = 0 if best else self.checks_since_best + 1
        if best:
            self.best_score, self.best_step = score, self.step
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.check_seconds += time.perf_counter() - started
        counters = {"step": self.step, "seconds": round(self.seconds, 1), "check_seconds": round(self.check_seconds, 1)}
        rate = self.optimiser.param_groups[0]["lr"]
        return {**counters, "learning_rate": rate, "score": round(score, 4), "best": best, **scores}

    def _validate(self) -> tuple[float, Scores]:
        with team.alone():
            return self.problem.validate(self.average)

    def save(self, path: Path) -> None:
        """Write everything needed to go on: `path` and shards beside it (write_state), by the first process."""
        self.flush()
        if team.is_first():
            self._write(path)
        team.wait()  # none ends before it is written

    def _write(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        write_state(path, arrays, {name: getattr(self, name) for name in COUNTERS})

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, where there is one."""
        if not path.exists():
            return
        arrays, counters = read_state(path)
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        for name in COUNTERS:
            setattr(self, name, counters[name])
        for name, module in (("network.", self.network), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        parameters, state = list(self.network.parameters()), {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, i, name = key.split(".", 2)
                # in the memory format of its weight, which a fused optimiser relies on
                like = torch.empty_like(parameters[int(i)]).copy_(value) if value.ndim else value
                state.setdefault(int(i), {})[name] = like
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})


def batches(problem: Problem, first: int, steps: int, device: torch.device = CPU) -> Iterator[tuple[Any, float]]:
    """Batches of the steps first..steps-1, some prepared ahead in a thread, each with the seconds waited for it."""
    make = cuda.in_own_stream(problem.batch, device)
    with ThreadPoolExecutor(1) as pool:
        queue = deque(pool.submit(make, step) for step in range(first, min(first + AHEAD, steps)))
        for step in range(first, steps):
            started = time.perf_counter()
            batch = queue.popleft().result()
            waited = time.perf_counter() - started
            if step + AHEAD < steps:
                queue.append(pool.submit(make, step + AHEAD))
            yield batch, waited
