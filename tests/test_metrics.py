"""Scores: golden values of scikit-image, brute force and numerical integration, and tiny examples worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, ndimage
from scipy.stats import norm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xdiff.metrics import core, samples, spectrum

RNG = np.random.default_rng(0)
SHAPE = (14, 15, 16)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.random(SHAPE), 1.5).astype(np.float32)
    truth = (truth - truth.min()) / np.ptp(truth)
    return truth, (truth + 0.1 * rng.standard_normal(SHAPE)).astype(np.float32)


def whole(shape: tuple[int, ...] = SHAPE) -> dict:
    return core.regions(np.ones(shape, bool), np.zeros(shape, bool), None)


def values(rows: list[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    found = {(region, metric): value for region, metric, value in rows}
    assert len(found) == len(rows)
    return found


# PSNR and SSIM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_psnr_and_mae_of_the_grid_are_the_textbooks(seed: int) -> None:
    truth, prediction = pair(seed)
    found = values(core.by_region(truth, prediction, whole()))
    expected = peak_signal_noise_ratio(truth.astype(np.float64), prediction.astype(np.float64), data_range=1.0)
    assert found["grid", "psnr"] == pytest.approx(expected, abs=1e-9)
    assert found["grid", "mae"] == pytest.approx(np.abs(truth.astype(np.float64) - prediction).mean(), rel=1e-12)
    norms = np.linalg.norm(truth.astype(np.float64) - prediction) / np.linalg.norm(truth.astype(np.float64))
    assert found["grid", "nmse"] == pytest.approx(norms**2, rel=1e-9)


def ssim_map(x: np.ndarray, y: np.ndarray, window: int = 7) -> np.ndarray:
    """Wang et al. 2004 with a uniform cube and sample covariances, written out."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def mean(a: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(a, window)

    n = window**3 / (window**3 - 1)
    vx, vy, vxy = n * (mean(x * x) - mean(x) ** 2), n * (mean(y * y) - mean(y) ** 2), n * (mean(x * y) - mean(x) * mean(y))
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean(x) * mean(y) + c1) * (2 * vxy + c2) / ((mean(x) ** 2 + mean(y) ** 2 + c1) * (vx + vy + c2))


@pytest.mark.parametrize("seed", range(4))
def test_ssim_equals_scikit_images_and_the_formula(seed: int) -> None:
    truth, prediction = pair(seed)
    where = core.regions(truth > 0.4, np.zeros(SHAPE, bool), None)
    found = values(core.ssim_by_region(truth, prediction, where))
    assert found["grid", "ssim"] == pytest.approx(structural_similarity(truth, prediction, data_range=1.0), abs=1e-6)
    by_hand = ssim_map(truth, prediction)
    assert found["grid", "ssim"] == pytest.approx(by_hand[3:-3, 3:-3, 3:-3].mean(), abs=1e-4)
    assert found["brain", "ssim"] == pytest.approx(by_hand[truth > 0.4].mean(), abs=1e-4)


def test_a_perfect_match() -> None:
    truth, _ = pair(0)
    found = {**values(core.by_region(truth, truth, whole())), **values(core.ssim_by_region(truth, truth, whole()))}
    assert found["grid", "psnr"] == math.inf
    assert found["grid", "mae"] == found["grid", "nmse"] == 0
    assert found["grid", "ssim"] == pytest.approx(1)


def test_psnr_takes_a_mean_squared_error_not_its_root() -> None:
    """The official code forgot the square root of a formula with 20 log10: -10 log10(0.01) is 20 dB, not 40."""
    assert core.psnr(0.01) == pytest.approx(20)


# Regions ------------------------------------------------------------------------------------------------------------


