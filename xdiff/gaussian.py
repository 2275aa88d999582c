"""The linear-Gaussian core: the best linear estimate of a volume from sections, learned from N training volumes.

    G = E_lin[V | y] = mean + C_us (C_ss + lambda I)^-1 (y - mean_s)

in dual (ridge) form over the training volumes and their mirror images X_1..X_M (M = 2N). With H the centring matrix and
P = X_s X_s^T the Gram matrix of the given sections, the estimate is a weighted sum of training volumes, G = sum_i w_i X_i,

    w = 1/M + H (H P H + lambda' I)^-1 H (X_s y - P 1/M),

so everything happens in M dimensions; leaving a subject out deletes rows. P of any set of parallel sections is the sum of
per-section Gram matrices, computed once. Where sections carry some contrasts only, P and X_s y are sums over these; the
weights are shared, so that the other contrasts follow. What the ridge leaves at the given sections is spread along their
normal by kriging (the best linear interpolation of a residual with a Matern 3/2 correlation of length L).
lambda and L come from leave-one-out cross-validation on the training set.

Uncertainty: the ridge's own posterior inside the span of the training volumes, plus what no combination of the others
explains of each training volume, which grows with the kriging variance; both scaled so that the leave-one-out squared
error is met on average (`inflation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg

from xdiff.kriging import kriging_variance, spread_residual
from xdiff.observation import Observation
from xdiff.planes import Plane, cut, evidence, project

FIT_K = (1, 2, 3, 5, 10, 31)
BLOCK = 2**16  # voxels
KEPT = 2**28  # values, of which a float32 copy is kept (1 GiB): a training asks for combinations at every draw


@dataclass
class LinearGaussian:
    """Training volumes `rows` (M, C, X, Y, Z), the second half mirror images of the first; float16 where that holds them exactly
    (as_half), because at full size they are what fills the memory. What is made of them is float32.

    lambdas, lengths_mm and inflation (3 axes, len(FIT_K)) belong to FIT_K; between, they are interpolated in log K.
    """

    rows: np.ndarray
    lambdas: np.ndarray = field(default_factory=lambda: np.full((3, len(FIT_K)), 0.05))
    lengths_mm: np.ndarray = field(default_factory=lambda: np.full((3, len(FIT_K)), 12.0))
    inflation: np.ndarray = field(default_factory=lambda: np.ones((3, len(FIT_K))))
    # whose volumes the first half of `rows` are; several names where one has another's shape; empty: all different
    patients: tuple[str | tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        self._grams: dict[tuple[int, int | None], np.ndarray] = {}
        self._there: set[tuple[int, int | None, int]] = set()  # axis, contrast, section: which of them are computed
        self._full: np.ndarray | None = None
        self._single: np.ndarray | None = None
        self._loo: np.ndarray | None = None
        self._unexplained: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        return len(self.rows)

    @property
    def mean(self) -> np.ndarray:
        return self.rows.mean(axis=0, dtype=np.float32)

    def section_grams(self, axis: int, contrast: int | None = None, which: Sequence[int] | None = None) -> np.ndarray:
        """Gram matrices (n, M, M) float64 of the sections `which` along an axis (all where None), of one contrast or (None) of
        all; each is computed once, when it is first asked for: of a large volume only a few ever are."""
        rows = self.rows if contrast is None else self.rows[:, contrast : contrast + 1]
        length = rows.shape[axis + 2]
        if (axis, contrast) not in self._grams:
            self._grams[axis, contrast] = np.empty((length, self.n_rows, self.n_rows))
        grams = self._grams[axis, contrast]
        for i in range(length) if which is None else which:
            if (axis, contrast, i) not in self._there:
                grams[i] = _gram(np.take(rows, i, axis + 2).reshape(self.n_rows, -1))
                self._there.add((axis, contrast, i))
        return grams if which is None else grams[list(which)]

    def gram(self, planes: Sequence[Plane], given: Sequence[bool] | None = None) -> np.ndarray:
        """P (M, M): inner products of the training volumes over the given sections, in the contrasts that are given (all where
        None); crossings count once."""
        parts: list[int | None] = [None] if given is None or all(given) else [c for c, g in enumerate(given) if g]
        if all(isinstance(p, Plane) and p.thin for p in planes) and len({p.axis for p in planes}) == 1:
            chosen = [p.index for p in planes]
            return sum(self.section_grams(planes[0].axis, c, chosen).sum(axis=0) for c in parts)
        shown = self._given_values(planes, given)
        return (shown @ shown.T).astype(np.float64)

    def _given_values(self, planes: Sequence[Plane], given: Sequence[bool] | None = None) -> np.ndarray:
        """Training volumes at what the planes show (M, n): unique voxels for thin planes, section pixels otherwise."""
        rows = self.rows if given is None or all(given) else self.rows[:, np.array(given)]
        if all(p.thin for p in planes):
            mask = evidence(cut(rows[0], planes), planes, rows.shape[2:])[1]
            return rows[:, :, mask].reshape(self.n_rows, -1).astype(np.float32)
        return np.stack([np.concatenate([s.ravel() for s in cut(row.astype(np.float32), planes)]) for row in rows])

    def inner(self, observation: Observation) -> np.ndarray:
        """X_s y (M,): inner products of the training volumes with the data, which is 0 in contrasts that are not given."""
        planes = observation.planes
        if all(p.thin for p in planes) and len({p.axis for p in planes}) > 1:
            values = observation.evidence[:, observation.mask].ravel()
            return (self._given_values(planes) @ values).astype(np.float64)
        total = np.zeros(self.n_rows)
        for section, plane in zip(observation.sections, planes, strict=True):
            if isinstance(plane, Plane) and plane.thin:
                rows = np.take(self.rows, plane.index, axis=plane.axis + 2).reshape(self.n_rows, -1).astype(np.float32)
            else:
                rows = np.stack([plane.cut(row.astype(np.float32)).ravel() for row in self.rows])
            total += rows @ section.ravel()
        return total

    def weights(self, gram: np.ndarray, inner: np.ndarray, ridge: float, keep: np.ndarray | None = None) -> np.ndarray:
        """w (M,), the weights of the training volumes; rows outside `keep` get 0 (leave-out). As `weights_for` of one lambda, by
        one factorisation: a training asks for it at every draw. Where the training volumes do not differ: their mean."""
        keep = np.arange(self.n_rows) if keep is None else keep
        p, right = gram[np.ix_(keep, keep)], inner[keep]
        right = right - p.mean(1)
        centred, weights = _centre(p), np.zeros(self.n_rows)
        if np.trace(centred) <= 1e-9 * np.trace(p):
            weights[keep] = 1 / len(keep)
            return weights
        centred[np.diag_indices_from(centred)] += ridge * np.trace(centred) / len(keep)
        # "sym": the Gram matrices are sums of float32 products, indefinite by rounding where lambda is small
        solved = linalg.solve(centred, right - right.mean(), assume_a="sym", overwrite_a=True)
        weights[keep] = 1 / len(keep) + solved - solved.mean()
        return weights

    def weights_for(self, gram: np.ndarray, inner: np.ndarray, ridges: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
        """w (R, M) for R values of lambda, in units of the mean eigenvalue of the centred Gram matrix."""
        keep = np.arange(self.n_rows) if keep is None else keep
        p, b = gram[np.ix_(keep, keep)], inner[keep]
        values, vectors = np.linalg.eigh(_centre(p))
        right = b - p.mean(1)
        solved = ((vectors.T @ (right - right.mean())) / (values + ridges[:, None] * values.mean())) @ vectors.T
        weights = np.zeros((len(ridges), self.n_rows))
        weights[:, keep] = 1 / len(keep) + solved - solved.mean(axis=1, keepdims=True)
        return weights

    def combine(self, weights: np.ndarray) -> np.ndarray:
        """sum_i w_i X_i, (C, X, Y, Z) float32, of weights (M,); of several (R, M) at once: (R, C, X, Y, Z)."""
        found = np.empty((*weights.shape[:-1], self.rows[0].size), dtype=np.float32)
        for part, block in self._blocks():
            found[..., part] = weights.astype(np.float32) @ block
        return found.reshape(*weights.shape[:-1], *self.rows.shape[1:])

    def power_of(self, mixtures: np.ndarray) -> np.ndarray:
        """Sum over i of the squared mixture i of training volumes, sum_i (sum_m mixtures_im X_m)^2: (C, X, Y, Z) float32."""
        found = np.empty(self.rows[0].size, dtype=np.float32)
        for part, block in self._blocks():
            found[part] = np.square(mixtures.astype(np.float32) @ block).sum(axis=0)
        return found.reshape(self.rows.shape[1:])

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The training volumes as float32, (M, n), some voxels at a time."""
        if self.rows.size <= KEPT and self.rows.dtype != np.float32:
            self._single = self.rows.astype(np.float32) if self._single is None else self._single
        flat = (self.rows if self._single is None else self._single).reshape(self.n_rows, -1)
        for start in range(0, flat.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            yield part, flat[:, part].astype(np.float32, copy=False)

    def hyper(self, planes: Sequence[Plane]) -> tuple[float, float, float]:
        """(lambda, L in mm, inflation) for a set of planes, interpolated in log K; the mean over axes where there are several.
        An oblique plane counts as a section of the axis that its normal is nearest to."""
        log_k = np.log(np.clip(len(planes), FIT_K[0], FIT_K[-1]))
        axes = sorted({p.axis if isinstance(p, Plane) else p.nearest_axis for p in planes})
        tables = (self.lambdas, self.lengths_mm, self.inflation)
        return tuple(float(np.exp(np.mean([np.interp(log_k, np.log(FIT_K), np.log(t[a])) for a in axes]))) for t in tables)

    def estimate(self, observation: Observation, keep: np.ndarray | None = None) -> np.ndarray:
        """G (C, X, Y, Z) float32 with the residual spread and the given sections exact."""
        return self.estimate_parts(observation, keep)[0]

    def estimate_parts(self, observation: Observation, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """G, and its part that does not come from the training volumes: what the ridge left at the given sections, spread."""
        ridge, length, _ = self.hyper(observation.planes)
        gram = self.gram(observation.planes, observation.given)
        combined = self.combine(self.weights(gram, self.inner(observation), ridge, keep))
        estimate = spread_residual(combined, observation, length)
        return estimate, estimate - combined

    def full_gram(self) -> np.ndarray:
        """Gram matrix (M, M) of the whole volumes."""
        if self._full is None:
            self._full = self.section_grams(2).sum(axis=0)
        return self._full

    def without(self, row: int) -> np.ndarray:
        """All rows but this patient's: the volume, its mirror image, and what other visits there are."""
        half = self.n_rows // 2
        return self._without_names(_names((self.patients or range(half))[row % half]))

    def without_patient(self, patient: str | tuple[str, ...] | None) -> np.ndarray | None:
        """`without` by name, or by the names of several patients; None (keep all) where no training volume is theirs."""
        keep = self._without_names(_names(patient))
        return keep if len(keep) < self.n_rows else None

    def _without_names(self, names: frozenset) -> np.ndarray:
        owners = [_names(patient) for patient in self.patients or range(self.n_rows // 2)]
        return np.array([r for r in range(self.n_rows) if names.isdisjoint(owners[r % len(owners)])], dtype=int)

    def loo_weights(self) -> np.ndarray:
        """W (M, M): row i rebuilds volume i from all others, every voxel given."""
        if self._loo is None:
            full = self.full_gram()
            self._loo = np.stack([self.weights(full, full[i], 1e-3, self.without(i)) for i in range(self.n_rows)])
        return self._loo

    def unexplained_variance(self) -> np.ndarray:
        """(C, X, Y, Z) float32: mean square of what the others do not explain of each training volume."""
        if self._unexplained is None:
            missing = np.eye(self.n_rows) - self.loo_weights()
            self._unexplained = self.power_of(missing) / self.n_rows
        return self._unexplained

    def posterior(self, observation: Observation) -> Posterior:
        """The distribution whose mean is `estimate`."""
        return Posterior(self, observation)


def _names(patient: str | int | Sequence[str] | None) -> frozenset:
    """One patient (a row's number, where patients have no names), several or none as a set."""
    return frozenset([patient] if isinstance(patient, str | int) else patient or ())


def as_half(volumes: np.ndarray) -> np.ndarray:
    """Volumes as float16 where that changes none of their values, which is how the store keeps them; else as they are."""
    half = volumes.astype(np.float16)
    return half if np.array_equal(half, volumes) else volumes


def _gram(values: np.ndarray) -> np.ndarray:
    """Inner products (M, M) float64 of M rows."""
    single = values.astype(np.float32)
    return (single @ single.T).astype(np.float64)


def _centre(gram: np.ndarray) -> np.ndarray:
    """H P H with H the centring matrix."""
    return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()


class Posterior:
    """Mean, standard deviation and draws of the linear-Gaussian model given one observation."""

    def __init__(self, model: LinearGaussian, observation: Observation) -> None:
        self.model, self.observation = model, observation
        ridge, length, self.inflation = model.hyper(observation.planes)
        gram = model.gram(observation.planes, observation.given)
        self.mean = spread_residual(model.combine(model.weights(gram, model.inner(observation), ridge)), observation, length)
        values, vectors = np.linalg.eigh(_centre(gram))
        floor = ridge * values.mean()
        # cov(b) = lambda' (H P H + lambda' I)^-1 / (M - 1) for V = mean + Z^T b; its symmetric root, centred
        root = (vectors * np.sqrt(floor / (np.maximum(values, 0) + floor))) @ vectors.T
        self.root = (root - root.mean(axis=0)) / np.sqrt(model.n_rows - 1)
        # in a contrast that is not given no residual is known anywhere
        given = np.array(observation.given)[:, None, None, None]
        self.fade = np.where(given, kriging_variance(observation, length), np.float32(1))

    def std(self) -> np.ndarray:
        """(C, X, Y, Z) float32, 0 at the voxels that are known exactly."""
        inside = self.model.power_of(self.root.T)
        total = np.sqrt(self.inflation * (inside + self.fade * self.model.unexplained_variance()))
        return np.where(self.observation.known, 0, total).astype(np.float32)

    def variance_at(self, voxels: np.ndarray) -> np.ndarray:
        """(n,) float32: the square of `std` at voxels (n,), indices of the flattened (C, X, Y, Z): where a mean over some will
        do, since every voxel costs M x M products."""
        block = self.model.rows.reshape(self.model.n_rows, -1)[:, voxels].astype(np.float32)
        inside = np.square(self.root.T.astype(np.float32) @ block).sum(axis=0)
        missing = (np.eye(self.model.n_rows) - self.model.loo_weights()).astype(np.float32)
        outside = np.square(missing @ block).sum(axis=0) / self.model.n_rows
        shape = self.model.rows.shape[1:]
        fade, known = (np.broadcast_to(a, shape).reshape(-1)[voxels] for a in (self.fade, self.observation.known))
        return np.where(known, 0, self.inflation * (inside + fade * outside)).astype(np.float32)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One draw (C, X, Y, Z) float32 that keeps the given sections."""
        inside = self.model.combine(self.root @ rng.standard_normal(self.model.n_rows))
        mixing = rng.standard_normal(self.model.n_rows) / np.sqrt(self.model.n_rows)
        outside = self.model.combine(mixing - self.model.loo_weights().T @ mixing)
        draw = self.mean + np.sqrt(self.inflation) * (inside + np.sqrt(self.fade) * outside)
        return project(draw.astype(np.float32), self.observation.sections, self.observation.planes, self.observation.given)
