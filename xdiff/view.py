"""An observation as tensors on a device, and what its given planes look like from every voxel.

What local.py and model/diffusion.py make their inputs of, whether the observation came from a file or was drawn on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xdiff.observation import Observation
from xdiff.planes import AnyPlane, Plane
from xdiff.stacks import heights


class Sides(NamedTuple):
    """For every voxel, the given sections before and after it along one array axis, broadcastable to (X, Y, Z): their rows
    (long), how many voxels away they are, and whether there is one."""

    axis: int
    before: Tensor
    after: Tensor
    before_away: Tensor
    after_away: Tensor
    has_before: Tensor
    has_after: Tensor

    def at(self, image: Tensor, after: bool) -> Tensor:
        """Image (X, Y, Z) at the given section on that side, straight along the axis; 0 where there is none."""
        rows, there = (self.after, self.has_after) if after else (self.before, self.has_before)
        return torch.take_along_dim(image, rows.expand(_but(image.shape, rows.shape, self.axis)), self.axis) * there


@dataclass(frozen=True)
class View:
    """evidence (C, X, Y, Z), mask (X, Y, Z) bool, known (C, X, Y, Z) bool and distance_mm (X, Y, Z) as in Observation; given (C,)
    bool: the contrasts that the sections carry."""

    planes: tuple[AnyPlane, ...]
    spacing_mm: tuple[float, float, float]
    evidence: Tensor
    mask: Tensor
    known: Tensor
    distance_mm: Tensor
    given: Tensor

    @staticmethod
    def of(observation: Observation, device: torch.device | str = "cpu") -> View:
        o = observation
        arrays = (o.evidence, o.mask, o.known, o.distance_mm, np.array(o.given))
        tensors = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
        return View(o.planes, tuple(o.spacing_mm), *tensors)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.mask.shape)

    @property
    def exact(self) -> bool:
        """Whether whatever is given is known exactly: thin sections of the array's axes, projections."""
        return all(p.exact for p in self.planes)

    @cached_property
    def sides(self) -> tuple[Sides, ...]:
        """One for every array axis along which, or nearest to whose direction, sections are given."""
        by_axis: dict[int, list[AnyPlane]] = {}
        for plane in self.planes:
            axis = plane.axis if isinstance(plane, Plane) else plane.nearest_axis
            by_axis.setdefault(axis, []).append(plane)
        return tuple(_sides(by_axis[axis], axis, self.shape, self.mask.device) for axis in sorted(by_axis))

    @cached_property
    def nearest(self) -> Tensor:
        """(X, Y, Z) long: which of `sides` holds the nearest section."""
        away = [torch.minimum(s.before_away, s.after_away) * self.spacing_mm[s.axis] for s in self.sides]
        return torch.stack([a.expand(self.shape) for a in away]).argmin(dim=0)

    def pick(self, images: Sequence[Tensor]) -> Tensor:
        """Of one image (..., X, Y, Z) per element of `sides`, at every voxel the one of the nearest section."""
        picked = images[0]
        for i, image in enumerate(images[1:], 1):
            picked = torch.where(self.nearest == i, image, picked)
        return picked

    @cached_property
    def interpolated(self) -> Tensor:
        """(C, X, Y, Z): linear interpolation between the two given sections along the axis of the nearest one; beyond the
        outermost, these alone."""
        return self.pick([torch.stack([_between(s, channel) for channel in self.evidence]) for s in self.sides])


def _between(sides: Sides, image: Tensor) -> Tensor:
    first, second = sides.at(image, after=False), sides.at(image, after=True)
    gap = sides.before_away + sides.after_away
    share = torch.where(gap > 0, sides.before_away / gap.clamp(min=1e-6), 0.0)
    share = torch.where(sides.has_before, torch.where(sides.has_after, share, 0.0), 1.0)
    return (1 - share) * first + share * second


def _sides(planes: Sequence[AnyPlane], axis: int, shape: tuple[int, int, int], device: torch.device) -> Sides:
    length = shape[axis]
    crossed = np.sort(np.stack(np.broadcast_arrays(*(heights(p, axis, shape) for p in planes))), axis=0)
    levels = torch.from_numpy(crossed.astype(np.float32)).to(device)  # (K, X, Y, Z) with size 1 along the axis
    rows = torch.arange(length, device=device, dtype=torch.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    under = sum((level <= rows).long() for level in levels)  # how many lie at or below a voxel
    below = sum((level < rows).long() for level in levels)
    before = torch.take_along_dim(levels, (under - 1).clamp(min=0)[None], 0)[0]
    after = torch.take_along_dim(levels, below.clamp(max=len(levels) - 1)[None], 0)[0]
    has_before = (under > 0) & (before > -0.5)
    has_after = (below < len(levels)) & (after < length - 0.5)
    places = [level.round().long().clamp(0, length - 1) for level in (before, after)]
    away = [torch.where(has, (level - rows).abs(), 2.0 * length) for has, level in ((has_before, before), (has_after, after))]
    return Sides(axis, *places, *away, has_before, has_after)


def _but(shape: torch.Size, other: torch.Size, axis: int) -> list[int]:
    return [other[a] if a == axis else shape[a] for a in range(3)]
