"""The linear-Gaussian estimate with its local correction (xdiff/local.py), a network that sees one voxel's surroundings.

U-Net and X-Diffusion start from it, so that what they add to this row is what their networks are worth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.local import Core
from xdiff.local_fit import CoreSettings, fit_core
from xdiff.observation import Observation
from xdiff.plain import from_dict


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    return fit_core(store, split, from_dict(CoreSettings, params, "methods.*.params"), workdir.parents[1]).tensors()


def load(weights: Path) -> GaussianLocal:
    tensors, _ = read_weights(weights)
    return GaussianLocal(Core.of(tensors))


class GaussianLocal:
    """The fitted estimate, ready to reconstruct."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Volume and standard deviation (C, X, Y, Z) in units of the observation's scale; no section evaluation."""
        if estimate != "mean":
            raise ValueError(f"gaussian_local is deterministic: estimate is {estimate!r}, expected 'mean'")
        known = self.core.estimate(observation)
        return known.corrected, np.where(observation.known, 0, known.std), 0
