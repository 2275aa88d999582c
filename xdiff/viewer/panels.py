"""What the viewer shows: images on the voxels of one volume, each with its colours, its range and what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xdiff.errors import InputError
from xdiff.planes import AXIS_NAMES, AnyPlane, Plane, coverage
from xdiff.resampling import resample
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

    Raises InputError where the truth's axes are not the volume's, or the standard deviation lies on other voxels.
    """
    panels = []
    top = _top(volume.array)
    if truth is not None:
        real, moved = on_voxels_of(volume, truth)
        top = _top(real)
        note = "acquired, resampled to the reconstruction's voxels" if moved else "acquired"
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


def on_voxels_of(volume: Volume, other: Volume) -> tuple[np.ndarray, bool]:
    """`other` (X, Y, Z) on the voxels of `volume`, and whether it had to be resampled for that (0 outside of it).

    Raises InputError where their axes are not parallel.
    """
    step = np.linalg.inv(other.affine) @ volume.affine  # from a voxel of `volume` to one of `other`
    ratio, offset = np.diag(step)[:3], step[:3, 3]
    reach = np.array(volume.shape)
    if (np.abs(step[:3, :3] - np.diag(ratio)) @ reach).max() > POSE_TOLERANCE_VOXELS:
        raise InputError(other.path, "axes that are turned against the volume's", f"those of {volume.path.name}")
    if other.shape == volume.shape and (np.abs(ratio - 1) * reach + np.abs(offset)).max() <= POSE_TOLERANCE_VOXELS:
        return other.array, False
    overlap = np.minimum(ratio * (reach - 1) + offset, np.array(other.shape) - 1) - np.maximum(offset, 0)
    if overlap.min() <= 0:
        raise InputError(other.path, "a volume that lies elsewhere in the world", f"one that overlaps {volume.path.name}")
    return resample(other.array, ratio, offset, volume.shape), True


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
