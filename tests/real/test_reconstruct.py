"""Slices of real brains in hand: found where they lie, taken where they are right, refused where they are not.

The pose model is fitted here, at 4 mm on the training side; thresholds at 2 mm are stricter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_reference import COHORT, REPOSITORY, ROOT, configuration

from xdiff.config import Grid
from xdiff.data.centred import CentredStore
from xdiff.data.preprocess import preprocess
from xdiff.data.split import Split, read_split
from xdiff.data.store import Store
from xdiff.doubts import Verdict, judge
from xdiff.given import Given
from xdiff.out_of_distribution import calibrate
from xdiff.placing import around, observe_given, searching
from xdiff.pose import PoseModel
from xdiff.pose_fit import fit_pose
from xdiff.volumes import Volume, read_volume

GRID = Grid((40, 48, 40), 4.0)
SPACING = (4.0, 4.0, 4.0)
HEIGHTS_MM = (-20.0, 10.0, 30.0)
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason=f"no {COHORT} (XDIFF_DATA_ROOT)"),
]


@pytest.fixture(scope="module")
def split() -> Split:
    return read_split(REPOSITORY / "workflow/splits/openneuro-ds002748.tsv")


@pytest.fixture(scope="module")
def fitted(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[PoseModel, float]:
    """The pose model of the training side, and the threshold of its scores."""
    out, cohort = tmp_path_factory.mktemp("data"), configuration("real-brains-2mm").cohorts[COHORT]
    preprocess(cohort, GRID, (COHORT, "4mm"), ROOT / COHORT, split, out)
    model = fit_pose(CentredStore(Store(out), split.side("train")), split.side("train"), 60)
    return model, calibrate(model, ("T1w",), SPACING)["threshold"]


def brains(cohort: str, split: Split) -> list[Path]:
    """Two T1w brains of nobody in training."""
    if cohort == COHORT:
        return [ROOT / COHORT / s / "anat" / f"{s}_T1w.nii.gz" for s in split.side("test")[:2]]
    found = sorted((ROOT / cohort).glob("sub-*/anat/*_T1w.nii.gz"))[:2]
    return found or pytest.skip(f"no {ROOT / cohort}")


def slice_of(path: Path, axis: int, height_mm: float) -> tuple[Given, np.ndarray]:
    """The section so far above the middle of the foreground's box; that middle, in world mm."""
    volume = read_volume(path)
    voxels = np.argwhere(volume.array > 0)
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
    index = int(round(middle[axis] + height_mm / volume.spacing_mm[axis]))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * index
    section = Volume(np.take(volume.array, [index], axis), affine, path)
    return Given(section, axis, float(volume.spacing_mm[axis]), ""), (volume.affine @ [*middle, 1.0])[:3]


def found(fitted: tuple[PoseModel, float], given: Given) -> tuple[Verdict, np.ndarray]:
    """Verdict, and where the middle of the head is taken to lie, in world mm."""
    model, threshold = fitted
    array = around([given], GRID.shape, SPACING, None)
    observation = observe_given([given], array, "T1w", "centred")
    pose = searching(model, given.axis, SPACING, stated=False).pose(observation)
    verdict = judge(model, [given], observation, pose.shift, threshold)
    return verdict, (array.moved(pose.shift).affine @ [*((np.array(GRID.shape) - 1) / 2), 1.0])[:3]


@pytest.mark.parametrize("cohort", [COHORT, "ixi-2mm"])
def test_right_slices_are_found_and_taken(cohort: str, split: Split, fitted: tuple[PoseModel, float]) -> None:
    errors, doubts = [], []
    for path in brains(cohort, split):
        for height in HEIGHTS_MM:
            given, true = slice_of(path, 2, height)
            verdict, place = found(fitted, given)
            errors.append(abs(place - true)[2])
            doubts += verdict.doubts
    assert np.median(errors) < 8 and max(errors) < 24, f"{np.round(errors, 1)} mm along the normal"
    assert doubts == []


def test_other_contrasts_are_refused(split: Split, fitted: tuple[PoseModel, float]) -> None:
    for path in brains(COHORT, split):
        given, _ = slice_of(path, 2, 10.0)
        array = given.volume.array
        dark = np.where(array > 0, array.max() + 1 - array, 0)
        verdict, _ = found(fitted, Given(Volume(dark, given.volume.affine, path), 2, given.thickness_mm, ""))
        assert verdict.score > 1.2 * verdict.threshold


def test_whole_heads_are_refused(fitted: tuple[PoseModel, float]) -> None:
    heads = sorted((ROOT / "tcga-lgg").glob("sub-*/anat/*_FLAIR.nii.gz"))[:3]
    if not heads:
        pytest.skip(f"no {ROOT / 'tcga-lgg'}")
    for path in heads:
        verdict, _ = found(fitted, slice_of(path, 2, 10.0)[0])
        assert verdict.score > 1.2 * verdict.threshold


@pytest.mark.parametrize(("axis", "taken_for"), [(2, 1), (1, 2), (0, 1)])
def test_slices_of_another_axis_are_told(axis: int, taken_for: int, split: Split, fitted: tuple[PoseModel, float]) -> None:
    for path in brains(COHORT, split):
        given, _ = slice_of(path, axis, 10.0)
        array = np.moveaxis(given.volume.array, axis, taken_for)
        wrong = Given(Volume(array, np.diag([*given.volume.spacing_mm, 1.0]), path), taken_for, given.thickness_mm, "")
        assert any("fit better as" in doubt for doubt, _ in found(fitted, wrong)[0].doubts)
