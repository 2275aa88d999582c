"""The local correction: what a voxel's surroundings say about the error of the linear-Gaussian estimate.

The ridge of gaussian.py combines whole volumes and spreads what it misses straight along the axis. Left over are errors that
look alike everywhere: a boundary that the given sections show to lie further out lies further out between them too, at the
boundary's own place there. This is a regression of the leave-one-out residual on some forty features of a voxel's
surroundings - the estimate, what was spread, linear interpolation, at several scales, and products of them such as
(gradient of the estimate) x (gradient of what was spread) - each with a weight that is quadratic in the distance to the
nearest given section and in how far apart the given sections are. Least squares in closed form, a minute of work. On brains
at 4 mm a 3D U-Net trained for 1500 steps on what it leaves found next to nothing (results/reference/real-brains-48).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from xdiff.data.split import Split, patient_of
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian import FIT_K, LinearGaussian
from xdiff.gaussian_fit import fit, from_tensors, to_tensors
from xdiff.observation import NotEnoughSections, Observation, Point, choose_planes, leaves_enough_unseen, observe, well_filled
from xdiff.planes import AXES, AXIS_NAMES, common_axis

SIZES = (3, 5, 9)  # voxels: of the box filters
REACH_MM = 40.0  # distances count up to here
POWERS = 3  # of how much is open, in every weight
RIDGE = 1e-7  # relative to each feature's power: keeps near-collinear features solvable


@dataclass(frozen=True)
class CoreSettings:
    """max_volumes: most training volumes of the linear-Gaussian estimate; cases: training cases of the correction, with `voxels`
    random voxels each."""

    max_volumes: int = 400
    cases: int = 400
    voxels: int = 6000


class Estimate(NamedTuple):
    """gaussian: G; spread: its part that kriging added; corrected: G with the local correction. All (C, X, Y, Z) float32."""

    gaussian: np.ndarray
    spread: np.ndarray
    corrected: np.ndarray


@dataclass
class Core:
    """The linear-Gaussian estimate with its local correction. weights (C, features, 3, POWERS): powers of the distance to the
    nearest given section, powers of how much is open (see `openness`)."""

    linear: LinearGaussian
    weights: np.ndarray

    def estimate(self, observation: Observation, patient: str | None = None) -> Estimate:
        """What is known of a volume without a network. patient: whose training volumes are left out.

        The correction is for sections of one axis; where given planes have no common axis it is zero.
        """
        gaussian, spread = self.linear.estimate_parts(observation, self.linear.without_patient(patient))
        axis = common_axis(observation.planes)
        corrected = gaussian
        if axis is not None:
            weights = np.einsum("j,cfij->cfi", openness(observation, gaussian), self.weights)
            found = [_apply(w, observation, gaussian, spread, c, axis) for c, w in enumerate(weights)]
            corrected = gaussian + np.where(observation.mask, 0, np.stack(found)).astype(np.float32)
        return Estimate(gaussian, spread, corrected)

    def tensors(self) -> dict[str, np.ndarray]:
        return {**to_tensors(self.linear), "local_weights": self.weights.astype(np.float32)}

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> Core:
        return Core(from_tensors(tensors), tensors["local_weights"])


def log_distance(observation: Observation, gaussian: np.ndarray) -> float:
    """Logarithm of the mean distance in mm to the nearest given section (at most REACH_MM), weighted by the brightness of the
    estimate (C, X, Y, Z): how much of the subject is left open.

    The number of sections would not do: ten of them side by side leave as much open as one.
    """
    bright = np.maximum(gaussian, 0).mean(axis=0) + 1e-6
    return float(np.log((np.minimum(observation.distance_mm, REACH_MM) * bright).sum() / bright.sum()))


def openness(observation: Observation, gaussian: np.ndarray) -> np.ndarray:
    """(POWERS,) powers of the log mean distance, brought to about -1..1 between one given section and thirty."""
    return ((np.clip(log_distance(observation, gaussian), 0.7, 3.6) - 2.2) / 1.2) ** np.arange(POWERS)


def features(observation: Observation, gaussian: np.ndarray, spread: np.ndarray, c: int, axis: int) -> Iterator[np.ndarray]:
    """Features (X, Y, Z) float32 of contrast `c`, one after the other, none of which knows left from right or front from back:
    `axis` is the only direction."""
    g, s = gaussian[c], spread[c]
    off = observation.interpolated[c] - g
    for image in (g, s, off):
        yield image
        yield from (ndimage.uniform_filter(image, size) for size in SIZES)
    for image in (g, s):
        for step in (1, 2):
            yield np.roll(image, step, axis) + np.roll(image, -step, axis)
    for size in SIZES[:2]:
        smooth_g, smooth_s = ndimage.uniform_filter(g, size), ndimage.uniform_filter(s, size)
        slope_g, slope_s = np.gradient(smooth_g), np.gradient(smooth_s)
        slope_off = np.gradient(ndimage.uniform_filter(off, size))
        steep = sum(x * x for x in slope_g)
        yield from (steep, np.sqrt(steep), smooth_s * np.sqrt(steep))
        yield from (smooth_s * smooth_s, smooth_g * smooth_g, smooth_g * smooth_s, ndimage.laplace(smooth_g))
        yield sum(x * y for x, y in zip(slope_g, slope_s, strict=True))
        yield slope_g[axis] * slope_s[axis]
        yield sum(x * y for x, y in zip(slope_g, slope_off, strict=True))
    yield from (np.maximum(-g, 0), g * g, g * s, g**3, g * g * s, g * off)
    yield np.ones_like(g)


def _distance(observation: Observation) -> np.ndarray:
    return np.minimum(observation.distance_mm, REACH_MM) / REACH_MM


def _apply(
    weights: np.ndarray, observation: Observation, gaussian: np.ndarray, spread: np.ndarray, c: int, axis: int
) -> np.ndarray:
    """Sum over the features of (w_0 + w_1 d + w_2 d^2) feature, (X, Y, Z)."""
    distance = _distance(observation)
    total = np.zeros(observation.shape, dtype=np.float32)
    for (w0, w1, w2), feature in zip(weights, features(observation, gaussian, spread, c, axis), strict=True):
        total += (w0 + distance * (w1 + distance * w2)) * feature
    return total


def fit_core(store: Store, split: Split, settings: CoreSettings, seed: int = 0) -> Core:
    """Fit the linear-Gaussian core, then the local correction on leave-one-out cases of the training side: every K of
    FIT_K in turn, along random axes, three in four uniform and one at random places, which may lie side by side."""
    linear = fit(store, split, settings.max_volumes)
    subjects, systems = split.side("train"), [_System() for _ in store.contrasts]
    for case in range(settings.cases):
        rng = np.random.default_rng([seed, 77, case])
        policy = "random" if rng.random() < 0.25 else "uniform"
        point = Point(FIT_K[case % len(FIT_K)], AXIS_NAMES[rng.integers(3)], policy, 0.0, 1, "mean", case)
        _add_case(systems, store, linear, subjects[rng.integers(len(subjects))], (point, settings.voxels), rng)
    if not systems[0].cases:
        raise InputError(store.folder, f"training volumes too small for {FIT_K[0]} given section", "more foreground sections")
    return Core(linear, np.stack([system.solve() for system in systems]))


def _add_case(
    systems: list[_System],
    store: Store,
    linear: LinearGaussian,
    subject: str,
    setting: tuple[Point, int],
    rng: np.random.Generator,
) -> None:
    """One training volume (or its mirror image) seen through given sections, left out of the core, added to the systems of all
    contrasts in units of its own residual, so that few sections do not outweigh many; nothing where they do not fit."""
    point, voxels = setting
    volume, foreground = store.volume(subject), store.foreground(subject)
    if rng.random() < 0.5:
        volume, foreground = volume[:, ::-1], foreground[::-1]
    try:
        planes = choose_planes(point, well_filled(foreground, AXES[point.axis]), None, store.spacing_mm(subject), subject)
    except NotEnoughSections:
        return
    if not leaves_enough_unseen(planes, foreground):
        return
    observation = observe(volume, planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)
    gaussian, spread = linear.estimate_parts(observation, linear.without_patient(patient_of(subject)))
    residual = volume / observation.scale[:, None, None, None] - gaussian
    chosen = rng.choice(np.flatnonzero(~observation.mask), voxels)
    distance = _distance(observation).ravel()[chosen]
    powers = np.stack([np.ones_like(distance), distance, distance**2], axis=1)
    powers = (powers[:, :, None] * openness(observation, gaussian).astype(np.float32)).reshape(len(chosen), 1, 3 * POWERS)
    for c, system in enumerate(systems):
        columns = np.stack([f.ravel()[chosen] for f in features(observation, gaussian, spread, c, AXES[point.axis])], axis=1)
        wanted = residual[c].ravel()[chosen]
        size = np.sqrt((wanted**2).mean()) + 1e-6
        system.add((columns[:, :, None] * powers).reshape(len(chosen), -1) / size, wanted / size)


class _System:
    """Normal equations of one contrast."""

    def __init__(self) -> None:
        self.left: np.ndarray | float = 0.0
        self.right: np.ndarray | float = 0.0
        self.cases = 0

    def add(self, columns: np.ndarray, wanted: np.ndarray) -> None:
        columns = columns.astype(np.float64)  # float32 sums would blur what tells near-collinear features apart
        self.left = self.left + columns.T @ columns
        self.right = self.right + columns.T @ wanted
        self.cases += 1

    def solve(self) -> np.ndarray:
        """Weights (features, 3, POWERS)."""
        unit = 1 / np.sqrt(np.diag(self.left) + 1e-12)
        scaled = self.left * unit[:, None] * unit + RIDGE * np.eye(len(unit))
        return (unit * np.linalg.solve(scaled, self.right * unit)).reshape(-1, 3, POWERS)
