"""An array of a model's shape round given slices, in their own space; and the slices on it.

The array's axes are the slices' own. It is first put so that what the slices show is in its middle, and moved by whole voxels
once it is known where the anatomy lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xdiff.errors import InputError
from xdiff.given import Given
from xdiff.observation import Observation, intensity_scale
from xdiff.planes import AXIS_NAMES, Plane
from xdiff.pose import PoseModel
from xdiff.resampling import resample

FOREGROUND = 0.05  # of the 99.5th percentile: above it a pixel shows something
SAME = 1e-3  # relative difference between spacings that counts as none
IN_PLANE_STD_MM = 10.0  # of a section's box about the head's; measured on 14 brains: 1.6 mm sideways, up to 10.4 front to back
HEIGHT_STD_MM = 4.0  # of a height that somebody states


@dataclass(frozen=True)
class Array:
    """Where a model's array lies: affine (4, 4) from voxel to the slices' world, `shape` (3,)."""

    affine: np.ndarray
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).round(6).tolist())

    def moved(self, shift: Sequence[int]) -> Array:
        """The array moved by whole voxels along its axes."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(shift, dtype=float)
        return replace(self, affine=affine)


def around(given: Sequence[Given], shape: Sequence[int], spacing_mm: Sequence[float], at_mm: float | None) -> Array:
    """The array with the middle of the sections' foreground box in its middle.

    at_mm: how far the section nearest to the middle of the stack lies from the middle of the anatomy, to the right, the front,
    the top; None: the stack is in the middle. That section falls on a row of voxels; where the spacing in plane is the file's
    own, so do its pixels.
    """
    first, spacing = given[0], np.array(spacing_mm, dtype=float)
    lows, highs = zip(*(_box_mm(one, first.directions) for one in given), strict=True)
    middle = (np.min(lows, axis=0) + np.max(highs, axis=0)) / 2
    heights = np.concatenate([_heights_mm(one, first.directions) for one in given])
    reference = heights[int(np.argmin(np.abs(heights - middle[first.axis])))]
    if at_mm is not None:
        middle[first.axis] = reference - at_mm
    origin = middle - spacing * (np.array(shape) - 1) / 2
    anchor, steps = _anchor(first), spacing.copy()
    anchor[first.axis] = reference
    snapped = anchor + steps * np.round((origin - anchor) / steps)
    same = np.abs(spacing / first.volume.spacing_mm - 1) < SAME
    same[first.axis] = True
    affine = np.eye(4)
    affine[:3, :3] = first.directions * spacing
    affine[:3, 3] = first.directions @ np.where(same, snapped, origin)
    return Array(affine, tuple(int(n) for n in shape))


def _anchor(one: Given) -> np.ndarray:
    """(3,) mm along its axes: where the file's first voxel lies."""
    return one.directions.T @ one.volume.affine[:3, 3]


def _heights_mm(one: Given, directions: np.ndarray) -> np.ndarray:
    """(sections,) mm along the normal of the first file."""
    start = directions.T @ one.volume.affine[:3, 3]
    return start[one.axis] + one.volume.spacing_mm[one.axis] * np.arange(one.count)


def _box_mm(one: Given, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (3,) mm along `directions` of what a file's sections show."""
    array = one.volume.array
    voxels = np.argwhere(array > FOREGROUND * intensity_scale(array[None])[0])
    start = directions.T @ one.volume.affine[:3, 3]
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    low[one.axis], high[one.axis] = 0, one.count - 1
    return start + one.volume.spacing_mm * low, start + one.volume.spacing_mm * high


def observe_given(given: Sequence[Given], array: Array, contrast: str, frame: str) -> Observation:
    """The sections on the array, in units of their 99.5th percentile: in plane resampled with anti-aliasing, along the normal on
    the nearest row of voxels.

    Raises InputError where two fall on one row, or one outside the array.
    """
    axis = given[0].axis
    by_row: dict[int, tuple[Plane, np.ndarray, Given]] = {}
    for one in given:
        thickness = max(1.0, round(one.thickness_mm / array.spacing_mm[axis], 3))
        for row, section in zip(_rows(one, array), _on_array(one, array), strict=True):
            if not 0 <= row < array.shape[axis]:
                reach = f"within {array.shape[axis] * array.spacing_mm[axis]:g} mm about the middle of the anatomy"
                raise InputError(one.path, f"an {AXIS_NAMES[axis]} section {_outside_mm(row, array, axis):.0f} mm outside", reach)
            if row in by_row:
                found = f"two sections less than {array.spacing_mm[axis]:g} mm apart"
                raise InputError(one.path, found, f"one per row of the model's voxels ({by_row[row][2].path.name} has the other)")
            by_row[row] = (Plane(axis, row, thickness), section[None], one)
    planes, sections, _ = zip(*(by_row[row] for row in sorted(by_row)), strict=True)
    scale = intensity_scale(np.stack(sections, axis=1))
    scaled = tuple((s / scale[:, None, None]).astype(np.float32) for s in sections)
    return Observation(planes, scaled, (contrast,), array.shape, array.spacing_mm, scale, frame)


def _to_file(one: Given, array: Array) -> np.ndarray:
    """(4, 4) from the array's voxels to the file's."""
    return np.linalg.inv(one.volume.affine) @ array.affine


def _rows(one: Given, array: Array) -> list[int]:
    """The array's row of voxels that each of a file's sections is nearest to."""
    back, axis = np.linalg.inv(_to_file(one, array)), one.axis
    # where the normal meets the array's middle: files may be turned by a fraction of a degree
    return np.round(back[axis, axis] * np.arange(one.count) + back[axis, 3]).astype(int).tolist()


def _on_array(one: Given, array: Array) -> list[np.ndarray]:
    """A file's sections (h, w) on the array's pixels."""
    matrix, axis = _to_file(one, array), one.axis
    ratio, offset, shape = np.diag(matrix)[:3].copy(), matrix[:3, 3].copy(), list(array.shape)
    ratio = np.where(np.abs(ratio - 1) < SAME, 1.0, ratio)
    offset = np.where(np.abs(offset - np.round(offset)) < SAME, np.round(offset), offset)
    ratio[axis], offset[axis], shape[axis] = 1.0, 0.0, one.count
    return list(np.moveaxis(resample(one.volume.array, ratio, offset, shape), axis, 0))


def as_axis(one: Given, axis: int) -> Given:
    """The same sections taken for ones of another axis, for a world of its own: to see whether they fit better there."""

    def moved(values: np.ndarray) -> np.ndarray:
        others = iter(np.delete(values, one.axis))
        return np.array([values[one.axis] if a == axis else next(others) for a in range(3)])

    affine = np.diag([*moved(one.volume.spacing_mm), 1.0])
    affine[:3, 3] = moved(_anchor(one))
    array = np.moveaxis(one.volume.array, one.axis, axis)
    return replace(one, volume=replace(one.volume, array=array, affine=affine), axis=axis)


def _outside_mm(row: int, array: Array, axis: int) -> float:
    beyond = -row if row < 0 else row - array.shape[axis] + 1
    return beyond * array.spacing_mm[axis]


def searching(model: PoseModel, axis: int, spacing_mm: Sequence[float], stated: bool) -> PoseModel:
    """The pose model for an array that `around` placed: in plane the head is near the middle; along the normal anywhere in the
    array, or, where somebody stated the height, near the middle too."""
    std = IN_PLANE_STD_MM / np.array(spacing_mm)
    length = model.linear.rows.shape[axis + 2]
    std[axis] = HEIGHT_STD_MM / spacing_mm[axis] if stated else length / 3
    return replace(model, prior_std=std, farthest=1 / 2)
