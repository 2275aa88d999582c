"""DICOM series: every voxel where its slice's header puts it, and one clear message for what does not make up a volume."""

from __future__ import annotations

import re
import resource
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_slice
from scipy.spatial.transform import Rotation

from xdiff.config import Cohort, Grid, Labels
from xdiff.data.check import check
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.dicom import files_below, read_series, read_slices
from xdiff.data.dicom_elements import check_lengths
from xdiff.data.preprocess import preprocess, to_grid
from xdiff.data.split import split_by_count
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.volumes import Volume, write_volume

SLICES, ROWS, COLUMNS = 5, 7, 6
SPACING = (1.5, 0.9)  # between rows, between columns
GAP = 2.2
ORIGIN = np.array([-31.25, 12.5, 40.75])
AXIAL, SAGITTAL = np.eye(3)[:2], np.array([[0.0, 1, 0], [0, 0, -1]])
TILTED = Rotation.from_euler("xyz", [14, -9, 5], degrees=True).apply(SAGITTAL)
PIXELS = np.random.default_rng(3).permutation(SLICES * ROWS * COLUMNS).reshape(SLICES, ROWS, COLUMNS) + 1
COHORT = Cohort("dicom", ("T1w",), series={"T1w": "t1.*mprage"}, foreground="all")


def place(k: float, axes: np.ndarray = TILTED) -> np.ndarray:
    """Position (LPS mm) of slice k."""
    return ORIGIN + k * GAP * np.cross(axes[0], axes[1])


def write(folder: Path, k: int, **more: object) -> Path:
    """Slice k of the series, under a name that sorts the other way."""
    axes = np.array(more.pop("axes", TILTED))
    pixels = more.pop("pixels", PIXELS[k])
    position = more.pop("position", place(k, axes))
    return write_slice(folder / f"IM{90 - k}", pixels, position, axes.ravel(), spacing=SPACING, **{"number": k, **more})


def series(folder: Path, **more: object) -> Path:
    for k in range(SLICES):
        write(folder, k, **more)
    return folder


def read(folder: Path, pattern: str = "mprage") -> Volume:
    return read_series(read_slices(folder), pattern, folder, "T1w")


def refused(where: Path, found: str, expected: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(where)
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# Geometry and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, TILTED], ids=["axial", "sagittal", "tilted"])
def test_every_pixel_is_where_the_standard_puts_it(tmp_path: Path, axes: np.ndarray) -> None:
    """PS3.3 C.7.6.2.1.1, pixel by pixel: position + columns * X * spacing between columns + rows * Y * spacing between rows."""
    volume = read(series(tmp_path, axes=axes))
    ordered = np.argsort(volume.array.ravel())
    voxels = np.argwhere(np.ones(volume.array.shape, bool))[ordered]
    found = voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    truth = np.empty((PIXELS.size, 3))
    for (k, row, column), value in np.ndenumerate(PIXELS):
        lps = place(k, axes) + axes[0] * column * SPACING[1] + axes[1] * row * SPACING[0]
        truth[value - 1] = lps * (-1, -1, 1)
    np.testing.assert_array_equal(np.sort(volume.array.ravel()), np.arange(1, PIXELS.size + 1))
    np.testing.assert_allclose(found, truth, atol=1e-6)
    assert np.abs(volume.affine[:3, :3]).argmax(axis=0).tolist() == [0, 1, 2] and (np.diag(volume.affine) > 0).all()


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    for name, k in enumerate(order):
        write_slice(tmp_path / f"sub/{name:03d}.dcm", PIXELS[k], place(k), TILTED.ravel(), spacing=SPACING, number=name + 1)
    expected = read(series(tmp_path / "plain"))
    found = read(tmp_path / "sub")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)


def test_the_rescale_slope_of_each_slice_is_applied(tmp_path: Path) -> None:
    """Philips scales every slice by itself."""
    for k in range(SLICES):
        write(tmp_path, k, axes=AXIAL, slope=str(0.5 + k), intercept=str(-3 * k))
    expected = np.stack([PIXELS[k] * (0.5 + k) - 3 * k for k in range(SLICES)])
    found = read(tmp_path).array  # axial LPS: columns run to the left, rows to the back, slices upwards
    np.testing.assert_allclose(found, expected.transpose(2, 1, 0)[::-1, ::-1], rtol=1e-6)


