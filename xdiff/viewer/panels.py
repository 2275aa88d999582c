"""What the viewer shows: images on the voxels of one volume, each with its colours, its range and what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xdiff.errors import InputError
from xdiff.planes import AXIS_NAMES, AnyPlane, Plane, coverage
from xdiff.resampling import resample, resample_turned
from xdiff.volumes import POSE_TOLERANCE_VOXELS, Volume

BRIGHTEST = 99.5  # percentile of what is not 0 at which a colour scale ends


@dataclass(frozen=True)
class Panel:
    """`array` (X, Y, Z) in raw intensities; `colours` of viewer.js, from `low` to `high`; `synthetic`: not measured."""

    label: str
    note: str
    array: np.ndarray
    colours: str
    low: float
    high: float
    synthetic: bool


def make_panels(volume: Volume, truth: Volume | None, std: Volume | None) -> list[Panel]:
    """Truth, reconstruction, difference and standard deviation, as far as they are there. The first two have one scale.

    Raises InputError where the truth lies elsewhere, or the standard deviation on other voxels.
    """
    panels = []
    top = _top(volume.array)
    if truth is not None:
        real, done = on_voxels_of(volume, truth)
        top = _top(real)
        note = f"acquired, {done}" if done else "acquired"
        panels.append(Panel("Truth", note, real, "gray", 0.0, top, False))
    panels.append(Panel("Reconstruction", "synthetic", volume.array, "gray", 0.0, top, True))
    if truth is not None:
        difference = volume.array - real
        size = _top(np.abs(difference))
        panels.append(Panel("Difference", "reconstruction minus truth", difference, "difference", -size, size, True))
    if std is not None:
        _check_std(std, volume)
        panels.append(Panel("Uncertainty", "standard deviation", std.array, "uncertainty", 0.0, _top(std.array), True))
    return panels


def on_voxels_of(volume: Volume, other: Volume) -> tuple[np.ndarray, str]:
    """`other` (X, Y, Z) on the voxels of `volume`, 0 outside of it, and what had to be done for that ("" where nothing).

    Raises InputError where they do not overlap.
    """
    step = np.linalg.inv(other.affine) @ volume.affine  # from a voxel of `volume` to one of `other`
    reach = np.array(volume.shape)
    if other.shape == volume.shape and _moved(step - np.eye(4), reach) <= POSE_TOLERANCE_VOXELS:
        return other.array, ""
    ratio, offset = np.diag(step)[:3], step[:3, 3]
    turned = np.abs(step[:3, :3] - np.diag(ratio)) @ reach > POSE_TOLERANCE_VOXELS
    done = "resampled to the voxels shown"
    if turned.any():
        moved, done = resample_turned(other.array, step, volume.shape), f"{done}, turned {_angle_deg(volume, other):.1f}°"
    else:
        moved = resample(other.array, ratio, offset, volume.shape)
    if not moved.any():
        raise InputError(other.path, "a volume that lies elsewhere in the world", f"one that overlaps {volume.path.name}")
    return moved, done


def _moved(change: np.ndarray, reach: np.ndarray) -> float:
    """By how many voxels at most `change` (4, 4) moves a voxel of an array of shape `reach`."""
    return float((np.abs(change[:3, :3]) @ reach + np.abs(change[:3, 3])).max())


def _angle_deg(volume: Volume, other: Volume) -> float:
    """The angle of the rotation between the axes of two volumes."""
    first, second = (v.affine[:3, :3] / np.linalg.norm(v.affine[:3, :3], axis=0) for v in (volume, other))
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))


def given_mask(planes: Sequence[AnyPlane], shape: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z) uint8, 1 where a plane is given. Raises InputError for one outside the array."""
    for plane in planes:
        if isinstance(plane, Plane) and not 0 <= plane.index < shape[plane.axis]:
            expected = f"0 to {shape[plane.axis] - 1} along the {AXIS_NAMES[plane.axis]} axis of the volume"
            raise InputError("given planes", plane.name, expected)
    return (coverage(planes, shape) > 0).astype(np.uint8)


def _check_std(std: Volume, volume: Volume) -> None:
    if std.shape != volume.shape or on_voxels_of(volume, std)[1]:
        raise InputError(std.path, f"shape {std.shape} and its affine", f"the voxels of {volume.path.name}, {volume.shape}")
    if std.array.min() < 0:
        raise InputError(std.path, f"a standard deviation of {std.array.min():g}", "0 or more")


def _top(array: np.ndarray) -> float:
    inside = array[array > 0]
    return float(np.percentile(inside, BRIGHTEST)) if inside.size else 1.0
