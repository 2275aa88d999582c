"""The vertebral column in a water/fat Dixon pair without labels: its centre-line, and the curvature of that.

Vertebrae are told by their marrow, a third to a half fat, between muscle, discs and vessels (water) and adipose tissue (fat):
Dixon images show both parts of every voxel. A minimal path from top to bottom joins them, as centre-lines of tubes are found in
medical images (Cohen and Kimmel 1997, Int J Comput Vis 24:57), then the centroid of every section, then a smoothing spline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_smoothing_spline

Spacing = Sequence[float]
MARROW = (0.15, 0.25, 0.65, 0.8)  # fat fraction at which marrow-likeness leaves 0, reaches 1, leaves 1, reaches 0
BLUR_MM = (8.0, 8.0, 15.0)  # half a vertebral body's radius; half a vertebra with its disc
LATERAL_MM, DEPTH, DEPTH_SPREAD = (
    60.0,
    0.35,
    0.25,
)  # where vertebrae are: off the median plane, share of the way from back to front
PRIOR = 0.3  # weight of the place against marrow-likeness, which is 1 at most
SIDEWAYS = 0.4  # what a path pays per mm across, where a mm down along marrow gains 1
WINDOW_MM = 22.0  # radius within which a section's centroid is taken
FOUND = 0.45  # marrow-likeness along the path above which a section shows the column
SHORTEST_MM = 150.0  # of the column: what is less is none
WAVELENGTH_MM = 150.0  # of sideways waves that the spline halves: half that of the tightest scoliotic curves
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
    """(n, 3) centre of the vertebral column in every section that shows it, bottom first, in mm from the middle of voxel 0, 0, 0.

    likeness: (X, Y, Z) as marrow_likeness gives it; body: (X, Y, Z) bool, holes filled; RAS+. Not smoothed along z.
    Raises NotFound where no column of SHORTEST_MM is seen.
    """
    blurred = ndimage.gaussian_filter(likeness, [b / s for b, s in zip(BLUR_MM, spacing_mm, strict=True)])
    sections = np.flatnonzero(body.any(axis=(0, 1)))
    gain = blurred - PRIOR * _place_cost(body, spacing_mm)
    low, high = _corridor(body, spacing_mm)
    path = _best_path(gain[low:high, :, sections], spacing_mm) + [low, 0]
    seen = blurred[path[:, 0], path[:, 1], sections] >= FOUND
    first, last = _longest_run(seen)
    length_mm = (last - first) * spacing_mm[2]
    if length_mm < SHORTEST_MM:
        raise NotFound(f"{length_mm:.0f} mm of a vertebral column, less than {SHORTEST_MM:g} mm")
    centres = _centroids(likeness, path[first:last] * spacing_mm[:2], sections[first:last], spacing_mm)
    return np.column_stack([centres, sections[first:last] * spacing_mm[2]])


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


def _longest_run(seen: np.ndarray) -> tuple[int, int]:
    """[first, last) of the longest run of True; (0, 0) where there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    return (0, 0) if not len(runs) else tuple(runs[np.argmax(runs[:, 1] - runs[:, 0])].tolist())


def _centroids(likeness: np.ndarray, start_mm: np.ndarray, sections: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(n, 2) centroid of marrow within WINDOW_MM, from `start_mm` (n, 2); three times, as the window moves with it.

    Discs show no marrow: likeness is averaged along z over a vertebra first.
    """
    along = ndimage.gaussian_filter1d(likeness, BLUR_MM[2] / spacing_mm[2], axis=2)
    x, y = (np.arange(n) * s for n, s in zip(likeness.shape[:2], spacing_mm[:2], strict=True))
    centres = start_mm.astype(float)
    for _ in range(3):
        for i, (section, (cx, cy)) in enumerate(zip(sections, centres.copy(), strict=True)):
            distance = np.hypot(x[:, None] - cx, y[None] - cy)
            # a soft edge a voxel wide: a hard one would jump by whole voxels
            weight = along[:, :, section] * np.clip((WINDOW_MM - distance) / spacing_mm[0] + 0.5, 0, 1)
            centres[i] = [(weight.sum(axis=1) * x).sum(), (weight.sum(axis=0) * y).sum()] / weight.sum()
    return centres


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
