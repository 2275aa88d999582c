"""What the fields of a NIfTI header must say before anything is made of them: the checks that need no voxel and no allocation.

A header is not protected by a checksum, and readers mend it in silence (a spacing of -2 mm becomes 2 mm, an unknown pose a
guess). Here every field that decides about geometry or values is compared with its range and with the fields that say the
same thing in another way. Field names: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.errors import InputError

Fields = Mapping[str, Any]
# datatype code -> bits per voxel; complex, colour, long double and one-bit images are no MRI intensities
REAL_DATATYPES = {2: 8, 256: 8, 4: 16, 512: 16, 8: 32, 768: 32, 16: 32, 1024: 64, 1280: 64, 64: 64}
MAX_VOXELS = 2**30  # 1024 cubed, 4 GiB as float32: eight times the largest clinical volume
SPACING_RANGE_MM = (0.01, 100.0)
MAX_OFFSET_MM = 10_000.0  # no scanner's room is larger
UNITS_MM = (0, 2)  # unknown, taken for mm as all readers do, and mm
UNIT_NAMES = {1: "metres", 3: "micrometres"}
LAST_FORM_CODE = 5
QUATERNION_SLACK = 3.5e-7  # half turns rounded to float32; beyond it nibabel finds no fourth component either


def check_fields(raw: Fields, path: Path, channels: int = 1, flat: bool | None = False) -> None:
    """Raise InputError for the first field of a raw header that is out of range or contradicts another one.

    `channels`: more than one for a 4D file of so many volumes. `flat`: 1 voxel along one axis; None: along one or none.
    """
    # what overflows or is no number on the way is what the checks are looking for
    with np.errstate(invalid="ignore", over="ignore"):
        _check_dim(raw, path, channels, flat)
        _check_voxel_type(raw, path)
        _check_spacing(raw, path)
        _check_forms(raw, path)


def bytes_expected(raw: Fields) -> int:
    """Length of the whole uncompressed file that a checked header describes."""
    return int(raw["vox_offset"]) + voxels_of(raw) * REAL_DATATYPES[int(raw["datatype"])] // 8


def voxels_of(raw: Fields) -> int:
    return math.prod(int(n) for n in raw["dim"][1 : 1 + int(raw["dim"][0])])


def _check_dim(raw: Fields, path: Path, channels: int, flat: bool | None) -> None:
    n = int(raw["dim"][0])
    shape = tuple(int(size) for size in raw["dim"][1 : 1 + n]) if 0 < n < 8 else ()
    if channels > 1 and (n != 4 or shape[3] != channels):
        raise InputError(path, f"{n} dimensions {shape}", f"4 dimensions, {channels} channels in one file")
    if channels == 1 and n != 3:
        raise InputError(path, f"{n} dimensions {shape}", "3 dimensions, one volume per file")
    if flat and sorted(shape)[:2].count(1) != 1:
        raise InputError(path, f"shape {shape}", "an image: 1 voxel along one axis, at least 2 along the others")
    if flat is None and sorted(shape)[1] < 2:
        raise InputError(path, f"shape {shape}", "a section or a stack of them: at least 2 voxels along two axes")
    if flat is False and min(shape[:3]) < 2:
        raise InputError(path, f"shape {shape}", "at least 2 voxels along each axis")
    if voxels_of(raw) > MAX_VOXELS:
        raise InputError(path, f"shape {shape}, {voxels_of(raw):.2g} voxels", f"at most {MAX_VOXELS:.2g} voxels")


def _check_voxel_type(raw: Fields, path: Path) -> None:
    datatype, bits = int(raw["datatype"]), int(raw["bitpix"])
    if datatype not in REAL_DATATYPES:
        raise InputError(path, f"datatype {datatype} (colour, complex or unknown)", "voxels that are real numbers")
    if bits != REAL_DATATYPES[datatype]:
        raise InputError(path, f"bitpix {bits}", f"{REAL_DATATYPES[datatype]} as its datatype {datatype} says")
    start, least = float(raw["vox_offset"]), int(raw["sizeof_hdr"]) + 4
    if not (start >= least and start == np.floor(start) and start < 2**31):
        raise InputError(path, f"vox_offset {start}", f"a whole number of at least {least}")
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    # 0 and NaN both mean "not scaled"
    if slope != 0 and not np.isnan(slope) and not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(path, f"scl_slope {slope}, scl_inter {intercept}", "finite scaling")


def _check_spacing(raw: Fields, path: Path) -> None:
    spacing = np.asarray(raw["pixdim"][1:4], dtype=float)
    shown = f"voxel spacing {spacing.round(4).tolist()} mm"
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(path, shown, "positive, finite spacing")
    low, high = SPACING_RANGE_MM
    if spacing.min() < low or spacing.max() > high:
        raise InputError(path, shown, f"spacing between {low:g} and {high:g} mm")
    unit = int(raw["xyzt_units"]) & 0x07
    if unit not in UNITS_MM:
        raise InputError(path, f"spatial unit {UNIT_NAMES.get(unit, unit)}", "mm (xyzt_units 2)")


def _check_forms(raw: Fields, path: Path) -> None:
    """Codes that exist, one pose at least, and numbers that a pose can be made of."""
    codes = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if not 0 <= code <= LAST_FORM_CODE:
            raise InputError(path, f"{name}_code {code}", f"0 to {LAST_FORM_CODE}")
    if not any(codes.values()):
        raise InputError(path, "neither an sform nor a qform (both codes 0)", "one pose, which left and right can be told from")
    if codes["sform"]:
        offsets = np.array([raw[f"srow_{axis}"][3] for axis in "xyz"], dtype=float)
        _check_offsets(offsets, np.array([raw[f"srow_{axis}"] for axis in "xyz"], dtype=float), path)
    if codes["qform"]:
        offsets = np.array([raw[f"qoffset_{axis}"] for axis in "xyz"], dtype=float)
        _check_offsets(offsets, offsets, path)
        _check_quaternion(raw, path)


def _check_offsets(offsets: np.ndarray, numbers: np.ndarray, path: Path) -> None:
    if not np.isfinite(numbers).all():
        raise InputError(path, f"affine {numbers.round(2).tolist()}", "a finite affine with three axes")
    if np.abs(offsets).max() > MAX_OFFSET_MM:
        raise InputError(path, f"a volume that begins at {offsets.round(1).tolist()} mm", f"within {MAX_OFFSET_MM:g} mm of 0")


def _check_quaternion(raw: Fields, path: Path) -> None:
    parts = np.array([raw[f"quatern_{part}"] for part in "bcd"], dtype=float)
    if not (parts**2).sum() <= 1 + QUATERNION_SLACK:  # NaN too
        raise InputError(path, f"quaternion {parts.round(4).tolist()}", "a rotation (squares that sum to at most 1)")
    handedness = float(raw["pixdim"][0])
    if handedness not in (-1.0, 0.0, 1.0):  # 0 means 1
        raise InputError(path, f"qfac (pixdim[0]) {handedness:g}", "1 or -1")
