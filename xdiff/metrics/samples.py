"""Scores of distributions: CRPS and coverage, of a Gaussian per voxel or of an ensemble of draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

Z_90 = 1.6448536269514722


def crps_gaussian(truth: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """CRPS of N(mean, std^2) at every voxel (Gneiting & Raftery 2007, eq. 21); where std is 0, the absolute error."""
    safe = np.where(std > 0, std, 1.0)
    z = (truth - mean) / safe
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    value = safe * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(std > 0, value, np.abs(truth - mean))


def crps_ensemble(truth: np.ndarray, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Fair CRPS of m >= 2 draws at every voxel: E|x - y| - E|x - x'| / 2 without the bias of a finite ensemble."""
    m = len(draws)
    if m < 2:
        raise ValueError(f"CRPS of {m} draw(s), expected at least 2")
    ordered = np.sort(np.stack(draws).astype(np.float64), axis=0)
    # sum over pairs of |x_i - x_j| from the sorted draws
    coefficients = (2 * np.arange(m) - m + 1).reshape(-1, *[1] * truth.ndim)
    spread = 2 * (coefficients * ordered).sum(axis=0) / (m * (m - 1))
    return np.abs(ordered - truth).mean(axis=0) - spread / 2


def coverage(truth: np.ndarray, mean: np.ndarray, std: np.ndarray, z: float = Z_90) -> float:
    """Share of voxels within mean +- z std."""
    return float((np.abs(truth - mean) <= z * std).mean())
