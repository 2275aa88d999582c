"""Smooth random fields over a box in mm, and the deformations made of them: what every embedded cohort bends bodies with.

A field is a function of (generator, position in mm): the same at every spacing, so that a subject is one, too. Boxes are RAS+.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Box(NamedTuple):
    """A field of view: the world position of its first voxel and its size, (x, y, z) in mm."""

    origin_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]


@cache
def grid_mm(box: Box, spacing_mm: float) -> np.ndarray:
    """World coordinates (3, X, Y, Z) float32 in mm of the voxels that cover the box."""
    axes = [o + spacing_mm * np.arange(np.ceil(b / spacing_mm)) for o, b in zip(*box, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def sample(box: Box, fields: np.ndarray, at_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Trilinear values (C, X, Y, Z) of C fields, held on the box's grid of `spacing_mm`, at world points (3, X, Y, Z) in mm."""
    index = (at_mm - np.array(box.origin_mm, np.float32).reshape(3, 1, 1, 1)) / np.float32(spacing_mm)
    return np.stack([ndimage.map_coordinates(f, index, order=1, mode="nearest", output=np.float32) for f in fields])


def noise(box: Box, rng: np.random.Generator, knot_mm: float, spacing_mm: float) -> np.ndarray:
    """A smooth Gaussian field (X, Y, Z), mean 0, variance 1 everywhere: a cubic B-spline with white coefficients.

    It is a function of position in mm: other spacings sample the same field. Features are about 2 `knot_mm` wide.
    """
    knots = np.ceil(np.array(box.size_mm) / knot_mm).astype(int) + 3
    field = rng.standard_normal(knots)
    for axis, n in enumerate(knots):
        position = np.arange(np.ceil(box.size_mm[axis] / spacing_mm)) * spacing_mm / knot_mm + 1
        d = np.abs(position[:, None] - np.arange(n))
        basis = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6)
        basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        # einsum without BLAS: its sums do not depend on the number of threads
        field = np.moveaxis(np.einsum("ia,abc->ibc", basis, np.moveaxis(field, axis, 0)), 0, axis)
    return field.astype(np.float32)


def exp(box: Box, velocity_mm: np.ndarray, spacing_mm: float, squarings: int = 4) -> np.ndarray:
    """Displacement (3, X, Y, Z) in mm of the flow along a stationary velocity for unit time (Arsigny 2006)."""
    u = velocity_mm.astype(np.float32) / 2**squarings
    for _ in range(squarings):
        u = u + sample(box, u, grid_mm(box, spacing_mm) + u, spacing_mm)
    return u
