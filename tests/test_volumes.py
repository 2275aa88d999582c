"""NIfTI in and out: what is read keeps its place in the world, and what is wrong is refused in one clear message."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiff.errors import InputError
from xdiff.volumes import (
    canonical,
    check_same_pose,
    read_channels,
    read_header,
    read_labels,
    read_volume,
    spacing_of,
    write_volume,
)

PIXDIM_OFFSET = 76  # byte of pixdim[0] in a NIfTI-1 header; pixdim[1..3] are the spacing
RNG = np.random.default_rng(5)


def affine_of(spacing_mm: tuple[float, float, float] = (1.0, 2.0, 3.0), shift: float = -10.0) -> np.ndarray:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = shift
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A well-formed NIfTI file written by nibabel, independent of write_volume."""
    nib.save(nib.Nifti1Image(array, affine_of() if affine is None else affine), path)
    return path


def refused(path: Path, found: str, expected: str, read=read_volume) -> None:
    """`read` fails in one line that names the file, what was found and what was expected."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: found ")
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# Round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_writing_and_reading_keep_values_and_world(tmp_path: Path, suffix: str) -> None:
    array = RNG.standard_normal((5, 6, 7)).astype(np.float32)
    affine = affine_of((0.9, 1.1, 3.3))
    write_volume(tmp_path / f"a{suffix}", array, affine)
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing_mm, (0.9, 1.1, 3.3), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["RAS", "LPS", "LAS", "SPR", "ASL", "PIR", "IRP", "SAL"]),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
)
def test_every_voxel_keeps_its_world_position(tmp_path_factory, codes: str, tilt: tuple, spacing: tuple) -> None:
    """Any storage order and any tilt up to 29 degrees: the voxel with value v still lies where it was acquired, to 1e-3 mm."""
    shape = (4, 5, 6)
    array = np.arange(120, dtype=np.float32).reshape(shape)
    canonical = np.eye(4)
    canonical[:3, :3] = nib.eulerangles.euler2mat(*tilt) @ np.diag(spacing)
    canonical[:3, 3] = (-90.5, 126.25, -72.125)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    stored = nib.Nifti1Image(array, canonical).as_reoriented(turn)
    path = tmp_path_factory.mktemp("world") / "a.nii"
    nib.save(stored, path)
    volume, header = read_volume(path), read_header(path)
    assert (header.shape, header.orientation) == (volume.shape, codes)
    np.testing.assert_allclose(header.affine, volume.affine, atol=1e-6)
    voxels = np.argwhere(np.ones(volume.array.shape, dtype=bool))
    stored_voxels = np.argwhere(np.ones(stored.shape, dtype=bool))
    world = nib.affines.apply_affine(volume.affine, voxels)[np.argsort(volume.array.ravel())]
    truth = nib.affines.apply_affine(stored.affine, stored_voxels)[np.argsort(np.asarray(stored.dataobj).ravel())]
    np.testing.assert_allclose(world, truth, atol=1e-3)


def test_reading_turns_to_ras_without_resampling(tmp_path: Path) -> None:
    array = RNG.standard_normal((4, 5, 6)).astype(np.float32)
    path = save(tmp_path / "lps.nii", array, np.diag([-1.0, -2.0, 3.0, 1.0]))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array[::-1, ::-1])
    np.testing.assert_allclose(np.diag(volume.affine), [1, 2, 3, 1])


def test_scaled_integers_are_read_as_the_values_they_mean(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine_of())
    image.header.set_slope_inter(0.5, 10.0)
    path = tmp_path / "scaled.nii"
    nib.save(image, path)
    with nib.openers.Opener(path) as handle:  # nibabel rescales on saving: write slope and integers by hand
        raw = bytearray(handle.read())
    raw[112:120] = struct.pack("<ff", 0.5, 10.0)
    raw[352 : 352 + 48] = np.arange(24, dtype=np.int16).reshape(2, 3, 4).tobytes(order="F")
    path.write_bytes(raw)
    np.testing.assert_allclose(read_volume(path).array.ravel(), 10 + 0.5 * np.arange(24))


def test_written_bytes_are_reproducible_and_no_temporary_file_stays(tmp_path: Path) -> None:
    array = RNG.standard_normal((4, 5, 6))
    write_volume(tmp_path / "a.nii.gz", array, affine_of())
    first = (tmp_path / "a.nii.gz").read_bytes()
    write_volume(tmp_path / "a.nii.gz", array, affine_of())
    assert (tmp_path / "a.nii.gz").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("given_dtype", "stored"), [(bool, np.uint8), (np.float64, np.float32), (np.float16, np.float32), (np.uint8, np.uint8)]
)
def test_dtypes_on_disk(tmp_path: Path, given_dtype: type, stored: type) -> None:
    write_volume(tmp_path / "a.nii.gz", np.ones((3, 3, 3), dtype=given_dtype), affine_of())
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == stored
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_spacing_of_a_rotated_affine() -> None:
    turned = np.eye(4)
    turned[:3, :3] = nib.eulerangles.euler2mat(0.3, 0.2, 0.1) @ np.diag([0.7, 1.3, 5.0])
    np.testing.assert_allclose(spacing_of(turned), [0.7, 1.3, 5.0])


# Bad input --------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "absent.nii.gz", "no such file", "NIfTI")


@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_truncated_gz(tmp_path: Path, kept: float) -> None:
    path = save(tmp_path / "cut.nii.gz", RNG.standard_normal((20, 20, 20)).astype(np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(path, "unreadable file .*ended before", "complete NIfTI volume")


def test_truncated_uncompressed_file(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.nii", RNG.standard_normal((20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:9000])
    refused(path, "truncated or corrupt voxels", r"\(20, 20, 20\) voxels")


def test_corrupt_gz(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.nii.gz", RNG.standard_normal((20, 20, 20)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[9000:9040] = bytes(40)
    path.write_bytes(data)
    refused(path, "unreadable file", "complete NIfTI volume")


def test_gz_whose_checksum_does_not_fit(tmp_path: Path) -> None:
    """The stream decodes, but to other voxels than were written: a lazy reader would never notice."""
    path = save(tmp_path / "bad.nii.gz", RNG.standard_normal((20, 20, 20)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    refused(path, "unreadable file .*CRC", "complete NIfTI volume")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.nii", b"this is a text file, not an image\n" * 40),
        ("text.nii.gz", b"this is a text file, not an image\n" * 40),
        ("zipped.nii.gz", gzip.compress(b"this is a text file\n" * 40, mtime=0)),
        ("empty.nii", b""),
        ("empty.nii.gz", b""),
    ],
    ids=["text", "text.gz", "zipped-text", "empty", "empty.gz"],
)
def test_non_nifti(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "unreadable file", "complete NIfTI volume")


def test_other_image_format(tmp_path: Path) -> None:
    path = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(np.ones((3, 3, 3), np.float32), np.eye(4)), path)
    refused(path, "unreadable file", "complete NIfTI volume")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    array = np.ones((4, 4, 4), dtype=np.float32)
    array[1, 2, 3] = array[0, 0, 0] = value
    refused(save(tmp_path / "a.nii.gz", array), "2 NaN or infinite voxels", "finite")


@pytest.mark.parametrize("shape", [(4, 4, 4, 3), (4, 4, 4, 1, 3), (4, 4)])
def test_wrong_number_of_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones(shape, dtype=np.float32))
    refused(path, f"{len(shape)} dimensions", "3 dimensions, one volume per file")


def test_a_single_slice_is_not_a_volume(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.nii.gz", np.ones((8, 8, 1), dtype=np.float32)), r"shape \(8, 8, 1\)", "at least 2 voxels")


def test_colour_image(tmp_path: Path) -> None:
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save(tmp_path / "a.nii", rgb), "corrupt|RGB|colour", "voxels|numbers")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("sform", [False, True])
@pytest.mark.parametrize(("spacing", "shown"), [(0.0, "0.0"), (-2.0, "-2.0"), (np.nan, "nan"), (np.inf, "inf")])
def test_bad_spacing(tmp_path: Path, spacing: float, shown: str, sform: bool, zipped: bool) -> None:
    """nibabel mends such headers in silence (abs, 1.0), so the bytes themselves must be looked at."""
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), affine_of())
    image.set_qform(affine_of(), code=0 if sform else 1)
    image.set_sform(affine_of(), code=1 if sform else 0)
    data = bytearray(image.to_bytes())
    data[PIXDIM_OFFSET + 8 : PIXDIM_OFFSET + 12] = struct.pack("<f", spacing)
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    path.write_bytes(gzip.compress(bytes(data)) if zipped else bytes(data))
    refused(path, rf"voxel spacing \[1\.0, {shown}, 3\.0\] mm", "positive, finite spacing")


@pytest.mark.parametrize(
    ("place", "value", "found", "expected"),
    [
        (72, struct.pack("<h", 16), "bitpix 16", "32 as its datatype 16"),
        (70, struct.pack("<2h", 32, 64), "datatype 32 .colour, complex", "real numbers"),
        (108, struct.pack("<f", 0.0), "vox_offset 0", "at least 352"),
        (108, struct.pack("<f", 352.5), "vox_offset 352.5", "whole number"),
        (112, struct.pack("<2f", np.inf, 0), "scl_slope inf", "finite"),
        (112, struct.pack("<2f", 1, np.nan), "scl_slope 1.0, scl_inter nan", "finite"),
        (112, struct.pack("<2f", 3e38, 3e38), "infinite voxels", "finite voxels only"),
        (123, b"\x03", "spatial unit micrometres", "mm"),
        (252, struct.pack("<2h", 0, 0), "neither an sform nor a qform", "one pose"),
        (252, struct.pack("<2h", 0, 77), "sform_code 77", "0 to 5"),
        (256, struct.pack("<3f", 0.9, 0.9, 0.0), "quaternion", "a rotation"),
        (76, struct.pack("<f", 7.0), "qfac", "1 or -1"),
        (268, struct.pack("<f", 2e4), "begins at .20000.0", "within 10000 mm"),
        (80, struct.pack("<3f", 500, 500, 500), "voxel spacing", "between 0.01 and 100 mm"),
        (42, struct.pack("<3h", 4, 4, 3), "bytes after the .4, 4, 3. voxels", "ends with its voxels"),
        (42, struct.pack("<3h", 4, 4, 5), "truncated", r"\(4, 4, 5\) voxels"),
    ],
)
def test_a_header_that_contradicts_itself_is_not_mended(
    tmp_path: Path, place: int, value: bytes, found: str, expected: str
) -> None:
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), affine_of())
    image.set_qform(affine_of(), code=1)
    data = bytearray(image.to_bytes())
    data[place : place + len(value)] = value
    (tmp_path / "a.nii").write_bytes(data)
    refused(tmp_path / "a.nii", found, expected)
    if "infinite" not in found:
        refused(tmp_path / "a.nii", found, expected, read_header)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_is_read_without_its_voxels(tmp_path: Path, kind: type, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nib.save(kind(np.full((4, 5, 6), np.nan, dtype=np.float32), np.diag([-1.0, -2.0, 3.0, 1.0])), path)
    header = read_header(path)
    assert (header.shape, header.dtype, header.orientation) == ((4, 5, 6), "float32", "LPS")
    np.testing.assert_allclose(header.affine, [[1, 0, 0, -3], [0, 2, 0, -8], [0, 0, 3, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(header.spacing_mm, [1, 2, 3])
    refused(path, "120 NaN", "finite")


def test_a_gz_of_two_members_has_the_length_of_both(tmp_path: Path) -> None:
    """bgzip writes many; the last four bytes of the file then are the length of the last one alone."""
    data = nib.Nifti1Image(RNG.standard_normal((5, 6, 7)), affine_of()).to_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(data[:800]) + gzip.compress(data[800:]))
    assert read_header(path).shape == read_volume(path).array.shape == (5, 6, 7)


def test_spacing_that_contradicts_the_affine(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), affine_of())
    image.set_qform(None, code=0)
    image.header["pixdim"][1:4] = (1.0, 2.0, 5.0)
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", r"header spacing \[1\.0, 2\.0, 5\.0\]", r"\[1\.0, 2\.0, 3\.0\] mm as its affine")


def test_affine_that_is_no_number(tmp_path: Path) -> None:
    affine = affine_of()
    affine[1, 3] = np.nan
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), affine_of())
    image.set_qform(None, code=0)
    image.header["srow_y"] = affine[1]
    image.header["sform_code"] = 1
    data = bytearray(image.to_bytes())
    data[296:312] = affine[1].astype("<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    refused(tmp_path / "a.nii", "affine .*nan", "finite affine")


def test_sform_and_qform_that_disagree(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((10, 10, 10), dtype=np.float32), affine_of((1, 1, 1)))
    image.set_sform(affine_of((1, 1, 1), shift=-10.0), code=1)
    image.set_qform(affine_of((1, 1, 1), shift=-9.5), code=1)
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "sform .* and qform .* that disagree", "one pose")


def test_sform_and_qform_that_differ_by_rounding_are_accepted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((10, 10, 10), dtype=np.float32), affine_of((1, 1, 1)))
    image.set_sform(affine_of((1, 1, 1), shift=-10.0), code=1)
    image.set_qform(affine_of((1, 1, 1), shift=-9.99), code=1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine[:3, 3], -10.0)


def test_an_unset_qform_is_not_a_disagreement(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((10, 10, 10), dtype=np.float32), affine_of((1, 1, 1)))
    image.set_qform(affine_of((1, 1, 1), shift=50.0), code=0)
    image.set_sform(affine_of((1, 1, 1)), code=1)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").array.shape == (10, 10, 10)


def test_sheared_affine(tmp_path: Path) -> None:
    affine = affine_of((1, 1, 1))
    affine[0, 1] = 0.15
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), None)
    image.set_sform(affine, code=1)
    image.set_qform(None, code=0)
    image.header["pixdim"][1:4] = spacing_of(affine)
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", r"sheared affine \(cosine 0\.148", "right angles")


# Masks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path):
    return read_volume(save(tmp_path / "image.nii.gz", np.ones((6, 7, 8), dtype=np.float32)))


def label_file(tmp_path: Path, shape=(6, 7, 8), value: float = 3, affine: np.ndarray | None = None, dtype=np.uint8) -> Path:
    array = np.zeros(shape, dtype=dtype)
    array[2, 3, 4] = value
    return save(tmp_path / "mask.nii.gz", array, affine)


def test_good_mask(tmp_path: Path, image) -> None:
    labels = read_labels(label_file(tmp_path), {0, 1, 3}, image)
    assert labels.array.dtype == np.uint8
    assert labels.array.sum() == labels.array[2, 3, 4] == 3


def test_mask_of_another_shape(tmp_path: Path, image) -> None:
    path = label_file(tmp_path, shape=(6, 7, 9))
    refused(path, r"shape \(6, 7, 9\)", r"\(6, 7, 8\) as image\.nii\.gz", lambda p: read_labels(p, {0, 3}, image))


def test_mask_of_another_affine(tmp_path: Path, image) -> None:
    path = label_file(tmp_path, affine=affine_of(shift=-9.0))
    refused(path, "mask with affine .*-9", r"-10.* as image\.nii\.gz", lambda p: read_labels(p, {0, 3}, image))


@pytest.mark.parametrize(("value", "dtype"), [(7, np.uint8), (-1, np.int16), (2.5, np.float32), (300, np.int16)])
def test_label_out_of_range(tmp_path: Path, image, value: float, dtype: type) -> None:
    path = label_file(tmp_path, value=value, dtype=dtype)
    refused(path, rf"label values \[{float(value)}\]", r"only \[0, 1, 3\]", lambda p: read_labels(p, {0, 1, 3}, image))


def test_contrasts_on_different_voxels(tmp_path: Path, image) -> None:
    moved = read_volume(save(tmp_path / "t2.nii.gz", image.array, affine_of(shift=-8.0)))
    larger = read_volume(save(tmp_path / "t1c.nii.gz", np.ones((6, 7, 9), dtype=np.float32)))
    with pytest.raises(InputError, match=r"t2\.nii\.gz: found affine .*-8.*, expected .*-10.* as image\.nii\.gz"):
        check_same_pose(moved, image)
    with pytest.raises(InputError, match=r"t1c\.nii\.gz: found shape \(6, 7, 9\), expected \(6, 7, 8\) as image\.nii\.gz"):
        check_same_pose(larger, image)
    check_same_pose(image, image)


# Channels, and arrays from elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_channel_is_read_as_a_file_of_its_own_would_be(tmp_path: Path, kind: type) -> None:
    array = RNG.standard_normal((4, 5, 6, 3)).astype(np.float32)
    affine = np.diag([-1.0, 2.0, -3.0, 1.0])
    nib.save(kind(array, affine), tmp_path / "all.nii.gz")
    for i, volume in enumerate(read_channels(tmp_path / "all.nii.gz", 3)):
        alone = read_volume(save(tmp_path / f"{i}.nii.gz", array[..., i], affine))
        np.testing.assert_array_equal(volume.array, alone.array)
        np.testing.assert_allclose(volume.affine, alone.affine, atol=1e-5)
        assert volume.array.flags["C_CONTIGUOUS"] and volume.path == tmp_path / "all.nii.gz"


OTHERS = {(4, 5, 6): r"3 dimensions \(4, 5, 6\)", (4, 5, 6, 2): r"4 dimensions \(4, 5, 6, 2\)", (4, 1, 6, 3): "shape"}


@pytest.mark.parametrize(("shape", "found"), OTHERS.items())
def test_a_file_of_other_channels(tmp_path: Path, shape: tuple[int, ...], found: str) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones(shape, np.float32))
    refused(path, found, "3 channels|at least 2 voxels", lambda path: read_channels(path, 3))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_channels_that_end_early_or_late_or_are_no_numbers(tmp_path: Path, name: str) -> None:
    array = RNG.standard_normal((4, 5, 6, 3)).astype(np.float32)
    path = save(tmp_path / name, array)
    good = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for data, found in ((good[:-480], r"480 bytes missing"), (good + b"\0" * 8, r"bytes after the \(4, 5, 6, 3\) voxels")):
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        refused(path, found, "voxels", lambda path: read_channels(path, 3))
    array[1, 2, 3, 2] = np.nan
    refused(save(path, array), "1 NaN", "finite", lambda path: read_channels(path, 3))


def test_an_array_from_elsewhere_is_turned_as_a_file_would_be(tmp_path: Path) -> None:
    array, affine = RNG.standard_normal((4, 5, 6)).astype(np.float32), affine_of()[[2, 0, 1, 3]] * [[-1], [1], [-1], [1]]
    volume, expected = canonical(array, affine, tmp_path), read_volume(save(tmp_path / "a.nii", array, affine))
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