def test_painting_outside_the_head_is_charged_in_unseen_only() -> None:
    """4 voxels in a row along z: head head air air, the first given. Errors: 0.3 hidden head, 0.4 and 0 in the air."""
    foreground = np.array([True, True, False, False]).reshape(1, 1, 4)
    given_voxels = np.array([True, False, False, False]).reshape(1, 1, 4)
    truth = np.array([1.0, 0.5, 0.0, 0.0]).reshape(1, 1, 4)
    prediction = np.array([1.0, 0.8, 0.4, 0.0]).reshape(1, 1, 4)
    found = values(core.by_region(truth, prediction, core.regions(foreground, given_voxels, None)))
    mse = {region: 10 ** (-value / 10) for (region, metric), value in found.items() if metric == "psnr"}
    assert mse == pytest.approx(
        {"grid": 0.25 / 4, "brain": 0.09 / 2, "unseen": 0.25 / 1, "unseen_masked": 0.09 / 1, "outside": 0.16 / 2}
    )
    assert found["unseen", "mae"] == pytest.approx(0.7)
    assert found["unseen_masked", "mae"] == pytest.approx(0.3)
    assert found["unseen_masked", "nmse"] == pytest.approx(0.09 / 0.25)
    clean = np.where(foreground, prediction, 0)
    again = values(core.by_region(truth, clean, core.regions(foreground, given_voxels, None)))
    assert again["unseen", "psnr"] == pytest.approx(again["unseen_masked", "psnr"])


def test_given_voxels_never_count_as_unseen() -> None:
    foreground, given_voxels = RNG.random(SHAPE) < 0.6, RNG.random(SHAPE) < 0.3
    truth, prediction = pair(1)
    where = core.regions(foreground, given_voxels, None)
    changed = np.where(given_voxels, prediction + 5, prediction)
    a, b = (values(core.by_region(truth, p, where)) for p in (prediction, changed))
    for region in ("unseen", "unseen_masked"):
        assert a[region, "psnr"] == b[region, "psnr"]
    assert a["grid", "psnr"] > b["grid", "psnr"]


def test_the_tumour_region_is_there_when_there_is_one() -> None:
    foreground, given_voxels = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    labels = np.zeros(SHAPE, np.uint8)
    assert "tumour" not in core.regions(foreground, given_voxels, labels)
    labels[3:5, 3:5, 3:5] = 2
    mask, size = core.regions(foreground, given_voxels, labels)["tumour"]
    assert (mask.sum(), size) == (8, 8.0)


def test_a_region_without_voxels_is_left_out() -> None:
    found = core.regions(np.ones(SHAPE, bool), np.ones(SHAPE, bool), None)
    assert set(found) == {"grid", "brain"}


def test_error_against_distance_by_hand() -> None:
    distance = np.broadcast_to(np.arange(16) * 1.0, SHAPE).astype(np.float32)
    truth = np.zeros(SHAPE)
    prediction = np.broadcast_to(np.where(np.arange(16) < 4, 0.1, 0.01 * np.arange(16)), SHAPE)
    mask = distance > 0
    rows = core.by_distance(truth, prediction, mask, distance)
    assert [x for x, _ in rows] == [2.0, 6.0, 10.0, 14.0]
    assert rows[0][1] == pytest.approx(20)
    assert rows[1][1] == pytest.approx(-10 * np.log10(np.mean((0.01 * np.arange(4, 8)) ** 2)))
    few = np.zeros(SHAPE, bool)
    few[0, 0, :10] = few[:5, :12, 12] = True
    assert [x for x, _ in core.by_distance(truth, prediction, few, distance)] == [14.0]


# Distributions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std", "truth"), [(0, 1, 0), (0, 1, 2.5), (0.3, 0.05, 0.1), (-1, 3, 4), (0.5, 0.2, 0.5)])
def test_crps_of_a_gaussian_is_the_integral(mean: float, std: float, truth: float) -> None:
    """CRPS = integral of (F(x) - [x >= truth])^2."""
    left = integrate.quad(lambda x: norm.cdf(x, mean, std) ** 2, mean - 12 * std - abs(truth), truth, epsabs=1e-12, limit=300)[0]
    right = integrate.quad(lambda x: norm.sf(x, mean, std) ** 2, truth, mean + 12 * std + abs(truth), epsabs=1e-12, limit=300)[0]
    found = samples.crps_gaussian(*(np.array([float(v)]) for v in (truth, mean, std)))
    assert found[0] == pytest.approx(left + right, abs=1e-7)


def test_crps_without_spread_is_the_absolute_error() -> None:
    found = samples.crps_gaussian(np.array([1.0, 1.0]), np.array([0.4, 0.4]), np.array([0.0, 1e-9]))
    np.testing.assert_allclose(found, 0.6, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 1000))
