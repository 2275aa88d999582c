"""Separable filters of volumes (..., X, Y, Z) on any device, each axis a multiplication by a small matrix.

The matrices are what scipy.ndimage does to the unit vectors, so that a filter is scipy's on the CPU and on a GPU alike, edges
included; at some hundred voxels along an axis a dense matrix costs a GPU nothing and a CPU less than the strided passes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@functools.lru_cache(maxsize=256)
def _matrix(n: int, kind: str, sigma: float, device: torch.device) -> Tensor:
    """(n, n) float32: what filter `kind` makes of n values along an axis."""
    unit = np.eye(n)
    if kind == "gradient":
        made = np.gradient(unit, axis=0) if n > 1 else np.zeros_like(unit)
    elif kind == "laplace":
        made = ndimage.correlate1d(unit, [1, -2, 1], axis=0)
    elif kind == "box":
        made = ndimage.uniform_filter1d(unit, int(sigma), axis=0)
    elif kind == "spline":
        made = ndimage.spline_filter1d(unit, 3, axis=0, mode="mirror")
    else:
        made = ndimage.gaussian_filter1d(unit, sigma, axis=0, order=int(kind.removeprefix("gaussian")))
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32)).to(device)


def along_axis(volume: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """`matrix` (m, n) times every line of `volume` (..., X, Y, Z) along spatial axis 0, 1 or 2."""
    if axis == 2:
        return volume @ matrix.T
    if axis == 1:
        return matrix @ volume
    flat = volume.flatten(-2)
    return (matrix @ flat).unflatten(-1, volume.shape[-2:])


def _filtered(volume: Tensor, kind: str, sigma: float, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        volume = along_axis(volume, _matrix(volume.shape[axis - 3], kind, sigma, volume.device), axis)
    return volume


def smooth(volume: Tensor, sigma: float, axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Gaussian of `sigma` voxels along `axes`, as scipy.ndimage.gaussian_filter."""
    return _filtered(volume, "gaussian0", sigma, axes)


def curvature(volume: Tensor, sigma: float, axis: int) -> Tensor:
    """Second derivative of the Gaussian-smoothed volume along one axis, as gaussian_filter1d with order 2."""
    return _filtered(volume, "gaussian2", sigma, (axis,))


def box_mean(volume: Tensor, size: int) -> Tensor:
    """Mean of a cube of size^3 voxels, as scipy.ndimage.uniform_filter."""
    return _filtered(volume, "box", size, (0, 1, 2))


def gradient(volume: Tensor) -> list[Tensor]:
    """Central differences along the three axes, as numpy.gradient."""
    return [_filtered(volume, "gradient", 0, (axis,)) for axis in range(3)]


def laplace(volume: Tensor) -> Tensor:
    """Sum of the second differences, as scipy.ndimage.laplace."""
    return sum(_filtered(volume, "laplace", 0, (axis,)) for axis in range(3))


def spline_coefficients(volume: Tensor) -> Tensor:
    """Coefficients of the interpolating cubic B-spline, as scipy.ndimage.spline_filter with mode mirror."""
    return _filtered(volume, "spline", 0, (0, 1, 2))
