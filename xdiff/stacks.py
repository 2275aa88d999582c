"""Parallel planes: how given planes group by direction, where they lie along their normal, and where a voxel falls in them.

Positions are in mm from the centre of voxel (0, 0, 0), along the array axes. Rotations are the identity on the axes: a stack of
sections of an array axis has that axis' unit vector as its normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xdiff.planes import AnyPlane, ObliquePlane, Plane

TILT_DEGREES = 15.0  # about that of the line through the commissures, by which brains are scanned, to the table's axes


@dataclass(frozen=True)
class Stack:
    """Planes of one direction in the order in which they lie along it. members: their places among the given planes;
    axis: of sections of an array axis, None of oblique ones; normal: (3,) of length 1; offsets_mm: increasing."""

    members: tuple[int, ...]
    planes: tuple[AnyPlane, ...]
    axis: int | None
    normal: tuple[float, float, float]
    offsets_mm: tuple[float, ...]


def stacks(planes: Sequence[AnyPlane], spacing_mm: Sequence[float]) -> list[Stack]:
    """The given planes by direction: array axes first, in order, then oblique ones."""
    groups: dict[tuple, list[int]] = {}
    for i, plane in enumerate(planes):
        axis = plane.axis if isinstance(plane, Plane) else 3
        groups.setdefault((axis, *(round(x, 5) for x in normal_of(plane, spacing_mm))), []).append(i)
    return [_stack([(i, planes[i]) for i in members], spacing_mm) for _, members in sorted(groups.items())]


def _stack(members: list[tuple[int, AnyPlane]], spacing_mm: Sequence[float]) -> Stack:
    first = members[0][1]
    normal = normal_of(first, spacing_mm)
    placed = sorted(members, key=lambda pair: offset_mm(pair[1], normal, spacing_mm))
    offsets = tuple(offset_mm(p, normal, spacing_mm) for _, p in placed)
    axis = first.axis if isinstance(first, Plane) else None
    return Stack(tuple(i for i, _ in placed), tuple(p for _, p in placed), axis, tuple(normal.tolist()), offsets)


def normal_of(plane: AnyPlane, spacing_mm: Sequence[float]) -> np.ndarray:
    """Unit normal (3,) in mm; of the two, the one whose largest component is positive."""
    if isinstance(plane, Plane):
        return np.eye(3)[plane.axis]
    normal = np.cross(np.multiply(plane.u, spacing_mm), np.multiply(plane.v, spacing_mm))
    return normal / np.linalg.norm(normal) * np.sign(normal[np.abs(normal).argmax()])


def offset_mm(plane: AnyPlane, normal: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Where a plane lies along `normal`."""
    if isinstance(plane, Plane):
        return float(plane.index * spacing_mm[plane.axis])
    return float(np.multiply(plane.centre, spacing_mm) @ normal)


def foot_pixels(plane: ObliquePlane, voxels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Pixel coordinates (2, N) of the points of the plane that are nearest to `voxels` (N, 3), in mm."""
    spacing = np.asarray(spacing_mm, dtype=float)
    basis = np.stack([plane.u, plane.v]) * spacing
    return (((voxels - plane.centre) * spacing) @ np.linalg.pinv(basis) + (np.array(plane.size) - 1) / 2).T


def heights(plane: AnyPlane, axis: int, shape: Sequence[int]) -> np.ndarray:
    """Where a section crosses every column of voxels along `axis`, in voxels: (X, Y, Z) with size 1 along it; a million where
    its pixels do not reach. Sections of that axis: one number."""
    if isinstance(plane, Plane):
        return np.full((1, 1, 1), float(plane.index))
    normal = np.cross(plane.u, plane.v)  # in voxel coordinates, as the heights
    grid = np.stack(np.meshgrid(*(np.arange(1 if a == axis else n, dtype=float) for a, n in enumerate(shape)), indexing="ij"))
    offset = grid - np.reshape(plane.centre, (3, 1, 1, 1))
    offset[axis] = 0
    offset[axis] = -np.tensordot(normal, offset, axes=1) / normal[axis]
    pixel = np.tensordot(np.linalg.pinv(np.stack([plane.u, plane.v], axis=1)), offset, axes=1)
    reached = (np.abs(pixel) <= np.reshape(plane.size, (2, 1, 1, 1)) / 2).all(axis=0)
    return np.where(reached, plane.centre[axis] + offset[axis], 1e6)


def tilted_stack(axis: int, count: int, foreground: np.ndarray, spacing_mm: Sequence[float]) -> list[ObliquePlane]:
    """`count` parallel planes, tilted by TILT_DEGREES out of the sections of `axis`, at the interior points of count + 2
    equidistant ones over the extent of the foreground (X, Y, Z) along their normal.

    Axial and coronal sections turn about the left-right axis (of an axial one the front goes up, of a coronal one the top goes
    forward), sagittal ones about the vertical axis (the front goes right). Pixels are as large as the smaller spacing of the
    section; every plane is as large as the array, whatever the subject: of its place in it, offsets alone tell. Coordinates
    are rounded to a thousandth of a voxel, and directions to a millionth.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    turn = 2 if axis == 0 else 0
    tilted = 3 - axis - turn
    cos, sin = np.cos(np.radians(TILT_DEGREES)), np.sin(np.radians(TILT_DEGREES))
    normal, across = cos * np.eye(3)[axis] - sin * np.eye(3)[tilted], cos * np.eye(3)[tilted] + sin * np.eye(3)[axis]
    pitch_mm = min(spacing[turn], spacing[tilted])
    extent_mm = (np.array(foreground.shape) - 1) * spacing
    sides = {turn: (np.eye(3)[turn], extent_mm[turn]), tilted: (across, extent_mm[tilted] / cos)}
    (u, height_mm), (v, width_mm) = (sides[a] for a in sorted(sides))
    size = tuple(int(np.ceil(side / pitch_mm - 1e-9)) + 1 for side in (height_mm, width_mm))
    along = (np.argwhere(foreground) * spacing) @ normal
    planes = []
    for offset in np.linspace(along.min(), along.max(), count + 2)[1:-1]:
        centre = extent_mm / 2
        centre[axis] = (offset + sin * centre[tilted]) / cos
        planes.append(ObliquePlane(_rounded(centre / spacing, 3), *(_rounded(pitch_mm * d / spacing, 6) for d in (u, v)), size))
    return planes


def _rounded(values: np.ndarray, digits: int) -> tuple[float, float, float]:
    x, y, z = (values.round(digits) + 0.0).tolist()  # no -0.0
    return x, y, z
