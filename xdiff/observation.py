"""What reaches a method: the given sections and nothing else. And the points of a sweep, which say what is given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from xdiff.config import OWN_NUMBER, Sweep
from xdiff.config import Projection as Projected
from xdiff.errors import InputError
from xdiff.planes import (
    AXES,
    AnyPlane,
    Plane,
    Projection,
    along,
    common_axis,
    cut,
    distance_mm,
    evidence,
    linear_weights,
    per_section,
)
from xdiff.seen import known_exactly, share_seen
from xdiff.stacks import stacks, tilted_stack

FEWEST = 4  # sections of the policy every_fifth: what cubic interpolation needs


@dataclass(frozen=True)
class Observation:
    """K given sections of one volume.

    sections[k] is (C, h, w) float32 in units of `scale`, the given sections' own raw intensity scale per contrast (all a
    user has); `shape` (X, Y, Z) and `spacing_mm` (3,) describe the array a method is to fill; `frame` says how it was placed.
    `given` says for each contrast whether the sections carry it (all where omitted); one that they do not is 0 in every
    section, and its scale is 1: nothing given fixes the brightness of it, so that a method predicts it in units in which the
    volume's own 99.5th percentile is 1, as the store keeps training volumes.
    """

    planes: tuple[AnyPlane, ...]
    sections: tuple[np.ndarray, ...]
    contrasts: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    scale: np.ndarray
    frame: str
    given: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        given = tuple(bool(g) for g in self.given) or (True,) * len(self.contrasts)
        if len(given) != len(self.contrasts) or not any(given):
            raise ValueError(f"given is {self.given} for contrasts {self.contrasts}, expected one each, at least one True")
        if any(section[~np.array(given)].any() for section in self.sections):
            raise ValueError(f"sections with values in contrasts that are not given ({given}), expected zeros there")
        object.__setattr__(self, "given", given)

    @cached_property
    def _evidence(self) -> tuple[np.ndarray, np.ndarray]:
        return evidence(self.sections, self.planes, self.shape)

    @property
    def evidence(self) -> np.ndarray:
        """E = W+ A^T y, (C, X, Y, Z) float32, 0 where nothing was given."""
        return self._evidence[0]

    @property
    def mask(self) -> np.ndarray:
        """M, (X, Y, Z) bool: voxels that a given section covers."""
        return self._evidence[1]

    @property
    def known(self) -> np.ndarray:
        """(C, X, Y, Z) bool: voxels whose value is given exactly: those of thin sections of the array's axes, and all of a
        projection, in the contrasts that are given; nothing in the others."""
        return known_exactly(self.planes, self.shape) & np.array(self.given)[:, None, None, None]

    @cached_property
    def interpolated(self) -> np.ndarray:
        """Linear interpolation along the axis of the given sections (C, X, Y, Z) float32; 0 where they have no common axis and
        in contrasts that are not given."""
        axis = common_axis(self.planes)
        if axis is None:
            return np.zeros((len(self.contrasts), *self.shape), dtype=np.float32)
        order = np.argsort([p.index for p in self.planes])
        stacked = np.stack([self.sections[i] for i in order])
        weights = linear_weights([self.planes[i].index for i in order], self.shape[axis]).astype(np.float32)
        return np.moveaxis(np.tensordot(weights, stacked, axes=1), 0, axis + 1)

    @cached_property
    def distance_mm(self) -> np.ndarray:
        """Delta, (X, Y, Z) float32: mm to the nearest given plane."""
        return distance_mm(self.planes, self.shape, self.spacing_mm)


@dataclass(frozen=True)
class Point:
    """One combination of a sweep's factors."""

    K: int
    axis: str
    policy: str
    thickness_mm: float
    steps: int
    estimate: str
    seed: int
    contrasts_given: str = "all"

    @property
    def name(self) -> str:
        thickness = f"_t{self.thickness_mm:g}" if self.thickness_mm else ""
        sampling = "" if self.estimate == "mean" else f"_{self.estimate}-{self.steps}_s{self.seed}"
        random = f"_s{self.seed}" if self.policy == "random" and not sampling else ""
        contrasts = "" if self.contrasts_given == "all" else f"_{self.contrasts_given}"
        return f"K{self.K:02d}_{self.axis}_{self.policy}{thickness}{contrasts}{sampling}{random}"


def projection_point(projection: Projected, seed: int = 0) -> Point:
    """The one point of a cohort with a projection: nothing else is given."""
    return Point(1, projection.axis, "projection", 0.0, 1, "mean", seed, projection.contrast)