def test_crps_of_an_ensemble_is_brute_force(m: int, seed: int) -> None:
    """E|x - y| - E|x - x'| / 2 over all ordered pairs of different draws."""
    rng = np.random.default_rng(seed)
    truth, draws = rng.random((2, 3)), list(rng.random((m, 2, 3)))
    near = np.mean([np.abs(d - truth) for d in draws], axis=0)
    apart = sum(np.abs(a - b) for i, a in enumerate(draws) for j, b in enumerate(draws) if i != j) / (m * (m - 1))
    np.testing.assert_allclose(samples.crps_ensemble(truth, draws), near - apart / 2, atol=1e-12)


def test_crps_of_two_draws_is_fair() -> None:
    """Averaged over many pairs of draws it is the CRPS of the distribution itself, without the bias of m = 2."""
    rng = np.random.default_rng(1)
    truth = np.full(200_000, 0.7)
    found = samples.crps_ensemble(truth, list(rng.standard_normal((2, truth.size)))).mean()
    expected = samples.crps_gaussian(truth[:1], np.zeros(1), np.ones(1))[0]
    assert found == pytest.approx(expected, abs=0.01)


def test_one_draw_has_no_crps() -> None:
    with pytest.raises(ValueError, match=r"CRPS of 1 draw\(s\), expected at least 2"):
        samples.crps_ensemble(np.zeros(3), [np.zeros(3)])


def test_coverage_counts_what_lies_within() -> None:
    truth = np.array([0.0, 1.0, 2.0, 3.0])
    assert samples.coverage(truth, np.zeros(4), np.ones(4)) == 0.5
    assert samples.coverage(truth, np.zeros(4), np.ones(4), z=2.5) == 0.75
    assert samples.coverage(truth, truth, np.zeros(4)) == 1.0
    assert norm.cdf(samples.Z_90) - norm.cdf(-samples.Z_90) == pytest.approx(0.9, abs=1e-12)


# Spectrum -----------------------------------------------------------------------------------------------------------