def test_negative_values_stay_negative(tmp_path: Path) -> None:
    pixels = PIXELS[0].copy()
    pixels[0, 0] = -7
    series(tmp_path)
    write(tmp_path, 0, pixels=pixels)
    assert read(tmp_path).array.min() == -7


def test_files_beside_the_slices_are_left_alone(tmp_path: Path) -> None:
    series(tmp_path)
    for name in ("DICOMDIR", "._IM90", ".DS_Store", "manifest.cvs", "notes.txt", "seg.nii.gz"):
        (tmp_path / name).write_text("not a slice")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/IM1").write_text("not a slice")
    assert [p.name for p in files_below(tmp_path)] == [f"IM{90 - k}" for k in reversed(range(SLICES))]
    assert read(tmp_path).array.size == PIXELS.size


# Choosing a series ------------------------------------------------------------------------------------------------


def test_a_series_is_found_by_its_description_in_any_case(tmp_path: Path) -> None:
    series(tmp_path / "a", description="T1 MPRAGE sag")
    series(tmp_path / "b", description="T2 TSE", series="1.2.3", slope="2")
    both = read_slices(tmp_path)
    first, second = (read_series(both, pattern, tmp_path, "x").array for pattern in ("^t1.*Mprage", "tse$"))
    np.testing.assert_array_equal(second, 2 * first)


def test_no_series_and_two_series_are_named(tmp_path: Path) -> None:
    series(tmp_path / "a")
    series(tmp_path / "b", description="T1 MPRAGE repeat", series="1.2.3")
    refused(tmp_path, r"\['T1 MPRAGE sag', 'T1 MPRAGE repeat'\]", r"one that 'mprage' is found in \(contrast T1w\)", tmp_path)
    with pytest.raises(InputError, match=r"none among \['T1 MPRAGE repeat', 'T1 MPRAGE sag'\]"):
        read(tmp_path, "flair")


# What does not make up a volume -----------------------------------------------------------------------------------


def test_a_missing_slice(tmp_path: Path) -> None:
    (series(tmp_path) / "IM88").unlink()
    refused(tmp_path / "IM87", r"4\.4 mm from IM89 to this slice", r"2\.2 mm as between the others: no slice missing", tmp_path)


@pytest.mark.parametrize("k", [1, 3])
def test_a_missing_slice_next_to_an_end(tmp_path: Path, k: int) -> None:
    (series(tmp_path) / f"IM{90 - k}").unlink()
    with pytest.raises(InputError, match=r"4\.4 mm from"):
        read(tmp_path)


def test_a_slice_that_went_astray_sideways(tmp_path: Path) -> None:
    series(tmp_path)
    write(tmp_path, 2, position=place(2) + 3 * TILTED[0])
    with pytest.raises(InputError, match="none astray"):
        read(tmp_path)


def test_two_slices_in_one_place(tmp_path: Path) -> None:
    series(tmp_path)
    write_slice(tmp_path / "copy", PIXELS[2], place(2), TILTED.ravel(), spacing=SPACING)
    refused(tmp_path / "copy", r"the place of IM88 \(gap 0 mm\)", "one slice there", tmp_path)


def test_two_echoes(tmp_path: Path) -> None:
    series(tmp_path)
    for k in range(SLICES):
        write_slice(tmp_path / f"second{k}", PIXELS[k], place(k), TILTED.ravel(), spacing=SPACING, echo="7.5")
    refused(tmp_path / "second0", r"EchoTime '7\.5'", r"one echo: '2\.5' as IM86", tmp_path)


def test_slices_of_other_size_spacing_or_orientation(tmp_path: Path) -> None:
    path = series(tmp_path / "size") / "IM86"
    write(path.parent, 3, pixels=PIXELS[3][:, :-1])
    refused(path.with_name("IM87"), r"\(5, 7\) pixels", r"\(6, 7\) as IM86", path.parent)
    path = series(tmp_path / "turned") / "IM86"
    write(path.parent, 3, axes=AXIAL)
    refused(path.with_name("IM87"), "ImageOrientationPatient 1", "as IM86", path.parent)
    path = series(tmp_path / "spaced") / "IM86"
    write_slice(path, PIXELS[4], place(4), TILTED.ravel(), spacing=(1.5, 1.0))
    refused(path.with_name("IM87"), r"PixelSpacing 1\.5", r"PixelSpacing|1\.5\\1 as IM86", path.parent)


