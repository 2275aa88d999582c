"""The Gaussian field's posterior is exact: against brute-force conditioning, and by every check that a sampler must pass."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from xdiff.data.gaussian_field import GaussianField, write_gaussian_field
from xdiff.metrics import samples, spectrum
from xdiff.planes import Plane, adjoint, cut
from xdiff.volumes import read_volume

SMALL = (6, 6, 6)
SMALL_GIVEN = [Plane(2, 1), Plane(2, 4), Plane(0, 3)]
GIVEN = [Plane(2, 4), Plane(2, 12), Plane(2, 20)]
N_FIELDS = 500


def brute_force_covariance(field: GaussianField) -> np.ndarray:
    """Covariance of all voxels (n, n) as an explicit sum of cosines, without an FFT."""
    voxels = np.argwhere(np.ones(field.shape, dtype=bool)).astype(float)
    waves = 2 * np.pi * np.argwhere(np.ones(field.shape, dtype=bool)) / np.array(field.shape)
    phase = voxels @ waves.T
    power = field.spectrum.ravel() / field.spectrum.size
    return (np.cos(phase) * power) @ np.cos(phase).T + (np.sin(phase) * power) @ np.sin(phase).T


@dataclass
class Conditioned:
    """A small field, its brute-force covariance, and the flat indices of given and hidden voxels."""

    field: GaussianField
    full: np.ndarray
    given: np.ndarray
    hidden: np.ndarray

    def gain(self) -> np.ndarray:
        """C_us C_ss^-1 by plain inversion."""
        within = self.full[np.ix_(self.given, self.given)]
        return self.full[np.ix_(self.hidden, self.given)] @ np.linalg.inv(within)


@pytest.fixture(scope="module")
def small() -> Conditioned:
    field = GaussianField(SMALL, length=2.0)
    ones = [np.ones((1, 6, 6))] * len(SMALL_GIVEN)
    seen = adjoint(ones, SMALL_GIVEN, np.zeros((1, *SMALL)))[0].ravel() > 0
    return Conditioned(field, brute_force_covariance(field), np.flatnonzero(seen), np.flatnonzero(~seen))


def test_covariance_is_the_explicit_sum_over_modes(small: Conditioned) -> None:
    voxels = np.argwhere(np.ones(SMALL, dtype=bool))
    np.testing.assert_allclose(small.field.covariance(voxels, voxels), small.full, atol=1e-12)
    np.testing.assert_allclose(np.diag(small.full), small.field.std**2, rtol=1e-9)


def test_draws_have_the_stated_mean_and_covariance(small: Conditioned) -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([small.field.draw(rng).ravel() for _ in range(6000)])
    np.testing.assert_allclose(draws.mean(axis=0), small.field.mean, atol=6 * small.field.std / np.sqrt(6000))
    # standard error of a covariance entry is at most sqrt(2) std^2 / sqrt(n); 5.5 of them over 216^2 entries
    np.testing.assert_allclose(np.cov(draws.T), small.full, atol=5.5 * np.sqrt(2 / 6000) * small.field.std**2)


def test_posterior_mean_equals_brute_force_conditioning(small: Conditioned) -> None:
    truth = small.field.draw(np.random.default_rng(1))
    expected = truth.ravel().copy()
    residual = truth.ravel()[small.given] - small.field.mean
    expected[small.hidden] = small.field.mean + small.gain() @ residual
    found = small.field.posterior(SMALL_GIVEN).mean(truth)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)


def test_posterior_covariance_equals_brute_force_conditioning(small: Conditioned) -> None:
    cross = small.full[np.ix_(small.given, small.hidden)]
    expected = small.full[np.ix_(small.hidden, small.hidden)] - small.gain() @ cross
    posterior = small.field.posterior(SMALL_GIVEN)
    voxels = np.argwhere(np.ones(SMALL, dtype=bool))
    np.testing.assert_allclose(posterior.covariance(voxels[small.hidden]), expected, atol=1e-8)
    np.testing.assert_allclose(posterior.std().ravel()[small.hidden], np.sqrt(np.diag(expected)), atol=1e-6)
    np.testing.assert_allclose(posterior.std().ravel()[small.given], 0, atol=2e-5)
    np.testing.assert_allclose(posterior.covariance(voxels[small.given]), 0, atol=1e-9)


def test_posterior_draws_have_that_mean_and_covariance(small: Conditioned) -> None:
    rng = np.random.default_rng(2)
    truth = small.field.draw(rng)
    posterior = small.field.posterior(SMALL_GIVEN)
    draws = np.stack([posterior.sample(truth, rng).ravel() for _ in range(6000)])[:, small.hidden]
    variance = small.field.std**2
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean(truth).ravel()[small.hidden], atol=6 * np.sqrt(variance / 6000))
    voxels = np.argwhere(np.ones(SMALL, dtype=bool))[small.hidden]
    np.testing.assert_allclose(np.cov(draws.T), posterior.covariance(voxels), atol=5.5 * np.sqrt(2 / 6000) * variance)


@pytest.mark.parametrize(
    "planes", [[Plane(2, 3)], [Plane(0, 2), Plane(1, 7)], [Plane(a, i) for a, i in itertools.product(range(3), (1, 6))]]
)
def test_mean_and_draws_satisfy_the_given_sections(planes: list[Plane]) -> None:
    field = GaussianField((8, 9, 10), length=2.5)
    rng = np.random.default_rng(3)
    truth = field.draw(rng)
    posterior = field.posterior(planes)
    for volume in (posterior.mean(truth), posterior.sample(truth, rng)):
        for found, given in zip(cut(volume[None], planes), cut(truth[None], planes), strict=True):
            np.testing.assert_allclose(found, given, atol=1e-5 * field.std)


def test_planes_without_a_closed_form_are_refused() -> None:
    with pytest.raises(ValueError, match="thin axis-aligned"):
        GaussianField(SMALL).posterior([Plane(2, 2, 2.0)])


# The necessary checks of any posterior sampler, on many fields ------------------------------------------------------


@dataclass
class Scores:
    """Sums over many (truth, draw) pairs of one field, three of its 24 axial sections given."""

    mean_mse: float
    sample_mse: float
    mean_of_4_mse: float
    coverage: float
    band_variance: np.ndarray
    crps_gaussian: float
    crps_ensemble: float


def score_many(seed: int, n_fields: int) -> Scores:
    field = GaussianField((24, 24, 24))
    posterior = field.posterior(GIVEN)
    std, hidden = posterior.std(), ~posterior.mask
    rng = np.random.default_rng(seed)
    rows, bands = [], np.zeros((2, 3))
    for i in range(n_fields):
        truth = field.draw(rng)
        mean = posterior.mean(truth)
        draws = [posterior.sample(truth, rng) for _ in range(4 if i % 10 == 0 else 1)]
        errors = [((v - truth)[hidden] ** 2).mean() for v in (mean, draws[0])]
        several = [np.nan] * 3
        if len(draws) == 4:
            t, m, s = truth[hidden], mean[hidden], std[hidden]
            crps = samples.crps_gaussian(t, m, s).mean(), samples.crps_ensemble(t, [d[hidden] for d in draws]).mean()
            several = [((np.mean(draws, axis=0) - truth)[hidden] ** 2).mean() / errors[0], *crps]
        rows.append([*errors, samples.coverage(truth[hidden], mean[hidden], std[hidden]), *several])
        bands += [[spectrum.bands(v)[b].var() for b in range(3)] for v in (truth, draws[0])]
    mean_mse, sample_mse, covered, ratio_of_4, by_std, by_draws = np.nanmean(rows, axis=0)
    return Scores(mean_mse, sample_mse, ratio_of_4, covered, bands[1] / bands[0], by_std, by_draws)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score_many(seed=7, n_fields=N_FIELDS)


def test_a_draw_has_twice_the_squared_error_of_the_mean(scores: Scores) -> None:
    assert scores.sample_mse / scores.mean_mse == pytest.approx(2.0, abs=0.05)


def test_the_mean_of_four_draws_has_one_and_a_quarter_times_the_squared_error(scores: Scores) -> None:
    assert scores.mean_of_4_mse == pytest.approx(1.25, abs=0.05)


def test_draws_have_the_variance_of_the_truth_in_three_bands(scores: Scores) -> None:
    np.testing.assert_allclose(scores.band_variance, 1.0, atol=0.05)


def test_the_nominal_90_percent_interval_covers_90_percent(scores: Scores) -> None:
    assert scores.coverage == pytest.approx(0.90, abs=0.01)


def test_crps_of_draws_agrees_with_crps_of_the_exact_gaussian(scores: Scores) -> None:
    assert scores.crps_ensemble == pytest.approx(scores.crps_gaussian, rel=0.03)


def test_the_stated_variance_is_the_squared_error(scores: Scores) -> None:
    posterior = GaussianField((24, 24, 24)).posterior(GIVEN)
    assert scores.mean_mse == pytest.approx((posterior.std()[~posterior.mask] ** 2).mean(), rel=0.03)


# The cohort on disk -------------------------------------------------------------------------------------------------


def test_the_cohort_is_reproducible_and_a_subject_does_not_depend_on_the_others(tmp_path: Path) -> None:
    settings = {"seed": 3, "shape": (6, 7, 8), "spacing_mm": 2.5, "length": 3.0}
    assert write_gaussian_field(tmp_path / "three", 3, **settings) == ["sub-0000", "sub-0001", "sub-0002"]
    write_gaussian_field(tmp_path / "two", 2, **settings)
    for subject in ("sub-0000", "sub-0001"):
        files = [tmp_path / n / subject / "anat" / f"{subject}_field.nii.gz" for n in ("two", "three")]
        assert files[0].read_bytes() == files[1].read_bytes()
    volume = read_volume(tmp_path / "three/sub-0002/anat/sub-0002_field.nii.gz")
    expected = GaussianField((6, 7, 8), length=3.0).draw(np.random.default_rng([3, 2]))
    np.testing.assert_array_equal(volume.array, expected.astype(np.float32))
    np.testing.assert_allclose(volume.spacing_mm, 2.5)
    parameters = json.loads((tmp_path / "three/gaussian_field.json").read_text())
    assert parameters == {"shape": [6, 7, 8], "length": 3.0, "slope": 2.5, "mean": 0.5, "std": 0.12}


@pytest.mark.parametrize("axis, rows", [(0, [2, 7]), (1, [3]), (2, [0, 4, 5])])
def test_parallel_sections_by_frequency_equal_dense_algebra(axis: int, rows: list[int]) -> None:
    field = GaussianField((12, 10, 8))
    volume = field.draw(np.random.default_rng(0))
    quick, dense = (field.posterior([Plane(axis, r) for r in rows]) for _ in range(2))
    assert quick.axis == axis
    dense.axis = None  # takes the path of sections of several axes
    np.testing.assert_allclose(quick.mean(volume), dense.mean(volume), atol=1e-10)
    np.testing.assert_allclose(quick.std(), dense.std(), atol=1e-9)
