"""The linear-Gaussian estimate with its local correction (xdiff/local.py): what can be had without a network.

U-Net and X-Diffusion start from it, so that what they add to this row is what the network is worth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.checkpoint import Tensors, read_weights
from xdiff.config import from_dict
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.local import Core, CoreSettings, fit_core
from xdiff.observation import Observation


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    return fit_core(store, split, from_dict(CoreSettings, params, "methods.*.params")).tensors()


def load(weights: Path) -> GaussianLocal:
    tensors, _ = read_weights(weights)
    return GaussianLocal(Core.of(tensors))


class GaussianLocal:
    """The fitted estimate, ready to reconstruct."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; no standard deviation; no section evaluation."""
        if estimate != "mean":
            raise ValueError(f"gaussian_local is deterministic: estimate is {estimate!r}, expected 'mean'")
        return self.core.estimate(observation).corrected, None, 0