def points_of(sweep: Sweep, estimates: Sequence[str], min_k: int = 1, stepped: bool = True) -> list[Point]:
    """The points of a sweep that a method can do; what does not matter (steps and seed to `mean`) is not repeated."""
    factors = {k: v for k, v in asdict(sweep).items() if k != "only"}
    found: dict[Point, None] = {}
    for values in itertools.product(*factors.values()):
        point = Point(**dict(zip(factors, values, strict=True)))
        if point.estimate not in estimates or (point.policy not in OWN_NUMBER and point.K < min_k):
            continue
        if point.estimate == "mean":
            seed = point.seed if point.policy == "random" else 0
            point = replace(point, steps=1, seed=seed)
        elif not stepped:
            point = replace(point, steps=1)
        found[point] = None
    return list(found)


def intensity_scale(images: np.ndarray) -> np.ndarray:
    """99.5th percentile over the positive voxels of each contrast of (C, ...), shape (C,) float32.

    Over positive voxels, so that it does not depend on how much background surrounds the head.
    """
    scale = [np.percentile(c[c > 0], 99.5) if (c > 0).any() else 0.0 for c in images.reshape(len(images), -1)]
    if min(scale) <= 0:
        raise InputError("intensities", "a contrast without a positive voxel", "an image or section with signal")
    return np.array(scale, dtype=np.float32)


def observe(
    volume: np.ndarray,
    planes: Sequence[AnyPlane],
    contrasts: Sequence[str],
    spacing_mm: Sequence[float],
    frame: str,
    norm: str = "p99.5",
    given: Sequence[str] | None = None,
) -> Observation:
    """Cut the given sections out of a volume (C, X, Y, Z); the volume itself goes no further.

    given: names of the contrasts that the sections carry, all where None. Raises InputError on other names, or none.
    """
    names = list(contrasts if given is None else given)
    if not names or not set(names) <= set(contrasts):
        raise InputError("given contrasts", names, f"some of {list(contrasts)}")
    kept = np.array([name in names for name in contrasts])
    sections = [np.array(s, dtype=np.float32) for s in cut(volume, planes)]
    scale = np.ones(len(volume), dtype=np.float32)
    if norm == "p99.5":
        scale[kept] = intensity_scale(np.concatenate([s[kept].reshape(kept.sum(), -1) for s in sections], axis=1))
    scaled = tuple(np.where(kept[:, None, None], s / scale[:, None, None], 0) for s in sections)
    shape, frozen = tuple(volume.shape[1:]), tuple(kept.tolist())
    return Observation(tuple(planes), scaled, tuple(contrasts), shape, tuple(spacing_mm), scale, frame, frozen)


def choose_planes(
    point: Point, foreground: np.ndarray, labels: np.ndarray | None, spacing_mm: Sequence[float], subject: str
) -> list[AnyPlane]:
    """The given planes of a point for one subject, by the protocol's policies.

    uniform: K sections at the interior points of K + 2 equidistant ones over the foreground; centre: K adjacent ones in its
    middle; random: K different ones, drawn from (seed, subject); tumour: the uniform ones, the nearest of which gives
    way to the section with most tumour; off_tumour: K spread evenly over the sections without tumour; orthogonal: the K divided
    among the three axes as evenly as they go, the point's own first, then axial, coronal, sagittal, and uniform along each
    (K = 3: a localizer); every_fifth: every fifth section of the foreground from the third on, at least FEWEST; swap: the
    uniform ones, to be cut out of another patient's volume (the harness does that); tilted: K parallel oblique ones
    (stacks.tilted_stack), uniform along their normal, thin. projection: the mean along the whole axis, K = 1.
    """
    if point.policy == "projection":
        return [Projection.of(AXES[point.axis], foreground.shape[AXES[point.axis]])]
    if point.policy == "tilted":
        if point.thickness_mm > 0:
            raise NotEnoughSections(f"{subject}: tilted sections are thin, thickness_mm is {point.thickness_mm:g}")
        return list(tilted_stack(AXES[point.axis], point.K, foreground, spacing_mm))
    if point.policy == "orthogonal":
        by_axis = [replace(point, axis=axis, K=k, policy="uniform") for axis, k in _divided(point) if k]
        return [plane for one in by_axis for plane in choose_planes(one, foreground, labels, spacing_mm, subject)]
    axis = AXES[point.axis]
    rows = np.flatnonzero(per_section(foreground, axis))
    indices = _choose(point, rows, _tumour_profile(labels, axis), subject)
    thickness = max(1.0, point.thickness_mm / spacing_mm[axis])
    return [Plane(axis, int(i), thickness) for i in indices]


