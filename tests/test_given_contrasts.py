"""Sections that carry some of the contrasts: the linear-Gaussian core and the methods that need no network, against dense algebra
on the given contrasts alone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared, prepare
from test_gaussian import PLANES, SHAPE, SPACING_MM, model_of, rows_of
from test_kriging import dense_kriging

from baselines import interpolation
from baselines.trivial import Trivial
from xdiff.config import Cohort, Grid, Labels, SplitRule
from xdiff.data.phantom_brain import write_phantom_brain
from xdiff.errors import NotSupported
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import training_rows
from xdiff.local import features
from xdiff.observation import Observation, observe
from xdiff.planes import Plane, coverage, cut

NAMES = ("a", "b", "c")
GIVEN = {"one": ["b"], "two": ["a", "c"]}


def given_by(planes: list, names: list[str] | None, seed: int = 99) -> Observation:
    return observe(rows_of(1, 3, seed=seed)[0], planes, NAMES, SPACING_MM, "centred", "none", names)


def shown(volume: np.ndarray, planes: list, kept: np.ndarray) -> np.ndarray:
    """What the planes show of the given contrasts of a volume, float64: every voxel once where all are thin."""
    part = volume[kept].astype(np.float64)
    if all(p.thin for p in planes):
        return part[:, coverage(planes, volume.shape[1:]) > 0].ravel()
    return np.concatenate([s.ravel() for s in cut(part, planes)])


def dense_ridge(rows: np.ndarray, observation: Observation, ridge: float) -> np.ndarray:
    """mean + C_us (C_ss + lambda I)^-1 (y - mean_s), (C, X, Y, Z), with dense covariances of the given contrasts' voxels."""
    kept, planes = np.array(observation.given), list(observation.planes)
    seen = np.stack([shown(row, planes, kept) for row in rows])
    if all(p.thin for p in planes):
        data = observation.evidence[kept][:, observation.mask].ravel().astype(np.float64)
    else:
        data = np.concatenate([s[kept].ravel() for s in observation.sections]).astype(np.float64)
    every = rows.reshape(len(rows), -1).astype(np.float64)
    seen_c, every_c = seen - seen.mean(0), every - every.mean(0)
    absolute = ridge * np.linalg.eigvalsh(seen_c @ seen_c.T).mean()
    inverse = np.linalg.inv(seen_c.T @ seen_c + absolute * np.eye(seen.shape[1]))
    return (every.mean(0) + every_c.T @ (seen_c @ (inverse @ (data - seen.mean(0))))).reshape(rows.shape[1:])


def dense_estimate(model: LinearGaussian, observation: Observation) -> np.ndarray:
    """The ridge, and what it leaves at the given sections of one axis spread by kriging, in the given contrasts."""
    ridge, length_mm, _ = model.hyper(observation.planes)
    volume = dense_ridge(model.rows, observation, ridge)
    axis, at = observation.planes[0].axis, [p.index for p in observation.planes]
    weights, _ = dense_kriging(at, observation.shape[axis], length_mm / observation.spacing_mm[axis])
    for c in np.flatnonzero(observation.given):
        missed = np.stack([s[c] - np.take(volume[c], i, axis) for s, i in zip(observation.sections, at, strict=True)])
        volume[c] += np.moveaxis(np.tensordot(weights, missed, axes=1), 0, axis)
    return np.where(observation.known, observation.evidence, volume)


# The core -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLANES)
@pytest.mark.parametrize("names", GIVEN)
def test_the_ridge_is_that_of_the_given_contrasts_data(case: str, names: str) -> None:
    """The other contrasts follow by the same weights, as a dense covariance between contrasts has them follow."""
    model, observation = model_of(contrasts=3), given_by(PLANES[case], GIVEN[names])
    gram = model.gram(PLANES[case], observation.given)
    seen = np.stack([shown(row, PLANES[case], np.array(observation.given)) for row in model.rows])
    np.testing.assert_allclose(gram, seen @ seen.T, rtol=1e-5)
    found = model.combine(model.weights(gram, model.inner(observation), 0.1))
    np.testing.assert_allclose(found, dense_ridge(model.rows, observation, 0.1), atol=1e-4)


def test_grams_of_the_contrasts_sum_to_that_of_all() -> None:
    model = model_of(contrasts=3)
    for axis in range(3):
        parts = [model.section_grams(axis, c) for c in range(3)]
        assert parts[0].shape == (SHAPE[axis], 10, 10)
        np.testing.assert_allclose(sum(parts), model.section_grams(axis), rtol=1e-5)


@pytest.mark.parametrize("case", PLANES)
def test_given_contrasts_are_exact_and_the_others_are_not_pasted(case: str) -> None:
    model, observation = model_of(contrasts=3), given_by(PLANES[case], ["a", "c"])
    posterior = model.posterior(observation)
    combined = model.combine(
        model.weights(model.gram(PLANES[case], observation.given), model.inner(observation), model.hyper(observation.planes)[0])
    )
    np.testing.assert_array_equal(posterior.mean[1], combined[1])
    for volume in (posterior.mean, posterior.sample(np.random.default_rng(0))):
        for plane, section in zip(observation.planes, observation.sections, strict=True):
            np.testing.assert_allclose(plane.cut(volume)[[0, 2]], section[[0, 2]], atol=1e-4)
            assert np.abs(plane.cut(volume)[1]).mean() > 0.1


