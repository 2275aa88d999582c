"""Scores of distributions: CRPS and coverage, of a Gaussian per voxel or of an ensemble of draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

# nominal coverage in % -> half the width of its interval in standard deviations
Z_OF = {50: 0.6744897501960817, 90: 1.6448536269514722, 95: 1.959963984540054}
Z_90 = Z_OF[90]
PIT_BINS = 10


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


def rank_density_ensemble(truth: np.ndarray, draws: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Rank histogram of the truth among m draws at every voxel: m + 1 pairs of (relative rank in 0..1, density).

    Density is 1 everywhere where truth and draws come from one distribution; high at both ends where draws are too narrow. A
    truth equal to some of the draws counts evenly at all ranks it could have.
    Source: Hamill (2001), Interpretation of rank histograms, Monthly Weather Review 129:550.
    """
    m = len(draws)
    below = sum((draw < truth).astype(np.int64) for draw in draws)
    equal = sum((draw == truth).astype(np.int64) for draw in draws)
    counts = np.zeros(m + 1)
    for more in range(m + 1):
        tied = equal >= more
        counts += np.bincount(below[tied] + more, weights=1 / (equal[tied] + 1), minlength=m + 1)
    return _density(counts)


def rank_density_gaussian(truth: np.ndarray, mean: np.ndarray, std: np.ndarray) -> list[tuple[float, float]]:
    """The same of N(mean, std^2): its histogram of the probability integral transform in PIT_BINS bins.

    Voxels of std 0 count in the middle bins where the mean is the truth, else at the end that it misses by.
    Source: Gneiting, Balabdaoui and Raftery (2007), JRSS B 69:243, section 3.1.
    """
    z = (truth - mean) / np.where(std > 0, std, 1.0)
    missed = np.where(std > 0, z, 40.0 * np.sign(truth - mean))
    where = np.minimum((ndtr(missed) * PIT_BINS).astype(int), PIT_BINS - 1)
    return _density(np.bincount(where.ravel(), minlength=PIT_BINS).astype(float))


def _density(counts: np.ndarray) -> list[tuple[float, float]]:
    density = counts / counts.mean()
    return [((i + 0.5) / len(counts), float(value)) for i, value in enumerate(density)]
