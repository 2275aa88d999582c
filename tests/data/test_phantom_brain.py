"""The embedded phantom cohort: reproducible, shaped like BraTS 2023, and with the contrasts that its names promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xdiff.data import phantom_brain as phantom
from xdiff.volumes import read_volume

SEED, SPACING_MM = 11, 4.0
SUBJECTS = [
    "BraTS-GLI-00000-000",
    "BraTS-GLI-00001-000",
    "BraTS-GLI-00002-000",
    "BraTS-GLI-00003-000",
    "BraTS-GLI-00003-001",
]
SUFFIXES = ("t1n", "t1c", "t2w", "t2f", "seg")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("brats")
    assert phantom.write_phantom_brain(out, 4, SEED, SPACING_MM, followups=0.25) == SUBJECTS
    return out


@pytest.fixture(scope="module")
def healthy() -> dict[str, np.ndarray]:
    images, labels, _ = phantom.phantom_subject(SEED, 0, 0, SPACING_MM, tumour=False)
    assert not labels.any()
    return images


def load(cohort: Path, subject: str) -> dict[str, np.ndarray]:
    return {name: read_volume(cohort / subject / f"{subject}-{name}.nii.gz").array for name in SUFFIXES}


def tissue_masks(images: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """White matter and CSF of a healthy phantom, taken from T1 (brightest fifth) and T2 (brightest fiftieth)."""
    brain = images["t1n"] > 0
    bright = {name: np.percentile(images[name][brain], q) for name, q in (("t1n", 80), ("t2w", 98))}
    return images["t1n"] > bright["t1n"], images["t2w"] > bright["t2w"]


def test_files_are_named_as_brats_2023_names_them(cohort: Path) -> None:
    found = sorted(str(path.relative_to(cohort)) for path in cohort.rglob("*") if path.is_file())
    assert found == sorted(f"{s}/{s}-{name}.nii.gz" for s in SUBJECTS for name in SUFFIXES)


def test_a_subject_does_not_depend_on_the_cohort_it_is_in(cohort: Path) -> None:
    images, labels, affine = phantom.phantom_subject(SEED, 3, 0, SPACING_MM)
    for name, array in {**images, "seg": labels}.items():
        stored = read_volume(cohort / SUBJECTS[3] / f"{SUBJECTS[3]}-{name}.nii.gz")
        assert stored.array.tobytes() == array.astype(np.float32).tobytes(), name
        np.testing.assert_allclose(stored.affine, affine)
        np.testing.assert_allclose(stored.affine, [[4, 0, 0, -98], [0, 4, 0, -134], [0, 0, 4, -72], [0, 0, 0, 1]])


def test_a_second_run_keeps_files_and_mends_only_what_is_missing(cohort: Path) -> None:
    files = sorted(cohort.rglob("*.nii.gz"))
    lost = cohort / SUBJECTS[1] / f"{SUBJECTS[1]}-t2w.nii.gz"
    before, content = {f: f.stat().st_mtime_ns for f in files}, lost.read_bytes()
    lost.unlink()
    phantom.write_phantom_brain(cohort, 4, SEED, SPACING_MM, followups=0.25)
    touched = {f.parent.name for f in files if f.stat().st_mtime_ns != before[f]}
    assert touched == {SUBJECTS[1]}
    assert lost.read_bytes() == content


def test_labels_are_those_of_brats_and_lie_in_the_brain(cohort: Path) -> None:
    complete = 0
    for subject in SUBJECTS:
        volumes = load(cohort, subject)
        present = set(np.unique(volumes["seg"]))
        assert present <= {0, 1, 2, 3}
        complete += present == {0, 1, 2, 3}
        assert (volumes["t1n"][volumes["seg"] > 0] > 0).all()
        whole_ml = np.count_nonzero(volumes["seg"]) * SPACING_MM**3 / 1000
        assert 5 < whole_ml < 110
    assert complete >= 4


def test_background_is_exactly_zero_and_the_same_in_all_contrasts(cohort: Path) -> None:
    for subject in SUBJECTS:
        volumes = load(cohort, subject)
        brain = volumes["t1n"] > 0
        assert 1000 < brain.sum() * SPACING_MM**3 / 1000 < 2200  # ml
        assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any() and not brain[:, :, -1].any()
        for name in phantom.CONTRASTS:
            assert ((volumes[name] > 0) == brain).all()
            assert (volumes[name] == np.rint(volumes[name])).all()


def test_the_enhancing_tumour_is_bright_after_contrast_agent_only(cohort: Path) -> None:
    for subject in SUBJECTS:
        volumes = load(cohort, subject)
        normal = (volumes["seg"] == 0) & (volumes["t1n"] > 0)
        rim = {n: volumes[n][volumes["seg"] == 3].mean() / np.median(volumes[n][normal]) for n in ("t1n", "t1c")}
        assert rim["t1c"] > 1.25 > 1.1 > rim["t1n"]


def test_oedema_is_bright_on_t2_and_flair(cohort: Path) -> None:
    for subject in SUBJECTS:
        volumes = load(cohort, subject)
        normal = (volumes["seg"] == 0) & (volumes["t1n"] > 0)
        for name, least in (("t2w", 1.05), ("t2f", 1.25)):
            assert np.median(volumes[name][volumes["seg"] == 2]) > least * np.median(volumes[name][normal])


def test_csf_is_bright_on_t2_and_dark_on_flair_and_t1(healthy: dict[str, np.ndarray]) -> None:
    white, csf = tissue_masks(healthy)
    ratio = {name: np.median(image[csf]) / np.median(image[white]) for name, image in healthy.items()}
    assert ratio["t2w"] > 1.8
    assert ratio["t2f"] < 0.75
    assert ratio["t1n"] < 0.75


def test_patients_differ_and_visits_of_one_patient_share_its_head(cohort: Path) -> None:
    brain = [load(cohort, subject)["t1n"] > 0 for subject in SUBJECTS]
    overlap = lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())  # noqa: E731
    assert all(overlap(brain[i], brain[j]) < 0.97 for i in range(4) for j in range(i))
    assert overlap(brain[3], brain[4]) > 0.99


def test_the_tumour_of_a_follow_up_has_grown_in_place(cohort: Path) -> None:
    first, second = (load(cohort, subject)["seg"] > 0 for subject in SUBJECTS[3:])
    assert second.sum() > 1.15 * first.sum()
    assert (first & second).sum() > 0.8 * first.sum()


def test_the_tumour_pushes_tissue_near_it_and_leaves_the_far_side(cohort: Path) -> None:
    after = load(cohort, SUBJECTS[4])["t2w"]
    labels = load(cohort, SUBJECTS[4])["seg"]
    images, _, _ = phantom.phantom_subject(SEED, 3, 1, SPACING_MM, tumour=False)
    before = images["t2w"]
    brain = (after > 0) & (before > 0)
    distance_mm = ndimage.distance_transform_edt(labels == 0) * SPACING_MM
    near, far = brain & (distance_mm > 8) & (distance_mm < 20), brain & (distance_mm > 70)
    assert near.sum() > 1000 and far.sum() > 1000
    scale = np.median(after[far] / before[far])  # the gain is set from the brightest voxels
    change = np.abs(after / scale - before) / np.median(before[brain])
    assert change[near].mean() > 0.02  # measured 0.047; without mass effect exactly 0
    assert change[near].mean() > 10 * change[far].mean()


def test_a_patient_is_the_same_at_every_spacing(cohort: Path) -> None:
    coarse = read_volume(cohort / SUBJECTS[2] / f"{SUBJECTS[2]}-seg.nii.gz")
    _, fine, affine = phantom.phantom_subject(SEED, 2, 0, 3.0)
    grids = ((coarse.array, coarse.affine), (fine, affine))
    volume_ml = [np.count_nonzero(labels) * a[0, 0] ** 3 / 1000 for labels, a in grids]
    centre_mm = [a[:3, :3] @ np.argwhere(labels).mean(0) + a[:3, 3] for labels, a in grids]
    assert volume_ml[0] == pytest.approx(volume_ml[1], rel=0.1)
    np.testing.assert_allclose(*centre_mm, atol=1.0)


def test_the_map_of_a_person_never_folds() -> None:
    for patient in range(3):
        template_mm = phantom._anatomy(np.random.default_rng([SEED, patient]))
        jacobian = np.stack([np.stack(np.gradient(axis, phantom.WORK_MM)) for axis in template_mm])
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
        assert determinant.min() > 0.02
        assert np.median(determinant) == pytest.approx(1 / 0.93**3, rel=0.4)


def test_noise_is_a_function_of_position_with_unit_variance() -> None:
    fine, coarse = (phantom._noise(np.random.default_rng(1), 12, s) for s in (3.0, 6.0))
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse[: fine.shape[0] // 2, :, : (fine.shape[2] + 1) // 2], atol=1e-5)
    assert fine.std() == pytest.approx(1, abs=0.05)
    assert np.abs(np.diff(fine, axis=0)).max() < 1.5  # smooth: features are about 8 voxels wide


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    for workers in (1, 2):
        phantom.write_phantom_brain(tmp_path / str(workers), 2, 5, spacing_mm=8.0, workers=workers)
    one, two = (sorted((tmp_path / w).rglob("*.nii.gz")) for w in ("1", "2"))
    assert len(one) == 2 * 5 and [p.name for p in one] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_a_larger_cohort_extends_a_smaller_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(phantom, "_write_subject", lambda *args: None)
    small, large = (phantom.write_phantom_brain(tmp_path, n, 0, followups=0.2) for n in (7, 30))
    assert large[: len(small)] == small
    assert sum(subject.endswith("-001") for subject in large) == 6


@pytest.mark.parametrize("spacing_mm", [0.5, 9.0, float("nan")])
def test_an_impossible_spacing_is_refused(spacing_mm: float) -> None:
    with pytest.raises(ValueError, match="expected 1 to 8"):
        phantom.phantom_subject(0, 0, 0, spacing_mm)


def test_an_impossible_cohort_is_refused(tmp_path: Path) -> None:
    for n_patients, followups in ((0, 0.2), (3, 1.5)):
        with pytest.raises(ValueError, match=f"n_patients={n_patients}, followups={followups}"):
            phantom.write_phantom_brain(tmp_path, n_patients, 0, followups=followups)


def test_torch_is_not_needed() -> None:
    code = "import sys, xdiff.data.phantom_brain; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
