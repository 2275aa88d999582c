"""Where a head lies, from its given sections alone: the shift that makes them likeliest under the linear-Gaussian model.

The training volumes X_1..X_M are centred. For a shift d (whole voxels, given sections move rigidly together) the sections y of
the head, moved back by d, are compared with the training volumes' sections B (M, n) at the moved places:

    y = m + Phi^T b + e,   b ~ N(0, I),   e ~ N(0, sigma^2 I),   m = mean of B,   Phi = H B / sqrt(M - 1),

    2 log p(y | d) = -n log sigma^2 - log det(I + G / sigma^2) - (|r|^2 - (Phi r)^T (G + sigma^2 I)^-1 Phi r) / sigma^2

with H the centring matrix, r = y - m and G = Phi Phi^T. G, Phi r and |r|^2 follow from the Gram matrix B B^T and from B y, so
that everything happens in M dimensions, and B y of every in-plane shift is one cross-correlation (FFT) per training volume: the
search is exhaustive.

The noise left over is smooth, not independent by pixel, so that p(y | d) is far too sure of itself: it is taken to the power
1 / temperature, fitted on training volumes left out. The prior is a Gaussian as wide as the training heads are spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import fft

from xdiff.errors import InputError
from xdiff.gaussian import LinearGaussian
from xdiff.observation import Observation
from xdiff.planes import Plane, common_axis, shifted

REACH = 4.0  # shifts are searched up to so many standard deviations of the prior
MOST_SECTIONS = 5  # more say little more about where the head lies, and each costs M transforms per place
TEMPERED_K = (1, 3, 5)  # what temperatures are fitted for; between, interpolated in log K


@dataclass(frozen=True)
class Pose:
    """Posterior over shifts of one head. probability (2 Rx + 1, 2 Ry + 1, 2 Rz + 1) adds up to 1; its middle is no shift.

    A head at shift d lies d voxels further to the right, front and top than the training heads.
    """

    probability: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def _middle(self) -> np.ndarray:
        return np.array(self.probability.shape) // 2

    @property
    def shift(self) -> tuple[int, int, int]:
        """The most probable shift, voxels."""
        return self.likeliest(1)[0][0]

    @property
    def std_mm(self) -> np.ndarray:
        """Standard deviation (3,) along every axis, mm: the posterior's and that of rounding to whole voxels."""
        found = []
        for axis, spacing in enumerate(self.spacing_mm):
            weights = self.probability.sum(axis=tuple(a for a in range(3) if a != axis))
            places = np.arange(len(weights))
            found.append(spacing * np.sqrt(max(weights @ places**2 - (weights @ places) ** 2, 0.0) + 1 / 12))
        return np.array(found)

    def likeliest(self, count: int) -> list[tuple[tuple[int, int, int], float]]:
        """The `count` most probable shifts and their shares of 1, most probable first; fewer where others have probability 0."""
        flat = self.probability.ravel()
        order = [i for i in np.argsort(-flat, kind="stable")[:count] if flat[i] > 0]
        shares = flat[order] / flat[order].sum()
        places = np.stack(np.unravel_index(order, self.probability.shape), axis=1) - self._middle
        return [(tuple(place), float(share)) for place, share in zip(places.tolist(), shares, strict=True)]

    def about(self, shift: Sequence[int]) -> Pose:
        """The same posterior for an array that is moved by `shift`, voxels."""
        beyond = [(abs(by), abs(by)) for by in shift]
        return Pose(shifted(np.pad(self.probability, beyond), [-by for by in shift]), self.spacing_mm)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """One shift from the posterior."""
        flat = self.probability.ravel()
        place = np.unravel_index(rng.choice(flat.size, p=flat), self.probability.shape)
        return tuple((np.array(place) - self._middle).tolist())