def textured(seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """A field with detail up to about half the Nyquist frequency, and white noise on top."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.standard_normal((36, 36, 36)), 1.2)
    return (image / image.std() + noise * rng.standard_normal(image.shape)).astype(np.float32)


def compared(truth: np.ndarray, prediction: np.ndarray) -> dict:
    where = np.zeros(truth.shape, bool)
    where[4:-4, 4:-4, 4:-4] = True
    return spectrum.compare(spectrum.bands(truth), spectrum.bands(prediction), where)


def test_a_volume_is_as_sharp_as_itself() -> None:
    found = compared(textured(), textured())
    assert found["sharpness"] == pytest.approx(1, abs=0.03)
    assert found["spectral_correlation"] == pytest.approx(1)
    np.testing.assert_allclose(found["band_variance"], 1)


def test_a_blurred_copy_is_less_sharp_yet_correlated() -> None:
    found = compared(textured(), ndimage.gaussian_filter(textured(), 1.2))
    assert found["sharpness"] < 0.7
    assert found["spectral_correlation"] > 0.8
    assert found["band_variance"][2] < found["band_variance"][1] < found["band_variance"][0]


def test_another_volume_is_sharp_but_not_correlated() -> None:
    found = compared(textured(0), textured(1))
    assert found["sharpness"] == pytest.approx(1, abs=0.15)
    assert abs(found["spectral_correlation"]) < 0.15


def test_the_noise_of_the_truth_is_not_asked_of_a_prediction() -> None:
    """Against a noisy truth the clean volume is as sharp as against the clean one; without a floor it would not be."""
    clean, noisy = textured(), textured(noise=2.0)
    assert compared(noisy, clean)["sharpness"] == pytest.approx(compared(clean, clean)["sharpness"], abs=0.08)
    bands = spectrum.bands(noisy)[2].std(), spectrum.bands(clean)[2].std()
    assert bands[1] / bands[0] < 0.87


def test_bands_split_a_cosine_by_its_frequency() -> None:
    x = np.arange(48)
    for band, cycles in enumerate((1, 4, 9)):  # 24 cycles are Nyquist
        wave = np.broadcast_to(np.cos(2 * np.pi * cycles * x / 48)[:, None, None], (48, 48, 48))
        found = spectrum.bands(wave)
        for b in range(4):
            np.testing.assert_allclose(found[b], wave if b == band else 0, atol=1e-5)


def test_a_flat_prediction_has_no_sharpness_and_no_correlation() -> None:
    found = compared(textured(), np.ones((36, 36, 36), np.float32))
    assert found["sharpness"] == pytest.approx(0, abs=1e-5)
    assert found["spectral_correlation"] == 0


def test_too_small_a_region_gives_nothing() -> None:
    where = np.zeros((36, 36, 36), bool)
    where[:5, :5, :7] = True
    assert spectrum.compare(spectrum.bands(textured()), spectrum.bands(textured()), where) == {}


def test_far_region_is_eroded_and_two_sections_from_a_given_one() -> None:
    foreground = np.zeros((12, 12, 12), bool)
    foreground[1:11, 1:11, 1:11] = True
    distance = np.broadcast_to(np.abs(np.arange(12) - 4) * 3.0, (12, 12, 12))
    found = spectrum.far_region(foreground, distance, 3.0)
    assert np.flatnonzero(found.any(axis=(0, 1))).tolist() == [6, 7, 8]
    assert np.flatnonzero(found.any(axis=(1, 2)))[0] == 3


# Calibration and depth --------------------------------------------------------------------------------------------------


def test_ranks_of_a_truth_from_the_same_distribution_are_flat() -> None:
    truth, *draws = np.random.default_rng(1).standard_normal((5, 100_000))
    found = samples.rank_density_ensemble(truth, draws)
    assert [x for x, _ in found] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert [density for _, density in found] == pytest.approx([1] * 5, abs=0.02)


def test_too_narrow_draws_have_high_ends_and_too_wide_ones_a_high_middle() -> None:
    truth, *draws = np.random.default_rng(2).standard_normal((4, 50_000))
    narrow, wide = ([d for _, d in samples.rank_density_ensemble(truth, [s * draw for draw in draws])] for s in (0.5, 2.0))
    assert narrow[0] > 1.2 > 0.8 > narrow[1] and wide[0] < 0.9 < 1.1 < wide[1]


def test_a_truth_equal_to_draws_counts_at_all_ranks_it_could_have() -> None:
    found = samples.rank_density_ensemble(np.array([0.0, 1.0]), [np.array([0.0, 0.0]), np.array([0.0, 2.0])])
    assert [density for _, density in found] == pytest.approx([0.5, 2.0, 0.5])  # 1/3, 1/3 + 1, 1/3 of two voxels


@pytest.mark.parametrize(("scale", "shape"), [(1.0, "flat"), (0.5, "high ends"), (2.0, "high middle")])
def test_the_transform_of_a_gaussian_is_flat_only_for_the_right_width(scale: float, shape: str) -> None:
    truth = np.random.default_rng(3).standard_normal(100_000)
    density = [d for _, d in samples.rank_density_gaussian(truth, np.zeros_like(truth), np.full_like(truth, scale))]
    assert len(density) == samples.PIT_BINS and np.mean(density) == pytest.approx(1)
    told = "flat" if max(np.abs(np.subtract(density, 1))) < 0.05 else "high ends" if density[0] > density[5] else "high middle"
    assert told == shape


def test_voxels_without_a_spread_miss_at_the_ends() -> None:
    density = [d for _, d in samples.rank_density_gaussian(np.array([1.0, -1.0]), np.zeros(2), np.zeros(2))]
    assert density[0] == density[-1] == 5 and sum(density) == 10


@pytest.mark.parametrize("percent", samples.Z_OF)
def test_nominal_intervals_cover_what_they_say(percent: int) -> None:
    assert norm.cdf(samples.Z_OF[percent]) - norm.cdf(-samples.Z_OF[percent]) == pytest.approx(percent / 100)


def test_error_by_depth_is_that_of_the_sections_it_names() -> None:
    truth, mask = np.zeros((8, 8, 12), np.float32), np.ones((8, 8, 12), bool)
    mask[..., 6] = False  # given
    prediction = np.broadcast_to(np.where(np.arange(12) > 6, 0.1, 0.01), truth.shape).astype(np.float32)
    depth_mm = (np.arange(12) - 6.0)[None, None] * 4
    found = dict(core.by_depth(truth, prediction, mask, depth_mm))
    assert list(found) == [4.0 * i for i in range(-6, 6) if i != 0]
    assert found[-4.0] == pytest.approx(40, abs=1e-3) and found[4.0] == pytest.approx(20, abs=1e-3)
    assert core.by_depth(truth, prediction, np.zeros_like(mask), depth_mm) == []
