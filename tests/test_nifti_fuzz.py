"""2,000 damaged NIfTI files: each is read as the geometry its own header says, or refused by name; never anything else.

What a header says is worked out here from its bytes with struct and the quaternion formula of nifti1.h, not by nibabel.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from xdiff.errors import InputError
from xdiff.volumes import read_header, read_volume

SHAPE = (12, 10, 8)
# first byte and number of bytes of the fields that geometry and values are made of
FIELDS = {
    **{"sizeof_hdr": (0, 4), "dim": (40, 16), "datatype": (70, 2), "bitpix": (72, 2), "pixdim": (76, 16), "vox_offset": (108, 4)},
    **{"scl": (112, 8), "units": (123, 1), "codes": (252, 4), "quatern": (256, 12), "qoffset": (268, 12), "srow": (280, 48)},
    "magic": (344, 4),
}
# what nothing is made of: data_type to dim_info, intents, slices and times, calibration, descriptions, names
IDLE = [*range(4, 40), *range(56, 70), *range(74, 76), *range(120, 123), *range(124, 252), *range(328, 344)]
# dim[4..7] and pixdim[4..7] mean nothing where dim[0] is 3
IDLE += [*range(48, 56), *range(92, 108)]


def pose() -> np.ndarray:
    """Tilted, left to right reversed, 1.5 x 1.5 x 2 mm."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.1, -0.2, 0.15) @ np.diag([-1.5, 1.5, 2.0])
    affine[:3, 3] = (20.0, -30.0, 10.0)
    return affine


def base_files() -> list[bytes]:
    """Both poses, sform alone, qform alone, scaled integers, other byte order: 1.1 to 4 kB each."""
    array = np.random.default_rng(0).integers(0, 200, SHAPE)
    files = []
    for dtype, codes, order in (
        (np.uint8, (1, 1), "<"),
        (np.int16, (2, 0), "<"),
        (np.float32, (0, 1), "<"),
        (np.int16, (1, 1), ">"),
    ):
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
        image = nib.Nifti1Image(array.astype(dtype), pose(), header)
        image.set_sform(pose(), code=codes[0])
        image.set_qform(pose(), code=codes[1])
        image.header.set_xyzt_units("mm")
        files.append(image.to_bytes())
    return files


def flip(data: bytes, rng: np.random.Generator, places: list[int]) -> tuple[bytes, set[int]]:
    """One to three random bytes of `places` changed."""
    changed, at = bytearray(data), {int(i) for i in rng.choice(places, size=int(rng.integers(1, 4)))}
    for i in at:
        changed[i] ^= int(rng.integers(1, 256))
    return bytes(changed), at


def poses_of(data: bytes) -> tuple[str, tuple[int, ...], list[np.ndarray]]:
    """Byte order, shape, and every pose whose code is set, sform first."""
    order = "<" if struct.unpack_from("<i", data)[0] == 348 else ">"
    dim = struct.unpack_from(order + "8h", data, 40)
    pixdim = struct.unpack_from(order + "8f", data, 76)
    qform_code, sform_code = struct.unpack_from(order + "2h", data, 252)
    poses = []
    if sform_code:
        poses.append(np.array(struct.unpack_from(order + "12f", data, 280)).reshape(3, 4))
    if qform_code:
        b, c, d, *shift = struct.unpack_from(order + "6f", data, 256)
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b],
        ]
        sizes = np.array(pixdim[1:4]) * (1, 1, -1 if pixdim[0] < 0 else 1)
        poses.append(np.column_stack([np.array(turn) * sizes, shift]))
    return order, dim[1 : 1 + dim[0]], poses


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World positions of the eight corners, in an order that flips and permutations of the axes do not change."""
    voxels = np.array([[*v, 1] for v in itertools.product(*((0, n - 1) for n in shape))], dtype=float)
    world = voxels @ np.asarray(affine)[:3].T
    return world[np.lexsort(np.round(world, 2).T)]


def check_accepted(volume, data: bytes) -> None:
    """Finite, plausible, invertible, and where every pose of the header says."""
    _, shape, poses = poses_of(data)
    assert sorted(volume.array.shape) == sorted(shape) and len(shape) == 3
    assert np.isfinite(volume.array).all() and np.isfinite(volume.affine).all()
    assert 0.01 <= volume.spacing_mm.min() and volume.spacing_mm.max() <= 100
    assert abs(np.linalg.det(volume.affine)) > 1e-7 and np.abs(volume.affine).max() <= 10_000
    assert poses, "a header without any pose was accepted"
    for stated in poses:
        gap_mm = np.abs(corners(volume.affine, volume.array.shape) - corners(stated, shape)).max()
        assert gap_mm < 0.15 * volume.spacing_mm.max(), (gap_mm, stated, volume.affine)
    pixdim = struct.unpack_from(poses_of(data)[0] + "3f", data, 80)
    np.testing.assert_allclose(sorted(pixdim), sorted(volume.spacing_mm), rtol=0.021)


def outcome(path: Path, data: bytes) -> str:
    """`read` or `refused`; any other exception ends the test."""
    try:
        volume = read_volume(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: found ") and "\n" not in str(error)
        return "refused"
    check_accepted(volume, data)
    return "read"


def write(path: Path, data: bytes, zipped: bool) -> Path:
    path = path.with_suffix(".nii.gz" if zipped else ".nii")
    path.write_bytes(gzip.compress(data, 1, mtime=0) if zipped else data)
    return path


@pytest.fixture(autouse=True)
def no_warning():
    """A number that overflows on the way is a number that was not looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_files_before_the_damage_are_read(tmp_path: Path) -> None:
    for i, data in enumerate(base_files()):
        for zipped in (False, True):
            path = write(tmp_path / f"{i}", data, zipped)
            assert outcome(path, data) == "read"
            header = read_header(path)
            assert (header.shape, header.orientation) == (SHAPE, "LAS")
            np.testing.assert_allclose(corners(header.affine, SHAPE), corners(pose(), SHAPE), atol=1e-4)


