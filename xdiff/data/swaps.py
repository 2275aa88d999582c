"""Fat and water that were taken for one another: two-point Dixon leaves open, for a whole station at a time, which is which.

Two signs tell: where neighbours overlap, both must say the same of the same tissue; and fat lies below the skin, water inside.
The labels that contradict the two least, of all combinations, are the right ones. UK Biobank has a swap in 1.8 % of participants
(Basty et al. 2020, arXiv 2007.01251, who find them with a trained network; nothing is trained here).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

RIM_MM = (2.0, 10.0)  # below the surface, under the skin: subcutaneous fat
CORE_MM = 20.0  # and deeper than this: muscle and organs
LEAST_CORE = 200  # voxels, for a mean
FAR = 1e6  # spacing between sections that no distance bridges


class Overlap(NamedTuple):
    """Mean difference in fat fraction (0..1) of two neighbours in shared tissue: as labelled, and with one of them swapped."""

    same: float
    swapped: float


def fat_fraction(fat: np.ndarray, water: np.ndarray) -> np.ndarray:
    """Fat's share of the signal, 0..1, in arrays of any shape; 0 where there is none."""
    total = fat + water
    return np.divide(fat, total, out=np.zeros_like(total), where=total > 0)


def fat_below_the_skin(fraction: np.ndarray, tissue: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """How much higher the fat fraction (X, Y, Z) is below the skin than in the depth, -1..1: less than 0 says swapped.

    tissue: mask (X, Y, Z) of the body; spacing_mm (3,). Depth is measured within each section (axis 2). 0 where a station has no
    depth, which says nothing.
    """
    filled = np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(tissue, 2, 0)], axis=2)
    depth = ndimage.distance_transform_edt(filled, sampling=(*spacing_mm[:2], FAR))
    rim = tissue & (depth > RIM_MM[0]) & (depth <= RIM_MM[1])
    core = tissue & (depth > CORE_MM)
    if min(rim.sum(), core.sum()) < LEAST_CORE:
        return 0.0
    return float(fraction[rim].mean() - fraction[core].mean())


def compare(lower: np.ndarray, upper: np.ndarray) -> Overlap:
    """Two stations' fat fractions at the same points of tissue, (N,) each."""
    return Overlap(float(np.abs(lower - upper).mean()), float(np.abs(lower + upper - 1).mean()))


def find_swaps(below_skin: Sequence[float], overlaps: Sequence[Overlap]) -> tuple[tuple[bool, ...], float]:
    """Which of N stations are swapped, from N signs of anatomy and N - 1 overlaps; and how much worse the second best answer is.

    Every combination is weighed (64 of six stations): differences in overlaps, less what speaks for the labels below the skin.
    """

    def contradiction(swaps: tuple[bool, ...]) -> float:
        pairs = zip(overlaps, itertools.pairwise(swaps), strict=True)
        between = sum(overlap.same if one == other else overlap.swapped for overlap, (one, other) in pairs)
        return between + sum(sign if swap else -sign for swap, sign in zip(swaps, below_skin, strict=True))

    ranked = sorted(itertools.product((False, True), repeat=len(below_skin)), key=contradiction)
    return ranked[0], contradiction(ranked[1]) - contradiction(ranked[0])


def doubtful_share(lower: np.ndarray, upper: np.ndarray) -> float:
    """Of the points of tissue that two stations share, (N,) fat fractions each, those that would agree better with one of them
    swapped: 0..1. A swap of a part, an arm or a leg, is seen by it; such a one is not repaired."""
    return float((np.abs(lower - upper) > np.abs(lower + upper - 1) + 0.2).mean())
