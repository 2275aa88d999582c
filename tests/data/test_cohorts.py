"""From folders to subjects: what is found, what makes the foreground, and one clear message for everything that is wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from xdiff.config import Cohort, Labels
from xdiff.data.cohorts import Files, Subject, find_subjects, foreground, read_subject
from xdiff.errors import InputError
from xdiff.volumes import Volume

SHAPE = (12, 14, 10)
BIDS = Cohort(layout="bids", contrasts=("T1w",), source="https://example.org/brains")
BRATS = Cohort(layout="brats", contrasts=("t1n", "t2f"), labels=Labels("seg", {1: "NCR", 2: "ED", 3: "ET"}))


def head(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A skull-stripped ellipsoid."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij"))
    return np.where((grid**2).sum(axis=0) < 1, 50 + 10 * np.random.default_rng(seed).random(shape), 0).astype(np.float32)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine), path)
    return path


def bids(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        folder = root / name.split("_ses-")[0]
        folder = folder / f"ses-{name.split('_ses-')[1]}" if "_ses-" in name else folder
        save(folder / "anat" / f"{name}_T1w.nii.gz", head(seed=i))
    return root


def brats(root: Path, name: str = "BraTS-GLI-00001-000") -> Path:
    for suffix in BRATS.contrasts:
        save(root / name / f"{name}-{suffix}.nii.gz", head())
    save(root / name / f"{name}-seg.nii.gz", (head() > 57).astype(np.uint8) * 2)
    return root / name


def only(cohort: Cohort, root: Path) -> Files:
    (files,) = find_subjects(cohort, root)
    return files


def read_only(cohort: Cohort, root: Path) -> Subject:
    return read_subject(only(cohort, root), cohort)


def refused(where: Path, found: str, expected: str, action, *args) -> None:
    with pytest.raises(InputError) as caught:
        action(*args)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{where}: found ")
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# Finding ----------------------------------------------------------------------------------------------------------


def test_bids_subjects_and_sessions_are_found_by_name(tmp_path: Path) -> None:
    bids(tmp_path, "sub-03", "sub-01", "sub-02_ses-2", "sub-02_ses-1")
    (tmp_path / "derivatives").mkdir()
    assert [f.subject for f in find_subjects(BIDS, tmp_path)] == ["sub-01", "sub-02_ses-1", "sub-02_ses-2", "sub-03"]
    assert read_only(replace(BIDS, exclude=("sub-01", "sub-02_ses-1", "sub-03")), tmp_path).name == "sub-02_ses-2"


def test_uncompressed_files_are_found_too(tmp_path: Path) -> None:
    save(tmp_path / "sub-01/anat/sub-01_T1w.nii", head())
    np.testing.assert_array_equal(read_only(BIDS, tmp_path).images[0], head())


def test_brats_folders_are_read_with_labels(tmp_path: Path) -> None:
    brats(tmp_path)
    subject = read_only(BRATS, tmp_path)
    assert subject.images.shape == (2, *SHAPE)
    assert subject.images.dtype == np.float32
    np.testing.assert_array_equal(subject.labels, (head() > 57) * 2)
    np.testing.assert_array_equal(subject.foreground, head() > 0)


def test_optional_labels_may_be_absent_and_others_may_not(tmp_path: Path) -> None:
    (brats(tmp_path) / "BraTS-GLI-00001-000-seg.nii.gz").unlink()
    assert read_only(replace(BRATS, labels=replace(BRATS.labels, optional=True)), tmp_path).labels is None
    refused(tmp_path / "BraTS-GLI-00001-000/BraTS-GLI-00001-000-seg.nii.gz", "no such file", "NIfTI", read_only, BRATS, tmp_path)


# Bad input --------------------------------------------------------------------------------------------------------


def test_missing_folder_says_where_the_data_come_from(tmp_path: Path) -> None:
    refused(
        tmp_path / "absent",
        "no such folder",
        "https://example.org/brains.*XDIFF_DATA_ROOT",
        find_subjects,
        BIDS,
        tmp_path / "absent",
    )


@pytest.mark.parametrize(("cohort", "wanted"), [(BIDS, r"sub-\*/anat/ with T1w"), (BRATS, r"BraTS-\*.* with t1n, t2f")])
def test_empty_cohort(tmp_path: Path, cohort: Cohort, wanted: str) -> None:
    (tmp_path / "notes").mkdir()
    refused(tmp_path, "no subject", wanted, find_subjects, cohort, tmp_path)


def test_cohort_with_every_subject_excluded(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    refused(tmp_path, "no subject", "sub-", find_subjects, replace(BIDS, exclude=("sub-01",)), tmp_path)


def test_participants_without_a_folder(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-05\t50\n")
    refused(table, r"2 participants without a folder: \['sub-02', 'sub-05'\]", "every participant", find_subjects, BIDS, tmp_path)
    table.write_text("participant_id\tage\nsub-01\t30\n")
    assert only(BIDS, tmp_path).subject == "sub-01"


@pytest.mark.parametrize(
    ("text", "found"), [("name\tage\nsub-01\t30\n", "no participant_id column"), ("participant_id\tage\n", "no rows")]
)
def test_malformed_participants(tmp_path: Path, text: str, found: str) -> None:
    bids(tmp_path, "sub-01")
    (tmp_path / "participants.tsv").write_text(text)
    refused(tmp_path / "participants.tsv", found, "BIDS participants.tsv", find_subjects, BIDS, tmp_path)


def test_missing_modality(tmp_path: Path) -> None:
    path = brats(tmp_path) / "BraTS-GLI-00001-000-t2f.nii.gz"
    path.unlink()
    refused(path, "no such file", "contrast t2f of BraTS-GLI-00001-000", read_only, BRATS, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    array = head()
    array[6, 7, 5] = value
    refused(
        save(bids(tmp_path) / "sub-01/anat/sub-01_T1w.nii.gz", array), "1 NaN or infinite", "finite", read_only, BIDS, tmp_path
    )


def test_4d_image(tmp_path: Path) -> None:
    path = save(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", np.stack([head()] * 3, axis=-1))
    refused(path, "4 dimensions", "3 dimensions", read_only, BIDS, tmp_path)


def test_contrasts_of_different_shape(tmp_path: Path) -> None:
    path = save(brats(tmp_path) / "BraTS-GLI-00001-000-t2f.nii.gz", head((12, 14, 11)))
    refused(path, r"shape \(12, 14, 11\)", r"\(12, 14, 10\) as .*-t1n\.nii\.gz", read_only, BRATS, tmp_path)


def test_mask_of_another_shape(tmp_path: Path) -> None:
    path = save(brats(tmp_path) / "BraTS-GLI-00001-000-seg.nii.gz", np.zeros((12, 14, 9), np.uint8))
    refused(path, r"mask of shape \(12, 14, 9\)", r"\(12, 14, 10\) as .*-t1n", read_only, BRATS, tmp_path)


def test_mask_of_another_affine(tmp_path: Path) -> None:
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[0, 3] = 4.0
    path = save(brats(tmp_path) / "BraTS-GLI-00001-000-seg.nii.gz", np.zeros(SHAPE, np.uint8), moved)
    refused(path, "mask with affine", "as .*-t1n", read_only, BRATS, tmp_path)


def test_label_out_of_range(tmp_path: Path) -> None:
    """Label 4 was ET until BraTS 2021; a 2023 cohort must not contain it."""
    path = save(brats(tmp_path) / "BraTS-GLI-00001-000-seg.nii.gz", (head() > 57).astype(np.uint8) * 4)
    refused(path, r"label values \[4\.0\]", r"only \[0, 1, 2, 3\]", read_only, BRATS, tmp_path)


def test_an_image_of_zeros(tmp_path: Path) -> None:
    path = save(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", np.zeros(SHAPE, np.float32))
    refused(path, "only zeros", "an image", read_only, BIDS, tmp_path)


def test_one_contrast_of_zeros_among_good_ones(tmp_path: Path) -> None:
    path = save(brats(tmp_path) / "BraTS-GLI-00001-000-t2f.nii.gz", np.zeros(SHAPE, np.float32))
    refused(path, "only zeros", "an image", read_only, BRATS, tmp_path)


def test_an_image_without_a_positive_voxel_has_no_scale(tmp_path: Path) -> None:
    path = save(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", -head())
    refused(path, "no positive voxel", "norm: none", read_only, BIDS, tmp_path)
    assert read_only(replace(BIDS, norm="none"), tmp_path).images.min() < 0


def test_a_whole_head_where_a_skull_stripped_one_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", head() + 3)
    refused(path, r"100\.0% non-zero voxels", "skull-stripped volume .*foreground: otsu", read_only, BIDS, tmp_path)


# Foreground -------------------------------------------------------------------------------------------------------


LIKE = Volume(head(), np.eye(4), Path("head.nii.gz"))


def test_nonzero_foreground_keeps_the_largest_part_and_fills_holes() -> None:
    image = head()
    image[6, 7, 5] = 0
    image[0, 0, 0] = 80
    np.testing.assert_array_equal(foreground(image[None], "nonzero"), head() > 0)


def test_otsu_foreground_finds_a_head_in_noise() -> None:
    rng = np.random.default_rng(0)
    large = head((40, 44, 36))
    mask = foreground((large + rng.rayleigh(3, large.shape).astype(np.float32))[None], "otsu")
    truth = large > 0
    assert mask[truth].mean() > 0.99
    assert not (mask & ~ndimage.binary_dilation(truth, iterations=2)).any()


def test_all_is_everything() -> None:
    assert foreground(head()[None], "all").all()