def test_a_sheared_stack(tmp_path: Path) -> None:
    for k in range(SLICES):
        write(tmp_path, k, position=place(k) + 0.3 * k * TILTED[1])
    refused(tmp_path, "slices displaced by", "no shear", tmp_path)


def test_a_single_slice(tmp_path: Path) -> None:
    refused(write(tmp_path, 0), "a series of one slice", "at least 2", tmp_path)


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        (-2, "an element of 84 bytes, 2 beyond the end"),
        (-96, r"no DICOM image \(.+\)"),  # just before the pixels
        (400, "no DICOM image|beyond the end"),
        (140, "an element of 4 bytes, 4 beyond the end"),
        (60, "no DICM"),
        (0, "no DICM"),
    ],
)
def test_a_truncated_file(tmp_path: Path, kept: int, found: str) -> None:
    path = series(tmp_path) / "IM88"
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, found, "a slice|a complete DICOM file", tmp_path)


def test_a_file_that_is_no_dicom(tmp_path: Path) -> None:
    path = series(tmp_path) / "IM88"
    path.write_bytes(b"this is a text file\n" * 40)
    refused(path, r"no DICOM image \(.+\)", "a slice, or no such file", tmp_path)


def test_damaged_bytes_never_crash_the_reader_nor_fill_the_memory(tmp_path: Path) -> None:
    """Eight bytes changed anywhere: a volume with one clear pose, or an InputError; nothing else. Without check_lengths the
    first 150 of these took 5.2 GB and 15 s."""
    path = series(tmp_path) / "IM88"
    good, rng, before = path.read_bytes(), np.random.default_rng(0), peak_mb()
    refusals = 0
    for _ in range(200):
        data = bytearray(good)
        for at in rng.integers(128, len(data), 8):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            volume = read(tmp_path)
        except InputError as error:
            str(error).encode()
            refusals += 1
        else:
            assert sorted(volume.array.shape) == [5, 6, 7] and np.isfinite(volume.array).all()
    assert 100 < refusals < 200 and peak_mb() - before < 200


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def test_files_of_a_scanner_pass(tmp_path: Path) -> None:
    """Two slices of a Siemens scanner that nibabel carries for its own tests: private sequences and all."""
    nicom = Path(nib.__file__).parent / "nicom/tests/data"
    if not (nicom / "0.dcm").exists():
        pytest.skip("this build of nibabel has no test data")
    for name in ("0.dcm", "1.dcm"):
        shutil.copy(nicom / name, tmp_path)
    volume = read(tmp_path, "DTI")
    assert volume.array.shape == (256, 256, 2) and volume.array.max() > 1000
    np.testing.assert_allclose(volume.spacing_mm, (1.796875, 1.796875, 3.0), rtol=1e-5)


def test_compressed_slices_are_read(tmp_path: Path) -> None:
    """RLE, with the pixels in fragments as every compressed transfer syntax has them."""
    for k in range(SLICES):
        pixels = np.random.default_rng(k).integers(-500, 4000, (20, 18))  # GDCM does not decode the smallest of images
        write(tmp_path / "rle", k, pixels=pixels, compressed=True)
        write(tmp_path / "plain", k, pixels=pixels)
    found, expected = read(tmp_path / "rle"), read(tmp_path / "plain")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_array_equal(found.affine, expected.affine)
    path = tmp_path / "rle/IM88"
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "beyond the end", "a complete DICOM file", path.parent)


