"""Fitting the linear-Gaussian core: training volumes from the store, lambda and L by leave-one-out cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xdiff.data.split import Split, patient_of, rank
from xdiff.data.store import Store
from xdiff.gaussian import FIT_K, LinearGaussian, Posterior, as_half
from xdiff.kriging import kriging_weights, spread_residual
from xdiff.observation import NotEnoughSections, Point, choose_planes, leaves_enough_unseen, observe
from xdiff.planes import AXES, AXIS_NAMES, Plane, Projection, stack

LAMBDAS = np.geomspace(1e-5, 10.0, 25)
MAX_ROWS_MIB = 2048
MAX_LEFT_OUT = 48  # each costs an eigendecomposition per axis and K
VARIANCE_VOXELS = 2**16  # each costs M x M products
RIDGE_FACTORS = np.array([1.0, 4.0, 16.0, 64.0])
LENGTHS_MM = (2.5, 4.0, 6.0, 9.0, 14.0)


def training_rows(store: Store, subjects: Sequence[str], max_volumes: int = 400) -> tuple[np.ndarray, list[str]]:
    """Training volumes and their mirror images, (2N, C, X, Y, Z), and the N subjects used.

    Above max_volumes, or MAX_ROWS_MIB of memory at the store's float16, the lowest ranks are taken and the number is printed, so
    that a core takes no more memory for a larger cohort: these rows, gaussian.KEPT float32 values and, of every section that is
    asked for, a Gram matrix of (2N)^2 float64 (5 MB with 400 volumes).
    """
    volume_mib = 2 * 2 * len(store.contrasts) * np.prod(store.shape) / 2**20
    most = min(max_volumes, max(2, int(MAX_ROWS_MIB / volume_mib)))
    used = sorted(subjects, key=lambda s: rank(0, s))[:most]
    if not used:
        raise ValueError(f"{store.folder}: no training subject in the split")
    if len(used) < len(subjects):
        print(f"gaussian: {len(used)} of {len(subjects)} training volumes used (max_volumes, or {MAX_ROWS_MIB} MiB of them)")
    return with_mirror(np.stack([as_half(store.volume(s)) for s in sorted(used)])), sorted(used)


def with_mirror(volumes: np.ndarray) -> np.ndarray:
    """Append the left-right mirror image of every volume (N, C, X, Y, Z)."""
    return np.concatenate([volumes, volumes[:, :, ::-1]])


def fit(
    store: Store, split: Split, max_volumes: int = 400, n_checked: int = 8, added: tuple[np.ndarray, Sequence] | None = None
) -> LinearGaussian:
    """Fit on the training side of a split: lambda and L by leave-one-out, for every axis and every K of FIT_K.

    First lambda over up to MAX_LEFT_OUT training volumes in Gram space (exact and cheap, but blind to the spreading of the
    residual); then that lambda or a larger one together with L, with n_checked left-out volumes: with many sections the
    spreading does the work that a small lambda would do, and does it better. Left-out sections are on their volume's scale
    here, and on their own at test: a difference of a few per cent that the choice does not see.

    added: further volumes (n, C, X, Y, Z) that help to estimate and are no cases themselves, and the patients each is made of.
    """
    rows, subjects = training_rows(store, split.side("train"), max_volumes)
    patients = [patient_of(s) for s in subjects]
    if added is not None:
        rows = with_mirror(np.concatenate([rows[: len(subjects)], as_half(added[0])]))
        patients += added[1]
    model = LinearGaussian(rows, patients=tuple(patients))
    if store.projection:
        _fit_projection(model, store, subjects, n_checked)
        return model
    for axis in range(3):
        for j, k in enumerate(FIT_K):
            _fit_point(model, store, subjects, axis, j, k, n_checked)
    return model


def _fit_point(model: LinearGaussian, store: Store, subjects: list[str], axis: int, j: int, k: int, n_checked: int) -> None:
    """Set lambda, L and inflation of one axis and K; where K does not fit, those of the next smaller K."""
    point = Point(k, AXIS_NAMES[axis], "uniform", 0.0, 1, "mean", 0)
    cases = [(i, planes) for i, s in enumerate(subjects) if (planes := _planes(point, store, s))]
    if len(cases) < len(subjects) / 2 or len(subjects) < 3:
        if j:
            for table in (model.lambdas, model.lengths_mm, model.inflation):
                table[axis, j] = table[axis, j - 1]
        return
    errors = np.mean([_section_errors(model, *case) for case in cases[:: -(-len(cases) // MAX_LEFT_OUT)]], axis=0)
    ridge = LAMBDAS[int(np.argmin(errors))]
    left_out = [LeftOut(model, store, subjects, i, p) for i, p in cases[:: max(1, len(cases) // n_checked)][:n_checked]]
    ridges = ridge * RIDGE_FACTORS
    by_trial = np.mean([case.errors(ridges, LENGTHS_MM) for case in left_out], axis=0)
    best_ridge, best_length = np.unravel_index(np.argmin(by_trial), by_trial.shape)
    ridge, length = ridges[best_ridge], LENGTHS_MM[best_length]
    model.lambdas[axis, j], model.lengths_mm[axis, j] = ridge, length
    # three volumes are enough for one number that is averaged over every voxel
    model.inflation[axis, j] = _inflation(model, left_out[:3], ridge, length)


def _fit_projection(model: LinearGaussian, store: Store, subjects: list[str], n_checked: int) -> None:
    """Set lambda and inflation for the one thing that is given of this cohort, its projection. Nothing is spread: L is of no
    consequence."""
    axis, length_mm = AXES[store.projection.axis], float(model.lengths_mm[0, 0])
    given = [name == store.projection.contrast for name in store.contrasts]
    planes = [Projection.of(axis, store.shape[axis])]
    gram = model.gram(planes, given)
    unseen = sum(model.section_grams(axis, c).sum(axis=0) for c in store.volumes)
    rows = range(len(subjects))
    step = -(-len(rows) // MAX_LEFT_OUT)
    model.lambdas[:] = LAMBDAS[int(np.argmin(np.mean([_ridge_errors(model, i, gram, unseen) for i in rows[::step]], axis=0)))]
    left_out = [LeftOut(model, store, subjects, i, planes, [store.projection.contrast]) for i in rows[:n_checked]]
    model.inflation[:] = _inflation(model, left_out, float(model.lambdas[0, 0]), length_mm)


def _inflation(model: LinearGaussian, left_out: Sequence[LeftOut], ridge: float, length_mm: float) -> float:
    """Squared error over the variance that the model predicts."""
    missed = np.mean([case.squares(ridge, length_mm)[case.hidden].mean() for case in left_out])
    predicted = np.mean([_mean_variance(Posterior(model, case.observation), case.hidden) for case in left_out])
    return float(missed / predicted)


def _mean_variance(posterior: Posterior, hidden: np.ndarray) -> float:
    """Of the voxels `hidden` (C, X, Y, Z); where there are many, of VARIANCE_VOXELS spread evenly among them."""
    voxels = np.flatnonzero(hidden)
    return float(posterior.variance_at(voxels[:: -(-len(voxels) // VARIANCE_VOXELS)]).mean())


class LeftOut:
    """One training volume seen through given sections of one axis, or one projection, estimated from all others. given: names of
    the contrasts that these carry, all where None. `hidden` (C, X, Y, Z) bool: foreground that nothing was seen of."""

    def __init__(
        self,
        model: LinearGaussian,
        store: Store,
        subjects: list[str],
        row: int,
        planes: list[Plane],
        given: Sequence[str] | None = None,
    ) -> None:
        self.model, self.volume, self.keep = model, model.rows[row].astype(np.float32), model.without(row)
        spacing = store.spacing_mm(subjects[row])
        self.observation = observe(self.volume, planes, store.contrasts, spacing, store.frame, "none", given)
        carried = self.observation.given
        self.gram, self.inner = model.gram(planes, carried), model.inner(self.observation)
        self.hidden = store.foreground(subjects[row]) & ~(self.observation.mask & np.array(carried)[:, None, None, None])

    def errors(self, ridges: np.ndarray, lengths_mm: Sequence[float]) -> np.ndarray:
        """Sum of squares (R, L) over the unseen voxels for every lambda and L.

        Kriging mixes whole sections, so that all L follow from the inner products of the ridge residual's sections.
        """
        planes = self.observation.planes
        axis, given = planes[0].axis, [p.index for p in planes]
        weights = self.model.weights_for(self.gram, self.inner, ridges, self.keep).astype(np.float32)
        found = np.empty((len(ridges), len(lengths_mm)))
        for r, estimate in enumerate(self.model.combine(weights)):
            residual = stack(self.volume - estimate, axis)
            sections = residual.reshape(len(residual), -1)
            products = (sections @ sections.T).astype(np.float64)
            unseen = np.setdiff1d(np.arange(len(sections)), given)
            for m, length_mm in enumerate(lengths_mm):
                k = kriging_weights(given, len(sections), length_mm / self.observation.spacing_mm[axis])[unseen]
                cross, own = products[np.ix_(unseen, given)], products[np.ix_(given, given)]
                mixed = np.einsum("ug,gh,uh->u", k, own, k) - 2 * (k * cross).sum(axis=1)
                found[r, m] = (np.diag(products)[unseen] + mixed).sum()
        return found

    def squares(self, ridge: float, length_mm: float) -> np.ndarray:
        """Squared error (C, X, Y, Z) of the left-out estimate."""
        estimate = self.model.combine(self.model.weights(self.gram, self.inner, ridge, self.keep))
        return (spread_residual(estimate, self.observation, length_mm) - self.volume) ** 2


def _planes(point: Point, store: Store, subject: str) -> list[Plane] | None:
    try:
        planes = choose_planes(point, store.foreground(subject), None, store.spacing_mm(subject), subject)
    except NotEnoughSections:
        return None
    return planes if leaves_enough_unseen(planes, store.foreground(subject)) else None


def _section_errors(model: LinearGaussian, row: int, planes: list[Plane]) -> np.ndarray:
    gram = model.gram(planes)
    return _ridge_errors(model, row, gram, model.full_gram() - gram)


def _ridge_errors(model: LinearGaussian, row: int, gram: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Squared error (len(LAMBDAS),) over the unseen voxels of one left-out volume, for every lambda: w F w - 2 w F_i + F_ii.
    Gram matrices P of what is given and F of what is not, (M, M)."""
    weights = model.weights_for(gram, gram[row], LAMBDAS, model.without(row))
    quadratic = np.einsum("rm,mn,rn->r", weights, unseen, weights)
    return quadratic - 2 * weights @ unseen[row] + unseen[row, row]


def to_tensors(model: LinearGaussian) -> dict[str, np.ndarray]:
    """A fitted core as arrays to save; mirror images are made again on loading."""
    return {
        "rows": as_half(model.rows[: model.n_rows // 2]),
        "lambdas": model.lambdas,
        "lengths_mm": model.lengths_mm,
        "inflation": model.inflation,
    }


def from_tensors(tensors: dict[str, np.ndarray]) -> LinearGaussian:
    return LinearGaussian(with_mirror(tensors["rows"]), tensors["lambdas"], tensors["lengths_mm"], tensors["inflation"])