@pytest.mark.parametrize("case", ["one", "parallel", "crossing"])
def test_draws_scatter_by_a_std_that_is_zero_where_the_value_is_known_only(case: str) -> None:
    model, observation = model_of(contrasts=3), given_by(PLANES[case], ["b"])
    posterior, rng = model.posterior(observation), np.random.default_rng(1)
    std = posterior.std()
    np.testing.assert_array_equal(std == 0, observation.known)
    draws = np.stack([posterior.sample(rng) for _ in range(2000)])
    np.testing.assert_allclose(draws.std(axis=0)[~observation.known], std[~observation.known], rtol=0.11)


# Cohorts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Five phantom patients on a grid of 24^3 at 8 mm, four contrasts: 3 train, 1 val, 1 test."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_brain(folder / "raw", 5, 3, 8.0, followups=0.0)
    split = SplitRule(n_val=1, n_test=1)
    cohort = Cohort("phantom-brain", ("t1n", "t1c", "t2w", "t2f"), labels=Labels("seg", {1: "N", 2: "E", 3: "T"}), split=split)
    return prepare(cohort, Grid((24, 24, 24), 8.0), ("phantom-brain", "24"), folder / "raw", folder / "data")


def of_test_subject(cohort: Prepared, names: list[str], planes: list[Plane]) -> tuple[LinearGaussian, Observation]:
    store, subject = cohort.store, cohort.split.side("test")[0]
    rows, _ = training_rows(store, cohort.split.side("train"))
    spacing = store.spacing_mm(subject)
    raw = store.volume(subject) * store.scale(subject)[:, None, None, None]
    return LinearGaussian(rows), observe(raw, planes, store.contrasts, spacing, store.frame, store.norm, names)


@pytest.mark.parametrize(
    ("cohort", "names"),
    [("heads", ["T1w"]), ("heads", ["T2w"]), ("phantoms", ["t1n"]), ("phantoms", ["t1n", "t2f"])],
    ids=["T1w", "T2w", "t1n", "t1n+t2f"],
)
def test_the_estimate_is_the_dense_formula_on_a_cohort(cohort: str, names: list[str], request: pytest.FixtureRequest) -> None:
    model, observation = of_test_subject(request.getfixturevalue(cohort), names, [Plane(2, 7), Plane(2, 12)])
    found = model.estimate(observation)
    np.testing.assert_allclose(found, dense_estimate(model, observation), atol=2e-3)
    for c, given in enumerate(observation.given):
        if not given:  # in units in which the volume's own 99.5th percentile is 1
            assert 0.6 < np.percentile(found[c][model.mean[c] > 0.05], 99.5) < 1.4


def test_a_method_without_a_network_never_pastes_what_is_not_given(phantoms: Prepared) -> None:
    model, observation = of_test_subject(phantoms, ["t2w"], [Plane(0, 8), Plane(0, 11)])
    tensors = {"mean": model.mean, "rows": model.rows[: model.n_rows // 2].astype(np.float16)}
    found = {
        kind: Trivial(kind, tensors).reconstruct(observation, 1, "mean", np.random.default_rng(0))[0]
        for kind in ("mean_template", "retrieval", "gaussian")
    }
    for volume in found.values():
        for plane, section in zip(observation.planes, observation.sections, strict=True):
            np.testing.assert_array_equal(plane.cut(volume)[2], section[2])
    others = [0, 1, 3]
    np.testing.assert_array_equal(found["mean_template"][others], model.mean[others])
    distances = [sum(((s[2] - p.cut(row)[2]) ** 2).sum() for s, p in seen(observation)) for row in model.rows]
    np.testing.assert_array_equal(found["retrieval"][others], model.rows[int(np.argmin(distances))][others])


def seen(observation: Observation) -> list[tuple[np.ndarray, Plane]]:
    return list(zip(observation.sections, observation.planes, strict=True))


@pytest.mark.parametrize("kind", interpolation.NEEDED)
def test_interpolation_refuses_a_contrast_that_is_not_given(kind: str) -> None:
    planes = [Plane(2, i) for i in (1, 3, 5, 7)]
    method, rng = interpolation.Interpolation(kind), np.random.default_rng(0)
    assert np.isfinite(method.reconstruct(given_by(planes, None), 1, "mean", rng)[0]).all()
    with pytest.raises(NotSupported, match=f"{kind} interpolation needs every contrast; not given: a, c"):
        method.reconstruct(given_by(planes, ["b"]), 1, "mean", rng)


def test_the_local_correction_is_everywhere_in_a_contrast_that_is_not_given(heads: Prepared) -> None:
    """At the given sections too, where that contrast is as unknown as elsewhere; it is told that nothing of it is given."""
    _, observation = of_test_subject(heads, ["T1w"], [Plane(2, 7), Plane(2, 12)])
    core = plain_core(heads.store, heads.split)
    with torch.no_grad():
        core.network.body[-1].bias.fill_(0.5)  # a correction everywhere, 0.05
    view, known = core.known(observation)
    head = known.gaussian[1].abs() > 1e-3
    moved = (known.corrected - known.gaussian).numpy()
    np.testing.assert_allclose(moved[1][head], 0.05, atol=1e-5)
    assert (head & view.mask).any() and not moved[0][observation.mask].any()
    np.testing.assert_allclose(moved[0][(head & ~view.mask).numpy()], 0.05, atol=1e-5)
    parts, prior = (known.gaussian, known.spread), core.prior(known.gaussian, None)
    told = [[float(f.max()) for f in features(view, *parts, prior, c) if f.numel() == 1] for c in (0, 1)]
    assert told[0][1] == 1 and told[1][1] == 0  # openness, then whether it is given