def sequence(inner: bytes, undefined: bool) -> bytes:
    """(0008,1140) SQ of one item."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF if undefined else len(inner)) + inner
    if undefined:
        item += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF if undefined else len(item)) + item


@pytest.mark.parametrize("undefined", [False, True])
def test_lengths_inside_sequences_are_looked_at(tmp_path: Path, undefined: bool) -> None:
    path = series(tmp_path) / "IM88"
    good = path.read_bytes()
    before = good.index(struct.pack("<HH", 0x0010, 0x0020) + b"LO")
    for length, inner in ((4, b"1.2\0"), (60_000, b"1.2\0")):
        uid = struct.pack("<HH2sH", 0x0008, 0x1150, b"UI", length) + inner
        path.write_bytes(good[:before] + sequence(uid, undefined) + good[before:])
        if length == 4:
            check_lengths(path)
            read(tmp_path)
    refused(path, r"an element of 60000 bytes, \d+ beyond the end", "a complete DICOM file", tmp_path)


def test_implicit_types_and_compressed_fragments_are_walked(tmp_path: Path) -> None:
    """PS3.5 A.1 (no types after the meta information) and A.4 (pixels in items of a sequence that has no length)."""
    implicit = struct.pack("<HHI", 0x0028, 0x0010, 2) + b"\7\0"
    fragments = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    fragments += struct.pack("<HHI", 0xFFFE, 0xE000, 6) + b"\xff\xd8abcd" + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for syntax, body in ((b"1.2.840.10008.1.2\0", implicit), (b"1.2.840.10008.1.2.4.70", fragments)):
        meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
        (tmp_path / "good").write_bytes(bytes(128) + b"DICM" + meta + body)
        check_lengths(tmp_path / "good")
        (tmp_path / "bad").write_bytes(
            bytes(128) + b"DICM" + meta + body.replace(b"\2\0\0\0", b"\2\0\0\7").replace(b"\6\0", b"\6\7")
        )
        with pytest.raises(InputError, match="beyond the end"):
            check_lengths(tmp_path / "bad")


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    refused(tmp_path, "no DICOM file", "a subject's series", tmp_path)


def test_several_frames_in_one_file(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "all.dcm", PIXELS, ORIGIN, TILTED.ravel(), spacing=SPACING, frames=SLICES)
    refused(path, r"size \(6, 7, 5\)", "multi-frame DICOM is not read", tmp_path)


@pytest.mark.parametrize(
    ("tag", "name"),
    [((0x20, 0x32), "ImagePositionPatient"), ((0x20, 0x37), "ImageOrientationPatient"), ((0x28, 0x30), "PixelSpacing")],
)
def test_a_tag_that_is_missing(tmp_path: Path, tag: tuple[int, int], name: str) -> None:
    series(tmp_path)
    path = write(tmp_path, 2, drop=(tag,))
    refused(path, f"{name} ''", "numbers", tmp_path)


@pytest.mark.parametrize(("axes", "found"), [(AXIAL * 1.1, "1.1"), ([[1, 0, 0], [0.2, 1, 0]], "0.2")])
def test_an_orientation_that_is_no_rotation(tmp_path: Path, axes: object, found: str) -> None:
    series(tmp_path, axes=axes)
    refused(tmp_path / "IM86", f"ImageOrientationPatient .*{found}", "two unit vectors at right angles", tmp_path)


# As a cohort ------------------------------------------------------------------------------------------------------


def test_a_cohort_of_folders_is_read_with_masks_beside(tmp_path: Path) -> None:
    for i, name in enumerate(("p1_ses-1", "p1_ses-2", "p2")):
        series(tmp_path / name / "deep/down", patient=f"ID{i // 2}")
        series(tmp_path / name / "other", description="T2 TSE", series="1.2.3", slope="2")
    (tmp_path / "p2/other/IM88").unlink()
    cohort = replace(COHORT, contrasts=("T2w", "T1w"), series={"T1w": "t1", "T2w": "t2"}, labels=Labels("seg", {1: "WT"}, True))
    found = find_subjects(cohort, tmp_path)
    assert [files.subject for files in found] == ["p1_ses-1", "p1_ses-2", "p2"]
    like = read(tmp_path / "p1_ses-2/deep")
    write_volume(tmp_path / "p1_ses-2/seg.nii.gz", (like.array > 50).astype(np.uint8), like.affine)
    first, second = (read_subject(files, cohort) for files in find_subjects(cohort, tmp_path)[:2])
    np.testing.assert_array_equal(first.images[0], 2 * first.images[1])
    np.testing.assert_array_equal(second.labels, like.array > 50)
    assert first.labels is None
    with pytest.raises(InputError, match=r"IM87: found 4\.4 mm"):
        read_subject(found[2], cohort)


def test_check_names_the_series_of_a_dicom_folder(tmp_path: Path) -> None:
    series(tmp_path / "p1/a")
    series(tmp_path / "p1/b", description="T2 TSE", series="1.2.3")
    found = check(tmp_path)
    assert found.cohort.series == {"T1_MPRAGE_sag": "^T1\\ MPRAGE\\ sag$", "T2_TSE": "^T2\\ TSE$"}


def test_a_dicom_cohort_reaches_the_store_in_its_place(tmp_path: Path) -> None:
    """Split and preprocessed as the rules do, and a second time after one slice has changed."""
    for i, name in enumerate(("p1", "p2")):
        for k in range(SLICES):
            write(tmp_path / name, k, axes=AXIAL, pixels=PIXELS[k] + i)
    subjects = [files.subject for files in find_subjects(COHORT, tmp_path)]
    arguments = (COHORT, Grid((8, 8, 6), GAP, native_axis="axial"), ("c", "g"), tmp_path, split_by_count(subjects, 0, 0, 1))
    preprocess(*arguments, tmp_path / "out")
    store = Store(tmp_path / "out")
    before = store.index["sha256"].tolist()
    assert store.subjects == ["p1", "p2"]
    centre = store.affine("p1") @ [3.5, 3.5, 2.5, 1]  # of the grid; the slices' is 2.5 columns and 3 rows from their first pixel
    middle = place(2, AXIAL) + (2.5 * SPACING[1], 3 * SPACING[0], 0)
    np.testing.assert_allclose(centre[:2], -middle[:2], atol=1e-4)
    write(tmp_path / "p2", 1, axes=AXIAL, pixels=PIXELS[1][::-1])
    preprocess(*arguments, tmp_path / "out")
    after = Store(tmp_path / "out").index["sha256"].tolist()
    assert after[0] == before[0] and after[1] != before[1]


def test_native_sagittal_sections_of_a_knee_come_to_the_grid_unmixed(tmp_path: Path) -> None:
    """Sagittal slices of 3 mm with pixels of 0.5 mm, each of one value, at a grid of 0.7 mm: none is made between them."""
    for k in range(SLICES):
        pixels, place = np.full((16, 14), 100 * (k + 1), np.int16), ORIGIN + 3.0 * k * np.cross(*SAGITTAL)
        more = {"spacing": (0.5, 0.5), "number": k, "description": "SAG PD TSE"}
        write_slice(tmp_path / f"knee/{k}", pixels, place, SAGITTAL.ravel(), **more)
    cohort = Cohort("dicom", ("pd",), series={"pd": "sag.*pd"}, foreground="all")
    (files,) = find_subjects(cohort, tmp_path)
    subject = read_subject(files, cohort)
    np.testing.assert_allclose(np.linalg.norm(subject.affine[:3, :3], axis=0), (3.0, 0.5, 0.5))
    images, _, mask, affine, cropped = to_grid(subject, Grid((SLICES, 8, 9), 0.7, native_axis="sagittal"), None)
    # the normal of SAGITTAL is that of RAS+, to the right
    assert [np.unique(section).tolist() for section in images[0]] == [[100 * (k + 1)] for k in range(SLICES)]
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (3.0, 0.7, 0.7))
    assert mask.all() and cropped < 0.5


def test_sources_are_all_files_so_that_a_changed_slice_is_noticed(tmp_path: Path) -> None:
    series(tmp_path / "p1")
    (files,) = find_subjects(COHORT, tmp_path)
    assert [path.name for path in files.sources] == [f"IM{90 - k}" for k in reversed(range(SLICES))]


def test_one_patient_id_under_two_names_is_refused(tmp_path: Path) -> None:
    series(tmp_path / "a", patient="12345")
    series(tmp_path / "b", patient="12345")
    with pytest.raises(InputError, match=r"b: found PatientID 12345, as in a, expected visits .* such as a_ses-2"):
        find_subjects(COHORT, tmp_path)
    (tmp_path / "b").rename(tmp_path / "a_ses-2")
    assert [files.subject for files in find_subjects(COHORT, tmp_path)] == ["a", "a_ses-2"]


@pytest.mark.parametrize("placeholder", ["", "ANONYMOUS", "Anon", "0000", "n/a"])
def test_placeholders_are_no_patient(tmp_path: Path, placeholder: str) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, 0, patient=placeholder)
    assert len(find_subjects(COHORT, tmp_path)) == 2
