"""Interpolation along the axis of the given sections: nearest, linear, cubic. Nothing is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from xdiff.checkpoint import read_weights
from xdiff.errors import NotSupported
from xdiff.observation import Observation
from xdiff.planes import common_axis, linear_weights, project

NEEDED = {"nearest": 1, "linear": 2, "cubic": 4}


def load(weights: Path) -> Interpolation:
    _, config = read_weights(weights)
    return Interpolation(config["params"].get("kind", ""))


class Interpolation:
    """Beyond the outermost given sections all three repeat the nearest one: extrapolated splines explode."""

    def __init__(self, kind: str) -> None:
        if kind not in NEEDED:
            raise ValueError(f"methods.*.params.kind is {kind!r}, expected one of {tuple(NEEDED)}")
        self.kind = kind

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; the standard deviation is unknown; no evaluations.

        Raises NotSupported where a contrast is not given: there is nothing to interpolate.
        """
        missing = [name for name, given in zip(observation.contrasts, observation.given, strict=True) if not given]
        if missing:
            raise NotSupported(f"{self.kind} interpolation needs every contrast; not given: {', '.join(missing)}")
        axis, indices, sections = _one_axis(observation)
        if len(indices) < NEEDED[self.kind]:
            raise ValueError(f"{self.kind} interpolation of {len(indices)} sections, expected at least {NEEDED[self.kind]}")
        rows = np.clip(np.arange(observation.shape[axis]), indices[0], indices[-1])
        stacked = _interpolate(self.kind, indices, sections, rows)
        volume = np.ascontiguousarray(np.moveaxis(stacked, 0, axis + 1), dtype=np.float32)
        return project(volume, observation.sections, observation.planes), None, 0


def _interpolate(kind: str, indices: np.ndarray, sections: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sections (K, C, h, w) at `indices` to all `rows`: (n, C, h, w)."""
    if kind == "cubic":
        return CubicSpline(indices, sections, axis=0)(rows)
    if kind == "nearest":
        return sections[np.abs(rows[:, None] - indices).argmin(axis=1)]
    return np.tensordot(linear_weights(indices, len(rows)), sections, axes=1)


def _one_axis(observation: Observation) -> tuple[int, np.ndarray, np.ndarray]:
    """Axis, sorted indices (K,) and their sections (K, C, h, w)."""
    planes = observation.planes
    axis = common_axis(planes)
    if axis is None:
        raise NotSupported("interpolation is along the axis of the given sections, and these have no common one")
    order = np.argsort([p.index for p in planes])
    indices = np.array([planes[i].index for i in order])
    return axis, indices, np.stack([observation.sections[i] for i in order]).astype(np.float64)