@pytest.mark.parametrize(("field", "seed"), [(name, i) for i, name in enumerate(FIELDS)])
def test_a_changed_field_is_refused_or_read_as_it_says(tmp_path: Path, field: str, seed: int) -> None:
    """100 files per field (1,300 in all), half of them .nii.gz; at no time does memory hold what a wild `dim` asks for."""
    rng, bases, counts = np.random.default_rng([7, seed]), base_files(), Counter()
    start, length = FIELDS[field]
    tracemalloc.start()
    for i in range(100):
        data, _ = flip(bases[i % len(bases)], rng, list(range(start, start + length)))
        path = write(tmp_path / "a", data, bool(i % 8 < 4))
        counts[outcome(path, data)] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # int16 for uint16, or another finite scale, is as good a header as before
    assert counts["refused"] >= {"scl": 0, "datatype": 1}.get(field, 20), counts
    assert peak < 4 * 2**20


def test_bytes_that_nothing_is_made_of_change_nothing(tmp_path: Path) -> None:
    rng, bases = np.random.default_rng(1), base_files()
    originals = [read_volume(write(tmp_path / "b", base, False)) for base in bases]
    for i in range(300):
        data, _ = flip(bases[i % len(bases)], rng, IDLE)
        volume, original = read_volume(write(tmp_path / "a", data, bool(i % 8 < 4))), originals[i % len(bases)]
        np.testing.assert_array_equal(volume.array, original.array)
        np.testing.assert_array_equal(volume.affine, original.affine)


def test_any_byte_of_the_header(tmp_path: Path) -> None:
    rng, bases, counts = np.random.default_rng(2), base_files(), Counter()
    for i in range(200):
        data, _ = flip(bases[i % len(bases)], rng, list(range(348)))
        counts[outcome(write(tmp_path / "a", data, bool(i % 8 < 4)), data)] += 1
    assert min(counts["read"], counts["refused"]) > 30, counts


@pytest.mark.parametrize("zipped", [False, True])
def test_files_that_end_early_are_refused(tmp_path: Path, zipped: bool) -> None:
    rng, bases = np.random.default_rng(3), base_files()
    for i in range(50):
        data = bases[i % len(bases)]
        path = write(tmp_path / "a", data, zipped)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(rng.integers(0, len(whole)))])
        assert outcome(path, data) == "refused"
        with pytest.raises(InputError):
            read_header(path)


def test_bytes_changed_inside_the_compressed_stream(tmp_path: Path) -> None:
    """The checksum finds all but those of the stream's own name and time, which change nothing."""
    rng, bases, counts = np.random.default_rng(4), base_files(), Counter()
    for i in range(100):
        data = bases[i % len(bases)]
        path = write(tmp_path / "a", data, True)
        changed, at = flip(path.read_bytes(), rng, list(range(len(path.read_bytes()))))
        path.write_bytes(changed)
        if outcome(path, data) == "read":
            assert at <= set(range(4, 10)), at
        else:
            counts["refused"] += 1
    assert counts["refused"] > 90


@pytest.mark.parametrize("zipped", [False, True])
def test_terabytes_are_refused_before_any_is_allocated(tmp_path: Path, zipped: bool) -> None:
    data = bytearray(base_files()[0])
    struct.pack_into("<4h", data, 40, 3, 32767, 32767, 32767)
    path = write(tmp_path / "a", bytes(data), zipped)
    for read in (read_volume, read_header):
        with pytest.raises(InputError, match=r"shape \(32767, 32767, 32767\).*at most"):
            read(path)
    struct.pack_into("<4h", data, 40, 3, 1000, 1000, 1000)
    path = write(tmp_path / "a", bytes(data), zipped)
    tracemalloc.start()
    for read in (read_volume, read_header):
        with pytest.raises(InputError, match="bytes missing"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_a_stream_that_unpacks_to_more_than_its_header_says_is_left_early(tmp_path: Path) -> None:
    """A 64 MiB of zeros behind a small volume pack into 300 kB; they are refused after one chunk."""
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(base_files()[0])
        for _ in range(64):
            stream.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match="bytes after the .* voxels that the header describes"):
        read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
