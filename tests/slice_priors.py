"""What tests of priors of sections share: the exact denoiser of a Gaussian field's sections, and observations of the field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from baselines.slice_sampling import Given, Scheme, draw
from xdiff.data.gaussian_field import GaussianField
from xdiff.observation import Observation, observe
from xdiff.planes import AnyPlane, Plane
from xdiff.view import View

SHAPE = (16, 20, 18)
FIELD = GaussianField(SHAPE, length=2.0)
THREE = [Plane(2, 3), Plane(2, 9), Plane(2, 14)]


class FieldPrior:
    """E[section | noisy section]: a section of a stationary field is one in two dimensions, whose covariance is the field's
    between voxels of one section."""

    mean, unit = torch.tensor([FIELD.mean]), torch.tensor([FIELD.std])

    def __init__(self) -> None:
        own = [np.fft.fft2(FIELD.kernel.take(0, axis)).real.clip(1e-12) for axis in range(3)]
        self.spectra = [torch.from_numpy(spectrum).float() for spectrum in own]
        self.asked: list[tuple[int, int]] = []  # axis and number of sections of every call

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, axis: int, place: torch.Tensor) -> torch.Tensor:
        self.asked.append((axis, len(noisy)))
        gain = self.spectra[axis] / (self.spectra[axis] + sigma[:, None, None, None] ** 2)
        return FIELD.mean + torch.fft.ifft2(torch.fft.fft2(noisy - FIELD.mean) * gain).real


def field_volume(seed: int = 0) -> np.ndarray:
    return FIELD.draw(np.random.default_rng(seed))[None].astype(np.float32)


def observed(planes: Sequence[AnyPlane], volume: np.ndarray | None = None) -> Observation:
    return observe(field_volume() if volume is None else volume, planes, ("field",), (4.0,) * 3, "centred", "none")


def draws_of(scheme: Scheme, planes: Sequence[AnyPlane] = THREE, steps: int = 60, count: int = 4) -> np.ndarray:
    """Draws (count, X, Y, Z) with the exact prior."""
    observation = observed(planes)
    given = Given(View.of(observation), observation)
    generators = (torch.Generator().manual_seed(seed) for seed in range(count))
    return np.stack([draw(FieldPrior(), given, scheme, steps, generator)[0][0].numpy() for generator in generators])


def roughness(draws: np.ndarray, axis: int) -> float:
    """Mean square difference of neighbouring voxels along an axis, 1 for the field."""
    lag = tuple(int(a == axis) for a in range(3))
    return float((np.diff(draws, axis=axis + 1) ** 2).mean() / (2 * (FIELD.kernel[0, 0, 0] - FIELD.kernel[lag])))
