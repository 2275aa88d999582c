"""The linear denoiser: the spectrum it is fitted to, and that it is the best there is for stationary fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xdiff.data.gaussian_field import GaussianField
from xdiff.model.spectrum import BINS, fit_spectra, fit_spectrum, wiener

SHAPES = [(16, 16, 16), (20, 15, 11)]


def fields(shape: tuple[int, int, int], count: int, seed: int = 0) -> np.ndarray:
    """Gaussian fields (count, 1, X, Y, Z) of zero mean and unit variance with correlations of some voxels."""
    model, rng = GaussianField(shape, length=2.0, mean=0.0, std=1.0), np.random.default_rng(seed)
    return np.stack([model.draw(rng)[None] for _ in range(count)]).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spectrum_of_white_noise_is_its_variance(shape: tuple[int, int, int]) -> None:
    noise = 3 * np.random.default_rng(0).standard_normal((30, 2, *shape))
    spectrum = fit_spectrum(noise)
    assert spectrum.shape == (2, BINS) and spectrum.dtype == np.float32
    np.testing.assert_allclose(spectrum[:, 4:], 9, rtol=0.35)  # few modes fall into the lowest bins
    assert spectrum.mean() == pytest.approx(9, rel=0.05)


def test_spectrum_is_positive_where_the_residual_has_nothing() -> None:
    x = np.cos(2 * np.pi * np.arange(16) / 8)[None, :, None, None] * np.ones((1, 16, 16, 16))
    spectrum = fit_spectrum([x])
    assert (spectrum > 0).all() and spectrum.argmax() == round(1 / 8 / (np.sqrt(3) / 2) * (BINS - 1))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.985])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wiener_error_is_what_it_says_and_below_that_of_any_scaling(shape: tuple[int, int, int], t: float) -> None:
    spectrum = torch.from_numpy(fit_spectrum(fields(shape, 60)))
    clean = torch.from_numpy(fields(shape, 24, seed=1))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    state = (1 - t) * clean + t * noise
    linear, error = wiener(state, torch.full((24,), t), spectrum)
    measured = (linear - clean).square().mean().sqrt().item()
    assert error.shape == (24, 1) and measured == pytest.approx(error[0].item(), rel=0.12)
    scaled = (1 - t) / ((1 - t) ** 2 + t**2) * state  # the best that does not know the spectrum
    gain = 0.95 if t < 0.95 else 0.998  # little is left of anything in strong noise
    assert measured < gain * (scaled - clean).square().mean().sqrt().item()


def test_wiener_is_the_exact_posterior_mean_of_a_field_with_a_known_spectrum() -> None:
    """Against dense linear algebra: (1 - t) C ((1 - t)^2 C + t^2 I)^-1 with C the covariance that the bins describe."""
    shape, t = (6, 5, 4), 0.4
    spectrum = torch.from_numpy(fit_spectrum(fields(shape, 40)))
    voxels = np.eye(np.prod(shape), dtype=np.float32).reshape(-1, 1, *shape)
    # far along, the filter of a unit impulse is the covariance's column: h -> (1 - t) S / t^2
    nearly = 0.999
    columns, _ = wiener(torch.from_numpy(voxels).double(), torch.full((len(voxels),), nearly).double(), spectrum.double())
    size = len(voxels)
    filtered = columns.reshape(size, size).numpy()  # (1 - s) C ((1 - s)^2 C + s^2 I)^-1
    s = nearly
    covariance = np.linalg.solve((1 - s) * np.eye(size) - (1 - s) ** 2 * filtered, s**2 * filtered)
    state = np.random.default_rng(2).standard_normal((1, 1, *shape))
    expected = (1 - t) * covariance @ np.linalg.solve((1 - t) ** 2 * covariance + t**2 * np.eye(size), state.ravel())
    found, error = wiener(torch.from_numpy(state), torch.tensor([t]).double(), spectrum.double())
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-5)
    left = covariance - (1 - t) ** 2 * covariance @ np.linalg.solve((1 - t) ** 2 * covariance + t**2 * np.eye(size), covariance)
    assert error.item() == pytest.approx(np.sqrt(np.trace(left) / size), rel=1e-4)


def test_pure_noise_says_nothing() -> None:
    spectrum = torch.from_numpy(fit_spectrum(fields((16, 16, 16), 20)))
    linear, error = wiener(torch.randn(1, 1, 16, 16, 16), torch.ones(1), spectrum)
    assert not linear.any() and error.item() == pytest.approx(1, abs=0.25)


def test_spectrum_follows_how_much_is_left_open() -> None:
    """Rough residuals where little is open, smooth ones where much is; in between the geometric mean; beyond, the ends."""
    rng = np.random.default_rng(0)
    rough = [(1.0 + 0.01 * i, rng.standard_normal((1, 12, 12, 12))) for i in range(10)]
    smooth = [(3.0 + 0.01 * i, 2 * field) for i, field in enumerate(fields((12, 12, 12), 10))]
    mixed = [case for pair in zip(smooth, rough, strict=True) for case in pair]
    spectra = fit_spectra(mixed, knots=2)
    np.testing.assert_allclose(spectra.log_distance, [1.045, 3.045], rtol=1e-5)
    near, far = spectra.at(0.0), spectra.at(9.0)
    np.testing.assert_allclose(near, fit_spectrum(x for _, x in rough), rtol=1e-5)
    np.testing.assert_allclose(far, fit_spectrum(x for _, x in smooth), rtol=1e-5)
    np.testing.assert_allclose(spectra.at(2.045), np.sqrt(near * far), rtol=1e-4)


def test_every_volume_is_filtered_with_its_own_spectrum() -> None:
    clean = torch.from_numpy(fields((12, 12, 12), 2))
    state, t = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 0.5])
    spectra = torch.stack([torch.from_numpy(fit_spectrum(fields((12, 12, 12), 20))), torch.ones(1, BINS)])
    together, error = wiener(state, t, spectra)
    for i in range(2):
        alone, own = wiener(state[i : i + 1], t[:1], spectra[i])
        torch.testing.assert_close(together[i : i + 1], alone)
        torch.testing.assert_close(error[i : i + 1], own)
