"""NIfTI in and out: the only module that knows nibabel. Arrays are RAS+ (x Right, y Anterior, z Superior)."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from xdiff.errors import InputError

# sform and qform may be rounded differently by different tools; a tenth of a voxel cannot be a different pose.
POSE_TOLERANCE_VOXELS = 0.1
# What gzip, numpy and nibabel raise on a broken file
DAMAGED = (OSError, EOFError, zlib.error, ValueError, TypeError)
NOT_NIFTI = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError)


@dataclass(frozen=True)
class Volume:
    """One 3D image: `array` (X, Y, Z) float32 or integer labels, `affine` (4, 4) from voxel to RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def spacing_mm(self) -> np.ndarray:
        return spacing_of(self.affine)


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Voxel edge lengths in mm, shape (3,), of a (4, 4) affine."""
    return np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)


def read_volume(path: Path | str) -> Volume:
    """Read a 3D NIfTI file as float32 in the closest canonical (RAS+) orientation.

    Nothing is resampled: only axes are permuted and flipped, and the affine with them.
    Raises InputError naming file, found and expected for anything that is not a finite 3D volume with one clear pose.
    """
    path = Path(path)
    image = _open(path)
    _check_header(image, path)
    image = nib.as_closest_canonical(image)
    return Volume(_voxels(image, path), np.asarray(image.affine, dtype=np.float64), path)


def read_labels(path: Path | str, allowed: set[int], like: Volume) -> Volume:
    """Read an integer label map (X, Y, Z) uint8 that must lie on the same voxels as `like`."""
    volume = read_volume(path)
    if volume.array.shape != like.array.shape:
        raise InputError(path, f"a mask of shape {volume.array.shape}", f"{like.array.shape} as {like.path.name}")
    if _pose_gap(volume.affine, like.affine, like.array.shape) > POSE_TOLERANCE_VOXELS:
        raise InputError(path, f"a mask with affine {_short(volume.affine)}", f"{_short(like.affine)} as {like.path.name}")
    values = {float(v) for v in np.unique(volume.array)}
    if not values <= {float(v) for v in allowed}:
        raise InputError(path, f"label values {sorted(values - {float(v) for v in allowed})}", f"only {sorted(allowed)}")
    return Volume(volume.array.astype(np.uint8), volume.affine, volume.path)


def check_same_pose(volume: Volume, like: Volume) -> None:
    """Raise InputError unless two contrasts of one subject lie on the same voxels."""
    if volume.array.shape != like.array.shape:
        raise InputError(volume.path, f"shape {volume.array.shape}", f"{like.array.shape} as {like.path.name}")
    if _pose_gap(volume.affine, like.affine, like.array.shape) > POSE_TOLERANCE_VOXELS:
        raise InputError(volume.path, f"affine {_short(volume.affine)}", f"{_short(like.affine)} as {like.path.name}")


def write_volume(path: Path | str, array: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z) as NIfTI-1, atomically. bool becomes uint8 and float16/64 float32; sform and qform both say `affine`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if array.dtype == bool else np.float32 if array.dtype.kind == "f" else array.dtype
    image = nib.Nifti1Image(np.ascontiguousarray(array, dtype=dtype), np.asarray(affine, dtype=np.float64))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # level 1: predictions are read a few times and then deleted, so speed beats size; mtime=0 keeps bytes reproducible
    temporary.write_bytes(gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data)
    os.replace(temporary, path)


def _open(path: Path) -> nib.Nifti1Image:
    """The image and, as `stored_spacing_mm`, what its header says before nibabel mends it."""
    if not path.exists():
        raise InputError(path, "no such file", "a NIfTI volume (.nii or .nii.gz)")
    try:
        # to the very end of the stream: only there gzip compares its checksum, and a lazy reader never gets there
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(data) else nib.Nifti1Image
        image = kind.from_bytes(data)
        # nibabel turns -2 mm into 2 mm and 0 into 1 mm without an error, so the spacing is read from the raw header too
        raw = kind.header_class(data[: kind.header_class.template_dtype.itemsize], check=False)
    except (*NOT_NIFTI, *DAMAGED) as error:
        raise InputError(path, f"an unreadable file ({_one_line(error)})", "a complete NIfTI volume") from error
    image.stored_spacing_mm = np.asarray(raw["pixdim"][1:4], dtype=float)
    return image


def _check_header(image: nib.Nifti1Image, path: Path) -> None:
    if len(image.shape) != 3:
        raise InputError(path, f"{len(image.shape)} dimensions {image.shape}", "3 dimensions, one volume per file")
    if min(image.shape) < 2:
        raise InputError(path, f"shape {image.shape}", "at least 2 voxels along each axis")
    zooms = image.stored_spacing_mm
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        raise InputError(path, f"voxel spacing {zooms.round(4).tolist()} mm", "positive, finite spacing")
    spacing = spacing_of(image.affine)
    if not (np.isfinite(image.affine).all() and (spacing > 0).all()):
        raise InputError(path, f"affine {_short(image.affine)}", "a finite affine with three axes")
    if not np.allclose(zooms, spacing, rtol=0.02):
        raise InputError(
            path, f"header spacing {zooms.round(4).tolist()} mm", f"{spacing.round(4).tolist()} mm as its affine says"
        )
    _check_pose(image, path)


def _check_pose(image: nib.Nifti1Image, path: Path) -> None:
    """One pose only: sform and qform agree where both are set, and the axes are at right angles."""
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    if sform_code > 0 and qform_code > 0 and _pose_gap(sform, qform, image.shape) > POSE_TOLERANCE_VOXELS:
        raise InputError(
            path,
            f"sform {_short(sform)} and qform {_short(qform)} that disagree",
            "one pose (set the code of the wrong one to 0)",
        )
    directions = image.affine[:3, :3] / spacing_of(image.affine)
    skew = np.abs(directions.T @ directions - np.eye(3)).max()
    if skew > 0.02:
        raise InputError(path, f"a sheared affine (cosine {skew:.3f} between axes)", "axes at right angles")


def _voxels(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    try:
        array = np.asarray(image.dataobj, dtype=np.float32)
    except DAMAGED as error:
        raise InputError(path, f"truncated or corrupt voxels ({_one_line(error)})", f"{image.shape} voxels") from error
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputError(path, f"{bad} NaN or infinite voxels", "finite voxels only")
    return array


def _pose_gap(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance, in voxels, between where two affines put the corners of a volume."""
    corners = np.array([[x, y, z, 1.0] for x in (0, shape[0] - 1) for y in (0, shape[1] - 1) for z in (0, shape[2] - 1)])
    gap_mm = np.linalg.norm((corners @ (np.asarray(a) - np.asarray(b)).T)[:, :3], axis=1).max()
    return float(gap_mm / spacing_of(b).min())


def _short(affine: np.ndarray) -> str:
    return np.array2string(np.asarray(affine)[:3], precision=2, suppress_small=True, separator=",").replace("\n", "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
