"""Slices cut from heads of one contrast into files of their own, and a posed model of such heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import Prepared, prepare
from displaced_heads import SHAPE, head

from xdiff.config import Cohort, Grid, MethodEntry, SplitRule
from xdiff.train import train
from xdiff.volumes import write_volume

SPACING_MM = 2.0
GAUSSIAN = {"module": "baselines.trivial", "params": {"kind": "gaussian"}}
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
AFFINE[:3, 3] = [-31.0, 12.5, 40.0]  # of the test head's voxel 0; no whole multiple of the spacing


def one_contrast(folder: Path, n: int = 14) -> Prepared:
    """Heads in the middle of the array, as displaced_heads draws them: 10 train, 2 validation, 2 test."""
    for number in range(n):
        subject = f"sub-{number:02d}"
        image = 1000 * head(number)[0]
        write_volume(folder / "raw" / subject / "anat" / f"{subject}_T1w.nii.gz", image, np.diag([2.0, 2.0, 2.0, 1.0]))
    cohort = Cohort("bids", ("T1w",), split=SplitRule(n_val=2, n_test=2))
    return prepare(cohort, Grid(SHAPE, SPACING_MM), ("heads", "2mm"), folder / "raw", folder / "data")


def posed_gaussian(prepared: Prepared, out: Path) -> Path:
    """Weights of the gaussian row in baselines.posed."""
    train("gaussian_posed", MethodEntry("baselines.posed", GAUSSIAN), prepared.store, prepared.split, out)
    return out


def write_slices(path: Path, volume: np.ndarray, axis: int, indices: list[int]) -> Path:
    """One NIfTI file of equally spaced sections of (X, Y, Z) that lies at AFFINE."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, axis] * indices[0]
    affine[:3, axis] *= step
    write_volume(path, np.take(volume, indices, axis), affine)
    return path
