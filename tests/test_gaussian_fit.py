"""Fitting the linear-Gaussian core: only training volumes, honest lambda and L, and a field whose posterior is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from xdiff.config import Cohort, Grid
from xdiff.data.gaussian_field import GaussianField, write_gaussian_field
from xdiff.data.preprocess import preprocess
from xdiff.data.split import split_by_count
from xdiff.data.store import Store
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import LAMBDAS, LeftOut, _section_errors, fit, from_tensors, to_tensors, training_rows
from xdiff.kriging import spread_residual
from xdiff.observation import observe
from xdiff.planes import Plane


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """60 training fields of 16^3 voxels at 4 mm, and their store."""
    folder = tmp_path_factory.mktemp("fields")
    subjects = write_gaussian_field(folder / "raw", n_subjects=62, seed=1, shape=(16, 16, 16), spacing_mm=4.0)
    split = split_by_count(subjects, 0, 1, 1)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none")
    preprocess(cohort, Grid((16, 16, 16), 4.0), ("field", "16"), folder / "raw", split, folder / "out")
    return Store(folder / "out"), split


@pytest.fixture(scope="module")
def fitted(stored) -> LinearGaussian:
    return fit(*stored)


def test_saving_and_loading_keep_the_fitted_core(fitted: LinearGaussian) -> None:
    again = from_tensors(to_tensors(fitted))
    np.testing.assert_array_equal(again.rows, fitted.rows)
    for name in ("lambdas", "lengths_mm", "inflation"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fitted, name))


def test_training_rows_are_the_training_side_only(stored) -> None:
    store, split = stored
    rows, names = training_rows(store, split.side("train"))
    assert names == sorted(split.side("train"))
    np.testing.assert_array_equal(rows[:60], np.stack([store.volume(s) for s in names]))
    some, fewer = training_rows(store, split.side("train"), max_volumes=7)
    assert (len(some), len(fewer)) == (14, 7)
    assert set(fewer) < set(names)
    with pytest.raises(ValueError, match="no training subject in the split"):
        training_rows(store, [])


@pytest.mark.parametrize("planes", [[Plane(2, 8)], [Plane(2, 4), Plane(2, 8), Plane(2, 12)]], ids=["K1", "K3"])
def test_no_other_lambda_or_length_does_much_better_on_new_fields(fitted: LinearGaussian, planes: list[Plane]) -> None:
    """lambda and L chosen by leave-one-out on 60 fields are within 15 % of the best of a wide grid on 30 new ones."""
    ridge, length, inflation = fitted.hyper(planes)
    field, rng, gram = GaussianField((16, 16, 16)), np.random.default_rng(8), fitted.gram(planes)
    grid = list(itertools.product(ridge * 8.0 ** np.arange(-2, 3), length * 3.0 ** np.arange(-1, 2)))
    missed = np.zeros(len(grid))
    for _ in range(30):
        truth = field.draw(rng)[None].astype(np.float32)
        observation = observe(truth, planes, ("field",), (4.0,) * 3, "centred", "none")
        weights = fitted.weights_for(gram, fitted.inner(observation), np.unique([r for r, _ in grid]))
        volumes = dict(zip(np.unique([r for r, _ in grid]), map(fitted.combine, weights), strict=True))
        missed += [((spread_residual(volumes[r], observation, mm) - truth) ** 2).mean() for r, mm in grid]
    chosen = missed[grid.index((ridge, length))]
    assert chosen < 1.15 * missed.min()
    assert missed.max() > 1.5 * chosen  # it does matter
    assert 0.05 < inflation < 5


FIELD_PLANES = [[Plane(2, 8)], [Plane(0, 8), Plane(2, 8)], [Plane(2, 4), Plane(2, 8), Plane(2, 12)]]


def scores_on_field(model: LinearGaussian, planes: list[Plane], seed: int, n: int = 60) -> np.ndarray:
    """Mean squared errors of the closed-form mean, the model's mean and its draw, and coverage of its 90 % interval."""
    field, rng, rows = GaussianField((16, 16, 16)), np.random.default_rng(seed), []
    exact = field.posterior(planes)
    for _ in range(n):
        truth = field.draw(rng)
        observation = observe(truth[None].astype(np.float32), planes, ("field",), (4.0, 4.0, 4.0), "centred", "none")
        posterior, hidden = model.posterior(observation), ~observation.mask
        volumes = (exact.mean(truth), posterior.mean[0], posterior.sample(rng)[0])
        within = np.abs(truth - posterior.mean[0]) <= 1.645 * posterior.std()[0]
        rows.append([*(((v - truth)[hidden] ** 2).mean() for v in volumes), within[hidden].mean()])
    return np.mean(rows, axis=0)


def test_means_draws_and_intervals_on_a_known_field(fitted: LinearGaussian) -> None:
    """60 training fields: the mean within 1.4 of the best possible; draws and intervals honest on average over settings.

    Measured on 2 cohorts x 2 seeds: MSE over the closed form's 1.02-1.22; draw over mean 1.68-2.21, on average over the
    settings 1.80-2.02; coverage 0.87-0.93, on average 0.89.
    """
    scores = np.array([scores_on_field(fitted, planes, seed=5) for planes in FIELD_PLANES])
    above_best, doubled, covered = scores[:, 1] / scores[:, 0], scores[:, 2] / scores[:, 1], scores[:, 3]
    assert (above_best > 0.99).all()
    assert above_best.max() < 1.4
    assert 1.7 < doubled.mean() < 2.3
    assert ((doubled > 1.5) & (doubled < 2.4)).all()
    assert 0.86 < covered.mean() < 0.94


def test_with_400_draws_the_mean_approaches_the_closed_form() -> None:
    """10^3 voxels, two sections: MSE over the closed form's below 1.12 with 400 training draws, above 1.15 with 40."""
    field, rng = GaussianField((10, 10, 10)), np.random.default_rng(0)
    rows = np.stack([field.draw(rng)[None] for _ in range(400)]).astype(np.float32)
    planes = [Plane(2, 2), Plane(2, 7)]
    truths = [field.draw(rng) for _ in range(40)]
    best = [field.posterior(planes).mean(t) for t in truths]
    ratios = []
    for n in (40, 400):
        model = LinearGaussian(rows[:n])
        errors = np.mean([_section_errors(model, i, planes) for i in range(0, n, n // 8)], axis=0)
        gram, ridge = model.gram(planes), LAMBDAS[int(np.argmin(errors))]
        missed = []
        for truth, mean in zip(truths, best, strict=True):
            observation = observe(truth[None].astype(np.float32), planes, ("field",), (4.0,) * 3, "centred", "none")
            found = spread_residual(model.combine(model.weights(gram, model.inner(observation), ridge)), observation, 7.0)[0]
            missed.append([((found - truth) ** 2).mean(), ((mean - truth) ** 2).mean()])
        above, floor = np.mean(missed, axis=0)
        ratios.append(above / floor)
    assert ratios[0] > 1.15
    assert 1.0 < ratios[1] < 1.12


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_errors_by_inner_products_are_those_of_the_volumes(fitted: LinearGaussian, stored, axis: int) -> None:
    """Every lambda and L at once, from products of sections, against making each volume."""
    case = LeftOut(fitted, stored[0], list(fitted.patients), 5, [Plane(axis, 3), Plane(axis, 4), Plane(axis, 11)])
    ridges, lengths = np.array([0.01, 0.5]), (4.0, 20.0)
    slow = [[case.squares(r, mm).sum(dtype=np.float64) for mm in lengths] for r in ridges]
    np.testing.assert_allclose(case.errors(ridges, lengths), slow, rtol=1e-3)
