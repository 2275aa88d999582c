"""The conditional neural field of mednerf.py: intensities of all contrasts at a position, given the code of a head.

A multilayer perceptron over Fourier features of the position in mm (2006.10739) and over features interpolated in grids of
several resolutions, as in 2201.05989 (without hashing: grids of a head are small), its layers scaled and shifted by the
code (FiLM, 1709.07871). A code per training volume is learned with the weights (auto-decoder, 1901.05103).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xdiff.errors import InputError
from xdiff.observation import Observation
from xdiff.planes import AnyPlane, ObliquePlane, Plane

CHUNK = 2**15  # positions evaluated at once


@dataclass(frozen=True)
class FieldSettings:
    """latent: numbers in a code; width, depth: of the perceptron; bands: octaves of Fourier features below longest_mm; grid_mm:
    spacings of the feature grids, none where empty; grid_features: channels of each."""

    latent: int = 64
    width: int = 96
    depth: int = 3
    bands: int = 4
    longest_mm: float = 256.0
    grid_mm: tuple[float, ...] = (32.0, 16.0, 8.0)
    grid_features: int = 8

    def __post_init__(self) -> None:
        for name in ("latent", "width", "depth", "grid_features", "longest_mm"):
            if getattr(self, name) <= 0:
                raise InputError(f"methods.*.params.network.{name}", getattr(self, name), "more than 0")
        if self.bands < 0 or min(self.grid_mm, default=1.0) <= 0:
            raise InputError("methods.*.params.network", f"bands {self.bands}, grid_mm {self.grid_mm}", "0 or more, spacings > 0")

    def grid_sizes(self, frame: Frame) -> list[tuple[int, ...]]:
        """Nodes of every grid along the three axes: enough for its spacing over the extent of the array."""
        extent_mm = [(n - 1) * mm for n, mm in zip(frame.shape, frame.spacing_mm, strict=True)]
        return [tuple(max(2, math.ceil(length / mm) + 1) for length in extent_mm) for mm in self.grid_mm]


class Frame(NamedTuple):
    """The array: its shape (X, Y, Z) and spacing in mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def points(self) -> Tensor:
        """Voxel coordinates (X * Y * Z, 3) of all voxels."""
        return torch.from_numpy(np.indices(self.shape, dtype=np.float32).reshape(3, -1).T.copy())


