"""Whole head or skull-stripped: told from what can be measured in one volume, with the reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from xdiff.errors import InputError
from xdiff.volumes import Volume

MOST_NONZERO = 0.75  # of all voxels: an ellipsoid fills half of its box; noise outside a head leaves hardly a zero
MOST_BRAIN_ML = 2300.0  # the largest of 182 skull-stripped brains (ds002748, ixi-2mm) has 1,990 ml, with a dilated mask
LEAST_RING = 1.06  # the largest of 226 skull-stripped volumes, 36 phantoms of four contrasts among them, has 1.02
SHELL_MM = 3.0
SKULL = range(3, 6)  # shells that skull may lie in: 9 to 18 mm below the surface
BRAIN = 3  # and the shells below it that brain is looked for in
WORKING_SPACING_MM = 2.5  # fine enough for shells of 3 mm, and a tenth of a second per volume


class Head(NamedTuple):
    """`whole` head or not, and why: one clause of plain English."""

    whole: bool
    reason: str


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (X, Y, Z) with its holes filled."""
    parts, n = ndimage.label(mask)
    if n > 1:
        mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(mask)


def head_of(image: np.ndarray, spacing_mm: np.ndarray) -> Head:
    """Whether an image (X, Y, Z) shows a whole head; `spacing_mm` (3,).

    Three signs, in this order: hardly any exact zero, a foreground larger than any brain, or a ring of skull: under a
    bright scalp a dark shell, and below it brighter tissue again. A skull-stripped volume has none of them.
    """
    nonzero = image != 0
    if nonzero.mean() > MOST_NONZERO:
        return Head(True, f"{nonzero.mean():.1%} non-zero voxels")
    step = np.maximum(1, np.round(WORKING_SPACING_MM / np.asarray(spacing_mm))).astype(int)
    coarse = image[tuple(slice(None, None, s) for s in step)]
    mask = largest_part(coarse != 0)
    volume_ml = mask.sum() * np.prod(spacing_mm * step) / 1000
    if volume_ml > MOST_BRAIN_ML:
        return Head(True, f"a foreground of {volume_ml:.0f} ml, more than a brain")
    ring = ring_contrast(coarse, mask, spacing_mm * step)
    if ring > LEAST_RING:
        return Head(True, f"a dark ring under a bright rim (contrast {ring:.2f}: skull under scalp)")
    return Head(False, f"{1 - nonzero.mean():.0%} exact zeros, {volume_ml:.0f} ml, no ring of skull")


def ring_contrast(image: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    """How much darker the darkest shell 9 to 18 mm below the surface of `mask` is than what lies above and below it (1: not).

    The mean over a shell of 3 mm is taken all round the head; the surface is where the mask ends inside the array, so that a
    neck cut by the edge of the image is none.
    """
    depth = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    shell = np.where(mask, np.ceil(depth / SHELL_MM), 0).astype(int)
    n = SKULL.stop + BRAIN
    counts = np.bincount(shell.ravel(), minlength=n + 1)[1 : n + 1]
    sums = np.bincount(shell.ravel(), weights=image.ravel(), minlength=n + 1)[1 : n + 1]
    if counts.min() == 0:
        return 1.0  # thinner than a head
    means = sums / counts
    rings = [min(means[:i].max(), means[i + 1 : i + 1 + BRAIN].max()) / means[i] for i in SKULL if means[i] > 0]
    return float(max([1.0, *rings]))


def check_stripped(volume: Volume) -> None:
    """Raise InputError where a volume of a cohort with `foreground: nonzero` shows a whole head."""
    head = head_of(volume.array, volume.spacing_mm)
    if head.whole:
        raise InputError(
            volume.path,
            f"a whole head: {head.reason}",
            "a skull-stripped volume (`skull_strip` of the cohort makes one; or set `foreground: otsu` and train on whole heads)",
        )
