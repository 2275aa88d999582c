"""Sharpness and band variances: does a prediction have the detail of the truth, and is it the truth's detail?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

# in units of the Nyquist frequency: three bands for calibration, the third also for sharpness
BANDS = ((0.0, 0.125), (0.125, 0.25), (0.25, 0.5))
NOISE_BAND = (0.9, 1.0)


@lru_cache(maxsize=4)
def _radius(shape: tuple[int, ...]) -> np.ndarray:
    """Spatial frequency of every rfftn coefficient in units of Nyquist."""
    axes = [*(fft.fftfreq(n) * 2 for n in shape[:-1]), fft.rfftfreq(shape[-1]) * 2]
    return np.sqrt(sum(f * f for f in np.meshgrid(*axes, indexing="ij"))).astype(np.float32)


def bands(volume: np.ndarray) -> np.ndarray:
    """Band-passed copies of (X, Y, Z): (4, X, Y, Z) float32, the three bands and the noise band. The mean is in the first."""
    spectrum, radius = fft.rfftn(volume.astype(np.float32)), _radius(volume.shape)
    edges = (*BANDS, NOISE_BAND)
    return np.stack([fft.irfftn(spectrum * ((radius >= lo) & (radius < hi)), s=volume.shape) for lo, hi in edges])


def far_region(foreground: np.ndarray, distance_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Eroded foreground at least two sections from a given one."""
    return ndimage.binary_erosion(foreground, iterations=2) & (distance_mm >= 2 * spacing_mm)


def compare(truth: np.ndarray, prediction: np.ndarray, where: np.ndarray) -> dict[str, float | list[float]]:
    """Compare band-passed volumes (4, X, Y, Z) in a region (X, Y, Z).

    sharpness: amplitude in 0.25-0.5 Nyquist relative to the truth's, after taking off the truth's noise floor (the power density
    above 0.9 Nyquist, taken as white); spectral_correlation: correlation of the two in that band; band_variance: variance
    relative to the truth's in three bands. Empty where the region has fewer than 200 voxels.
    """
    if where.sum() < 200:
        return {}
    t, p = truth[:, where], prediction[:, where]
    volume = [hi**3 - lo**3 for lo, hi in (BANDS[2], NOISE_BAND)]
    floor = t[3].var() * volume[0] / volume[1]
    signal = max(t[2].var() - floor, 0.05 * t[2].var())
    return {
        "sharpness": float(np.sqrt(p[2].var() / signal)),
        "spectral_correlation": float(np.corrcoef(t[2], p[2])[0, 1]) if p[2].std() > 1e-8 else 0.0,
        "band_variance": [float(p[b].var() / t[b].var()) for b in range(3)],
    }
