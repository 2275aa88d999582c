"""The linear denoiser that the network starts from: a Wiener filter with the residual's own power spectrum.

Were the residual a stationary Gaussian field, r_t = (1 - t) r_0 + t noise would have the posterior mean F^-1 h F r_t with
h = (1 - t) S / ((1 - t)^2 S + t^2) and S the spectrum of r_0, and the sampler would draw exact fields without any training.
EDM's preconditioning (2206.00364) is the same for white S. The network learns what is left: everything that depends on place,
on the given sections and on the image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

KNOTS = 3
BINS = 48  # of spatial frequency, 0 to sqrt(3) / 2 cycles per voxel
FLOOR = 1e-4  # of the mean power: a denoiser must never be certain


class Spectra(NamedTuple):
    """Power spectra (n, C, BINS) float32 of the residual at n rising values of log_distance (local.py), (n,) float32: the more
    is left open, the more of it is in the large modes."""

    log_distance: np.ndarray
    power: np.ndarray

    def at(self, log_distance: float) -> np.ndarray:
        """(C, BINS) float32, its logarithm interpolated; beyond the ends, the ends'."""
        weights = [np.interp(log_distance, self.log_distance, one) for one in np.eye(len(self.power))]
        return np.exp(np.tensordot(weights, np.log(self.power), axes=1)).astype(np.float32)


def fit_spectra(cases: Iterable[tuple[float, np.ndarray]], knots: int = KNOTS) -> Spectra:
    """From cases (log_distance, residual (C, X, Y, Z)): one spectrum for each of `knots` groups of equal size."""
    ordered = sorted(cases, key=lambda case: case[0])
    groups = [ordered[len(ordered) * i // knots : len(ordered) * (i + 1) // knots] for i in range(knots)]
    centres = np.array([np.mean([x for x, _ in group]) for group in groups], dtype=np.float32)
    return Spectra(centres, np.stack([fit_spectrum(residual for _, residual in group) for group in groups]))


def fit_spectrum(residuals: Iterable[np.ndarray]) -> np.ndarray:
    """Power spectrum (C, BINS) float32 over the length of the spatial frequency, of residuals (C, X, Y, Z), scaled such that
    white noise of unit variance has power 1; linear interpolation over bins that no frequency falls into."""
    total, count = 0.0, 0.0
    for residual in residuals:
        power = np.abs(np.fft.fftn(residual, axes=(1, 2, 3))) ** 2 / residual[0].size
        index = np.rint(_bin(residual.shape[1:], full=True)).astype(int).ravel()
        total = total + np.stack([np.bincount(index, p.ravel(), BINS) for p in power])
        count = count + np.bincount(index, minlength=BINS)
    filled = np.flatnonzero(count)
    spectrum = np.stack([np.exp(np.interp(np.arange(BINS), filled, np.log(p[filled] / count[filled] + 1e-30))) for p in total])
    return np.maximum(spectrum, FLOOR * spectrum.mean()).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _bin(shape: tuple[int, int, int], full: bool = False) -> np.ndarray:
    """Place (X, Y, Z // 2 + 1), or (X, Y, Z) if full, of every frequency among the bins."""
    last = np.fft.fftfreq(shape[2]) if full else np.fft.rfftfreq(shape[2])
    f = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), last, indexing="ij")
    return np.sqrt(sum(x * x for x in f)) / (np.sqrt(3) / 2) * (BINS - 1)


@functools.lru_cache(maxsize=8)
def _place(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower bin, share of the upper one, and how many of all modes each of the half spectrum stands for."""
    where = _bin(shape)
    low = np.minimum(where.astype(int), BINS - 2)
    twice = np.full(where.shape, 2.0)
    twice[..., 0] = 1
    if shape[2] % 2 == 0:
        twice[..., -1] = 1
    arrays = (low, (where - low).astype(np.float32), (twice / np.prod(shape)).astype(np.float32))
    return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)


def wiener(state: Tensor, t: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """The best linear estimate of r_0 and its error's standard deviation (B, C), from states (B, C, X, Y, Z) at times t (B,)
    and the spectrum (C, BINS) or spectra (B, C, BINS). At t = 1: zero, and the standard deviation of r_0."""
    shape = tuple(state.shape[2:])
    low, share, modes = _place(shape, state.device)
    spectra = spectrum if spectrum.ndim == 3 else spectrum[None]
    power = spectra[..., low] * (1 - share) + spectra[..., low + 1] * share  # (B or 1, C, X, Y, Z // 2 + 1)
    wide = t[:, None, None, None, None]
    variance = (1 - wide) ** 2 * power + wide**2
    error = ((power * wide**2 / variance) * modes).sum(dim=(2, 3, 4))
    gain = (1 - wide) * power / variance
    filtered = torch.fft.irfftn(torch.fft.rfftn(state, dim=(2, 3, 4)) * gain, s=shape, dim=(2, 3, 4))
    return filtered, torch.sqrt(error)
