"""Overlapping stations to one volume: one grid, fat and water put right, gains matched, overlaps blended.

All stations have one orientation, so that a point of the grid is found along each axis by itself: nothing is turned. What was
decided is returned with the volumes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from xdiff.data.cohorts import foreground
from xdiff.data.stations import Station
from xdiff.data.swaps import Overlap, compare, doubtful_share, fat_below_the_skin, fat_fraction, find_swaps
from xdiff.errors import InputError

SWAPPED = {"fat": "water", "water": "fat"}
BRIGHTEST = 95  # percentile
LEAST_TISSUE = 100  # voxels in an overlap
LEAST_MARGIN = 0.05  # between the best and the second best labels, in fat fraction
MOST_DOUBTFUL = 0.2  # of an overlap's tissue; beyond it a swap of a part is suspected
MOST_GAIN = 5.0  # between neighbours; beyond it something else is wrong


class Grid(NamedTuple):
    """The stitched volume's voxels: shape, isotropic spacing, and the first voxel's middle along the stations' axes, in mm."""

    shape: tuple[int, int, int]
    spacing_mm: float
    first_mm: np.ndarray


@dataclass(frozen=True)
class Stitched:
    """contrast -> (X, Y, Z) float32; `body` (X, Y, Z) bool; `affine` (4, 4) to RAS mm; `record`: what was decided, plain data."""

    images: Mapping[str, np.ndarray]
    body: np.ndarray
    affine: np.ndarray
    record: dict[str, Any]


@dataclass(frozen=True)
class Seam:
    """What the overlap of two neighbours tells. `height_mm` (2): its lower and upper end; `log_ratio`: lower to upper signal."""

    height_mm: tuple[float, float]
    voxels: int
    log_ratio: float
    fraction: Overlap
    doubtful: float


def stitch(stations: Sequence[Station], spacing_mm: float, where: Path) -> Stitched:
    """One volume per contrast from stations that begin with the lowest; each has fat and water.

    spacing_mm: 0 for the finest within the sections. Raises InputError on a spacing coarser than any station's, an overlap
    without tissue, gains beyond MOST_GAIN, and where it cannot be told which is fat and which water.
    """
    grid = grid_of(stations, spacing_mm, where)
    swaps, gains, record = decide(stations, where)
    righted = [_righted(station, swap) for station, swap in zip(stations, swaps, strict=True)]
    images = {contrast: blend(righted, contrast, gains, grid) for contrast in stations[0].images}
    affine = np.eye(4)
    affine[:3, :3] = stations[0].directions * grid.spacing_mm
    affine[:3, 3] = stations[0].directions @ grid.first_mm
    return Stitched(images, _body(images), affine, record)


def decide(stations: Sequence[Station], where: Path) -> tuple[tuple[bool, ...], np.ndarray, dict[str, Any]]:
    """Which stations have fat and water swapped, the factor of each, and the record of both.

    On the finest spacing within the sections, whatever that of the volume will be: it changes no decision. Raises InputError as
    `stitch` does.
    """
    grid = grid_of(stations, 0, where)
    signals = [_on_grid(station, station.images["fat"] + station.images["water"], grid) for station in stations]
    fats = [_on_grid(station, station.images["fat"], grid) for station in stations]
    fractions = [fat_fraction(fat, signal - fat) for fat, signal in zip(fats, signals, strict=True)]
    tissues = [signal > _threshold(signal) for signal in signals]
    seams = [_seam(i, stations, signals, fractions, tissues, grid, where) for i in range(len(stations) - 1)]
    spacing = [grid.spacing_mm] * 3
    below_skin = [fat_below_the_skin(f, t, spacing) for f, t in zip(fractions, tissues, strict=True)]
    swaps, margin = find_swaps(below_skin, [seam.fraction for seam in seams])
    if margin < LEAST_MARGIN:
        found = f"fat and water that cannot be told apart (margin {margin:.3f}; half of a station swapped?)"
        raise InputError(where, found, f"a margin of {LEAST_MARGIN} or more in fat fraction")
    gains = gains_of([seam.log_ratio for seam in seams])
    return swaps, gains, _record(stations, swaps, margin, gains, below_skin, seams)


