"""Every layout in its own naming: what is found, mapped to one convention, and whose visits belong together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from xdiff.config import Cohort, Labels, SplitRule
from xdiff.data.check import as_data, check
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.conventions import contrast_of, release_of
from xdiff.data.layouts import Files
from xdiff.data.split import patient_of, split_by_rule, visit_name
from xdiff.errors import InputError

SHAPE = (12, 14, 10)
OURS = ("t1n", "t1c", "t2w", "t2f")
TUMOUR = Labels("seg", {1: "NCR", 2: "ED", 3: "ET"})
BRATS = Cohort("brats", OURS, labels=TUMOUR)
MSD = Cohort("msd", OURS, labels=Labels("labelsTr", TUMOUR.values))
TSV = Cohort("tsv", ("T1w", "T2w"))
BRIGHT = {"t1n": 1.0, "t1c": 2.0, "t2w": 3.0, "t2f": 4.0}  # every contrast of a subject tells itself by its brightness


def head(factor: float = 1.0) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    return np.where((grid**2).sum(axis=0) < 1, 50 * factor, 0).astype(np.float32)


def stripes(values: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for i, value in enumerate(values):
        labels[4 + i, 5:9, 4:6] = value
    return labels


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def brats(root: Path, name: str, suffixes: dict[str, str], values: tuple[int, ...], end: str = ".nii.gz") -> Path:
    separator = "-" if name.startswith("BraTS-") else "_"
    for contrast, suffix in suffixes.items():
        save(root / name / f"{name}{separator}{suffix}{end}", head(BRIGHT[contrast]))
    save(root / name / f"{name}{separator}seg{end}", stripes(values))
    return root / name


NEW = {name: name for name in OURS}
OLD = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}


def refused(where: Path | str, found: str, expected: str, action, *args) -> None:
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(where)
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# BraTS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "suffixes", "stored", "end"),
    [
        ("HGG/Brats17_TCIA_147_1", OLD, (1, 2, 4), ".nii.gz"),
        ("LGG/Brats18_2013_0_1", OLD, (1, 2, 4), ".nii.gz"),
        ("HGG/BraTS19_TCIA01_335_1", OLD, (1, 2, 4), ".nii.gz"),
        ("BraTS19_CBICA_AAB_1", OLD, (1, 2, 4), ".nii"),
        ("BraTS20_Training_001", OLD, (1, 2, 4), ".nii"),
        ("BraTS2021_00000", OLD, (1, 2, 4), ".nii.gz"),
        ("BraTS-GLI-00503-000", NEW, (1, 2, 3), ".nii.gz"),
    ],
)
def test_every_year_is_read_as_one_convention(tmp_path: Path, place: str, suffixes: dict, stored: tuple, end: str) -> None:
    folder = tmp_path / place
    brats(folder.parent, folder.name, suffixes, stored, end)
    (tmp_path / "._BraTS2021_00000").mkdir()
    (files,) = find_subjects(BRATS, tmp_path)
    subject = read_subject(files, BRATS)
    assert subject.name == folder.name
    assert [float(image.max()) for image in subject.images] == [50, 100, 150, 200]
    np.testing.assert_array_equal(subject.labels, stripes((1, 2, 3)))


def test_contrasts_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00000", OLD, (1, 2, 4))
    cohort = replace(BRATS, contrasts=("t2f", "t1n"))
    assert [float(i.max()) for i in read_subject(find_subjects(cohort, tmp_path)[0], cohort).images] == [200, 50]


def test_high_and_low_grades_and_a_subject_in_both(tmp_path: Path) -> None:
    brats(tmp_path / "HGG", "BraTS19_TCIA01_335_1", OLD, (1, 2, 4))
    brats(tmp_path / "LGG", "BraTS19_TCIA09_141_1", OLD, (1, 2))
    assert [f.subject for f in find_subjects(BRATS, tmp_path)] == ["BraTS19_TCIA01_335_1", "BraTS19_TCIA09_141_1"]
    brats(tmp_path / "LGG", "BraTS19_TCIA01_335_1", OLD, (1, 2, 4))
    refused(tmp_path, "BraTS19_TCIA01_335_1 twice: .*HGG.* and .*LGG", "each subject once", find_subjects, BRATS, tmp_path)


@pytest.mark.parametrize(("name", "suffixes", "value"), [("BraTS2021_00000", OLD, 3), ("BraTS-GLI-00503-000", NEW, 4)])
def test_a_label_of_another_year_is_refused(tmp_path: Path, name: str, suffixes: dict, value: int) -> None:
    folder = brats(tmp_path, name, suffixes, (1, value))
    (files,) = find_subjects(BRATS, tmp_path)
    refused(files.labels, rf"label values \[{value}\.0\]", r"only \[0, 1, 2, [34]\]", read_subject, files, BRATS)
    assert folder.is_dir()


def test_a_label_that_the_cohort_does_not_name_is_refused(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS2021_00000", OLD, (1, 2, 4))
    cohort = replace(BRATS, labels=Labels("seg", {1: "NCR", 2: "ED"}))
    (files,) = find_subjects(cohort, tmp_path)
    refused(files.labels, r"label values \[4\.0\]", r"only \[0, 1, 2\]", read_subject, files, cohort)


def test_a_folder_of_folders_and_an_alias_are_named(tmp_path: Path) -> None:
    (tmp_path / "BraTS2021_Training_Data").mkdir()
    wanted = "one subject's folder, such as BraTS2021_00000"
    refused(tmp_path / "BraTS2021_Training_Data", "a name that no year", wanted, find_subjects, BRATS, tmp_path)
    other = replace(BRATS, contrasts=("t1ce",))
    refused("cohorts.*.contrasts", "'t1ce'", "^t1c ", find_subjects, other, tmp_path)
    other = replace(BRATS, exclude=("BraTS2021_Training_Data",))
    refused(tmp_path, "no subject", r"BraTS-\*", find_subjects, other, tmp_path)


def test_check_proposes_our_names_and_labels_for_every_year(tmp_path: Path) -> None:
    for i in range(3):
        brats(tmp_path / "HGG", f"BraTS19_TCIA01_33{i}_1", OLD, (1, 2, 4))
    proposed = as_data(check(tmp_path))["config"]["cohorts"][tmp_path.name]
    assert (proposed["layout"], sorted(proposed["contrasts"])) == ("brats", sorted(OURS))
    assert proposed["labels"] == {"suffix": "seg", "values": TUMOUR.values, "optional": False}


def test_names_of_all_years_are_told_apart() -> None:
    old = ["Brats17_CBICA_AAB_1", "Brats18_WashU_W038_1", "BraTS20_Validation_125", "BraTS2021_01666"]
    assert {release_of(name).labels[4] for name in old} == {3}
    assert release_of("BraTS-MEN-00012-003").labels is None
    assert release_of("BraTS2021") is release_of("BraTS20_001") is release_of("sub-01") is None


@pytest.mark.parametrize(("name", "ours"), [("T1", "t1n"), ("t1gd", "t1c"), ("T1CE", "t1c"), ("FLAIR", "t2f"), ("T2w", "t2w")])
def test_aliases(name: str, ours: str) -> None:
    assert contrast_of(name, "x") == ours
    with pytest.raises(InputError, match="contrast 'adc'"):
        contrast_of("adc", "x")


# MSD Task01 -------------------------------------------------------------------------------------------------------


def task01(root: Path, order: tuple[str, ...] = ("t2f", "t1n", "t1c", "t2w"), **dataset: object) -> Path:
    image = np.stack([head(BRIGHT[name]) for name in order], axis=-1)
    for part, name in (("imagesTr", "BRATS_001"), ("imagesTr", "BRATS_003"), ("imagesTs", "BRATS_485")):
        save(root / part / f"{name}.nii.gz", image)
        if part == "imagesTr":
            save(root / f"labelsTr/{name}.nii.gz", stripes((1, 2, 3)))
    (root / "imagesTr/._BRATS_001.nii.gz").write_bytes(b"Mac OS X")
    if dataset:
        (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def test_channels_and_labels_of_task01_become_ours(tmp_path: Path) -> None:
    """Labels 1 oedema, 2 non-enhancing, 3 enhancing there; 1 NCR, 2 ED, 3 ET here."""
    first, second = find_subjects(MSD, task01(tmp_path))
    assert (first.subject, second.subject) == ("BRATS_001", "BRATS_003")
    subject = read_subject(first, MSD)
    assert [float(image.max()) for image in subject.images] == [50, 100, 150, 200]
    np.testing.assert_array_equal(subject.labels, stripes((2, 1, 3)))
    assert len(first.sources) == 2


def test_images_without_labels_belong_to_a_cohort_whose_labels_are_optional_or_none(tmp_path: Path) -> None:
    task01(tmp_path)
    for labels in (None, replace(MSD.labels, optional=True)):
        cohort = replace(MSD, labels=labels)
        found = find_subjects(cohort, tmp_path)
        assert [files.subject for files in found] == ["BRATS_001", "BRATS_003", "BRATS_485"]
        assert read_subject(found[2], cohort).labels is None


def test_the_order_of_channels_is_the_one_that_dataset_json_gives(tmp_path: Path) -> None:
    names = {"0": "T2w", "1": "t1gd", "2": "T1w", "3": "FLAIR"}
    task01(tmp_path, ("t2w", "t1c", "t1n", "t2f"), modality=names)
    subject = read_subject(find_subjects(MSD, tmp_path)[0], MSD)
    assert [float(image.max()) for image in subject.images] == [50, 100, 150, 200]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"modality": {"0": "MRI"}}', "contrast 'MRI'"),
        ('{"modality": {"0": "T1w", "1": "T1", "2": "t1gd", "3": "T2w"}}', "modality"),
        ('{"modality": {"1": "T1w"}}', "no channels .KeyError"),
        ("{", "no channels .JSONDecodeError"),
    ],
)
def test_a_dataset_json_of_something_else(tmp_path: Path, text: str, found: str) -> None:
    (task01(tmp_path) / "dataset.json").write_text(text)
    refused(tmp_path / "dataset.json", found, "FLAIR|t2f", find_subjects, MSD, tmp_path)


def test_an_image_of_three_channels(tmp_path: Path) -> None:
    path = save(task01(tmp_path) / "imagesTr/BRATS_001.nii.gz", np.stack([head()] * 3, axis=-1))
    refused(path, r"4 dimensions \(12, 14, 10, 3\)", "4 channels", read_subject, find_subjects(MSD, tmp_path)[0], MSD)


# BIDS -------------------------------------------------------------------------------------------------------------


def test_entities_between_name_and_suffix(tmp_path: Path) -> None:
    cohort = Cohort("bids", ("T1w",))
    anat = tmp_path / "sub-01/ses-1/anat"
    save(anat / "sub-01_ses-1_acq-mprage_run-1_T1w.nii.gz", head(2))
    (files,) = find_subjects(cohort, tmp_path)
    assert read_subject(files, cohort).images.max() == 100
    save(anat / "sub-01_ses-1_acq-mprage_run-2_T1w.nii.gz", head(3))
    refused(anat, "run-1_T1w.*run-2_T1w", "a suffix such as acq-mprage_run-1_T1w names one", find_subjects, cohort, tmp_path)
    named = replace(cohort, contrasts=("acq-mprage_run-2_T1w",))
    assert read_subject(find_subjects(named, tmp_path)[0], named).images.max() == 150
    save(anat / "sub-01_ses-1_T1w.nii.gz", head(4))
    assert read_subject(find_subjects(cohort, tmp_path)[0], cohort).images.max() == 200


# A table of paths -------------------------------------------------------------------------------------------------


def table(root: Path, *lines: str, header: str = "subject\tpatient\tT1w\tT2w") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "subjects.tsv").write_text("\n".join((header, *lines)) + "\n")
    return root / "subjects.tsv"


def test_a_table_of_paths_with_patients_and_labels(tmp_path: Path) -> None:
    save(tmp_path / "scans/1.nii", head(1))
    far = save(tmp_path / "elsewhere/2.nii.gz", head(2))
    save(tmp_path / "masks/1.nii.gz", stripes((1,)))
    header = "subject\tage\tpatient\tT1w\tT2w\tlabels"
    rows = (f"a\t30\tp1\tscans/1.nii\t{far}\tmasks/1.nii.gz", "b\t31\tp1\tscans/1.nii\tscans/1.nii\t", "p2\t32\t\tx.nii\ty.nii\t")
    table(tmp_path, *rows, header=header)
    cohort = replace(TSV, labels=Labels("labels", {1: "WT"}, optional=True))
    first, second, third = find_subjects(cohort, tmp_path)
    assert [f.subject for f in (first, second, third)] == ["p1_ses-a", "p1_ses-b", "p2"]
    subject = read_subject(first, cohort)
    assert [float(image.max()) for image in subject.images] == [50, 100]
    np.testing.assert_array_equal(subject.labels, stripes((1,)))
    assert read_subject(second, cohort).labels is None
    refused(tmp_path / "x.nii", "no such file", "contrast T1w of p2", read_subject, third, cohort)


def test_visits_of_a_patient_of_the_table_stay_on_one_side(tmp_path: Path) -> None:
    table(tmp_path, *(f"scan{i}\tp{i % 7}\t{i}.nii\t{i}.nii" for i in range(21)))
    split = split_by_rule([files.subject for files in find_subjects(TSV, tmp_path)], SplitRule(n_val=2, n_test=2))
    assert (split.table.groupby("patient")["side"].nunique() == 1).all()
    assert split.table.groupby("patient").size().tolist() == [3] * 7


@pytest.mark.parametrize(
    ("rows", "found", "expected"),
    [
        (["a\tp\t1.nii"], "fewer cells", "one cell for each column"),
        (["a\tp\t1.nii\t2.nii\t3.nii"], "more or fewer cells", "one cell"),
        (["\tp\t1.nii\t2.nii"], "nothing under 'subject'", "a name"),
        (["a\tp\t1.nii\t "], "nothing under 'T2w'", "a path"),
        (["../a\tp\t1.nii\t2.nii"], r"'\.\./a'", "letters, digits"),
        (["a\tp:q\t1.nii\t2.nii"], "'p:q'", "letters, digits"),
        (["a\tp_ses-1\t1.nii\t2.nii"], "patient 'p_ses-1' of a", "'p'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, rows: list[str], found: str, expected: str) -> None:
    path = table(tmp_path, "good\t\t1.nii\t2.nii", *rows)
    refused(f"{path}, line 3", found, expected, find_subjects, TSV, tmp_path)


def test_tables_without_what_is_needed(tmp_path: Path) -> None:
    refused(tmp_path / "subjects.tsv", "no such file", "columns subject, T1w, T2w", find_subjects, TSV, tmp_path)
    path = table(tmp_path, header="subject,T1w,T2w")
    refused(path, r"columns \['subject,T1w,T2w'\]", r"'subject' \(tab-separated\)", find_subjects, TSV, tmp_path)
    table(tmp_path, header="subject\tT1w")
    refused(path, "columns", "a column 'T2w'", find_subjects, TSV, tmp_path)
    table(tmp_path, "a\t1\t2", header="subject\tT1w\tT2w")
    labelled = replace(TSV, labels=Labels("mask", {1: "WT"}))
    refused(path, "columns", "a column 'mask'", find_subjects, labelled, tmp_path)
    table(tmp_path, header="subject\tT1w\tT2w")
    refused(tmp_path, "no subject", "row of subjects.tsv with T1w, T2w", find_subjects, TSV, tmp_path)


def test_a_subject_listed_twice_is_refused(tmp_path: Path) -> None:
    table(tmp_path, "a\tp\t1.nii\t2.nii", "a\tp\t3.nii\t4.nii")
    refused(tmp_path, r"p_ses-a twice: .*1\.nii and .*3\.nii", "each subject once", find_subjects, TSV, tmp_path)


@pytest.mark.parametrize(
    ("patient", "visit", "name"),
    [
        ("p1", "a", "p1_ses-a"),
        ("a", "a", "a"),
        ("sub-01", "sub-01_ses-2", "sub-01_ses-2"),
        ("p1", "sub-01_ses-2", "p1_ses-sub-01_ses-2"),
        ("BraTS-GLI-00503", "BraTS-GLI-00503-001", "BraTS-GLI-00503-001"),
    ],
)
def test_a_visits_name_gives_its_patient_back(patient: str, visit: str, name: str) -> None:
    assert visit_name(patient, visit) == name
    assert patient_of(name) == patient == patient_of(f"cohort:{name}").removeprefix("cohort:")


def test_sources_are_each_file_once() -> None:
    image, mask = Path("a.nii"), Path("m.nii")
    assert Files("s", {"x": image, "y": image}, mask).sources == [image, mask]
    assert Files("s", {"x": image}, None).sources == [image]


# Our own folders ----------------------------------------------------------------------------------------------------


def stitched(root: Path, name: str, suffixes: tuple[str, ...], end: str = ".nii.gz") -> None:
    for factor, suffix in enumerate(suffixes, 1):
        array = stripes((1, 2)) if suffix == "parts" else head(factor)
        save(root / name / f"{name}_{suffix}{end}", array)


def test_stitched_folders_are_found_by_name_and_suffix(tmp_path: Path) -> None:
    cohort = Cohort("phantom-knee", ("pd", "pdfs"), labels=Labels("parts", {1: "femur", 2: "tibia"}), exclude=("knee-00002",))
    for name in ("knee-00001", "knee-00000", "knee-00002"):
        stitched(tmp_path, name, ("pd", "pdfs", "parts"), ".nii" if name.endswith("1") else ".nii.gz")
    (tmp_path / "settings.json").write_text("{}")
    found = find_subjects(cohort, tmp_path)
    assert [files.subject for files in found] == ["knee-00000", "knee-00001"]
    assert [path.name for path in found[1].images.values()] == ["knee-00001_pd.nii", "knee-00001_pdfs.nii"]
    subject = read_subject(found[0], cohort)
    assert subject.images[1].max() == 2 * subject.images[0].max()
    assert set(np.unique(subject.labels)) == {0, 1, 2}


def test_a_stitched_folder_without_a_contrast_is_named(tmp_path: Path) -> None:
    stitched(tmp_path, "knee-00000", ("pd",))
    cohort = Cohort("phantom-knee", ("pd", "pdfs"))
    (files,) = find_subjects(cohort, tmp_path)
    with pytest.raises(InputError, match="knee-00000_pdfs.nii.gz: found no such file, expected contrast pdfs of knee-00000"):
        read_subject(files, cohort)
    with pytest.raises(InputError, match=r"found no subject, expected at least one SUBJECT/SUBJECT_\{contrast\}.nii.gz"):
        find_subjects(cohort, tmp_path / "knee-00000")
