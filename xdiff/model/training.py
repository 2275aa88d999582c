"""Training of the section network: fresh draws of volume, given planes and target planes at every step; resumable.

Everything random comes from (seed, step), so that an interrupted run and an uninterrupted one see the same draws.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xdiff.config import from_dict
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import fit, leave_one_out, to_tensors
from xdiff.model import diffusion
from xdiff.model.network import SectionNetwork
from xdiff.model.sampler import mean_residual
from xdiff.observation import NotEnoughSections, Observation, Point, choose_planes, observe
from xdiff.planes import AXIS_NAMES, Plane, along, per_section, stack

CHECKPOINT_SECONDS = 60.0
VOLUMES_PER_STEP = 4


@dataclass(frozen=True)
class Settings:
    """Parameters of the method entry. channels: widths of the U-Net; steps and batch (sections) of the training."""

    channels: tuple[int, ...] = (16, 32, 64)
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 1e-3
    ema: float = 0.995
    validate_every: int = 300
    validate_k: tuple[int, ...] = (1, 5)
    validate_subjects: int = 4
    max_k: int = 12
    max_volumes: int = 400
    seed: int = 0

    @staticmethod
    def of(params: dict) -> Settings:
        return from_dict(Settings, params, "methods.*.params")


class Trainer:
    """Network, its moving average, optimiser and step; what a checkpoint holds."""

    def __init__(self, store: Store, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = SectionNetwork(len(store.contrasts), settings.channels).to(self.device)
        self.average = SectionNetwork(len(store.contrasts), settings.channels).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.best = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.best_score = -math.inf  # dB over the gaussian row
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.learning_rate)
        self.step = 0

    def update(self, residual: torch.Tensor, condition: torch.Tensor) -> float:
        """One optimiser step; cosine learning rate with a short warm-up."""
        done = self.step / self.settings.steps
        rate = self.settings.learning_rate * min(1.0, (self.step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * done))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        value = diffusion.loss(self.network, residual.to(self.device), condition.to(self.device), generator)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # a short memory at first, so that a short training is not mostly its beginning
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        return value.item()

    def save(self, path: Path) -> None:
        """Write everything needed to go on, atomically, without pickle."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        temporary = path.with_suffix(".tmp")
        contiguous = {k: v.contiguous().clone() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={"step": str(self.step), "best_score": repr(self.best_score)})
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, where there is one."""
        if not path.exists():
            return
        with safe_open(path, framework="pt") as handle:
            metadata, tensors = handle.metadata(), {k: handle.get_tensor(k) for k in handle.keys()}  # noqa: SIM118
        self.step, self.best_score = int(metadata["step"]), float(metadata["best_score"])
        for name, module in (("network.", self.network), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, i, name = key.split(".", 2)
                state.setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})


def fit_network(store: Store, split: Split, settings: Settings, workdir: Path) -> dict[str, np.ndarray]:
    """Train to the end (or resume and finish); the weights with the best validation are returned as arrays.

    Validation is the gain of `mean` over the gaussian row on the validation side. It may be negative, and is printed: the
    untrained network would have the row's own mean, but its samples would be noise.
    """
    gaussian = fit(store, split, settings.max_volumes)
    draws = Draws(store, gaussian, settings)
    scale = draws.residual_scale()
    trainer = Trainer(store, settings)
    trainer.resume(workdir / "checkpoint.safetensors")
    print(
        f"xdiff: {sum(p.numel() for p in trainer.network.parameters())} parameters, from step {trainer.step} of {settings.steps}"
    )
    saved = started = time.perf_counter()
    first, losses = trainer.step, []
    for residual, condition in draws.batches(trainer.step, scale):
        losses.append(trainer.update(residual, condition))
        if trainer.step % settings.validate_every == 0 or trainer.step == settings.steps:
            gains = validate(trainer, store, split, gaussian, scale)
            score = float(np.mean(list(gains.values()))) if gains else 0.0
            if score >= trainer.best_score:
                trainer.best_score = score
                trainer.best = {k: v.clone() for k, v in trainer.average.state_dict().items()}
            _log(workdir, trainer.step, float(np.mean(losses)), gains, (time.perf_counter() - started) / (trainer.step - first))
            losses = []
        if time.perf_counter() - saved > CHECKPOINT_SECONDS or trainer.step == settings.steps:
            trainer.save(workdir / "checkpoint.safetensors")
            saved = time.perf_counter()
    print(f"xdiff: best validation gain over the gaussian row {trainer.best_score:+.3f} dB")
    network = {f"network.{k}": v.cpu().numpy() for k, v in trainer.best.items()}
    return {**network, "residual_scale": scale.astype(np.float32), **to_tensors(gaussian)}


class Draws:
    """Random training batches: for a few volumes an observation, its leave-one-out gaussian, and target sections."""

    def __init__(self, store: Store, gaussian: LinearGaussian, settings: Settings) -> None:
        self.store, self.gaussian, self.settings = store, gaussian, settings
        self.subjects = gaussian.subjects
        self.foregrounds = [store.foreground(s) for s in self.subjects]

    def one(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Observation]:
        """Truth (C, X, Y, Z) and leave-one-out gaussian in the observation's units, and the observation."""
        half = self.gaussian.n_rows // 2
        row = int(rng.integers(2 * half))
        foreground = self.foregrounds[row % half]
        foreground = foreground[::-1] if row >= half else foreground
        spacing = self.store.spacing_mm(self.subjects[row % half])
        volume = self.gaussian.rows[row]
        observation = observe(
            volume, self._planes(rng, foreground, spacing), self.store.contrasts, spacing, self.store.frame, self.store.norm
        )
        truth = volume / observation.scale[:, None, None, None]
        return truth, leave_one_out(self.gaussian, row, observation), observation

    def _planes(self, rng: np.random.Generator, foreground: np.ndarray, spacing: tuple) -> list[Plane]:
        """Uniform as in the sweeps, or random; few sections more often than many."""
        while True:
            k = int(np.exp(rng.uniform(0, np.log(self.settings.max_k + 1))))
            policy, axis = ("uniform" if rng.random() < 0.5 else "random"), int(rng.integers(3))
            point = Point(k, AXIS_NAMES[axis], policy, 0.0, 1, "mean", int(rng.integers(2**31)))
            try:
                return choose_planes(point, _well_filled(foreground, axis), None, spacing, "draw")
            except NotEnoughSections:
                continue

    def batch(self, step: int, scale: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Residual sections (B, C, h, w) in units of `scale` and their conditioning, for one step; one target axis per step,
        because sections of different axes differ in size."""
        rng = np.random.default_rng([self.settings.seed, step])
        axis, each = int(rng.integers(3)), max(1, self.settings.batch // VOLUMES_PER_STEP)
        residuals, conditions = [], []
        for _ in range(VOLUMES_PER_STEP):
            truth, gaussian, observation = self.one(rng)
            rows = torch.from_numpy(rng.choice(truth.shape[axis + 1], min(each, truth.shape[axis + 1]), replace=False))
            residual = torch.from_numpy((truth - gaussian) / scale[:, None, None, None]).float()
            residuals.append(stack(residual, axis)[rows])
            conditions.append(diffusion.make_condition(observation, gaussian).sections(axis, rows))
        return torch.cat(residuals), torch.cat(conditions)

    def batches(self, first: int, scale: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches from step `first` to the end, the next one prepared in a thread while the network works."""
        with ThreadPoolExecutor(1) as pool:
            following = [pool.submit(self.batch, first, scale)] if first < self.settings.steps else []
            for step in range(first, self.settings.steps):
                current = following.pop().result()
                if step + 1 < self.settings.steps:
                    following.append(pool.submit(self.batch, step + 1, scale))
                yield current

    def residual_scale(self, count: int = 24) -> np.ndarray:
        """s (C,): standard deviation of the leave-one-out residual in the foreground's neighbourhood, over random draws."""
        rng = np.random.default_rng([self.settings.seed, 2**31])
        squares = []
        for _ in range(count):
            truth, gaussian, observation = self.one(rng)
            hidden = ~observation.mask & ((truth > 0.05).any(axis=0) | (gaussian > 0.05).any(axis=0))
            squares.append(((truth - gaussian)[:, hidden] ** 2).mean(axis=1))
        return np.sqrt(np.mean(squares, axis=0))


def _well_filled(foreground: np.ndarray, axis: int, share: float = 0.2) -> np.ndarray:
    """The foreground without the sections that hold little of it: the intensity scale of a slice that only grazes the head
    means nothing, and a residual divided by it would outweigh a thousand others."""
    area = per_section(foreground, axis)
    return foreground & along(area >= share * area.max(), axis)


def validate(trainer: Trainer, store: Store, split: Split, gaussian: LinearGaussian, scale: np.ndarray) -> dict[int, float]:
    """K -> mean gain in dB (unseen, non-given voxels) of `mean` over the gaussian row, axial, uniform."""
    gains: dict[int, list[float]] = {}
    for subject in split.side("val")[: trainer.settings.validate_subjects]:
        volume, foreground, spacing = store.volume(subject), store.foreground(subject), store.spacing_mm(subject)
        for k in trainer.settings.validate_k:
            try:
                planes = choose_planes(Point(k, "axial", "uniform", 0.0, 1, "mean", 0), foreground, None, spacing, subject)
            except NotEnoughSections:
                continue
            observation = observe(volume, planes, store.contrasts, spacing, store.frame, store.norm)
            base = gaussian.estimate(observation)
            residual, _ = mean_residual(trainer.average, diffusion.make_condition(observation, base, trainer.device))
            truth = volume / observation.scale[:, None, None, None]
            hidden = ~observation.mask
            before = ((base - truth)[:, hidden] ** 2).mean()
            after = ((base + scale[:, None, None, None] * residual.cpu().numpy() - truth)[:, hidden] ** 2).mean()
            gains.setdefault(k, []).append(float(10 * np.log10(before / after)))
    return {k: float(np.mean(v)) for k, v in gains.items()}


def _log(workdir: Path, step: int, loss: float, gains: dict[int, float], seconds_per_step: float) -> None:
    record = {"step": step, "loss": round(loss, 5), "gain_db": {k: round(v, 4) for k, v in gains.items()}}
    record["seconds_per_step"] = round(seconds_per_step, 4)
    with (workdir / "history.jsonl").open("a") as handle:
        handle.write(json.dumps(record) + "\n")
    print(f"xdiff: {json.dumps(record)}", flush=True)
