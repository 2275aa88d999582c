"""Smooth solids as signed distances (mm, negative inside), and a canvas on which tissue is painted over tissue.

A solid is a function of the coordinates (x, y, z) in mm, float32 arrays of one shape, with a box outside which it is nowhere: so
a body of two hundred solids is drawn in a second. Unions, intersections and cuts are minima and maxima (Ricci 1973,
10.1093/comjnl/16.2.157); away from its surface a distance is then an approximation. The formulas are those of implicit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from xdiff.data.implicit import covered, ellipsoid, union

TABLE_MM = 0.5  # of values tabulated along z
FAR_MM = 1e3
EVERYWHERE = (slice(None),) * 3

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Point = tuple[float, float, float]


class Solid(NamedTuple):
    """`distance` of points, and the box (lowest corner, highest corner) that holds everything inside."""

    distance: Distance
    low: Point
    high: Point

    def grown(self, mm: float) -> Solid:
        return Solid(
            lambda x, y, z: self.distance(x, y, z) - np.float32(mm),
            tuple(v - max(mm, 0) for v in self.low),
            tuple(v + max(mm, 0) for v in self.high),
        )

    def within(self, *others: Solid) -> Solid:
        """What of it lies inside all the others."""
        return Solid(lambda x, y, z: _most([s.distance(x, y, z) for s in (self, *others)]), self.low, self.high)

    def without(self, *others: Solid) -> Solid:
        """What of it lies outside all the others."""
        return Solid(
            lambda x, y, z: _most([self.distance(x, y, z), *(-s.distance(x, y, z) for s in others)]), self.low, self.high
        )


def cutter(distance: Distance) -> Solid:
    """What only cuts other solids, and needs no box: a half space, for instance."""
    return Solid(distance, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def _most(distances: Sequence[np.ndarray]) -> np.ndarray:
    worst = distances[0]
    for other in distances[1:]:
        worst = np.maximum(worst, other)
    return worst


def blended(solids: Sequence[Solid], radius_mm: float) -> Solid:
    """The union, with fillets of about `radius_mm` where surfaces meet."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        nearest = solids[0].distance(x, y, z)
        for solid in solids[1:]:
            other = solid.distance(x, y, z)
            nearest = union(nearest, other, radius_mm)
        return nearest

    low = tuple(min(s.low[i] for s in solids) - radius_mm / 4 for i in range(3))
    high = tuple(max(s.high[i] for s in solids) + radius_mm / 4 for i in range(3))
    return Solid(distance, low, high)


def ball(centre: Point, radii: Point, turn_deg: Point = (0.0, 0.0, 0.0)) -> Solid:
    """An ellipsoid; `turn_deg`: rotations about x, y and z, in this order."""
    matrix = _rotation(turn_deg) if any(turn_deg) else None
    c, r = np.float32(centre), np.float32(radii)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        p = [x - c[0], y - c[1], z - c[2]]
        if matrix is not None:
            p = [m[0] * p[0] + m[1] * p[1] + m[2] * p[2] for m in matrix.T]
        return ellipsoid(p, r)

    reach = np.array(radii) if matrix is None else np.sqrt(matrix**2 @ np.array(radii) ** 2)
    return Solid(distance, tuple(centre - reach), tuple(centre + reach))