@dataclass
class PoseModel:
    """What `pose` needs beside the centred training volumes: prior_std (3,) voxels; noise (3,), the variance sigma^2 by axis of
    the given sections; temperature (3, len(TEMPERED_K)); farthest: no shift is a larger share of the array."""

    linear: LinearGaussian
    prior_std: np.ndarray
    noise: np.ndarray = field(default_factory=lambda: np.full(3, 1e-2))
    temperature: np.ndarray = field(default_factory=lambda: np.ones((3, len(TEMPERED_K))))
    farthest: float = 1 / 3

    def __post_init__(self) -> None:
        self._grams: dict[Plane, np.ndarray] = {}
        self._spectra: dict[tuple, np.ndarray] = {}

    @property
    def reach(self) -> np.ndarray:
        """Largest shift (3,) that is searched, voxels."""
        return np.minimum(np.ceil(REACH * self.prior_std), np.array(self.linear.rows.shape[2:]) * self.farthest).astype(int)

    def pose(self, observation: Observation) -> Pose:
        """Posterior over shifts given the sections. Raises InputError for planes that are not parallel and axis-aligned."""
        known = np.log(self.temperature[axis_of(observation)])
        temperature = np.interp(np.log(len(used(observation).planes)), np.log(TEMPERED_K), known)
        grids = np.meshgrid(*(np.arange(-r, r + 1) for r in self.reach), indexing="ij", sparse=True)
        prior = -0.5 * sum((g / s) ** 2 for g, s in zip(grids, self.prior_std, strict=True))
        return Pose(normalised(self.scores(observation) / np.exp(temperature) + prior), observation.spacing_mm)

    def scores(self, observation: Observation, keep: np.ndarray | None = None) -> np.ndarray:
        """log p(y | shift), (2 Rx + 1, 2 Ry + 1, 2 Rz + 1), -inf where a section would leave the array; of at most MOST_SECTIONS
        of the given sections. keep: the rows to use (leave-out)."""
        given, axis = used(observation), axis_of(observation)
        inplane = self.reach[[a for a in range(3) if a != axis]]
        padded = [fft.next_fast_len(n + int(r), real=True) for n, r in zip(given.sections[0].shape[1:], inplane, strict=True)]
        spectra = [fft.rfft2(s.astype(np.float32), padded) for s in given.sections]
        shifts = np.ix_(*(np.arange(-r, r + 1) for r in inplane))
        found = np.full([2 * r + 1 for r in self.reach], -np.inf)
        for place, offset in enumerate(range(-self.reach[axis], self.reach[axis] + 1)):
            rows = [p.index - offset for p in given.planes]
            if min(rows) < 0 or max(rows) >= observation.shape[axis]:
                continue
            planes = [replace(p, index=r) for p, r in zip(given.planes, rows, strict=True)]
            together = sum(self._correlated(p, s, padded) for p, s in zip(planes, spectra, strict=True))
            inner = fft.irfft2(together, padded)[:, shifts[0], shifts[1]]
            np.moveaxis(found, axis, 0)[place] = self.evidence(planes, inner, given.sections, keep)
        return found

    def evidence(
        self, planes: Sequence[Plane], inner: np.ndarray, sections: Sequence[np.ndarray], keep: np.ndarray | None = None
    ) -> np.ndarray:
        """log p (...) of sections that were moved in their planes, which changes their inner products with the rows at `planes`,
        inner (M, ...), and nothing else."""
        gram = sum(self._gram(p) for p in planes)
        if keep is not None:
            gram, inner = gram[np.ix_(keep, keep)], inner[keep]
        square, size = sum(float((s.astype(np.float64) ** 2).sum()) for s in sections), sum(s.size for s in sections)
        flat = log_evidence(gram, inner.reshape(len(inner), -1), square, size, float(self.noise[planes[0].axis]))
        return flat.reshape(inner.shape[1:])

    def at_rest(self, observation: Observation) -> np.ndarray:
        """B y (M,), the inner products of the rows with the sections as they are given."""
        return sum(
            self._rows(p).reshape(self.linear.n_rows, -1) @ s.ravel()
            for p, s in zip(observation.planes, observation.sections, strict=True)
        )

    def _rows(self, plane: Plane) -> np.ndarray:
        """The training volumes' sections (M, C, h, w)."""
        rows = self.linear.rows
        cut = plane.cut(rows.reshape(-1, *rows.shape[2:])).astype(np.float32)
        return np.ascontiguousarray(cut).reshape(*rows.shape[:2], *cut.shape[1:])

    def _gram(self, plane: Plane) -> np.ndarray:
        if plane not in self._grams:
            flat = self._rows(plane).reshape(self.linear.n_rows, -1)
            self._grams[plane] = (flat @ flat.T).astype(np.float64)
        return self._grams[plane]

    def _correlated(self, plane: Plane, spectrum: np.ndarray, padded: Sequence[int]) -> np.ndarray:
        """Spectrum (M, ...) of sum_x B(x) y(x + s) over all in-plane shifts s, contrasts added up."""
        if any((p.axis, p.thickness) != (plane.axis, plane.thickness) for p, *_ in list(self._spectra)[:1]):
            self._spectra.clear()  # those of one axis are already megabytes by the hundred at 2 mm
        key = (plane, *padded)
        if key not in self._spectra:
            self._spectra[key] = np.conj(fft.rfft2(self._rows(plane), padded))
        return np.einsum("mcuv,cuv->muv", self._spectra[key], spectrum)


def log_evidence(gram: np.ndarray, inner: np.ndarray, square: float, size: int, noise: float) -> np.ndarray:
    """log p(y) (S,) of the module's formula, from B B^T (M, M), B y (M, S), |y|^2, the number of pixels and sigma^2."""
    centre = (np.eye(len(gram)) - 1 / len(gram)) / np.sqrt(len(gram) - 1)
    values, vectors = np.linalg.eigh(centre @ gram @ centre)
    values = np.maximum(values, 0)
    residual = square - 2 * inner.mean(axis=0) + gram.mean()
    components = (vectors.T @ centre) @ (inner - gram.mean(axis=1, keepdims=True))
    explained = (1 / (values + noise)) @ components**2
    return -0.5 * (size * np.log(2 * np.pi * noise) + np.log1p(values / noise).sum() + (residual - explained) / noise)


def normalised(scores: np.ndarray) -> np.ndarray:
    """exp(scores) divided by its sum."""
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def axis_of(observation: Observation) -> int:
    """The axis of parallel axis-aligned sections; InputError for any others."""
    axis = common_axis(observation.planes)
    if axis is None:
        names = [p.name for p in observation.planes]
        raise InputError("given planes", names, "parallel axis-aligned sections: a pose is not estimated from any others")
    return axis


def used(observation: Observation) -> Observation:
    """At most MOST_SECTIONS of the given sections, spread evenly over them."""
    order = np.argsort([p.index for p in observation.planes], kind="stable")
    chosen = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, MOST_SECTIONS).round().astype(int))]
    planes, sections = (tuple(of[i] for i in chosen) for of in (observation.planes, observation.sections))
    return replace(observation, planes=planes, sections=sections)


def moved_back(observation: Observation, shift: Sequence[int]) -> Observation:
    """What the same head shows where the training heads lie; pixels that come from outside the array are 0."""
    axis = axis_of(observation)
    inplane = [-shift[a] for a in range(3) if a != axis]
    planes = tuple(replace(p, index=p.index - shift[axis]) for p in observation.planes)
    return replace(observation, planes=planes, sections=tuple(shifted(s, inplane) for s in observation.sections))
