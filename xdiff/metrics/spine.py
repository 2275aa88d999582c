"""The vertebral column in a water/fat Dixon pair without labels: its centre-line, and the curvature of that.

Vertebrae are told by their marrow, a third to a half fat, between muscle, discs and vessels (water) and adipose tissue (fat):
Dixon images show both parts of every voxel. A minimal path joins them from top to bottom, as centre-lines of tubes are found in
medical images (Cohen and Kimmel 1997, Int J Comput Vis 24:57); the vertebral body's centre is then found in every section, and a
smoothing spline drawn through all. The constants are lengths of adult anatomy; those that weigh one thing against another were
chosen on phantom bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Spacing = Sequence[float]
MARROW = (0.15, 0.25, 0.65, 0.8)  # fat fraction at which marrow-likeness leaves 0, reaches 1, leaves 1, reaches 0
BLUR_MM = (8.0, 8.0, 15.0)  # half a vertebral body's radius; half a vertebra with its disc
AROUND_MM = (24.0, 24.0, 15.0)  # what surrounds it
LATERAL_MM = 60.0  # how far off the median plane vertebrae are at most
DEPTH, DEPTH_SPREAD = 0.35, 0.25  # where they are, as a share of the way from back to front
PRIOR = 0.3  # weight of the place against marrow-likeness, which is 1 at most
SIDEWAYS = 0.4  # what a path pays per mm across, where a mm down along marrow gains 1
WINDOW_MM, BODY_MM = 22.0, 34.0  # half the width, and the depth, within which the centroid of a vertebral body is taken
FOUND = 0.15  # by how much marrow-likeness must exceed its surroundings for a section to show the column
COLUMN_MM = 460.0  # from the upper edge of the body down: lower neck to lumbosacral joint in a field of view from neck to knee
SHORTEST_MM = 300.0  # of it must be seen: what is less is none
WAVELENGTH_MM = 200.0  # of waves that the spline halves: noise is shorter, scoliotic curves (half a wave each) mostly longer
STEP_MM = 2.0
END_MM = 15.0  # of either end of the line, where a spline's tangent is least certain


class NotFound(LookupError):
    """What is to be measured cannot be told in these images; the message says why."""


def marrow_likeness(water: np.ndarray, fat: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """(X, Y, Z) float in 0..1: whether the fat fraction is one of vertebral marrow (MARROW); 0 outside `tissue`."""
    total = water + fat
    fraction = np.divide(fat, total, out=np.zeros_like(total, dtype=np.float64), where=tissue & (total > 0))
    return np.interp(fraction, MARROW, (0, 1, 1, 0)) * tissue


def spine_centre_line(likeness: np.ndarray, body: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(n, 3) centre of the vertebral column in every section of the body's upper COLUMN_MM, bottom first.

    In mm from the middle of voxel 0, 0, 0; not smoothed along z. likeness: (X, Y, Z) as marrow_likeness gives it; body: (X, Y, Z)
    bool, holes filled; RAS+. The same stretch for every volume of a field of view, whatever is seen at its ends: with a line that
    ended now in the sacrum and now above it, lordosis would be what the end makes it.
    Raises NotFound where less than SHORTEST_MM of a column is seen.
    """
    # a difference of Gaussians answers to a column, not to wide or thin mixtures of fat and muscle
    near, around = (ndimage.gaussian_filter(likeness, np.divide(blur, spacing_mm)) for blur in (BLUR_MM, AROUND_MM))
    contrast = near - around
    sections = np.flatnonzero(body.any(axis=(0, 1)))
    sections = sections[sections > sections[-1] - COLUMN_MM / spacing_mm[2]]
    gain = contrast - PRIOR * _place_cost(body, spacing_mm)
    low, high = _corridor(body, spacing_mm)
    path = _best_path(gain[low:high, :, sections], spacing_mm) + [low, 0]
    seen_mm = (contrast[path[:, 0], path[:, 1], sections] >= FOUND).sum() * spacing_mm[2]
    if seen_mm < SHORTEST_MM:
        raise NotFound(f"{seen_mm:.0f} mm of a vertebral column, less than {SHORTEST_MM:g} mm")
    return np.column_stack([_centroids(likeness, path, sections, spacing_mm), sections * spacing_mm[2]])


