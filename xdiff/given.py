"""The slices in a person's hand: NIfTI files of one section or a stack, a DICOM slice each, or a picture whose spacing is stated.

Sections stay as they were acquired: a stack tilted against the scanner's axes counts as one of the axis nearest to its normal, as
the training volumes' own axes do, and is refused where that would be far from the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdiff.data.dicom import read_slice
from xdiff.errors import InputError
from xdiff.planes import AXES, AXIS_NAMES
from xdiff.volumes import Volume, read_sections

VIEWS = ("radiological", "neurological")
PICTURES = (".png",)
NIFTI = (".nii", ".nii.gz")
MOST_TILT_DEG = 20.0  # training brains are tilted by up to 16 degrees against the scanner's axes (acquired along AC-PC or not)
PARALLEL_DEG = 0.5
COARSER = 1.5  # spacing along the normal over that in plane, from which on it tells the normal
FEWER = 4  # times fewer sections than pixels tell it too


@dataclass(frozen=True)
class Reading:
    """What is said of the files beside them. thickness_mm: of a section, where the file's spacing along the normal is not it.

    axis: sagittal, coronal or axial; for a picture, and to check the others by. spacing_mm and view: of a picture. Radiological:
    the subject's right, of a sagittal picture the front, on its left side; neurological: the other way round. In both the front
    is on top of an axial picture, the top of the head on top of the others.
    """

    thickness_mm: float | None = None
    axis: str | None = None
    spacing_mm: float | None = None
    view: str = "radiological"

    def __post_init__(self) -> None:
        if self.axis is not None and self.axis not in AXES:
            raise InputError("axis", repr(self.axis), f"one of {list(AXES)}")
        if self.view not in VIEWS:
            raise InputError("view", repr(self.view), f"one of {list(VIEWS)}")
        for name in ("thickness_mm", "spacing_mm"):
            value = getattr(self, name)
            if value is not None and not 0.05 <= value <= 100:
                raise InputError(name, value, "0.05 to 100 mm")


@dataclass(frozen=True)
class Given:
    """Sections of one file: `volume` RAS+, all parallel, in `axis`; thickness_mm each.

    in_world: whether the file says where they lie; a picture does not.
    """

    volume: Volume
    axis: int
    thickness_mm: float
    sha256: str
    in_world: bool = True

    @property
    def path(self) -> Path:
        return self.volume.path

    @property
    def count(self) -> int:
        return self.volume.shape[self.axis]

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors (3, 3) of the array's axes in the world, one a column."""
        return self.volume.affine[:3, :3] / self.volume.spacing_mm

    @property
    def tilt_deg(self) -> float:
        """The largest angle between an axis of the array and that of the world it is named after."""
        return float(np.degrees(np.arccos(np.clip(np.diag(self.directions), -1, 1)).max()))


def read_given(paths: Sequence[Path], reading: Reading) -> list[Given]:
    """Every file, checked on its own and against the first one. Raises InputError."""
    if not paths:
        raise InputError("given", "no file", "at least one slice")
    given = [_read(Path(path), reading) for path in paths]
    for one in given:
        _check(one)
    for one in given[1:]:
        _check_parallel(one, given[0])
    return given


def _read(path: Path, reading: Reading) -> Given:
    if not path.is_file():
        raise InputError(path, "no such file", "a slice: NIfTI (.nii, .nii.gz), PNG or DICOM")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix.lower() in PICTURES:
        volume, axis = _read_picture(path, reading)
        return Given(volume, axis, reading.thickness_mm or 0.0, sha256, in_world=False)
    volume = read_sections(path) if path.name.lower().endswith(NIFTI) else read_slice(path, reading.thickness_mm)
    axis = _normal_axis(volume)
    if reading.axis is not None and AXES[reading.axis] != axis:
        raise InputError(path, f"{AXIS_NAMES[axis]} sections by its affine", f"{reading.axis}, as is said")
    return Given(volume, axis, reading.thickness_mm or float(volume.spacing_mm[axis]), sha256)


def _normal_axis(volume: Volume) -> int:
    """The axis of one voxel, the one of far the coarsest spacing, or the one of far the fewest voxels."""
    shape, spacing = np.array(volume.shape), volume.spacing_mm
    coarse, few = int(np.argmax(spacing)), int(np.argmin(shape))
    if shape[few] == 1:
        return few
    if spacing[coarse] >= COARSER * np.sort(spacing)[1]:
        return coarse
    if shape[few] * FEWER <= np.sort(shape)[1]:
        return few
    expected = (
        f"one section, or a stack with a spacing {COARSER:g} times coarser, or {FEWER} times fewer voxels, along its normal"
    )
    raise InputError(volume.path, f"shape {volume.shape} at {spacing.round(3).tolist()} mm", expected)


def _read_picture(path: Path, reading: Reading) -> tuple[Volume, int]:
    """A picture as a section whose middle is the world's origin."""
    if reading.axis is None or reading.spacing_mm is None:
        raise InputError(path, "a picture without spacing or axis", "both stated: --spacing MM --axis axial|coronal|sagittal")
    axis = AXES[reading.axis]
    grey = _grey(path)
    turned = grey[::-1, ::-1] if reading.view == "radiological" else grey[::-1]
    array = np.expand_dims(turned.T.astype(np.float32), axis)
    spacing = np.full(3, reading.spacing_mm)
    spacing[axis] = reading.thickness_mm or reading.spacing_mm
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(array.shape) - 1) / 2
    return Volume(np.ascontiguousarray(array), affine, path), axis


def _grey(path: Path) -> np.ndarray:
    """Grey values (rows, columns) of a picture, 8 or 16 bit; raises InputError for colours, transparency and damage."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(path, f"an unreadable picture ({error})", "a grey PNG") from error
    if mode in ("L", "I", "I;16"):
        return pixels
    if (
        mode in ("RGB", "RGBA")
        and (pixels[..., :3] == pixels[..., :1]).all()
        and (mode == "RGB" or (pixels[..., 3] == 255).all())
    ):
        return pixels[..., 0]
    raise InputError(path, f"a picture of mode {mode} that is not all grey and opaque", "grey values, 8 or 16 bit")


def _check(one: Given) -> None:
    for index, section in enumerate(np.moveaxis(one.volume.array, one.axis, 0)):
        if section.min() < 0:
            raise InputError(one.path, f"values down to {section.min():g} in section {index}", "intensities of at least 0")
        if not section.any():
            raise InputError(one.path, f"an empty section (number {index})", "a section with signal")
    if one.tilt_deg > MOST_TILT_DEG:
        found = f"axes tilted by {one.tilt_deg:.0f} degrees against sagittal, coronal, axial"
        raise InputError(one.path, found, f"at most {MOST_TILT_DEG:g}")


def _check_parallel(one: Given, first: Given) -> None:
    if not (one.in_world and first.in_world):
        raise InputError(one.path, "a picture among several files", "one picture: nothing says how several lie to one another")
    cosines = np.einsum("ij,ij->j", one.directions, first.directions)
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1)).max()))
    if one.axis != first.axis or angle > PARALLEL_DEG:
        found = f"{AXIS_NAMES[one.axis]} sections, axes turned by {angle:.1f} degrees"
        raise InputError(one.path, found, f"{AXIS_NAMES[first.axis]} ones parallel to {first.path.name}")
