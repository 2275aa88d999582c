"""The linear-Gaussian core against dense linear algebra and against refitting; kriging; standard deviations and draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiff.data.gaussian_field import GaussianField
from xdiff.gaussian import FIT_K, LinearGaussian
from xdiff.gaussian_fit import LAMBDAS, _section_errors, with_mirror
from xdiff.observation import Observation, observe
from xdiff.planes import ObliquePlane, Plane, coverage, cut
from xdiff.stacks import tilted_stack

SHAPE = (6, 7, 8)
SPACING_MM = (2.0, 3.0, 4.0)
TILTED = ObliquePlane((2.5, 3.0, 3.5), (0.8, 0.6, 0.0), (0.0, 0.0, 1.0), (4, 5))
PLANES = {
    "one": [Plane(2, 3)],
    "parallel": [Plane(0, 1), Plane(0, 4)],
    "crossing": [Plane(0, 2), Plane(1, 3), Plane(2, 5)],
    "thick": [Plane(2, 2, 2.5), Plane(2, 6, 2.5)],
    "thick and thin": [Plane(2, 2, 2.5), Plane(0, 3)],
    "oblique": [TILTED],
}


def rows_of(n: int = 5, contrasts: int = 2, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = GaussianField(shape, length=2.0)
    return with_mirror(np.stack([[smooth.draw(rng) for _ in range(contrasts)] for _ in range(n)]).astype(np.float32))


def model_of(**settings_) -> LinearGaussian:
    return LinearGaussian(rows_of(**settings_))


def given_by(planes: list, seed: int = 99, contrasts: int = 2) -> Observation:
    truth = rows_of(1, contrasts, seed=seed)[0]
    return observe(truth, planes, tuple("ab")[:contrasts], SPACING_MM, "centred", "none")


def seen(model: LinearGaussian, planes: list) -> np.ndarray:
    """What the planes show of every training volume (M, n), float64: every voxel once where all are thin."""
    if all(p.thin for p in planes):
        mask = coverage(planes, SHAPE) > 0
        return model.rows[:, :, mask].reshape(model.n_rows, -1).astype(np.float64)
    return np.stack([np.concatenate([s.ravel() for s in cut(row.astype(np.float64), planes)]) for row in model.rows])


def data_of(observation: Observation) -> np.ndarray:
    """The data in the order of `seen`."""
    if all(p.thin for p in observation.planes):
        return observation.evidence[:, observation.mask].ravel().astype(np.float64)
    return np.concatenate([s.ravel() for s in observation.sections]).astype(np.float64)


# The ridge ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLANES)
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_the_dual_estimate_is_the_primal_ridge(case: str, ridge: float) -> None:
    """mean + C_us (C_ss + lambda I)^-1 (y - mean_s) with dense covariances of voxels; crossing voxels are there once."""
    model, observation = model_of(), given_by(PLANES[case])
    shown, every = seen(model, PLANES[case]), model.rows.reshape(model.n_rows, -1).astype(np.float64)
    shown_c, every_c = shown - shown.mean(0), every - every.mean(0)
    absolute = ridge * np.linalg.eigvalsh(shown_c @ shown_c.T).mean()
    inverse = np.linalg.inv(shown_c.T @ shown_c + absolute * np.eye(shown.shape[1]))
    expected = every.mean(0) + every_c.T @ (shown_c @ (inverse @ (data_of(observation) - shown.mean(0))))
    weights = model.weights(model.gram(PLANES[case]), model.inner(observation), ridge)
    np.testing.assert_allclose(model.combine(weights).ravel(), expected, atol=1e-4)  # Gram matrices are summed in float32


@pytest.mark.parametrize("case", PLANES)
def test_gram_and_inner_products_equal_the_direct_ones(case: str) -> None:
    model, observation = model_of(), given_by(PLANES[case])
    shown = seen(model, PLANES[case])
    np.testing.assert_allclose(model.gram(PLANES[case]), shown @ shown.T, rtol=1e-5)
    np.testing.assert_allclose(model.inner(observation), shown @ data_of(observation), rtol=1e-5)


def test_grams_of_all_sections_sum_to_the_gram_of_the_volumes() -> None:
    model = model_of()
    flat = model.rows.reshape(model.n_rows, -1).astype(np.float64)
    for axis in range(3):
        assert model.section_grams(axis).shape == (SHAPE[axis], 10, 10)
        np.testing.assert_allclose(model.section_grams(axis).sum(0), flat @ flat.T, rtol=1e-5)
    np.testing.assert_allclose(model.full_gram(), flat @ flat.T, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(PLANES)), st.floats(1e-5, 10.0), st.integers(0, 9))
def test_weights_sum_to_one_and_left_out_rows_get_none(case: str, ridge: float, row: int) -> None:
    model, observation = model_of(), given_by(PLANES[case])
    gram, inner = model.gram(PLANES[case]), model.inner(observation)
    assert model.weights(gram, inner, ridge).sum() == pytest.approx(1, abs=1e-9)
    weights = model.weights(gram, inner, ridge, model.without(row))
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert weights[row % 5] == weights[row % 5 + 5] == 0


def test_an_infinite_ridge_is_the_mean() -> None:
    model, observation = model_of(), given_by(PLANES["parallel"])
    weights = model.weights(model.gram(observation.planes), model.inner(observation), 1e12)
    np.testing.assert_allclose(weights, 0.1, atol=1e-9)
    np.testing.assert_allclose(model.combine(weights), model.mean, atol=1e-6)


@pytest.mark.parametrize("row", [0, 3, 7])
@pytest.mark.parametrize("case", PLANES)
def test_leaving_a_subject_out_equals_refitting_without_it_and_its_mirror_image(case: str, row: int) -> None:
    """And the left-out volume itself leaves no trace: changing it changes nothing."""
    model, observation = model_of(), given_by(PLANES[case])
    found = model.estimate(observation, model.without(row))
    refitted = LinearGaussian(np.delete(model.rows, [row % 5, row % 5 + 5], axis=0))
    np.testing.assert_allclose(found, refitted.estimate(observation), atol=1e-5)
    spoiled = model.rows.copy()
    spoiled[[row % 5, row % 5 + 5]] += 100
    np.testing.assert_allclose(found, LinearGaussian(spoiled).estimate(observation, model.without(row)), atol=1e-5)
    assert np.abs(found - model.estimate(observation)).max() > 1e-3


def test_the_second_half_are_mirror_images() -> None:
    rows = rows_of()
    np.testing.assert_array_equal(rows[5:], rows[:5, :, ::-1])
    np.testing.assert_array_equal(model_of().without(7), [0, 1, 3, 4, 5, 6, 8, 9])


def test_hyperparameters_are_interpolated_in_log_k() -> None:
    model = model_of()
    model.lambdas = np.geomspace(1e-3, 1, 18).reshape(3, 6)
    model.lengths_mm = np.arange(1.0, 19).reshape(3, 6)
    for axis, (j, k) in itertools.product((0, 1), enumerate(FIT_K[:5])):
        ridge, length, inflation = model.hyper([Plane(axis, 0)] * k)
        assert (ridge, length, inflation) == pytest.approx((model.lambdas[axis, j], model.lengths_mm[axis, j], 1.0))
    between = model.hyper([Plane(1, 0)] * 4)[0]
    assert np.log(between) == pytest.approx(np.interp(np.log(4), np.log([3, 5]), np.log(model.lambdas[1, 2:4])))
    assert model.hyper([Plane(0, 0)] * 40)[0] == pytest.approx(model.lambdas[0, -1])
    assert model.hyper([Plane(0, 0), Plane(2, 0)])[0] == pytest.approx(np.sqrt(model.lambdas[0, 1] * model.lambdas[2, 1]))
    for axis in range(3):  # 15 degrees from its own axis, 75 or more from the others
        tilted = tilted_stack(axis, 3, np.ones(SHAPE, bool), SPACING_MM)
        assert model.hyper(tilted)[0] == pytest.approx(model.lambdas[axis, 2])


def test_section_errors_in_gram_space_are_errors_over_unseen_voxels() -> None:
    model, planes = model_of(), PLANES["parallel"]
    hidden = coverage(planes, SHAPE) == 0
    found = _section_errors(model, 3, planes)
    for j in (0, 10, 24):
        weights = model.weights(model.gram(planes), model.gram(planes)[3], LAMBDAS[j], model.without(3))
        expected = ((model.combine(weights) - model.rows[3])[:, hidden] ** 2).sum()
        assert found[j] == pytest.approx(expected, rel=1e-3)


# Estimates, standard deviations, draws ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLANES)
def test_given_sections_are_exact_in_means_and_draws(case: str) -> None:
    model, observation = model_of(), given_by(PLANES[case])
    posterior = model.posterior(observation)
    np.testing.assert_allclose(posterior.mean, model.estimate(observation), atol=1e-6)
    exact = all(p.thin and isinstance(p, Plane) for p in observation.planes)
    for volume in (posterior.mean, posterior.sample(np.random.default_rng(0))):
        assert volume.dtype == np.float32
        for plane, section in zip(observation.planes, observation.sections, strict=True):
            np.testing.assert_allclose(plane.cut(volume), section, rtol=0, atol=0 if exact else 1e-4)


@pytest.mark.parametrize("case", PLANES)
def test_variances_of_some_voxels_are_those_of_all(case: str) -> None:
    posterior = model_of().posterior(given_by(PLANES[case]))
    voxels = np.random.default_rng(0).integers(0, 2 * np.prod(SHAPE), 100)
    np.testing.assert_allclose(posterior.variance_at(voxels), posterior.std().ravel()[voxels] ** 2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("case", ["one", "parallel", "crossing"])
def test_std_is_zero_at_given_voxels_only(case: str) -> None:
    observation = given_by(PLANES[case])
    std = model_of().posterior(observation).std()
    assert (std[:, observation.mask] == 0).all()
    assert (std[:, ~observation.mask] > 0).all()


@pytest.mark.parametrize("case", ["thick", "oblique"])
def test_averages_and_interpolations_leave_every_voxel_uncertain(case: str) -> None:
    assert (model_of().posterior(given_by(PLANES[case])).std() > 0).all()


@pytest.mark.parametrize("case", ["one", "parallel", "crossing"])
def test_draws_scatter_about_the_mean_by_the_stated_std(case: str) -> None:
    model, observation = model_of(), given_by(PLANES[case])
    model.inflation = np.full((3, 6), 1.7)
    posterior, rng = model.posterior(observation), np.random.default_rng(1)
    draws = np.stack([posterior.sample(rng) for _ in range(3000)])
    std = posterior.std()
    hidden = np.broadcast_to(~observation.mask, std.shape)
    np.testing.assert_allclose(draws.std(axis=0)[hidden], std[hidden], rtol=0.09)  # 6 standard errors of 1/sqrt(2 * 3000)
    assert (np.abs(draws.mean(axis=0) - posterior.mean)[hidden] < 6 * std[hidden] / np.sqrt(3000)).all()


def test_loo_weights_leave_the_volume_and_its_mirror_image_out() -> None:
    weights = model_of().loo_weights()
    for i in range(10):
        assert weights[i, i] == weights[i, (i + 5) % 10] == 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
