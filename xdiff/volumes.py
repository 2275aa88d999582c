"""NIfTI in and out: the only module that knows nibabel. Arrays are RAS+ (x Right, y Anterior, z Superior)."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from xdiff.errors import InputError
from xdiff.nifti_fields import bytes_expected, check_fields
from xdiff.whole_file import whole_file

# sform and qform may be rounded differently by different tools; a tenth of a voxel cannot be a different pose.
POSE_TOLERANCE_VOXELS = 0.1
# What gzip, numpy and nibabel raise on a broken file
DAMAGED = (OSError, EOFError, zlib.error, ValueError, TypeError)
NOT_NIFTI = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError)
LARGEST_HEADER = 540  # of NIfTI-2; 348 of NIfTI-1
CHUNK = 2**20


@dataclass(frozen=True)
class Volume:
    """One 3D image: `array` (X, Y, Z) float32 or integer labels, `affine` (4, 4) from voxel to RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def spacing_mm(self) -> np.ndarray:
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Header:
    """A volume without its voxels: shape and affine as `read_volume` returns them, dtype and axes (such as LPS) as stored."""

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: str
    orientation: str

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
    image = nib.as_closest_canonical(image)
    return Volume(_voxels(image, path), np.asarray(image.affine, dtype=np.float64), path)


def read_image(path: Path | str) -> Volume:
    """Read an image that is kept as a volume of one section, such as (X, 1, Z), as `read_volume` reads volumes."""
    path = Path(path)
    image = nib.as_closest_canonical(_open(path, flat=True))
    return Volume(_voxels(image, path), np.asarray(image.affine, dtype=np.float64), path)


def read_sections(path: Path | str) -> Volume:
    """Read one section, such as (X, 1, Z), or a stack of them, as `read_volume` reads volumes."""
    path = Path(path)
    image = nib.as_closest_canonical(_open(path, flat=None))
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


def check_same_pose(volume: Volume | Header, like: Volume | Header) -> None:
    """Raise InputError unless two contrasts of one subject lie on the same voxels."""
    if volume.shape != like.shape:
        raise InputError(volume.path, f"shape {volume.shape}", f"{like.shape} as {like.path.name}")
    if _pose_gap(volume.affine, like.affine, like.shape) > POSE_TOLERANCE_VOXELS:
        raise InputError(volume.path, f"affine {_short(volume.affine)}", f"{_short(like.affine)} as {like.path.name}")


def write_volume(path: Path | str, array: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z) as NIfTI-1, atomically. bool becomes uint8 and float16/64 float32; sform and qform both say `affine`.

    Raises InputError where the file cannot be written (whole_file).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if array.dtype == bool else np.float32 if array.dtype.kind == "f" else array.dtype
    image = nib.Nifti1Image(np.ascontiguousarray(array, dtype=dtype), np.asarray(affine, dtype=np.float64))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    with whole_file(path) as temporary:
        # level 1: predictions are read a few times and then deleted, so speed beats size; mtime=0 keeps bytes reproducible
        temporary.write_bytes(gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data)


def read_header(path: Path | str, channels: int = 1) -> Header:
    """What the header of a NIfTI file says, from its first bytes and its length: no voxel is read, none unpacked.

    Raises InputError as `read_volume` does, but for what the voxels alone show: NaN, a damaged stream inside a .gz.
    """
    path = Path(path)
    with _damage_named(path):
        with _stream(path) as stream:
            header, raw = _header(stream.read(LARGEST_HEADER), path, channels)
        _check_length(raw, _unpacked_bytes(path, bytes_expected(raw)), path)
    stored, shape = np.asarray(header.get_best_affine(), dtype=np.float64), header.get_data_shape()[:3]
    turn = nib.io_orientation(stored)
    affine = stored @ nib.orientations.inv_ornt_aff(turn, shape)
    shape = tuple(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in range(3))
    return Header(path, shape, affine, header.get_data_dtype().name, "".join(nib.orientations.ornt2axcodes(turn)))


