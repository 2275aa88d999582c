"""Fitting the pose model: where training heads lie, the noise of their sections, and how far its likelihood is to be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import optimize

from xdiff.data.centred import CentredStore
from xdiff.data.split import patient_of
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import training_rows, with_mirror
from xdiff.observation import NotEnoughSections, Observation, Point, choose_planes, observe
from xdiff.planes import AXIS_NAMES
from xdiff.pose import TEMPERED_K, PoseModel, normalised

NOISES = np.geomspace(1e-4, 1e-1, 31)
LEAST_STD = 1.0  # voxels, of the prior: a cohort whose training heads all lie in one place may still have others
CASES = 12  # training volumes left out


def fit_pose(store: CentredStore, subjects: Sequence[str], max_volumes: int) -> PoseModel:
    """Fit on training subjects seen in the middle: the noise by the likelihood, temperatures by the logarithmic score of the true
    place, both with the volume's patient left out, for every axis and every K of TEMPERED_K.

    Training volumes lie where they are looked for, so that the score is taken without the prior, which would know it too.
    """
    rows, names = training_rows(store, subjects, max_volumes)
    linear = LinearGaussian(rows, patients=tuple(patient_of(s) for s in names))
    model = PoseModel(linear, prior_std([store.place(s) for s in subjects]))
    chosen = list(range(len(names)))[:: -(-len(names) // CASES)]
    for axis in range(3):
        by_k = [list(_cases(model, store, names, chosen, axis, k)) for k in TEMPERED_K]
        if not by_k[0]:
            continue
        model.noise[axis] = _likeliest_noise(model, by_k[0])
        for j, cases in enumerate(by_k):
            model.temperature[axis, j] = _temperature(model, cases) if cases else model.temperature[axis, j - 1]
    return model


def prior_std(places: Sequence[np.ndarray]) -> np.ndarray:
    """(3,) voxels: how far the training heads lie from the middle of the array."""
    return np.maximum(np.sqrt(np.mean(np.square(places), axis=0)), LEAST_STD)


def _cases(
    model: PoseModel, store: CentredStore, names: list[str], chosen: Sequence[int], axis: int, k: int
) -> Iterator[tuple[Observation, np.ndarray]]:
    """Training volumes seen through K sections, and the rows of the other patients; fewer where K sections do not fit."""
    for row in chosen:
        name = names[row]
        spacing, keep = store.spacing_mm(name), model.linear.without(row)
        point = Point(k, AXIS_NAMES[axis], "uniform", 0.0, 1, "mean", 0)
        try:
            planes = choose_planes(point, store.foreground(name), None, spacing, name)
        except NotEnoughSections:
            continue
        if len(keep) > 1:
            yield observe(model.linear.rows[row], planes, store.contrasts, spacing, store.frame, store.norm), keep


def _likeliest_noise(model: PoseModel, cases: Sequence[tuple[Observation, np.ndarray]]) -> float:
    """sigma^2 of NOISES under which the sections are likeliest where they truly are."""
    axis = cases[0][0].planes[0].axis
    found = np.zeros(len(NOISES))
    for observation, keep in cases:
        inner = model.at_rest(observation)
        for i, noise in enumerate(NOISES):
            model.noise[axis] = noise
            found[i] += model.evidence(observation.planes, inner, observation.sections, keep)
    return float(NOISES[int(np.argmax(found))])


def _temperature(model: PoseModel, cases: Sequence[tuple[Observation, np.ndarray]]) -> float:
    """The temperature under which the true place, no shift, has the highest mean log probability; at least 1."""
    scores = [model.scores(observation, keep) for observation, keep in cases]
    middle = tuple(model.reach)

    def unlikely(log_temperature: float) -> float:
        return -float(np.mean([np.log(normalised(s / np.exp(log_temperature))[middle] + 1e-300) for s in scores]))

    return float(np.exp(optimize.minimize_scalar(unlikely, bounds=(0.0, np.log(1e4)), method="bounded").x))


def to_tensors(model: PoseModel) -> dict[str, np.ndarray]:
    """A fitted pose model as arrays to save, without the training volumes."""
    return {"prior_std": model.prior_std, "noise": model.noise, "temperature": model.temperature}


def from_tensors(rows: np.ndarray, tensors: dict[str, np.ndarray]) -> PoseModel:
    """From training volumes (N, C, X, Y, Z), whose mirror images are made here, and `to_tensors`."""
    return PoseModel(LinearGaussian(with_mirror(rows)), **tensors)