def _place_cost(body: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(X, Y, Z) how far from where vertebrae are, in squares of the spread; 0 outside the body's sections."""
    nx, ny, _ = body.shape
    lateral = (np.arange(nx) * spacing_mm[0] - _median_plane_mm(body, spacing_mm)) / LATERAL_MM
    near = np.abs(lateral) < 1
    covered = body[near].any(axis=0)  # (Y, Z): depths are those of the trunk, not of arms
    back, front = covered.argmax(axis=0), ny - 1 - covered[::-1].argmax(axis=0)
    depth = (np.arange(ny)[:, None] - back) / np.maximum(front - back, 1)
    return lateral[:, None, None] ** 2 + ((depth - DEPTH) / DEPTH_SPREAD)[None] ** 2


def _median_plane_mm(body: np.ndarray, spacing_mm: Spacing) -> float:
    """x of the median plane: the median over sections of their middles, which no scoliosis moves and no one-sided arm."""
    counts = body.sum(axis=1).astype(float)
    filled = counts.sum(axis=0) > 0
    middles = (counts[:, filled] * np.arange(len(counts))[:, None]).sum(axis=0) / counts[:, filled].sum(axis=0)
    return float(np.median(middles) * spacing_mm[0])


def _corridor(body: np.ndarray, spacing_mm: Spacing) -> tuple[int, int]:
    """Columns of voxels along x within two LATERAL_MM of the median plane."""
    middle, reach = _median_plane_mm(body, spacing_mm), 2 * LATERAL_MM
    low, high = (middle - reach) / spacing_mm[0], (middle + reach) / spacing_mm[0]
    return max(0, int(np.ceil(low))), min(len(body), int(np.floor(high)) + 1)


def _best_path(gain: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(Z, 2) voxel of the path through all sections of `gain` (X, Y, Z) that has most of it, sideways moves charged.

    Dynamic programming; a path moves at most one section's height (45 degrees), or one voxel, along x and y.
    """
    dx, dy, dz = spacing_mm
    reach = [max(1, int(round(dz / d))) for d in (dx, dy)]
    moves = [(i, j) for i in range(-reach[0], reach[0] + 1) for j in range(-reach[1], reach[1] + 1)]
    costs = np.array([SIDEWAYS * np.hypot(i * dx, j * dy) for i, j in moves])
    nx, ny, nz = gain.shape
    total, came = gain[:, :, 0] * dz, np.zeros((nz, nx, ny), dtype=np.int16)
    for k in range(1, nz):
        padded = np.pad(total, [(r, r) for r in reach], constant_values=-np.inf)
        before = [padded[reach[0] + i :, reach[1] + j :][:nx, :ny] - cost for (i, j), cost in zip(moves, costs, strict=True)]
        stacked = np.stack(before)
        came[k] = stacked.argmax(axis=0)
        total = stacked.max(axis=0) + gain[:, :, k] * dz
    path = np.empty((nz, 2), dtype=int)
    path[-1] = np.unravel_index(total.argmax(), total.shape)
    for k in range(nz - 1, 0, -1):
        path[k - 1] = path[k] + moves[came[k][tuple(path[k])]]
    return path


def _centroids(likeness: np.ndarray, path: np.ndarray, sections: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(n, 2) centres (x, y) in mm of the vertebral bodies in `sections`, from voxels `path` (n, 2) within the column.

    The arches behind the canal are marrow, too, and would draw a plain centroid backwards: the bodies' anterior border is found
    first, between marrow and vessels or fat, and the centroid is of what lies within BODY_MM behind it.
    """
    # discs show no marrow: likeness is averaged along z over a vertebra
    along = ndimage.gaussian_filter1d(likeness, BLUR_MM[2] / spacing_mm[2], axis=2)[:, :, sections] + 1e-6  # never nothing
    x, y = (np.arange(n) * s for n, s in zip(likeness.shape[:2], spacing_mm[:2], strict=True))
    start = path * np.asarray(spacing_mm[:2])
    near = _within(y[:, None], start[:, 1], WINDOW_MM, spacing_mm[1])
    across = np.einsum("xyn,yn->xn", along, near)
    middle = start[:, 0]
    for _ in range(3):  # the window moves with the centroid
        middle = _centroid(x, across * _within(x[:, None], middle, WINDOW_MM, spacing_mm[0]))
    profile = np.einsum("xyn,xn->yn", along, _within(x[:, None], middle, BODY_MM / 3, spacing_mm[0]))
    border = np.array([_falls(column, at) for column, at in zip(profile.T, path[:, 1], strict=True)]) * spacing_mm[1]
    border = np.minimum(border, start[:, 1] + BODY_MM)
    border = ndimage.median_filter(border, 1 + 2 * round(BLUR_MM[2] / spacing_mm[2]), mode="nearest")
    behind = _within(y[:, None], border - BODY_MM / 2, BODY_MM / 2, spacing_mm[1])
    return np.column_stack([middle, _centroid(y, profile * behind)])


def _within(places: np.ndarray, middle: np.ndarray, reach_mm: float, voxel_mm: float) -> np.ndarray:
    """(places, n) 1 within `reach_mm` of the n middles, with an edge a voxel wide: a hard one would jump by whole voxels."""
    return np.clip((reach_mm - np.abs(places - middle)) / voxel_mm + 0.5, 0, 1)


def _centroid(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (places[:, None] * weights).sum(axis=0) / weights.sum(axis=0)


def _falls(profile: np.ndarray, start: int) -> float:
    """Where, beyond `start`, a profile (n,) first falls below half of what it is there, between two voxels; its end if never."""
    half = profile[start] / 2
    low = np.flatnonzero(profile[start:] < half)
    if not len(low):
        return float(len(profile) - 1)
    at = start + int(low[0])
    return at - (half - profile[at]) / (profile[at - 1] - profile[at])


class Curve(NamedTuple):
    """A smooth centre-line by height: z (n,) mm, evenly; x, y (n, 2) mm; slope (n, 2), dx/dz and dy/dz; bend (n, 2), per mm."""

    z: np.ndarray
    place: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


def smoothed(line: np.ndarray) -> Curve:
    """Cubic smoothing splines of x and y over z through a centre-line (n, 3), without END_MM at both ends.

    Their stiffness is a length (WAVELENGTH_MM): sections twice as thick give the same curve.
    Source: Reinsch 1967, Numer Math 10:177.
    """
    from scipy.interpolate import make_smoothing_spline  # 0.2 s in every job of metrics, most of which see no spine

    z = line[:, 2]
    heights = np.arange(z[0] + END_MM, z[-1] - END_MM, STEP_MM)
    fits = [make_smoothing_spline(z, line[:, axis], w=np.gradient(z), lam=(WAVELENGTH_MM / (2 * np.pi)) ** 4) for axis in (0, 1)]
    return Curve(heights, *(np.stack([fit(heights, nu) for fit in fits], axis=1) for nu in (0, 1, 2)))


def spine_shape(line: np.ndarray) -> dict[str, float]:
    """Curvature of a centre-line (n, 3) in RAS mm, bottom first.

    spine_cobb_deg: largest angle between two tangents in the coronal plane; as Cobb's angle between end plates, with tangents in
        their place. spine_lateral_mm: largest distance, in that plane, from the straight line between the ends.
    spine_lordosis_deg, spine_kyphosis_deg: the same angle in the sagittal plane, between the tangent that leans most backwards
        (about T12) and the one that leans most forwards below it (lumbar), above it (thoracic).
    spine_curvature_per_m: mean over the line's length of its curvature in space.
    Source: Vrtovec, Pernus and Likar 2009, Eur Spine J 18:593, which reviews these definitions.
    """
    curve = smoothed(line)
    coronal, sagittal = np.degrees(np.arctan(curve.slope)).T
    middle = len(sagittal) // 4
    turn = middle + int(sagittal[middle : len(sagittal) - middle].argmin())
    return {
        "spine_cobb_deg": float(np.ptp(coronal)),
        "spine_lateral_mm": _off_chord_mm(curve),
        "spine_kyphosis_deg": float(sagittal[turn:].max() - sagittal[turn]),
        "spine_lordosis_deg": float(sagittal[: turn + 1].max() - sagittal[turn]),
        "spine_curvature_per_m": _mean_curvature_per_m(curve),
    }


def _off_chord_mm(curve: Curve) -> float:
    (z0, z1), (x0, x1) = curve.z[[0, -1]], curve.place[[0, -1], 0]
    chord = x0 + (x1 - x0) * (curve.z - z0) / (z1 - z0)
    return float(np.abs(curve.place[:, 0] - chord).max() * (z1 - z0) / np.hypot(z1 - z0, x1 - x0))


def _mean_curvature_per_m(curve: Curve) -> float:
    """Of (x(z), y(z), z): |r' x r''| / |r'|^3, weighted by length |r'| dz."""
    (x1, y1), (x2, y2) = curve.slope.T, curve.bend.T
    speed = np.sqrt(1 + x1**2 + y1**2)
    curvature = np.sqrt(x2**2 + y2**2 + (x1 * y2 - y1 * x2) ** 2) / speed**3
    return float(1000 * np.average(curvature, weights=speed))