def _open(path: Path, channels: int = 1, flat: bool | None = False) -> nib.Nifti1Image:
    """The image, once its header has passed every check. Never holds more bytes than the header asks for, plus a chunk."""
    with _damage_named(path):
        with _stream(path) as stream:
            data = bytearray(stream.read(LARGEST_HEADER))
            header, raw = _header(data, path, channels, flat)
            # beyond the last voxel too: a surplus contradicts the header, and a .gz compares its checksum at its very end
            while len(data) <= bytes_expected(raw) and (more := stream.read(CHUNK)):
                data += more
        _check_length(raw, len(data), path)
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        return kind.from_bytes(bytes(data))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns what gzip, numpy and nibabel raise on a broken file into an InputError."""
    if not path.is_file():
        raise InputError(path, "no such file", "a NIfTI volume (.nii or .nii.gz)")
    try:
        yield
    except InputError:
        raise
    except (*NOT_NIFTI, *DAMAGED) as error:
        raise InputError(path, f"an unreadable file ({_one_line(error)})", "a complete NIfTI volume") from error


def _stream(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _header(data: bytes, path: Path, channels: int = 1, flat: bool | None = False) -> tuple[nib.Nifti1Header, np.void]:
    """The checked header and its fields as they are stored: nibabel turns -2 mm into 2 mm and 0 into 1 mm without an error."""
    for kind, magic in ((nib.Nifti1Header, b"n+1\0"), (nib.Nifti2Header, b"n+2\0\r\n\032\n")):
        layout = kind.template_dtype
        at = layout.fields["magic"][1]
        if len(data) < layout.itemsize or data[at : at + len(magic)] != magic:
            continue
        block = bytes(data[: layout.itemsize])
        for order in "<>":
            raw = np.frombuffer(block, layout.newbyteorder(order))[0]
            if int(raw["sizeof_hdr"]) == layout.itemsize:
                check_fields(raw, path, channels, flat)
                header = kind(block, endianness=order, check=False)
                if header["pixdim"][0] == 0:
                    header["pixdim"][0] = 1  # as the standard says; the only thing that is mended
                _check_pose(header, raw, path)
                return header, raw
    raise InputError(path, f"an unreadable file ({len(data)} first bytes without a NIfTI header)", "a complete NIfTI volume")


def _check_length(raw: np.void, found: int, path: Path) -> None:
    """A header whose size of the array changed is found by the file's length: too short or too long."""
    shape = tuple(int(n) for n in raw["dim"][1 : 1 + raw["dim"][0]])
    gap = found - bytes_expected(raw)
    if gap < 0:
        raise InputError(path, f"truncated or corrupt voxels ({-gap} bytes missing)", f"{shape} voxels")
    if gap > 0:
        raise InputError(path, f"bytes after the {shape} voxels that the header describes", "a file that ends with its voxels")


def _unpacked_bytes(path: Path, expected: int) -> int:
    """Length of the unpacked file; a .gz says it, modulo 2^32, in its last four bytes."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        if int.from_bytes(stream.read(4), "little") == expected % 2**32:
            return expected
    # cut off, or of several members one after the other: only unpacking tells
    found = 0
    with _stream(path) as stream:
        while found <= expected and (more := stream.read(CHUNK)):
            found += len(more)
    return found


def _check_pose(header: nib.Nifti1Header, raw: np.void, path: Path) -> None:
    """One pose only: spacing, sform and qform agree where they are set, and the axes are at right angles."""
    affine = header.get_best_affine()
    zooms, spacing = np.asarray(raw["pixdim"][1:4], dtype=float), spacing_of(affine)
    if not (spacing > 0).all():
        raise InputError(path, f"affine {_short(affine)}", "a finite affine with three axes")
    if not np.allclose(zooms, spacing, rtol=0.02):
        raise InputError(
            path, f"header spacing {zooms.round(4).tolist()} mm", f"{spacing.round(4).tolist()} mm as its affine says"
        )
    both = int(raw["sform_code"]) > 0 and int(raw["qform_code"]) > 0
    if both and not _pose_gap(header.get_sform(), header.get_qform(), header.get_data_shape()) <= POSE_TOLERANCE_VOXELS:
        raise InputError(
            path,
            f"sform {_short(header.get_sform())} and qform {_short(header.get_qform())} that disagree",
            "one pose (set the code of the wrong one to 0)",
        )
    directions = affine[:3, :3] / spacing
    skew = np.abs(directions.T @ directions - np.eye(3)).max()
    if not skew <= 0.02:
        raise InputError(path, f"a sheared affine (cosine {skew:.3f} between axes)", "axes at right angles")


def _voxels(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused below
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


def read_channels(path: Path | str, channels: int) -> list[Volume]:
    """Read a 4D NIfTI file as one float32 volume per channel, each as `read_volume` gives a 3D file.

    Raises InputError as `read_volume` does, and where the file has another number of channels.
    """
    path = Path(path)
    image = nib.as_closest_canonical(_open(path, channels))
    array, affine = _voxels(image, path), np.asarray(image.affine, dtype=np.float64)
    return [Volume(np.ascontiguousarray(array[..., i]), affine, path) for i in range(channels)]


def canonical(array: np.ndarray, affine: np.ndarray, path: Path) -> Volume:
    """An array (X, Y, Z) from another source than NIfTI as `read_volume` gives one: axes permuted and flipped to RAS+."""
    turn = nib.io_orientation(affine)
    turned = nib.orientations.apply_orientation(array, turn)
    return Volume(np.ascontiguousarray(turned, dtype=np.float32), affine @ nib.orientations.inv_ornt_aff(turn, array.shape), path)
