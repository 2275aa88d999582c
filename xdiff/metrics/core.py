"""PSNR, SSIM, MAE, NMSE by region; error against distance. Data range is 1: volumes are in units of the truth's scale."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

SSIM_WINDOW = 7
WHOLE = {"brain": "brain", "body": "body", "knee": "foreground"}  # anatomy -> what the region of its whole foreground is called
CURVE_BIN_MM = 4.0


def regions(
    foreground: np.ndarray, given: np.ndarray, labels: np.ndarray | None, anatomy: str = "brain"
) -> dict[str, tuple[np.ndarray, float]]:
    """Region name to (mask of the voxels whose error counts, number of voxels it is divided by).

    `unseen`, the headline, charges every non-given voxel but divides by the non-given *foreground* voxels, so that painting
    outside the head costs; `unseen_masked` counts and divides by the non-given foreground alone.
    """
    hidden = ~given
    found = {
        "grid": (np.ones_like(foreground), float(foreground.size)),
        WHOLE[anatomy]: (foreground, float(foreground.sum())),
        "unseen": (hidden, float((hidden & foreground).sum())),
        "unseen_masked": (hidden & foreground, float((hidden & foreground).sum())),
        "outside": (~foreground, float((~foreground).sum())),
    }
    if labels is not None:
        tumour = labels > 0
        found["tumour"] = (tumour, float(tumour.sum()))
    return {name: (mask, size) for name, (mask, size) in found.items() if size > 0}


def psnr(mse: float) -> float:
    """-10 log10(MSE) dB for a data range of 1; infinite for a perfect match."""
    return float("inf") if mse == 0 else float(-10 * np.log10(mse))


def by_region(
    truth: np.ndarray, prediction: np.ndarray, where: dict[str, tuple[np.ndarray, float]]
) -> list[tuple[str, str, float]]:
    """(region, metric, value) rows for one contrast; truth and prediction (X, Y, Z)."""
    error = prediction.astype(np.float64) - truth
    square, absolute = error**2, np.abs(error)
    rows = []
    for name, (mask, size) in where.items():
        mse = float(square[mask].sum() / size)
        rows.append((name, "psnr", psnr(mse)))
        if name in ("grid", *WHOLE.values(), "unseen", "unseen_masked"):
            power = float((truth[mask].astype(np.float64) ** 2).sum())
            rows.append((name, "mae", float(absolute[mask].sum() / size)))
            rows.append((name, "nmse", float(square[mask].sum() / power)))
    return rows


def ssim_by_region(
    truth: np.ndarray, prediction: np.ndarray, where: dict[str, tuple[np.ndarray, float]]
) -> list[tuple[str, str, float]]:
    """3D SSIM, a 7-voxel cube as window (scikit-image's definition): its own mean for `grid`, the mean of its map elsewhere."""
    window = min(SSIM_WINDOW, min(truth.shape) - 1 + min(truth.shape) % 2)
    mean, full = structural_similarity(truth, prediction, data_range=1.0, win_size=window, full=True)
    rows = [("grid", "ssim", float(mean))]
    inside = [name for name in where if name in (*WHOLE.values(), "unseen_masked")]
    return rows + [(name, "ssim", float(full[where[name][0]].mean())) for name in inside]


def by_distance(
    truth: np.ndarray, prediction: np.ndarray, mask: np.ndarray, distance_mm: np.ndarray
) -> list[tuple[float, float]]:
    """(bin centre in mm, PSNR in dB) of the voxels in `mask`, in bins of 4 mm with at least 50 voxels."""
    bins = (distance_mm[mask] // CURVE_BIN_MM).astype(int)
    square = (prediction[mask].astype(np.float64) - truth[mask]) ** 2
    count, total = np.bincount(bins), np.bincount(bins, weights=square)
    return [((b + 0.5) * CURVE_BIN_MM, psnr(total[b] / count[b])) for b in range(len(count)) if count[b] >= 50]


def by_depth(truth: np.ndarray, prediction: np.ndarray, mask: np.ndarray, depth_mm: np.ndarray) -> list[tuple[float, float]]:
    """(depth in mm, PSNR in dB) of the voxels in `mask`, in bins of 4 mm around multiples of 4 mm with at least 50 voxels.

    depth_mm: signed, broadcastable to (X, Y, Z): along the axis of the given sections, from the middle of them.
    """
    bins = np.round(np.broadcast_to(depth_mm, mask.shape)[mask] / CURVE_BIN_MM).astype(int)
    if bins.size == 0:
        return []
    square = (prediction[mask].astype(np.float64) - truth[mask]) ** 2
    first = bins.min()
    count, total = np.bincount(bins - first), np.bincount(bins - first, weights=square)
    return [((b + first) * CURVE_BIN_MM, psnr(total[b] / count[b])) for b in range(len(count)) if count[b] >= 50]
