"""How far given sections are from anything the training volumes show: what is left of them when the training volumes' sections,
at the place where these explain them best, have explained what they can.

With B (M, n) the training volumes' sections there and y (n,) the given ones,

    score = |y - B^T c| / |y|,   c = (B B^T + M sigma^2 I)^-1 B y,

sigma^2 the noise of the pose model (pose.py). 0: explained; 1: nothing of it is. No mean is taken off, so that the score does
not depend on the brightness of the sections. What is usual is measured on training volumes left out (`calibrate`); whatever
else is given - another contrast, a whole head, a head upside down - leaves more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from xdiff.observation import Observation, observe, well_filled
from xdiff.planes import Plane, per_section
from xdiff.pose import PoseModel, axis_of, moved_back, used

QUANTILE = 0.99
PLACES = 5  # per training volume and axis, spread over the sections that hold a fair part of it


def score(
    model: PoseModel, observation: Observation, shift: Sequence[int] | None = None, keep: np.ndarray | None = None
) -> float:
    """Share (0..1, amplitude) of the given sections that the training volumes do not explain.

    shift: where the head lies, in voxels from the middle of the array; None: where the sections are likeliest. keep: the rows of
    the pose model to use (leave-out). Raises InputError for planes that are not parallel and axis-aligned.
    """
    if shift is None:
        found = model.scores(used(observation), keep)
        shift = np.subtract(np.unravel_index(np.argmax(found), found.shape), model.reach)
    there = moved_back(used(observation), [int(s) for s in shift])
    gram, inner = model.linear.gram(there.planes), model.linear.inner(there)
    if keep is not None:
        gram, inner = gram[np.ix_(keep, keep)], inner[keep]
    ridge = len(gram) * float(model.noise[axis_of(observation)])
    weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), inner)
    square = sum(float((s.astype(np.float64) ** 2).sum()) for s in there.sections)
    left = square - 2 * weights @ inner + weights @ gram @ weights
    return float(np.sqrt(max(left, 0.0) / square))


def upside_down(observation: Observation) -> Observation:
    """The sections turned over top to bottom: front and back of axial ones, top and bottom of the others."""
    return replace(observation, sections=tuple(s[..., ::-1] for s in observation.sections))


def calibrate(
    model: PoseModel, contrasts: Sequence[str], spacing_mm: Sequence[float], norm: str = "p99.5", quantile: float = QUANTILE
) -> dict:
    """{threshold, quantile, scores}: the sorted scores of single sections of every axis of the model's training volumes, each
    with its patient left out, and their quantile. `model.linear.patients` says whose they are; all different where it is empty.

    Training volumes lie in the middle of the array: their place is known, and is not estimated.
    """
    scores = sorted(score(model, one, (0, 0, 0), keep) for one, keep in _cases(model, contrasts, spacing_mm, norm))
    return {"threshold": float(np.quantile(scores, quantile)), "quantile": quantile, "scores": [round(s, 5) for s in scores]}


def _cases(
    model: PoseModel, contrasts: Sequence[str], spacing_mm: Sequence[float], norm: str
) -> Iterator[tuple[Observation, np.ndarray]]:
    linear = model.linear
    for row in range(linear.n_rows // 2):
        volume, keep = linear.rows[row].astype(np.float32), linear.without(row)
        for axis in range(3):
            filled = np.flatnonzero(per_section(well_filled((volume > 0).any(axis=0), axis), axis))
            for index in np.unique(np.linspace(filled[0], filled[-1], PLACES + 2)[1:-1].round().astype(int)):
                yield observe(volume, [Plane(axis, int(index))], contrasts, spacing_mm, "centred", norm), keep
