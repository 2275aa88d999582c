"""The training loop that all iterative methods share: EMA weights, cosine learning rate, validation, early stop, resuming.

Everything random comes from (seed, step), so that an interrupted training and an undisturbed one see the same draws and,
on the same machine, end in the same weights.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from xdiff.budget import OutOfTime, time_left_s
from xdiff.config import from_dict
from xdiff.draws import DrawSettings
from xdiff.local_fit import CoreSettings

CHECKPOINT_SECONDS = 60.0
AHEAD = 3  # batches prepared in advance

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
    patience: checks without a better one before training stops (0: never)."""

    steps: int = 2000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.998
    validate_every: int = 250
    patience: int = 0
    seed: int = 0


@dataclass(frozen=True)
class TrainingSettings(LoopSettings):
    """What the parameters of all iterative methods have in common: the loop; volumes of a training step; the K and the number
    of subjects on which it is checked; the estimate it starts from, and how cases are drawn. A method adds its own."""

    volumes: int = 2
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
    """
    trainer = Trainer(problem, settings)
    trainer.resume(workdir / "checkpoint.safetensors")
    size = sum(p.numel() for p in problem.network.parameters())
    print(f"training {size} parameters from step {trainer.step} of {settings.steps} on {trainer.device}", flush=True)
    with _Progress(trainer, workdir) as progress:
        if trainer.step == 0:  # the untrained network is a candidate too: training that only harms is not kept
            progress.after_check(trainer.check(), trainer.first_loss())
        saved = time.perf_counter()
        for batch, waited in _batches(problem, trainer.step, settings.steps):
            if trainer.stopped:
                break
            progress.after_step(trainer.update(batch), waited)
            if trainer.step % settings.validate_every == 0 or trainer.step == settings.steps:
                progress.after_check(trainer.check(), trainer.mean_loss())
            spent = time_left_s() <= 0
            if spent or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                trainer.save(workdir / "checkpoint.safetensors")
                saved = time.perf_counter()
            if spent and trainer.step < settings.steps and not trainer.stopped:
                raise OutOfTime(f"step {trainer.step} of {settings.steps}")
    trainer.save(workdir / "checkpoint.safetensors")
    print(f"best at step {trainer.best_step}: validation score {trainer.best_score:+.3f} dB")
    return trainer.best


class Trainer:
    """Network, its moving average, the best so far, optimiser and counters: what a checkpoint holds."""

    def __init__(self, problem: Problem, settings: LoopSettings) -> None:
        self.problem, self.settings = problem, settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = problem.network.to(self.device)
        self.average = copy.deepcopy(self.network).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step = self.best_step = 0
        self.best_score = -math.inf
        self.seconds = 0.0  # trained so far, over all resumptions
        self.checks_since_best = 0
        self.loss_sum, self.loss_count = 0.0, 0  # since the last check

    @property
    def stopped(self) -> bool:
        return 0 < self.settings.patience <= self.checks_since_best

    def update(self, batch: Any) -> float:
        """One optimiser step; returns the loss."""
        started = time.perf_counter()
        settings = self.settings
        warm_up = min(1.0, (self.step + 1) / min(100, max(1, settings.steps // 10)))
        rate = settings.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * self.step / settings.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self.problem.loss(self.network, batch, self._generator())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        value = loss.item()
        if not math.isfinite(value + norm.item()):  # before it reaches the weights, which the next checkpoint would keep
            found = f"loss {value}, gradient norm {norm.item()} at step {self.step + 1}"
            raise FloatingPointError(f"{found}, expected finite ones; the last checkpoint is kept")
        self.optimiser.step()
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        # a short memory at first, so that a short training is not mostly its beginning
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        self.seconds += time.perf_counter() - started
        return value

    def first_loss(self) -> float:
        """Loss of the untrained network on the first batch."""
        with torch.no_grad():
            return self.problem.loss(self.network, self.problem.batch(0), self._generator()).item()

    def _generator(self) -> torch.Generator:
        """Of the noise of the step to come."""
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)

    def mean_loss(self) -> float:
        """Mean training loss since it was last asked for."""
        mean = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def check(self) -> dict[str, Any]:
        """Validate the averaged weights, keep them if they are the best; returns the record for the history."""
        started = time.perf_counter()
        score, scores = self.problem.validate(self.average)
        score = float(score)  # of numpy's, the checkpoint could not be read
        best = score >= self.best_score
        self.checks_since_best = 0 if best else self.checks_since_best + 1
        if best:
            self.best_score, self.best_step = score, self.step
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.seconds += time.perf_counter() - started
        counters = {"step": self.step, "seconds": round(self.seconds, 1)}
        rate = self.optimiser.param_groups[0]["lr"]
        return {**counters, "learning_rate": rate, "score": round(score, 4), "best": best, **scores}

    def save(self, path: Path) -> None:
        """Write everything needed to go on, atomically, without pickle."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        counters = ("step", "best_step", "best_score", "seconds", "checks_since_best", "loss_sum", "loss_count")
        metadata = {name: repr(getattr(self, name)) for name in counters}
        temporary = path.with_suffix(".tmp")
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, temporary, metadata=metadata)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, where there is one."""
        if not path.exists():
            return
        with safe_open(path, framework="pt") as handle:
            metadata, tensors = handle.metadata(), {k: handle.get_tensor(k) for k in handle.keys()}  # noqa: SIM118
        for name in ("step", "best_step", "checks_since_best", "loss_count"):
            setattr(self, name, int(metadata[name]))
        for name in ("best_score", "seconds", "loss_sum"):
            setattr(self, name, float(metadata[name]))
        for name, module in (("network.", self.network), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, i, name = key.split(".", 2)
                state.setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})


def _batches(problem: Problem, first: int, steps: int) -> Iterator[tuple[Any, float]]:
    """Batches of the steps first..steps-1, some prepared ahead in a thread, each with the seconds waited for it."""
    with ThreadPoolExecutor(1) as pool:
        queue = deque(pool.submit(problem.batch, step) for step in range(first, min(first + AHEAD, steps)))
        for step in range(first, steps):
            started = time.perf_counter()
            batch = queue.popleft().result()
            waited = time.perf_counter() - started
            if step + AHEAD < steps:
                queue.append(pool.submit(problem.batch, step + AHEAD))
            yield batch, waited


class _Progress:
    """Progress bar, history.jsonl and TensorBoard event files of one run."""

    def __init__(self, trainer: Trainer, workdir: Path) -> None:
        self.trainer, self.workdir = trainer, workdir
        self.waited = 0.0

    def __enter__(self) -> _Progress:
        # into a log file a line now and then, on a terminal a bar that moves
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(
            total=self.trainer.settings.steps, initial=self.trainer.step, unit="step", mininterval=interval, maxinterval=interval
        )
        self.board = _tensorboard(self.workdir / "tensorboard", self.trainer.step + 1)
        self.started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.board:
            self.board.close()

    @property
    def waiting(self) -> float:
        """Share of this run's time spent waiting for data."""
        return self.waited / max(time.perf_counter() - self.started, 1e-9)

    def after_step(self, loss: float, waited: float) -> None:
        self.waited += waited
        self.bar.set_postfix_str(f"loss {loss:.3f}, waiting for data {self.waiting:.1%}", refresh=False)
        self.bar.update()
        if self.board:
            self.board.add_scalar("loss", loss, self.trainer.step)

    def after_check(self, record: dict[str, Any], loss: float) -> None:
        record = {**record, "loss": round(loss, 5), "waiting": round(self.waiting, 4)}
        with (self.workdir / "history.jsonl").open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        tqdm.write(json.dumps(record), file=sys.stdout)
        sys.stdout.flush()
        for side in ("validation", "training"):
            for k, score in record.get(side, {}).items():
                if self.board:
                    self.board.add_scalar(f"gain_db/{side}/K{k}", score["psnr"] - score["gaussian"], record["step"])


def _tensorboard(folder: Path, first: int) -> Any:
    """A writer of event files, or None, and a word, where the package is missing (a machine without a network).

    Steps from `first` on that a killed run wrote after its last checkpoint are hidden.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f"no TensorBoard event files: {error}")
        return None
    return SummaryWriter(folder, purge_step=first)
