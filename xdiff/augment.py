"""Augmentation of training volumes: affine, elastic, gamma and bias field; for random fields, the symmetries of the array.

On any device: what is drawn at random are a few numbers and the control points of smooth fields, from numpy's generator, so
that a draw is the same wherever it is made; the volumes stay where they are.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from xdiff.filters import along_axis, spline_coefficients

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
        volume: Tensor,
        foreground: Tensor,
        spacing_mm: tuple[float, float, float],
        rng: np.random.Generator,
        displacement: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Volume (C, X, Y, Z) >= 0 and foreground (X, Y, Z), changed together or, with probability 1 - warp, not at all.

        displacement (3, X, Y, Z), voxels: brings the volume into another shape first (registration.py); there is one
        interpolation all the same.
        """
        if self.symmetric:
            return _symmetry(volume, foreground, rng)
        changed = rng.random() < self.warp
        if not changed and displacement is None:
            return volume, foreground
        shape = tuple(foreground.shape)
        where = self._sources(shape, spacing_mm, rng, volume.device) if changed else _grid(shape, volume.device)
        if displacement is not None:
            where = where + sample_linear(displacement, where)
        # cubic, because linear interpolation takes away texture that samples are to have
        warped = sample_cubic(volume, where).clamp(min=0)
        inside = sample_linear(foreground[None].float(), where)[0] > 0.5
        if changed:
            warped = self._intensity(warped, spacing_mm, rng)
        # a spline rings where the background is exactly zero
        background = ~_dilated(inside) & (volume == 0).any()
        return torch.where(background, 0.0, warped), inside

    def _sources(
        self, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], rng: np.random.Generator, device: torch.device
    ) -> Tensor:
        """Voxel coordinates (3, X, Y, Z) that every voxel takes its value from."""
        spacing = np.array(spacing_mm)
        linear = Rotation.from_euler("xyz", self.rotation_deg * _normal(rng, 3), degrees=True).as_matrix()
        linear = linear * np.exp(self.scale * _normal(rng, 3))
        centre = (np.array(shape) - 1) / 2
        in_voxels = linear * spacing / spacing[:, None]
        offset = self.shift_mm * _normal(rng, 3) / spacing + centre - in_voxels @ centre
        matrix, start = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (in_voxels, offset))
        where = torch.tensordot(matrix, _grid(shape, device), dims=1) + start[:, None, None, None]
        bend = torch.from_numpy((self.elastic_mm / spacing).astype(np.float32)).to(device)
        return where + bend[:, None, None, None] * _smooth(shape, spacing, 3, rng, device)

    def _intensity(self, volume: Tensor, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> Tensor:
        """Gamma and a smooth bias field, per contrast."""
        gamma = torch.from_numpy(np.exp(self.gamma * _normal(rng, len(volume))).astype(np.float32)).to(volume.device)
        bias = torch.exp(self.bias * _smooth(tuple(volume.shape[1:]), np.array(spacing_mm), len(volume), rng, volume.device))
        return volume ** gamma[:, None, None, None] * bias


def sample_cubic(volume: Tensor, where: Tensor) -> Tensor:
    """Interpolating cubic B-spline of (C, X, Y, Z) at voxel coordinates (3, ...), those outside moved to the edge: (C, ...),
    as scipy.ndimage.map_coordinates with mode mirror there."""
    flat = spline_coefficients(volume).flatten(1)
    indices, weights = [], []
    for n, x in zip(volume.shape[1:], where, strict=True):
        x = x.clamp(0, n - 1)
        first = x.floor()
        share = x - first
        cubes = ((1 - share) ** 3, 3 * share**3 - 6 * share**2 + 4, -3 * share**3 + 3 * share**2 + 3 * share + 1, share**3)
        rows = [first.long() + k for k in (-1, 0, 1, 2)]
        last = max(n - 1, 1)
        indices.append([(last - (last - row.abs()).abs()).clamp(0, n - 1) for row in rows])  # mirrored at both ends
        weights.append([cube / 6 for cube in cubes])
    total = torch.zeros(len(volume), *where.shape[1:], device=volume.device)
    for i, j in itertools.product(range(4), repeat=2):
        line = (indices[0][i] * volume.shape[2] + indices[1][j]) * volume.shape[3]
        plane = weights[0][i] * weights[1][j]
        for k in range(4):
            total += flat[:, line + indices[2][k]] * (plane * weights[2][k])
    return total


def sample_linear(volume: Tensor, where: Tensor) -> Tensor:
    """Trilinear interpolation of (C, X, Y, Z) at voxel coordinates (3, X', Y', Z'), those outside moved to the edge."""
    sizes = torch.tensor(volume.shape[1:], device=volume.device)
    unit = 2 * where / (sizes - 1).clamp(min=1)[:, None, None, None] - 1
    points = unit.flip(0).movedim(0, -1)[None]  # grid_sample wants the last axis first
    return functional.grid_sample(volume[None], points, padding_mode="border", align_corners=True)[0]


def _dilated(mask: Tensor) -> Tensor:
    """A mask (X, Y, Z) with the six neighbours of its voxels."""
    large, one = mask[None].float(), [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
    return torch.stack([functional.max_pool3d(large, k, 1, tuple(n // 2 for n in k))[0] for k in one]).amax(dim=0) > 0


@functools.lru_cache(maxsize=4)
def _grid(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, device=device, dtype=torch.float32) for n in shape), indexing="ij"))


def _normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.clip(rng.standard_normal(n), -2, 2)


def _smooth(shape: tuple[int, ...], spacing_mm: np.ndarray, n: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """n smooth fields (n, X, Y, Z) of variance about 0.6: cubic splines through normal values at the control points."""
    nodes = [max(4, int(np.ceil(s * mm / CONTROL_MM)) + 3) for s, mm in zip(shape, spacing_mm, strict=True)]
    field = torch.from_numpy(np.clip(rng.standard_normal((n, *nodes)), -2, 2).astype(np.float32)).to(device)
    for axis, (length, count) in enumerate(zip(shape, nodes, strict=True)):
        field = along_axis(field, _zoom(length, count, device), axis)
    return field


@functools.lru_cache(maxsize=16)
def _zoom(length: int, count: int, device: torch.device) -> Tensor:
    """(length, count): cubic interpolation of `count` control points."""
    weights = ndimage.zoom(np.eye(count), (length / count, 1), order=3, mode="nearest", grid_mode=False)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def _symmetry(volume: Tensor, foreground: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    shape = foreground.shape
    same = [p for p in itertools.permutations(range(3)) if tuple(shape[a] for a in p) == tuple(shape)]
    order = same[rng.integers(len(same))]
    flips = [a for a in range(3) if rng.random() < 0.5]
    shift = [int(rng.integers(n)) for n in shape]

    def moved(array: Tensor) -> Tensor:
        return torch.roll(array.permute(order).flip(flips), shift, (0, 1, 2))

    return torch.stack([moved(c) for c in volume]), moved(foreground)