class ConditionalField(nn.Module):
    """Intensities (B, P, C) at voxel coordinates (B, P, 3), given codes (B, latent). codes: how many are learned, one per
    training volume; grids: nodes of the feature grids."""

    def __init__(self, contrasts: int, frame: Frame, grids: Sequence[Sequence[int]], codes: int, settings: FieldSettings) -> None:
        super().__init__()
        self.frame, self.bands, self.longest_mm = frame, settings.bands, settings.longest_mm
        channels, width = settings.grid_features, settings.width
        self.grids = nn.ParameterList(0.1 * torch.randn(1, channels, *size) for size in grids)
        inputs = 3 + 6 * settings.bands + channels * len(grids)
        sizes = [inputs, *[width] * settings.depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.film = nn.Linear(settings.latent, 2 * width * settings.depth)
        nn.init.zeros_(self.film.bias)
        self.head = nn.Linear(width, contrasts)
        self.codes = nn.Parameter(0.3 * torch.randn(codes, settings.latent))

    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        return self.head(self.hidden(points, codes))

    def hidden(self, points: Tensor, codes: Tensor) -> Tensor:
        """What the last layer sees (B, P, width)."""
        value = self.encode(points)
        modulations = self.film(codes).unflatten(1, (len(self.layers), 2, 1, -1)).unbind(1)
        for layer, modulation in zip(self.layers, modulations, strict=True):
            scale, shift = modulation.unbind(1)
            value = functional.silu((1 + scale) * layer(value) + shift)
        return value

    def encode(self, points: Tensor) -> Tensor:
        """Features of voxel coordinates (B, P, 3), the same for all codes: (B, P, inputs)."""
        last = points.new_tensor(self.frame.shape) - 1
        offset_mm = (points - last / 2) * points.new_tensor(self.frame.spacing_mm)
        octaves = 2 * math.pi / self.longest_mm * 2 ** torch.arange(self.bands, device=points.device)
        angles = (offset_mm[..., None] * octaves).flatten(-2)
        parts = [2 * offset_mm / self.longest_mm, angles.sin(), angles.cos()]
        # grid_sample wants -1..1 over the array, and the last axis first
        where = (2 * points / last.clamp(min=1) - 1).flip(-1).reshape(1, 1, 1, -1, 3)
        for grid in self.grids:
            found = functional.grid_sample(grid, where, padding_mode="border", align_corners=True)
            parts.append(found.reshape(grid.shape[1], -1).T.reshape(*points.shape[:-1], -1))
        return torch.cat(parts, dim=-1)


class CodePrior(NamedTuple):
    """Normal distribution of codes, fitted to those of the training volumes: code = mean + unit @ factor, unit standard normal.

    mean (latent,), factor (latent, latent). Half of the covariance is its diagonal: there may be fewer volumes than numbers.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> CodePrior:
        codes = codes.detach().double()
        mean = codes.mean(dim=0)
        covariance = (codes - mean).T @ (codes - mean) / max(len(codes) - 1, 1)
        spread = 0.5 * covariance + 0.5 * torch.diag(covariance.diagonal() + 1e-8)
        return cls(mean.float(), torch.linalg.cholesky(spread).T.float())

    def code(self, unit: Tensor) -> Tensor:
        return self.mean + unit @ self.factor


class Pixels(NamedTuple):
    """Given pixels as averages of the field: points (P, S, 3) in voxel coordinates, weights (P, S) that add up to 1, values
    (P, C)."""

    points: Tensor
    weights: Tensor
    values: Tensor

    def of(self, rows: np.ndarray) -> Pixels:
        chosen = torch.from_numpy(rows)
        return Pixels(*(tensor[chosen.to(tensor.device)] for tensor in self))

    def mean(self, at_points: Tensor) -> Tensor:
        """(P, ...) of values (1, P * S, ...) at all points: the average over each pixel's."""
        samples = at_points.reshape(*self.weights.shape, -1)
        return (samples * self.weights[..., None]).sum(dim=1)


def pixels_of(observation: Observation, device: torch.device) -> Pixels:
    """All given pixels. Those of oblique sections that reach out of the array, where nothing is, are left out."""
    parts = [_one(plane, s, observation.shape) for plane, s in zip(observation.planes, observation.sections, strict=True)]
    most = max(points.shape[1] for points, _, _ in parts)
    points, weights, values = [], [], []
    for own, share, value in parts:
        padding = most - own.shape[1]  # a pixel of a thin section repeats its one point with weight 0
        points.append(np.pad(own, ((0, 0), (0, padding), (0, 0)), mode="edge"))
        weights.append(np.pad(share, ((0, 0), (0, padding))))
        values.append(value)
    arrays = (np.concatenate(part).astype(np.float32) for part in (points, weights, values))
    return Pixels(*(torch.from_numpy(array).to(device) for array in arrays))


def _one(plane: AnyPlane, section: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, S, 3), weights (P, S) and values (P, C) of one section."""
    values = section.reshape(len(section), -1).T
    if isinstance(plane, ObliquePlane):
        points = plane.points()
        inside = ((points >= 0) & (points <= np.array(shape) - 1)).all(axis=1)
        return points[inside][:, None], np.ones((inside.sum(), 1)), values[inside]
    # a projection shows what is the same in all rows: one of them will do
    rows = [(plane.index, 1.0)] if plane.exact else plane.profile(shape[plane.axis])
    coordinates = np.indices(shape, dtype=np.float32)
    points = np.stack([Plane(plane.axis, row).cut(coordinates).reshape(3, -1).T for row, _ in rows], axis=1)
    return points, np.tile([weight for _, weight in rows], (len(points), 1)), values
