"""Method modules that misbehave or take notes, loaded by name as any other method is. params.kind says which."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.observation import Observation

SEEN: list[Observation] = []
TRAININGS: list[dict] = []


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    TRAININGS.append(params)
    if params.get("kind") == "iterates":
        (workdir / "history.jsonl").write_text('{"step": 1, "loss": 0.5, "best": true}\n')
    return {"level": np.full(1, params.get("level", 0.5), dtype=np.float32)}


def load(weights: Path) -> Probe:
    tensors, config = read_weights(weights)
    return Probe(config["params"].get("kind", "plain"), float(tensors["level"][0]))


class Probe:
    """A constant volume with noise from the generator, except where `kind` breaks the contract."""

    def __init__(self, kind: str, level: float) -> None:
        self.kind, self.level = kind, level

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        SEEN.append(observation)
        shape = (len(observation.contrasts), *observation.shape)
        volume = self.level + generator.standard_normal(shape).astype(np.float32)
        volume = np.where(observation.mask, observation.evidence, volume)
        std = np.ones(shape, dtype=np.float32)
        if self.kind == "nan":
            volume[0, 0, 0, 0] = np.nan
        elif self.kind == "wrong_shape":
            volume = volume[:, 1:]
        elif self.kind == "wrong_std":
            std = std[0]
        elif self.kind == "slow":
            time.sleep(0.08)
        return volume, std, 7 * steps
