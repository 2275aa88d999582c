"""From one array of voxels to another with parallel axes: linear with anti-aliasing, nearest for labels, exact where it can be.

Voxel v of the new array lies at voxel `ratio * v + offset` of the old one; what lies outside the old one is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

FWHM_PER_SIGMA = 2.3548


def resample(image: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Trilinear, with a Gaussian before downsampling whose width makes up for the larger voxel (FWHM^2 = new^2 - old^2).

    Bit for bit where voxels fall on voxels: `ratio` 1 and `offset` whole.
    """
    if (ratio == 1.0).all() and (offset == np.round(offset)).all():
        return crop_or_pad(image, offset.astype(int), shape)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) / FWHM_PER_SIGMA
    smooth = ndimage.gaussian_filter(image, sigma) if sigma.any() else image
    return ndimage.affine_transform(smooth, ratio, offset, tuple(shape), order=1, mode="constant", cval=0.0)


def nearest(labels: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels of the nearest old voxel."""
    return ndimage.affine_transform(labels, ratio, offset, tuple(shape), order=0, mode="constant", cval=0)


def crop_or_pad(image: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Moved by whole voxels: `ratio` 1."""
    result = np.zeros(tuple(shape), dtype=image.dtype)
    source = [slice(max(0, o), min(n, o + s)) for o, n, s in zip(offset, image.shape, shape, strict=True)]
    target = [slice(s.start - o, s.stop - o) for s, o in zip(source, offset, strict=True)]
    if all(s.stop > s.start for s in source):
        result[tuple(target)] = image[tuple(source)]
    return result
