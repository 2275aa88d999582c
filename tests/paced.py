"""A method that learns the mean of the training volumes at a pace that is told, hardly using the processor: to be interrupted.

It trains by `loop.fit` as all iterative methods do, checkpoints included, only more often. params: steps; pause_s, slept in every
step; hog_mib, memory that it takes before the first. Every step is noted in `steps.txt` beside the checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xdiff import loop
from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.observation import Observation
from xdiff.planes import project

CHECKPOINT_SECONDS = 1.0


class Level(nn.Module):
    """One number per contrast."""

    def __init__(self, contrasts: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(contrasts))


class Paced:
    """loop.Problem: the mean of a training volume, one after the other."""

    def __init__(self, volumes: np.ndarray, pause_s: float, notes: Path) -> None:
        self.means = torch.from_numpy(volumes.mean(axis=(2, 3, 4)))
        self.network, self.pause_s, self.notes = Level(volumes.shape[1]), pause_s, notes

    def batch(self, step: int) -> tuple[int, Tensor]:
        return step, self.means[step % len(self.means)]

    def loss(self, network: nn.Module, batch: tuple[int, Tensor], generator: torch.Generator) -> Tensor:
        step, mean = batch
        if torch.is_grad_enabled():  # the loop asks for the loss of the untrained network, too
            time.sleep(self.pause_s)
            with self.notes.open("a") as notes:
                notes.write(f"{step}\n")
        return ((network.level - mean) ** 2).mean()

    def validate(self, network: nn.Module) -> tuple[float, loop.Scores]:
        with torch.no_grad():
            error = ((network.level - self.means.mean(dim=0)) ** 2).mean()
        return -10 * float(torch.log10(error + 1e-12)), {}


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    hog = np.ones(int(params.get("hog_mib", 0)) << 17)
    volumes = np.stack([store.volume(subject) for subject in split.side("train")]).astype(np.float32)
    settings = loop.LoopSettings(steps=params["steps"], validate_every=params["steps"], learning_rate=0.05, ema=0.9)
    loop.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    weights = loop.fit(Paced(volumes, params["pause_s"], workdir / "steps.txt"), settings, workdir)
    time.sleep(2 if hog.size else 0)  # memory is looked at every second
    return {name: tensor.numpy() for name, tensor in weights.items()}


def load(weights: Path) -> Constant:
    return Constant(read_weights(weights)[0]["level"])


class Constant:
    """The level that was learned wherever nothing is given."""

    def __init__(self, level: np.ndarray) -> None:
        self.level = level

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, None, int]:
        shape = (len(observation.contrasts), *observation.shape)
        volume = np.broadcast_to(self.level[:, None, None, None], shape).astype(np.float32)
        return project(volume, observation.sections, observation.planes), None, 0
