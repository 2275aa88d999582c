"""fastMRI's files: the image at the geometry of its header, thick slices kept, a patient on one side, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import COLUMNS, PATIENT, RECON_MM, ROWS, SLICES, fastmri_xml, knee, write_fastmri, write_kspace

from xdiff.config import Cohort, Grid, Labels
from xdiff.data import hdf5
from xdiff.data.check import as_data, check
from xdiff.data.check_text import text_of
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.fastmri import exam_of, read_fastmri
from xdiff.data.preprocess import preprocess, to_grid
from xdiff.data.recognise import recognise
from xdiff.data.split import patient_of, split_by_count, split_by_fraction
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors

PD = Cohort("fastmri", ("pd",), series={"pd": "^CORPD_FBK"}, foreground="otsu")
ROW_MM, COLUMN_MM, SLICE_MM = RECON_MM[0] / ROWS, RECON_MM[1] / COLUMNS, RECON_MM[2]
OTHER = "0bd3" * 16


def refused(path: Path, found: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_fastmri(path)
    assert "\n" not in str(caught.value) and caught.value.where == str(path)
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# Values and geometry ----------------------------------------------------------------------------------------------


def test_a_coronal_knee_lies_as_the_convention_says(tmp_path: Path) -> None:
    """RAS+: columns run to the left, rows upwards, slices to the back; each with the spacing of the header."""
    array = knee()
    volume = read_fastmri(write_fastmri(tmp_path / "a.h5", array))
    assert volume.shape == (COLUMNS, SLICES, ROWS)
    np.testing.assert_allclose(volume.spacing_mm, (COLUMN_MM, SLICE_MM, ROW_MM))
    np.testing.assert_array_equal(volume.array, array.transpose(2, 0, 1)[::-1, ::-1])
    middle = volume.affine @ [*(np.array(volume.shape) - 1) / 2, 1]
    np.testing.assert_allclose(middle[:3], 0, atol=1e-9)


def test_a_sagittal_one_too(tmp_path: Path) -> None:
    array = knee()
    volume = read_fastmri(write_fastmri(tmp_path / "a.h5", array, acquisition="SAGPD_FBK"))
    np.testing.assert_array_equal(volume.array, array.transpose(0, 2, 1)[::-1, ::-1])
    np.testing.assert_allclose(volume.spacing_mm, (SLICE_MM, COLUMN_MM, ROW_MM))


def test_a_slice_axis_in_the_header_is_divided_by_its_slices(tmp_path: Path) -> None:
    header = fastmri_xml((ROWS, COLUMNS, SLICES), (8.0, 6.6, 3.3 * SLICES))
    assert read_fastmri(write_fastmri(tmp_path / "a.h5", header=header)).spacing_mm[1] == pytest.approx(3.3)


def test_a_single_coil_file_has_its_emulated_image(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", name="reconstruction_esc")
    assert read_fastmri(path).array.max() == pytest.approx(knee().max())
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = 2 * knee()
    assert read_fastmri(path).array.max() == pytest.approx(2 * knee().max())


@pytest.mark.parametrize(("acquisition", "axis"), [("CORPD_FBK", "coronal"), ("SAGPD_FBK", "sagittal")])
def test_native_sections_come_to_the_grid_unmixed(tmp_path: Path, acquisition: str, axis: str) -> None:
    """Sections of one value each, at a grid of other pixels: each keeps its value, and none is made between them."""
    array = np.broadcast_to(np.arange(1, SLICES + 1, dtype=np.float32)[:, None, None], (SLICES, ROWS, COLUMNS)).copy()
    cohort = Cohort("fastmri", ("pd",), series={"pd": ""}, foreground="all")
    write_fastmri(tmp_path / "a.h5", array, acquisition=acquisition)
    subject = read_subject(find_subjects(cohort, tmp_path)[0], cohort)
    images, _, _, affine, _ = to_grid(subject, Grid((6, 6, 6), 0.7, native_axis=axis), None)
    along = {"sagittal": 0, "coronal": 1}[axis]
    sections = np.moveaxis(images[0], along, 0)
    assert [np.unique(section).tolist() for section in sections] == [[n] for n in range(SLICES, 0, -1)]
    expected = np.full(3, 0.7)
    expected[along] = SLICE_MM
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), expected)


# Patients ---------------------------------------------------------------------------------------------------------


def test_all_exams_of_a_patient_are_on_one_side(tmp_path: Path) -> None:
    for i in range(20):
        write_fastmri(tmp_path / "multicoil_train" / f"file{i:07d}.h5", patient=f"{i % 5}" * 64)
    write_fastmri(tmp_path / "multicoil_train/file1000000.h5", acquisition="CORPDFS_FBK")
    subjects = [files.subject for files in find_subjects(PD, tmp_path)]
    assert len(subjects) == 20 and len({patient_of(name) for name in subjects}) == 5
    assert "000000000000_ses-file0000005" in subjects
    split = split_by_fraction(subjects, 0, 0.3, 0.3)
    assert set(split.table.groupby("patient")["side"].nunique()) == {1} and len(split.table["patient"].unique()) == 5


def test_a_contrast_is_chosen_by_its_acquisition(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "multicoil_val/file1.h5")
    write_fastmri(tmp_path / "multicoil_val/file2.h5", acquisition="CORPDFS_FBK", patient=OTHER)
    (subject,) = find_subjects(PD, tmp_path)
    assert subject.subject == f"{PATIENT[:12]}_ses-file1" and subject.images["pd"].name == "file1.h5"
    fat_suppressed = Cohort("fastmri", ("pdfs",), series={"pdfs": "corpdfs"}, foreground="otsu")
    (subject,) = find_subjects(fat_suppressed, tmp_path)
    assert subject.subject == f"{OTHER[:12]}_ses-file2"


def test_the_same_exam_as_multicoil_and_singlecoil_is_told(tmp_path: Path) -> None:
    for folder in ("multicoil_train", "singlecoil_train"):
        write_fastmri(tmp_path / folder / "file1.h5")
    with pytest.raises(InputError, match="_ses-file1 twice"):
        find_subjects(PD, tmp_path)


def test_a_patient_that_is_no_hash_keeps_his_name(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", patient="2022061003")
    assert find_subjects(PD, tmp_path)[0].subject == "2022061003_ses-a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrasts": ("pd", "pdfs"), "series": {"pd": "a", "pdfs": "b"}}, "one contrast and no labels"),
        ({"labels": Labels("seg", {1: "tear"})}, "one contrast and no labels"),
        ({"series": {}}, r"\['pd'\] \(a pattern per contrast; layouts dicom, fastmri\)"),
        ({"series": {"pd": "("}}, "a regular expression"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cohort(**{"layout": "fastmri", "contrasts": ("pd",), "series": {"pd": "CORPD"}, **change})


# What cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "found", "expected"),
    [
        ({"name": None}, r"\['ismrmrd_header', 'kspace'\], no image", "test and challenge sets have k-space alone"),
        ({"header": None}, "no ismrmrd_header", "how large voxels are"),
        ({"header": b"<ismrmrdHeader/>"}, r"no ISMRMRD header \(", "schema"),
        ({"header": fastmri_xml((ROWS, ROWS, 1), (8.0, 8.8, 3.0))}, "6 slices of 16 x 12", r"reconSpace \(16, 16, 1\)"),
        ({"header": fastmri_xml((ROWS, COLUMNS, 9), (8.0, 6.6, 27.0))}, "6 slices of 16 x 12", r"reconSpace \(16, 12, 9\)"),
        ({"header": fastmri_xml(fov_mm=(8.0, 6.6, 0.0))}, r"encodedSpace|reconSpace", "voxels of 0.05 to 20"),
        ({"header": fastmri_xml(scale=1.2)}, r"reconSpace of \[0\.5, 0\.55\] mm", r"\[0\.6, 0\.66\] mm as encodedSpace"),
        ({"array": np.full((6, 16, 12), np.nan, np.float32)}, "1152 NaN or infinite voxels", "finite"),
        ({"array": np.ones((6, 16), np.float32)}, r"shape \(6, 16\)", "two slices"),
        ({"array": np.ones((1, 16, 12), np.float32)}, r"shape \(1, 16, 12\)", "two slices"),
        ({"acquisition": "AXT2"}, "'AXT2'", "begins with COR or SAG"),
        ({"acquisition": None}, "None as attribute acquisition", "its text"),
        ({"patient": None}, "None as attribute patient_id", "its text"),
        ({"patient": " "}, "' ' as attribute patient_id", "its text"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, more: dict, found: str, expected: str) -> None:
    refused(write_fastmri(tmp_path / "a.h5", **more), found, expected)


@pytest.mark.parametrize("kept", [0, 100, 0.3, 0.9, 0.99])
def test_a_truncated_file(tmp_path: Path, kept: float) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    refused(path, "an unreadable file", "a complete HDF5 file")


def test_a_bad_file_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    for i in range(3):
        write_fastmri(tmp_path / f"raw/file{i}.h5", knee(i), patient=f"{i}" * 64)
    (tmp_path / "raw/file9.h5").write_bytes(b"\x89HDF\r\n\x1a\nand no more")
    found = find_subjects(PD, tmp_path / "raw")
    assert [files.subject for files in found][-1] == "file9"
    split = split_by_count([files.subject for files in found], 0, 1, 1)
    arguments = (PD, Grid((12, 6, 16), 0.55, native_axis="coronal"), ("knee", "g"), tmp_path / "raw", split, tmp_path / "out")
    with pytest.raises(ManyInputErrors, match=r"3 other subject\(s\) is kept[^-]*- .*file9\.h5: found an unreadable file"):
        preprocess(*arguments)
    (tmp_path / "raw/file9.h5").unlink()
    preprocess(*arguments)
    assert len(Store(tmp_path / "out").subjects) == 3


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "a.h5"
    path.write_bytes(b"x")
    for call in (lambda: exam_of(path), lambda: find_subjects(PD, tmp_path)):
        with pytest.raises(InputError, match=r"h5py: found no such Python package, expected `pip install"):
            call()


# xdiff check ------------------------------------------------------------------------------------------------------


def test_check_recognises_fastmri_and_its_entry_works(tmp_path: Path) -> None:
    for i in range(8):
        acquisition = "CORPD_FBK" if i < 5 else "CORPDFS_FBK"
        write_fastmri(tmp_path / "fastmri" / f"file{i}.h5", knee(i), patient=f"{i}" * 64, acquisition=acquisition)
    findings = check(tmp_path / "fastmri")
    data = as_data(findings)
    assert (data["layout"], data["subjects"], data["problems"]) == ("fastmri", 5, [])
    assert data["other_suffixes"] == {"CORPDFS_FBK": 3}
    assert data["images"]["CORPD_FBK"]["shapes"] == {"12x6x16": 5}
    assert data["images"]["CORPD_FBK"]["spacings_mm"] == {"0.55 x 3 x 0.5": 5}
    assert findings.cohort.series == {"CORPD_FBK": "^CORPD_FBK$"} and findings.cohort.foreground == "otsu"
    assert "layout fastmri, 5 visits of 5 patients" in text_of(data)
    assert len(find_subjects(findings.cohort, tmp_path / "fastmri")) == 5


def test_check_tells_raw_data_from_fastmri(tmp_path: Path) -> None:
    kspace = np.zeros((1, 8, 6, 6), complex)
    kspace[0, 4, 3, 3] = 1
    kspace[0, 5, 3, 3] = 0.5
    for i in range(3):
        write_kspace(tmp_path / "raw" / f"{i}.h5", kspace * (1 + i))
    assert recognise(tmp_path / "raw").layout == "ismrmrd"
    data = as_data(check(tmp_path / "raw"))
    assert (data["layout"], data["subjects"], data["problems"], list(data["images"])) == ("ismrmrd", 3, [], ["mr"])
    assert data["images"]["mr"]["spacings_mm"] == {"1.5 x 2 x 1": 3}


def test_files_below_are_those_of_two_levels(tmp_path: Path) -> None:
    for name in ("a.h5", "x/b.h5", "x/y/c.h5", ".d.h5", ".x/e.h5", "f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in hdf5.files_below(tmp_path)] == ["a.h5", "b.h5"]
