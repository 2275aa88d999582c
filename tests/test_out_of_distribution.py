"""The score of given sections: 0 for what training volumes explain, the same at any brightness, high for anything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from displaced_heads import SHAPE, head

from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import with_mirror
from xdiff.observation import Observation, observe
from xdiff.out_of_distribution import calibrate, score, upside_down
from xdiff.planes import Plane
from xdiff.pose import PoseModel

N = 12


@pytest.fixture(scope="module")
def model() -> PoseModel:
    rows = with_mirror(np.stack([head(i)[:1] for i in range(N)]))
    return PoseModel(LinearGaussian(rows), np.full(3, 1.5), noise=np.full(3, 3e-3))


def given(volume: np.ndarray, axis: int = 2, index: int = 14) -> Observation:
    return observe(volume, [Plane(axis, index)], ("T1w",), (2.0, 2.0, 2.0), "centred")


def test_the_score_is_the_residual_of_ridge_regression_on_the_training_sections(model: PoseModel) -> None:
    observation = given(head(50)[:1])
    design = model.linear.rows[:, 0, :, :, 14].reshape(2 * N, -1).T
    y = observation.sections[0].ravel()
    ridge = np.sqrt(2 * N * 3e-3) * np.eye(2 * N)
    fitted, *_ = np.linalg.lstsq(np.vstack([design, ridge]), np.concatenate([y, np.zeros(2 * N)]), rcond=None)
    expected = np.linalg.norm(y - design @ fitted) / np.linalg.norm(y)
    assert score(model, observation, (0, 0, 0)) == pytest.approx(expected, rel=1e-4)


def test_a_training_volume_is_explained_and_left_out_less_so(model: PoseModel) -> None:
    observation = given(head(3)[:1])
    inside, outside = score(model, observation, (0, 0, 0)), score(model, observation, (0, 0, 0), model.linear.without(3))
    assert inside < 0.6 * outside


def test_where_the_head_lies_and_how_bright_it_is_does_not_matter(model: PoseModel) -> None:
    here = score(model, given(head(50)[:1]))
    there = score(model, given(300 * head(50, (2, -1, 2))[:1], index=16))
    assert here == pytest.approx(score(model, given(head(50)[:1]), (0, 0, 0)), rel=0.1)
    assert there == pytest.approx(here, rel=1e-4)


def test_right_sections_pass_the_threshold_and_wrong_ones_do_not(model: PoseModel) -> None:
    usual = calibrate(model, ("T1w",), (2.0, 2.0, 2.0))
    assert usual["scores"] == sorted(usual["scores"]) and len(usual["scores"]) == N * 3 * 5
    assert usual["threshold"] == pytest.approx(np.quantile(usual["scores"], 0.99), abs=1e-4)
    right = [score(model, given(head(50 + i)[:1], axis)) for i in range(4) for axis in range(3)]
    assert np.mean(np.array(right) <= usual["threshold"]) >= 0.9
    one = head(50)[:1]
    inverted = np.where(one > 0, one.max() + 0.05 - one, 0)
    for wrong in (inverted, np.ones_like(one), np.random.default_rng(0).random(one.shape).astype(np.float32)):
        assert score(model, given(wrong)) > 1.2 * usual["threshold"]


def test_upside_down_turns_front_and_back_of_axial_and_top_and_bottom_of_the_others() -> None:
    volume = np.random.default_rng(1).random((1, *SHAPE)).astype(np.float32)
    for axis, flipped in ((2, volume[:, :, ::-1]), (1, volume[..., ::-1]), (0, volume[..., ::-1])):
        found, expected = upside_down(given(volume, axis, 5)), given(np.ascontiguousarray(flipped), axis, 5)
        np.testing.assert_array_equal(found.sections[0], expected.sections[0])
        assert found.planes == expected.planes


def test_noise_of_the_pose_model_is_the_ridge(model: PoseModel) -> None:
    observation = given(head(50)[:1])
    stiff = replace(model, noise=np.full(3, 1e5))
    assert score(stiff, observation, (0, 0, 0)) == pytest.approx(1, abs=0.01)