def _divided(point: Point) -> list[tuple[str, int]]:
    """(axis, number of sections) of the three axes, the point's own first."""
    axes = [point.axis, *(a for a in ("axial", "coronal", "sagittal") if a != point.axis)]
    return [(axis, (point.K + 2 - i) // 3) for i, axis in enumerate(axes)]


def _choose(point: Point, rows: np.ndarray, tumour: np.ndarray | None, subject: str) -> list[int]:
    if len(rows) < point.K:
        raise NotEnoughSections(f"{subject}: {len(rows)} foreground sections, {point.K} asked for")
    if point.policy in ("uniform", "swap"):
        return _spread(rows, point.K)
    if point.policy == "every_fifth":
        if len(rows[2::5]) < FEWEST:
            raise NotEnoughSections(f"{subject}: {len(rows[2::5])} of its sections are every fifth, at least {FEWEST} needed")
        return rows[2::5].tolist()
    if point.policy == "centre":
        start = (len(rows) - point.K) // 2
        return rows[start : start + point.K].tolist()
    if point.policy == "random":
        rng = np.random.default_rng([point.seed, *subject.encode()])
        return sorted(rng.choice(rows, point.K, replace=False).tolist())
    if tumour is None or not tumour.any():
        raise NotEnoughSections(f"{subject}: policy {point.policy} needs a labelled tumour")
    if point.policy == "tumour":
        largest = int(np.argmax(tumour))
        others = sorted(_spread(rows, point.K), key=lambda i: abs(i - largest))[1:]
        return sorted([largest, *others])
    free = np.array([r for r in rows if tumour[r] == 0])
    if len(free) < point.K:
        raise NotEnoughSections(f"{subject}: {len(free)} tumour-free sections, {point.K} asked for")
    return free[_spread(np.arange(len(free)), point.K)].tolist()


class NotEnoughSections(ValueError):
    """A point that a subject cannot give; it is left out for the whole cohort and listed."""


def _spread(rows: np.ndarray, count: int) -> list[int]:
    places = np.linspace(rows[0], rows[-1], count + 2)[1:-1]
    chosen = np.unique(np.round(places).astype(int))
    if len(chosen) < count:
        raise NotEnoughSections(f"{count} sections do not fit in {len(rows)}")
    return chosen.tolist()


def _tumour_profile(labels: np.ndarray | None, axis: int) -> np.ndarray | None:
    """Tumour voxels per section along an axis."""
    return None if labels is None else per_section(labels > 0, axis)


def leaves_enough_unseen(planes: Sequence[AnyPlane], foreground: np.ndarray) -> bool:
    """False where less than a quarter of the foreground stays unseen: such a K is left out and listed, never shrunk.

    Sections of one axis: a quarter of the foreground's sections; of a thick one, what its box covers counts, parts of sections
    too. Others: a quarter of the foreground's voxels, oblique sections counting as one voxel thick. A projection shows no voxel.
    """
    planes = [p for p in planes if not isinstance(p, Projection)]
    if not planes:
        return True
    axis = common_axis(planes)
    seen = share_seen(planes, foreground.shape)
    if axis is None:
        return float(1 - seen[foreground].mean()) >= 0.25
    rows = np.flatnonzero(per_section(foreground, axis))
    # all voxels of a section are seen to the same share; rounding must not decide
    return float((1 - np.moveaxis(seen, axis, 0)[rows, 0, 0]).sum()) >= len(rows) / 4 - 1e-9


def well_filled(foreground: np.ndarray, axis: int, share: float = 0.2) -> np.ndarray:
    """The foreground without the sections that hold little of it: the intensity scale of a slice that only grazes the head
    means nothing, and a residual divided by it would outweigh a thousand others."""
    area = per_section(foreground, axis)
    return foreground & along(area >= share * area.max(), axis)


def gap_mm(planes: Sequence[AnyPlane], spacing_mm: Sequence[float]) -> float:
    """Mean distance in mm between neighbouring parallel given sections; NaN where no two are parallel."""
    gaps = [gap for stack in stacks(planes, spacing_mm) for gap in np.diff(stack.offsets_mm)]
    return float(np.mean(gaps)) if gaps else float("nan")