def grid_of(stations: Sequence[Station], spacing_mm: float, where: Path) -> Grid:
    """As many whole isotropic voxels as fit into the box about all stations, in its middle: none reaches beyond it."""
    spacing = spacing_mm or min(float(station.spacing_mm[:2].min()) for station in stations)
    coarsest = max(float(station.spacing_mm.max()) for station in stations)
    if spacing > coarsest:
        expected = f"at most {coarsest:.4g} mm: the stations are interpolated, not averaged"
        raise InputError(where, f"stitch_spacing_mm {spacing:g}", expected)
    extents = np.stack([station.extent_mm for station in stations])
    low, high = extents[..., 0].min(axis=0), extents[..., 1].max(axis=0)
    # rounded first: an extent of 499.9999999 mm has as many voxels as one of 500
    shape = np.floor(np.round((high - low) / spacing, 3)).astype(int)
    first = (low + high) / 2 - spacing * (shape - 1) / 2
    return Grid(tuple(int(n) for n in shape), spacing, first)


def _sections(station: Station, grid: Grid) -> slice:
    """The grid's sections whose middles lie in a station."""
    low, high = (station.extent_mm[2] - grid.first_mm[2]) / grid.spacing_mm
    return slice(max(0, int(np.ceil(low - 1e-6))), min(grid.shape[2], int(np.floor(high + 1e-6)) + 1))


def _on_grid(station: Station, image: np.ndarray, grid: Grid) -> np.ndarray:
    """An image of a station at the grid's points within its sections, linear between voxels; 0 beyond it sideways."""
    sections = _sections(station, grid)
    first = grid.first_mm + [0, 0, sections.start * grid.spacing_mm]
    step = grid.spacing_mm / station.spacing_mm
    offset = (first - station.first_mm) / station.spacing_mm
    shape = (*grid.shape[:2], sections.stop - sections.start)
    array = ndimage.affine_transform(image, step, offset, shape, output=np.float32, order=1, mode="nearest")
    for axis in (0, 1):
        at = offset[axis] + step[axis] * np.arange(shape[axis])
        beyond = (at < -0.5 - 1e-6) | (at > image.shape[axis] - 0.5 + 1e-6)
        array[(slice(None),) * axis + (beyond,)] = 0
    return array


def _threshold(signal: np.ndarray) -> float:
    """Half of Otsu's: dark tissue belongs to the body (as in cohorts.foreground)."""
    from skimage.filters import threshold_otsu

    return 0.5 * float(threshold_otsu(_clipped(signal)))


def _clipped(signal: np.ndarray) -> np.ndarray:
    """Without what is brightest: a spot below a coil would draw the threshold up."""
    return np.minimum(signal, np.percentile(signal, BRIGHTEST))


def _seam(i: int, stations: Sequence[Station], signals: list, fractions: list, tissues: list, grid: Grid, where: Path) -> Seam:
    """Compare stations i and i + 1 in the middle half of their overlap: a slab's outermost sections are weak."""
    low, high = stations[i + 1].extent_mm[2, 0], stations[i].extent_mm[2, 1]
    heights = grid.first_mm[2] + grid.spacing_mm * np.arange(grid.shape[2])
    own = [_sections(station, grid) for station in stations[i : i + 2]]
    shared = np.arange(own[1].start, own[0].stop)
    middle = np.abs(heights[shared] - (low + high) / 2) <= max((high - low) / 4, grid.spacing_mm)
    lower, upper = ((..., shared[middle] - sections.start) for sections in own)
    tissue = tissues[i][lower] & tissues[i + 1][upper]
    if tissue.sum() < LEAST_TISSUE:
        found = f"{int(tissue.sum())} voxels of tissue that two stations share, from {low:.0f} to {high:.0f} mm"
        raise InputError(where, found, f"at least {LEAST_TISSUE}, to match their gains by")
    ratio = float(np.median(np.log(signals[i][lower][tissue] / signals[i + 1][upper][tissue])))
    if abs(ratio) > np.log(MOST_GAIN):
        found = f"a station {np.exp(abs(ratio)):.1f} times as bright as its neighbour, from {low:.0f} to {high:.0f} mm"
        raise InputError(where, found, f"at most {MOST_GAIN:g} times")
    one, other = fractions[i][lower][tissue], fractions[i + 1][upper][tissue]
    overlap = compare(one, other)
    doubtful = doubtful_share(one, other if overlap.same <= overlap.swapped else 1 - other)
    return Seam((float(low), float(high)), int(tissue.sum()), ratio, overlap, doubtful)


