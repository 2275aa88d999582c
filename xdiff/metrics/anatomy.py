"""Anatomy of a body from a water/fat Dixon pair: its volume, its fat, the curvature of its spine, without any labels.

What these are in a generated volume, beside what they are in the true one, says whether it is that patient's body. Subcutaneous
and visceral fat are not told apart: that takes the muscles of the abdominal wall, which a generated volume may not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from xdiff.errors import InputError
from xdiff.metrics.spine import NotFound, marrow_likeness, spine_centre_line, spine_shape
from xdiff.stats import ANATOMY

ADIPOSE = 0.5  # fat fraction above which a voxel is adipose tissue
LEAST_L = 1.0  # of a body: what is less is none


def measure(water: np.ndarray, fat: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """stats.ANATOMY of a body; NaN where there is no body, or no spine in it.

    water, fat: (X, Y, Z) RAS+, signal in one unit; spacing_mm: of their voxels. Raises InputError on what is no such pair.
    """
    _check_pair(water, fat, spacing_mm)
    found = dict.fromkeys(ANATOMY, float("nan"))
    try:
        tissue, body = body_mask(water, fat, spacing_mm)
        found |= body_composition(water, fat, tissue, body, spacing_mm)
        line = spine_centre_line(marrow_likeness(water, fat, tissue & body), body, spacing_mm)
        return found | spine_shape(line)
    except NotFound:
        return found


def _check_pair(water: np.ndarray, fat: np.ndarray, spacing_mm: Sequence[float]) -> None:
    if water.ndim != 3 or water.shape != fat.shape or len(spacing_mm) != 3:
        found = f"shapes {water.shape} and {fat.shape}, {len(spacing_mm)} spacings"
        raise InputError("water, fat", found, "two volumes (X, Y, Z) of one shape")
    if not (np.isfinite(water).all() and np.isfinite(fat).all()):
        raise InputError("water, fat", "NaN or infinite voxels", "finite voxels only")


def body_mask(water: np.ndarray, fat: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) bool twice: where there is tissue, and the body, with its lungs and other holes.

    Tissue: water + fat above Otsu's threshold (Otsu 1979, IEEE Trans Syst Man Cybern 9:62). Body: its largest part, holes filled
    in every axial section, since airways may leave the field at the neck. Raises NotFound below LEAST_L.
    """
    total = water + fat
    tissue = total > threshold_otsu(total) if np.ptp(total) > 0 else np.zeros(total.shape, bool)
    parts, count = ndimage.label(tissue)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=2)[1:])
    body = np.stack([ndimage.binary_fill_holes(section) for section in np.moveaxis(largest, 2, 0)], axis=2)
    volume_l = body.sum() * litres_per_voxel(spacing_mm)
    if not count or volume_l < LEAST_L:
        raise NotFound(f"a body of {volume_l:.2g} l, less than {LEAST_L:g} l")
    return tissue, body


def litres_per_voxel(spacing_mm: Sequence[float]) -> float:
    """10^6 mm^3 are a litre."""
    return float(np.prod(spacing_mm)) / 1e6


def body_composition(
    water: np.ndarray, fat: np.ndarray, tissue: np.ndarray, body: np.ndarray, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """stats.BODY_MEASURES, of masks as body_mask gives them.

    body_volume_l: litres of the body, lungs included, as far as the volume holds it. fat_fraction: fat over fat and water signal,
    summed over the body (Reeder, Hu and Sirlin 2012, J Magn Reson Imaging 36:1011, whose fraction is of proton densities: here
    nothing corrects for relaxation). adipose_volume_l: litres of its tissue with more fat than water.
    """
    in_body, litres = tissue & body, litres_per_voxel(spacing_mm)
    fats, waters = fat[body].sum(dtype=float), water[body].sum(dtype=float)
    return {
        "body_volume_l": float(body.sum() * litres),
        "fat_fraction": float(fats / (fats + waters)),
        "adipose_volume_l": float((in_body & (fat > ADIPOSE * (fat + water))).sum() * litres),
    }
