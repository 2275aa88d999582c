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

from xdiff.planes import Plane, along
from xdiff.volumes import write_volume

NUGGET = 1e-10  # keeps the covariance of the given voxels positive definite in float64


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
    """Closed-form conditional distribution of the field given thin axis-aligned sections (kriging).

    Sections of one axis: the field is stationary and periodic within them, so that a 2D Fourier transform splits the
    problem into one small system of K values per in-plane frequency. Sections of several axes: dense linear algebra.
    """

    def __init__(self, field: GaussianField, planes: Sequence[Plane]) -> None:
        if not all(isinstance(p, Plane) and p.thin for p in planes):
            raise ValueError("the closed form is for thin axis-aligned planes")
        self.field = field
        self.mask = np.zeros(field.shape, dtype=bool)
        for plane in planes:
            plane.cut(self.mask[None])[...] = True
        axes = {p.axis for p in planes}
        self.axis = axes.pop() if len(axes) == 1 else None
        self.rows = sorted({p.index for p in planes})

    @cached_property
    def _factor(self) -> tuple[np.ndarray, bool]:
        """Cholesky factor of the covariance of all given voxels."""
        voxels = np.argwhere(self.mask)
        return linalg.cho_factor(self.field.covariance(voxels, voxels) + NUGGET * np.eye(len(voxels)))

    @cached_property
    def _by_frequency(self) -> np.ndarray:
        """Covariance over the lag along the axis for every in-plane frequency, (h, w, n) float64."""
        return np.fft.fft2(np.moveaxis(self.field.kernel, self.axis, -1), axes=(0, 1)).real

    def _between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariance (h, w, len(a), len(b)) of rows a and b along the axis, per in-plane frequency."""
        return self._by_frequency[..., np.subtract.outer(a, b) % self._by_frequency.shape[-1]]

    def _solve(self, residual: np.ndarray) -> np.ndarray:
        """C_ss^-1 times the given values of `residual` (X, Y, Z), as a volume that is 0 elsewhere."""
        solved = np.zeros(self.field.shape)
        if self.axis is None:
            solved[self.mask] = linalg.cho_solve(self._factor, residual[self.mask])
            return solved
        rows = np.array(self.rows)
        values = np.fft.fft2(np.moveaxis(residual, self.axis, -1)[..., rows], axes=(0, 1))
        own = self._between(rows, rows) + NUGGET * np.eye(len(rows))
        back = np.fft.ifft2(np.linalg.solve(own, values[..., None])[..., 0], axes=(0, 1)).real
        np.moveaxis(solved, self.axis, -1)[..., rows] = back
        return solved

    def mean(self, volume: np.ndarray) -> np.ndarray:
        """E[V | y], (X, Y, Z), for the values of `volume` at the given voxels."""
        solved = self._solve(np.where(self.mask, volume - self.field.mean, 0.0))
        return self.field.mean + np.fft.ifftn(np.fft.fftn(solved) * self.field.spectrum).real

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
        if self.axis is None:
            every = np.argwhere(np.ones(self.field.shape, dtype=bool))
            blocks = np.array_split(every, max(1, len(every) // 512))
            variance = np.concatenate([np.diag(self.covariance(block)) for block in blocks]).reshape(self.field.shape)
        else:
            rows, every = np.array(self.rows), np.arange(self.field.shape[self.axis])
            own = self._between(rows, rows) + NUGGET * np.eye(len(rows))
            cross = self._between(rows, every)
            explained = (cross * np.linalg.solve(own, cross)).sum(axis=2).mean(axis=(0, 1))
            variance = np.broadcast_to(along(self.field.kernel[0, 0, 0] - explained, self.axis), self.field.shape)
        return np.sqrt(np.maximum(variance, 0))


def field_names(n_subjects: int) -> list[str]:
    """The subjects that `write_gaussian_field` writes."""
    return [f"sub-{i:04d}" for i in range(n_subjects)]


def write_gaussian_field(
    out: Path, n_subjects: int, seed: int, shape: Sequence[int], spacing_mm: float, **field: float
) -> list[str]:
    """Write the cohort as a BIDS-like folder `sub-0000/anat/sub-0000_field.nii.gz`, with the field's parameters beside it."""
    model = GaussianField(shape, **field)
    subjects = field_names(n_subjects)
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
