"""The Gaussian-field cohort: a random field whose posterior given sections has a closed form.

A stationary Gaussian field on a periodic grid is diagonal in Fourier space, so covariances between any two voxels are one
inverse FFT. Everything that claims to be a posterior can be checked against it exactly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import linalg

from xdiff.planes import Plane
from xdiff.volumes import write_volume


class GaussianField:
    """Stationary field on `shape` voxels with mean `mean`, standard deviation `std` and power spectrum
    (1 + (2 pi f L)^2)^-slope, f in cycles per voxel and L = `length` voxels (a Matern spectrum)."""

    def __init__(
        self, shape: Sequence[int], length: float = 4.0, slope: float = 2.5, mean: float = 0.5, std: float = 0.12
    ) -> None:
        self.shape, self.length, self.slope, self.mean, self.std = tuple(shape), length, slope, mean, std

    @cached_property
    def spectrum(self) -> np.ndarray:
        """Eigenvalues of the covariance, (X, Y, Z), one per Fourier mode; their mean is std^2."""
        f = np.meshgrid(*(np.fft.fftfreq(n) for n in self.shape), indexing="ij")
        power = (1 + (2 * np.pi * self.length) ** 2 * sum(x * x for x in f)) ** -self.slope
        return power * (self.std**2 / power.mean())

    @cached_property
    def kernel(self) -> np.ndarray:
        """Covariance between voxel 0 and every voxel, (X, Y, Z)."""
        return np.fft.ifftn(self.spectrum).real

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One field (X, Y, Z) float64."""
        white = np.fft.fftn(rng.standard_normal(self.shape))
        return self.mean + np.fft.ifftn(np.sqrt(self.spectrum) * white).real

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariance matrix (n, m) between voxels a (n, 3) and b (m, 3)."""
        lag = (a[:, None, :] - b[None, :, :]) % np.array(self.shape)
        return self.kernel[lag[..., 0], lag[..., 1], lag[..., 2]]

    def posterior(self, planes: Sequence[Plane]) -> FieldPosterior:
        return FieldPosterior(self, planes)


class FieldPosterior:
    """Closed-form conditional distribution of the field given thin axis-aligned sections (kriging)."""

    def __init__(self, field: GaussianField, planes: Sequence[Plane]) -> None:
        if not all(isinstance(p, Plane) and p.thin for p in planes):
            raise ValueError("the closed form is for thin axis-aligned planes")
        self.field = field
        mask = np.zeros(field.shape, dtype=bool)
        for plane in planes:
            view = mask[None]
            plane.cut(view)[...] = True
        self.mask = mask
        voxels = np.argwhere(mask)
        self._factor = linalg.cho_factor(field.covariance(voxels, voxels) + 1e-10 * np.eye(len(voxels)))

    def mean(self, volume: np.ndarray) -> np.ndarray:
        """E[V | y], (X, Y, Z), for the values of `volume` at the given voxels."""
        residual = np.zeros(self.field.shape)
        residual[self.mask] = linalg.cho_solve(self._factor, volume[self.mask] - self.field.mean)
        return self.field.mean + np.fft.ifftn(np.fft.fftn(residual) * self.field.spectrum).real

    def sample(self, volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An exact posterior draw (Matheron's rule: a prior draw plus the mean of what it misses)."""
        prior = self.field.draw(rng)
        return prior + self.mean(volume) - self.mean(prior)

    def covariance(self, voxels: np.ndarray) -> np.ndarray:
        """Posterior covariance (n, n) of `voxels` (n, 3)."""
        cross = self.field.covariance(np.argwhere(self.mask), voxels)
        return self.field.covariance(voxels, voxels) - cross.T @ linalg.cho_solve(self._factor, cross)

    def std(self) -> np.ndarray:
        """Posterior standard deviation of every voxel, (X, Y, Z)."""
        given, every = np.argwhere(self.mask), np.argwhere(np.ones(self.field.shape, dtype=bool))
        variance = np.empty(len(every))
        for block in np.array_split(np.arange(len(every)), max(1, len(every) // 4096)):
            cross = self.field.covariance(given, every[block])
            half = linalg.solve_triangular(
                self._factor[0], cross, trans="T" if not self._factor[1] else "N", lower=self._factor[1]
            )
            variance[block] = self.field.kernel[0, 0, 0] - np.einsum("ij,ij->j", half, half)
        return np.sqrt(np.maximum(variance, 0)).reshape(self.field.shape)


def write_gaussian_field(
    out: Path, n_subjects: int, seed: int, shape: Sequence[int], spacing_mm: float, **field: float
) -> list[str]:
    """Write the cohort as a BIDS-like folder `sub-0000/anat/sub-0000_field.nii.gz`, with the field's parameters beside it."""
    model = GaussianField(shape, **field)
    subjects = [f"sub-{i:04d}" for i in range(n_subjects)]
    out.mkdir(parents=True, exist_ok=True)
    for i, subject in enumerate(subjects):
        path = out / subject / "anat" / f"{subject}_field.nii.gz"
        if not path.exists():
            draw = model.draw(np.random.default_rng([seed, i]))
            write_volume(path, draw.astype(np.float32), np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0]))
    parameters = {
        "shape": list(shape),
        "length": model.length,
        "slope": model.slope,
        "mean": model.mean,
        "std": model.std,
    }
    (out / "gaussian_field.json").write_text(json.dumps(parameters, indent=2) + "\n")
    return subjects