def gains_of(log_ratios: Sequence[float]) -> np.ndarray:
    """Factors (N,) that make N neighbours equally bright, of geometric mean 1, from N - 1 logarithms of lower to upper signal."""
    logs = np.concatenate([[0.0], np.cumsum(log_ratios)])
    return np.exp(logs - logs.mean())


def _righted(station: Station, swap: bool) -> Station:
    if not swap:
        return station
    images = {contrast: station.images[SWAPPED.get(contrast, contrast)] for contrast in station.images}
    return Station(images, station.affine, station.series, station.description)


def blend(stations: Sequence[Station], contrast: str, gains: Sequence[float], grid: Grid) -> np.ndarray:
    """The weighted mean (X, Y, Z) of all stations that reach a point; beyond them 0."""
    total, weight = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for i, station in enumerate(stations):
        sections = _sections(station, grid)
        inside = _on_grid(station, np.ones(station.shape, np.float32), grid)
        share = inside * _ramp(stations, i, grid)[sections]
        total[..., sections] += float(gains[i]) * share * _on_grid(station, station.images[contrast], grid)
        weight[..., sections] += share
    return np.divide(total, weight, out=total, where=weight > 0)


def _ramp(stations: Sequence[Station], i: int, grid: Grid) -> np.ndarray:
    """Weight (Z,) of station i: 1, falling smoothly to (almost) 0 over its overlaps, so that no edge of a stack is seen."""
    heights = grid.first_mm[2] + grid.spacing_mm * np.arange(grid.shape[2])
    low, high = stations[i].extent_mm[2]
    weight = np.ones(grid.shape[2], np.float32)
    if i > 0:
        weight *= _smooth_step((heights - low) / (stations[i - 1].extent_mm[2, 1] - low))
    if i < len(stations) - 1:
        weight *= _smooth_step((high - heights) / (high - stations[i + 1].extent_mm[2, 0]))
    return np.maximum(weight, 1e-6)


def _smooth_step(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _body(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest part of what is bright, each section's holes filled: lungs, and a windpipe that is open above."""
    mask = foreground(_clipped(images["fat"] + images["water"])[None], "otsu")
    return np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(mask, 2, 0)], axis=2)


def _record(
    stations: Sequence[Station],
    swaps: Sequence[bool],
    margin: float,
    gains: np.ndarray,
    below_skin: Sequence[float],
    seams: Sequence[Seam],
) -> dict[str, Any]:
    rows = [
        {
            "description": station.description,
            "height_mm": station.extent_mm[2].round(3).tolist(),
            "shape": list(station.shape),
            "spacing_mm": station.spacing_mm.round(4).tolist(),
            "gain": round(float(gain), 5),
            "swapped": bool(swap),
            "fat_below_skin": round(sign, 4),
            "series": dict(station.series),
        }
        for station, swap, gain, sign in zip(stations, swaps, gains, below_skin, strict=True)
    ]
    overlaps = [
        {
            **{key: value for key, value in asdict(seam).items() if key != "fraction"},
            "fat_fraction_difference": seam.fraction.swapped if one != other else seam.fraction.same,
            "part_swapped_suspected": seam.doubtful > MOST_DOUBTFUL,
        }
        for seam, (one, other) in zip(seams, itertools.pairwise(swaps), strict=True)
    ]
    return {"stations": rows, "overlaps": overlaps, "swaps_repaired": int(sum(swaps)), "swap_margin": margin}
