"""Augmentation of training volumes: affine, elastic, gamma and bias field; for random fields, the symmetries of the array."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

CONTROL_MM = 40.0  # the control points of smooth fields are extent / CONTROL_MM + 3 along an axis: 27 mm apart over 192 mm


@dataclass(frozen=True)
class Augmentation:
    """warp: probability that a volume is deformed and its contrast changed; the others are standard deviations (of normal
    draws cut at two) of the deformation and of the logarithms of gamma and bias. Small ones: what the estimate without the
    patient cannot follow would drown what real volumes leave to learn.

    symmetric: for fields without preferred directions and with periodic boundaries, random mirror images, exchanged axes of
    equal length and circular shifts instead of anything anatomical.
    """

    warp: float = 0.5
    rotation_deg: float = 2.0
    scale: float = 0.02
    shift_mm: float = 1.0
    elastic_mm: float = 1.5
    gamma: float = 0.1
    bias: float = 0.04
    symmetric: bool = False

    def __call__(
        self,
        volume: np.ndarray,
        foreground: np.ndarray,
        spacing_mm: tuple[float, float, float],
        rng: np.random.Generator,
        displacement: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Volume (C, X, Y, Z) >= 0 and foreground (X, Y, Z), changed together or, with probability 1 - warp, not at all.

        displacement (3, X, Y, Z) in voxels: a warp that comes before, in any case; both at once, so that nothing is interpolated
        twice.
        """
        if self.symmetric:
            return _symmetry(volume, foreground, rng)
        augmented = rng.random() < self.warp
        if not augmented and displacement is None:
            return volume, foreground
        where = self._sources(volume.shape[1:], spacing_mm, rng) if augmented else np.indices(foreground.shape, dtype=np.float32)
        if displacement is not None:
            where = where + np.stack([ndimage.map_coordinates(d, where, order=1, mode="nearest") for d in displacement])
        # cubic, because linear interpolation takes away texture that samples are to have
        warped = np.stack([ndimage.map_coordinates(c, where, order=3, mode="nearest") for c in volume])
        inside = ndimage.map_coordinates(foreground.astype(np.float32), where, order=1, mode="nearest") > 0.5
        changed = np.maximum(warped, 0).astype(np.float32)
        if augmented:
            changed = self._intensity(changed, spacing_mm, rng)
        # a spline rings where the background is exactly zero
        background = ~ndimage.binary_dilation(inside) & (volume == 0).any()
        return np.where(background, 0, changed).astype(np.float32), inside

    def _sources(self, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
        """Voxel coordinates (3, X, Y, Z) that every voxel takes its value from."""
        spacing = np.array(spacing_mm)
        linear = Rotation.from_euler("xyz", self.rotation_deg * _normal(rng, 3), degrees=True).as_matrix()
        linear = linear * np.exp(self.scale * _normal(rng, 3))
        grid = np.indices(shape).reshape(3, -1)
        centre = (np.array(shape)[:, None] - 1) / 2
        millimetres = linear @ ((grid - centre) * spacing[:, None]) + self.shift_mm * _normal(rng, 3)[:, None]
        where = (millimetres / spacing[:, None] + centre).reshape(3, *shape)
        return where + self.elastic_mm * _smooth(shape, spacing, 3, rng) / spacing[:, None, None, None]

    def _intensity(self, volume: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
        """Gamma and a smooth bias field, per contrast."""
        gamma = np.exp(self.gamma * _normal(rng, len(volume)))[:, None, None, None]
        bias = np.exp(self.bias * _smooth(volume.shape[1:], np.array(spacing_mm), len(volume), rng))
        return volume**gamma * bias


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.clip(rng.standard_normal(n), -2, 2)


def _smooth(shape: tuple[int, ...], spacing_mm: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n smooth fields (n, X, Y, Z) of variance about 0.6: cubic splines through normal values at the control points."""
    nodes = [max(4, int(np.ceil(s * mm / CONTROL_MM)) + 3) for s, mm in zip(shape, spacing_mm, strict=True)]
    result = np.clip(rng.standard_normal((n, *nodes)), -2, 2)
    for axis, (length, count) in enumerate(zip(shape, nodes, strict=True), start=1):
        weights = ndimage.zoom(np.eye(count), (length / count, 1), order=3, mode="nearest", grid_mode=False)
        result = np.moveaxis(np.tensordot(weights, result, axes=(1, axis)), 0, axis)
    return result.astype(np.float32)


def _symmetry(volume: np.ndarray, foreground: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = foreground.shape
    same = [p for p in itertools.permutations(range(3)) if tuple(shape[a] for a in p) == shape]
    order = same[rng.integers(len(same))]
    flips = [a for a in range(3) if rng.random() < 0.5]
    shift = [int(rng.integers(n)) for n in shape]

    def moved(array: np.ndarray) -> np.ndarray:
        return np.roll(np.flip(np.transpose(array, order), flips), shift, (0, 1, 2))

    return np.stack([moved(c) for c in volume]), moved(foreground)
