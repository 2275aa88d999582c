"""What speaks against given slices is told with what was found, what was expected, and a guess at the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from displaced_heads import SHAPE, head

from xdiff.doubts import BETTER, Verdict, judge
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import with_mirror
from xdiff.given import Given
from xdiff.placing import around, observe_given
from xdiff.pose import PoseModel
from xdiff.volumes import Volume

SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def model() -> PoseModel:
    rows = with_mirror(np.stack([head(i)[:1] for i in range(12)]))
    return PoseModel(LinearGaussian(rows), np.full(3, 1.5), noise=np.full(3, 3e-3))


def sections(volume: np.ndarray, axis: int, indices: list[int]) -> Given:
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    affine = np.diag([*(2.0 * step if a == axis else 2.0 for a in range(3)), 1.0])
    return Given(Volume(np.take(volume, indices, axis), affine, Path("slice.nii.gz")), axis, 2.0, "")


def judged(model: PoseModel, given: Given, threshold: float | None = None) -> Verdict:
    array = around([given], SHAPE, SPACING, None)
    observation = observe_given([given], array, "T1w", "centred")
    return judge(model, [given], observation, model.pose(observation).shift, threshold)


@pytest.mark.parametrize(("axis", "indices"), [(2, [14]), (1, [9, 13, 17]), (0, [10])])
def test_right_slices_raise_no_doubt(axis: int, indices: list[int], model: PoseModel) -> None:
    verdict = judged(model, sections(head(40)[0], axis, indices), threshold=0.2)
    assert verdict.doubts == () and 0 < verdict.score < 0.2


def test_a_threshold_is_what_the_score_is_compared_with(model: PoseModel) -> None:
    given = sections(head(40)[0], 2, [14])
    score = judged(model, given).score
    assert judged(model, given, 1.01 * score).doubts == ()
    (doubt,) = judged(model, given, 0.99 * score).doubts
    assert f"score {score:.3f}" in doubt[0] and doubt[1] == f"at most {0.99 * score:.3f}"
    assert judged(model, given).threshold is None


@pytest.mark.parametrize(
    ("axis", "way"), [(2, "axial ones, front to back"), (1, "coronal ones, top to bottom"), (0, "sagittal ones, top to bottom")]
)
def test_slices_turned_over_are_told(axis: int, way: str, model: PoseModel) -> None:
    volume = head(40)[0]
    given = sections(np.flip(volume, 1 if axis == 2 else 2), axis, [13])
    (doubt,) = judged(model, given).doubts
    assert f"fit better as {way}" in doubt[0]


def test_another_brightness_is_no_doubt(model: PoseModel) -> None:
    given = sections(head(40)[0], 2, [14])
    brighter = replace(given, volume=replace(given.volume, array=1000 * given.volume.array))
    assert judged(model, brighter, 0.2).score == pytest.approx(judged(model, given, 0.2).score, rel=1e-4)


def test_an_error_names_file_finding_and_the_way_past_it() -> None:
    verdict = Verdict(0.5, 0.3, (("slices unlike", "at most 0.300"), ("more", "less")))
    assert verdict.first(Path("a.nii")) == (
        Path("a.nii"),
        "slices unlike",
        "at most 0.300 (--force goes on all the same, and records it)",
    )
    assert verdict.plain() == {
        "score": 0.5,
        "threshold": 0.3,
        "doubts": ["slices unlike; expected at most 0.300", "more; expected less"],
    }
    assert 0.8 < BETTER < 1
