"""Fitting the linear-Gaussian core: training volumes from the store, lambda and L by leave-one-out cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xdiff.data.split import Split, rank
from xdiff.data.store import Store
from xdiff.gaussian import FIT_K, LinearGaussian, Posterior, spread_residual
from xdiff.observation import NotEnoughSections, Observation, Point, choose_planes, leaves_enough_unseen, observe
from xdiff.planes import AXIS_NAMES, Plane

LAMBDAS = np.geomspace(1e-5, 10.0, 25)
LENGTHS_MM = (2.0, 4.0, 7.0, 12.0, 20.0, 35.0, 60.0)


def training_rows(store: Store, subjects: Sequence[str], max_volumes: int = 400) -> tuple[np.ndarray, list[str]]:
    """Training volumes and their mirror images, (2N, C, X, Y, Z) float32, and the N subjects used.

    Above max_volumes the lowest ranks are taken and the number is printed: the Gram matrices grow with its square.
    """
    used = sorted(subjects, key=lambda s: rank(0, s))[:max_volumes]
    if not used:
        raise ValueError(f"{store.folder}: no training subject in the split")
    if len(used) < len(subjects):
        print(f"gaussian: {len(used)} of {len(subjects)} training volumes used (max_volumes)")
    volumes = np.stack([store.volume(s) for s in sorted(used)])
    return with_mirror(volumes), sorted(used)


def with_mirror(volumes: np.ndarray) -> np.ndarray:
    """Append the left-right mirror image of every volume (N, C, X, Y, Z)."""
    return np.concatenate([volumes, volumes[:, :, ::-1]])


def fit(store: Store, split: Split, max_volumes: int = 400, n_checked: int = 8) -> LinearGaussian:
    """Fit on the training side of a split.

    lambda: leave-one-out over every training volume, in Gram space (exact and cheap). L and inflation: leave-one-out over
    n_checked volumes, with the volumes themselves.
    """
    rows, subjects = training_rows(store, split.side("train"), max_volumes)
    model = LinearGaussian(rows, subjects=tuple(subjects))
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
    errors = np.mean([_ridge_errors(model, i, planes) for i, planes in cases], axis=0)
    model.lambdas[axis, j] = LAMBDAS[int(np.argmin(errors))]
    checked = cases[:: max(1, len(cases) // n_checked)][:n_checked]
    by_length, shares = [], []
    for i, planes in checked:
        volume = model.rows[i]
        observation = observe(volume, planes, store.contrasts, store.spacing_mm(subjects[i]), store.frame, "none")
        weights = model.weights(model.gram(planes), model.inner(observation), model.lambdas[axis, j], model.without(i))
        ridge = model.combine(weights)
        trials = [((spread_residual(ridge, observation, length) - volume) ** 2).mean() for length in LENGTHS_MM]
        by_length.append(trials)
        if len(shares) < 3:
            shares.append((observation, ridge, volume, store.foreground(subjects[i]) & ~observation.mask))
    model.lengths_mm[axis, j] = LENGTHS_MM[int(np.argmin(np.mean(by_length, axis=0)))]
    model.inflation[axis, j] = _inflation(model, shares, model.lengths_mm[axis, j])


def _inflation(model: LinearGaussian, cases: list[tuple], length_mm: float) -> float:
    """Leave-one-out squared error over predicted variance, both in the unseen foreground of a few volumes.

    A few are enough for one number that is averaged over every voxel.
    """
    missed = [((spread_residual(ridge, o, length_mm) - volume) ** 2)[:, hidden].mean() for o, ridge, volume, hidden in cases]
    predicted = [(Posterior(model, o).std() ** 2)[:, hidden].mean() for o, _, _, hidden in cases]
    return float(np.mean(missed) / np.mean(predicted))


def _planes(point: Point, store: Store, subject: str) -> list[Plane] | None:
    try:
        planes = choose_planes(point, store.foreground(subject), None, store.spacing_mm(subject), subject)
    except NotEnoughSections:
        return None
    return planes if leaves_enough_unseen(planes, store.foreground(subject)) else None


def _ridge_errors(model: LinearGaussian, row: int, planes: list[Plane]) -> np.ndarray:
    """Squared error (len(LAMBDAS),) over the unseen voxels of one left-out volume, for every lambda: w F w - 2 w F_i + F_ii."""
    gram = model.gram(planes)
    weights = model.weights_for(gram, gram[row], LAMBDAS, model.without(row))
    unseen = model.full_gram() - gram
    quadratic = np.einsum("rm,mn,rn->r", weights, unseen, weights)
    return quadratic - 2 * weights @ unseen[row] + unseen[row, row]


def leave_one_out(model: LinearGaussian, row: int, observation: Observation) -> np.ndarray:
    """G (C, X, Y, Z) of a training volume without it and its mirror image: what a network may be shown in training."""
    return model.estimate(observation, model.without(row))


def to_tensors(model: LinearGaussian) -> dict[str, np.ndarray]:
    """A fitted core as arrays to save; mirror images are made again on loading."""
    rows = model.rows[: model.n_rows // 2]
    dtype = np.float16 if np.array_equal(rows.astype(np.float16).astype(np.float32), rows) else np.float32
    return {
        "rows": rows.astype(dtype),
        "lambdas": model.lambdas,
        "lengths_mm": model.lengths_mm,
        "inflation": model.inflation,
    }


def from_tensors(tensors: dict[str, np.ndarray]) -> LinearGaussian:
    rows = with_mirror(tensors["rows"].astype(np.float32))
    return LinearGaussian(rows, tensors["lambdas"], tensors["lengths_mm"], tensors["inflation"])