def _rotation(turn_deg: Point) -> np.ndarray:
    turn = np.eye(3)
    for angle, (i, j) in zip(np.deg2rad(turn_deg), ((1, 2), (2, 0), (0, 1)), strict=True):
        step = np.eye(3)
        step[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn.astype(np.float32)


def rod(points: Sequence[Point], radii: float | Sequence[float]) -> Solid:
    """A tube along straight pieces between `points`, of a radius at each."""
    ends = np.float32(points)
    widths = np.broadcast_to(np.float32(radii), (len(ends),))

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        nearest = np.full(x.shape, FAR_MM, np.float32)
        for a, b, wide, narrow in zip(ends[:-1], ends[1:], widths[:-1], widths[1:], strict=True):
            along = b - a
            px, py, pz = x - a[0], y - a[1], z - a[2]
            t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / (along @ along), 0, 1)
            gap = np.sqrt((px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2)
            nearest = np.minimum(nearest, gap - (wide + t * (narrow - wide)))
        return nearest

    wide = float(widths.max())
    return Solid(distance, tuple(ends.min(0) - wide), tuple(ends.max(0) + wide))


class Profile:
    """A smooth function of z, by monotone cubic interpolation (PCHIP) of (z, value) knots; constant beyond the ends."""

    def __init__(self, z_mm: Sequence[float], values: Sequence[float]) -> None:
        knots = sorted(zip(map(float, z_mm), map(float, values), strict=True))
        self.start, self.table = knots[0][0], _tabulated(tuple(knots))

    def __call__(self, z: np.ndarray) -> np.ndarray:
        index = ((z - np.float32(self.start)) / np.float32(TABLE_MM) + np.float32(0.5)).astype(np.int32)
        return self.table[np.clip(index, 0, len(self.table) - 1)]

    @property
    def range(self) -> tuple[float, float]:
        return float(self.table.min()), float(self.table.max())


@lru_cache(maxsize=1024)  # a person is drawn twice, for MRI and DXA
def _tabulated(knots: tuple[tuple[float, float], ...]) -> np.ndarray:
    z, values = np.array(knots).T
    at = np.arange(z[0], z[-1] + TABLE_MM, TABLE_MM)
    return PchipInterpolator(z, values)(np.minimum(at, z[-1])).astype(np.float32)


def column(
    z_mm: Sequence[float],
    x: Sequence[float] | Profile,
    y: Sequence[float] | Profile,
    half_x: Sequence[float],
    half_y: Sequence[float],
    power: float = 2.0,
) -> Solid:
    """A column between the lowest and the highest of z_mm with superelliptic cross-sections about (x, y): |dx / half_x|^power +
    |dy / half_y|^power = 1. Knots along z are joined smoothly; x and y may be Profiles of their own.
    """
    cx, cy, a, b = (v if isinstance(v, Profile) else Profile(z_mm, v) for v in (x, y, half_x, half_y))
    low_z, high_z = min(z_mm), max(z_mm)

    def distance(px: np.ndarray, py: np.ndarray, pz: np.ndarray) -> np.ndarray:
        rx, ry = a(pz), b(pz)
        side = superellipse(px - cx(pz), py - cy(pz), rx, ry, power)
        return np.maximum(side, np.maximum(np.float32(low_z) - pz, pz - np.float32(high_z)))

    wide, deep = a.range[1], b.range[1]
    return Solid(distance, (cx.range[0] - wide, cy.range[0] - deep, low_z), (cx.range[1] + wide, cy.range[1] + deep, high_z))


def superellipse(dx: np.ndarray, dy: np.ndarray, a: np.ndarray, b: np.ndarray, power: float = 2.0) -> np.ndarray:
    """First-order distance of (dx, dy) from |dx/a|^power + |dy/b|^power = 1, in the plane."""
    u, v = np.abs(dx) / a, np.abs(dy) / b
    if power == 2.0:
        level = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / a) ** 2 + (v / b) ** 2) / np.maximum(level, np.float32(1e-4))
    else:
        pu, pv = u ** np.float32(power - 1), v ** np.float32(power - 1)
        level = np.maximum(pu * u + pv * v, np.float32(1e-8)) ** np.float32(1 / power)
        slope = np.sqrt((pu / a) ** 2 + (pv / b) ** 2) * level ** np.float32(1 - power)
    return (level - 1) / np.maximum(slope, np.float32(1e-4))


@dataclass
class Canvas:
    """Voxels with coordinates `place` (3, X, Y, Z) float32 in mm, of edge `voxel_mm` there, and what has been painted on them.

    `amounts` (C, X, Y, Z) float32: of C properties, mixed by the volume that each tissue has in a voxel; `parts` (X, Y, Z) uint8:
    the part that was painted last over at least half of it.
    """

    place: np.ndarray
    voxel_mm: float
    properties: int

    def __post_init__(self) -> None:
        self.amounts = np.zeros((self.properties, *self.place.shape[1:]), np.float32)
        self.parts = np.zeros(self.place.shape[1:], np.uint8)
        others = ((1, 2), (0, 2), (0, 1))
        self.spans = [(p.min(axes), p.max(axes)) for p, axes in zip(self.place, others, strict=True)]

    def paint(self, solid: Solid, amounts: Sequence[float], part: int = 0) -> None:
        """Cover by a tissue of these `amounts` (C,); part 0 leaves the label map as it is."""
        box = self.block(solid)
        if box is None:
            return
        self.cover(solid.distance(*self.place[(slice(None), *box)]), amounts, part, box)

    def cover(
        self, distance_mm: np.ndarray, amounts: Sequence[float], part: int = 0, box: tuple[slice, ...] = EVERYWHERE
    ) -> None:
        """The same where the distances in a block of voxels have been computed already."""
        share = covered(distance_mm, self.voxel_mm)
        for channel, amount in zip(self.amounts, amounts, strict=True):
            channel[box] += share * (np.float32(amount) - channel[box])
        if part:
            self.parts[box][share >= 0.5] = part

    def block(self, solid: Solid) -> tuple[slice, ...] | None:
        """The smallest block of voxels that holds the solid and one voxel around it; None where there is none."""
        box = []
        for (least, most), low, high in zip(self.spans, solid.low, solid.high, strict=True):
            touched = np.flatnonzero((most >= low - self.voxel_mm) & (least <= high + self.voxel_mm))
            if not len(touched):
                return None
            box.append(slice(int(touched[0]), int(touched[-1]) + 1))
        return tuple(box)
