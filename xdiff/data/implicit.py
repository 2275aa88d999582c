"""Smooth implicit shapes: negative inside, in mm near the surface. Bodies are drawn with them, whatever the spacing.

Points are three arrays x, y, z of one shape, in mm; distances have that shape. Exact only for spheres and capsules; elsewhere
right to first order at the surface, which is all that partial volume needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

TABLE_MM = 0.25  # columns are looked up at this step of z


class Point(NamedTuple):
    """Coordinates in mm, to the right, to the front and upwards of whatever frame they are in."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def union(a: np.ndarray, b: np.ndarray, blend_mm: float = 0.0) -> np.ndarray:
    """Of two shapes; the crease between them is filled over about `blend_mm`."""
    low = np.minimum(a, b)
    return low if not blend_mm else low - np.square(np.maximum(blend_mm - np.abs(a - b), 0)) / (4 * blend_mm)


def both(a: np.ndarray, b: np.ndarray, blend_mm: float = 0.0) -> np.ndarray:
    """Intersection of two shapes; its edge is rounded over about `blend_mm`. `both(a, -b)` is a without b."""
    return -union(-a, -b, blend_mm)


def ellipsoid(offsets: Sequence[np.ndarray], radii_mm: Sequence[np.ndarray | float]) -> np.ndarray:
    """Ellipse or ellipsoid from the offsets to its centre; radii may vary from point to point."""
    scaled = [offset / radius for offset, radius in zip(offsets, radii_mm, strict=True)]
    steep = sum(np.square(s / radius) for s, radius in zip(scaled, radii_mm, strict=True))
    k = np.sqrt(sum(np.square(s) for s in scaled)) + 1e-4
    return k * (k - 1) / (np.sqrt(steep) + 1e-5)


def column(p: Point, knots: Sequence[Sequence[float]]) -> np.ndarray:
    """An upright tube of elliptical sections. Each knot: z, centre x, centre y, radius in x, radius in y; z ascending."""
    knots = np.asarray(knots, dtype=np.float64)
    low, high = knots[0, 0], knots[-1, 0]
    steps = np.arange(low, high + TABLE_MM, TABLE_MM)
    table = PchipInterpolator(knots[:, 0], knots[:, 1:])(np.clip(steps, low, high)).astype(np.float32).T
    row = np.clip((p.z - low) / TABLE_MM, 0, len(steps) - 1).astype(np.intp)
    x, y, rx, ry = (values[row] for values in table)
    return np.maximum(ellipsoid((p.x - x, p.y - y), (rx, ry)), np.maximum(low - p.z, p.z - high))


def cord(p: Point, path: Sequence[Sequence[float]], radius_mm: float, wide: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    """A tube along a polyline (n, 3), `wide` times wider in x, y and z: a band where these differ."""
    nearest = np.full(p.x.shape, np.inf, np.float32)
    wide = np.asarray(wide, np.float32)
    knots = np.asarray(path, np.float32) / wide
    scaled = [c / w for c, w in zip(p, wide, strict=True)]
    for start, along in zip(knots[:-1], np.diff(knots, axis=0), strict=True):
        offset = [c - s for c, s in zip(scaled, start, strict=True)]
        t = np.clip(sum(o * a for o, a in zip(offset, along, strict=True)) / (along @ along), 0, 1)
        offset = [o - t * a for o, a in zip(offset, along, strict=True)]
        length = np.sqrt(sum(np.square(o) for o in offset)) + np.float32(1e-4)
        steep = np.sqrt(sum(np.square(o / w) for o, w in zip(offset, wide, strict=True))) + np.float32(1e-5)
        nearest = np.minimum(nearest, (length - np.float32(radius_mm)) * length / steep)
    return nearest


def arc(start: Sequence[float], control: Sequence[float], end: Sequence[float], n: int = 6) -> np.ndarray:
    """n + 1 points (n + 1, 3) of the quadratic Bezier curve."""
    t = np.linspace(0, 1, n + 1)[:, None]
    return (1 - t) ** 2 * np.asarray(start) + 2 * t * (1 - t) * np.asarray(control) + t**2 * np.asarray(end)


def covered(distance_mm: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Fraction of a voxel inside a flat surface at this distance from its centre: partial volume to first order."""
    return np.clip(0.5 - distance_mm / np.float32(voxel_mm), 0, 1).astype(np.float32)


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the other way where low > high), smooth between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)
