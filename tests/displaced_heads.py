"""Random smooth heads, two contrasts, that lie anywhere in the array: for the pose of given slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from conftest import Prepared, prepare
from scipy import ndimage

from xdiff.config import Cohort, Grid, SplitRule
from xdiff.planes import shifted
from xdiff.volumes import write_volume

SHAPE = (24, 26, 28)
COHORT = Cohort("bids", ("T1w", "T2w"), split=SplitRule(n_val=2, n_test=2))


def head(number: int, shift: Sequence[int] = (0, 0, 0), shape: Sequence[int] = SHAPE) -> np.ndarray:
    """One head (2, *shape) float32, its box in the middle of the array but for `shift`: an ellipsoid with structure that all
    heads share, and some of its own."""
    grid = np.meshgrid(*(np.linspace(-2, 2, n) for n in shape), indexing="ij")
    inside = (grid[0] / 1.05) ** 2 + (grid[1] / 1.2) ** 2 + (grid[2] / 0.95) ** 2 < 1
    shared, own = np.random.default_rng(1), np.random.default_rng([2, number])
    noise = shared.standard_normal((2, *shape)) + 0.3 * own.standard_normal((2, *shape))
    texture = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    volume = np.where(inside, np.clip(0.7 + 0.2 * texture / texture.std(), 0.05, None), 0)
    return shifted(volume, shift).astype(np.float32)


def displaced(folder: Path, shifts: dict[str, Sequence[int]]) -> Prepared:
    """Heads in frame `scanner`: {subject: shift in voxels}, `sub-00` or, for one of several visits, `sub-00_ses-1`."""
    for number, (subject, shift) in enumerate(shifts.items()):
        where = folder / "raw" / "/".join(subject.split("_")) / "anat"
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = -np.array(SHAPE) + 1
        for contrast, image in zip(("T1w", "T2w"), head(number, shift), strict=True):
            write_volume(where / f"{subject}_{contrast}.nii.gz", (1000 * image).astype(np.float32), affine)
    return prepare(COHORT, Grid(SHAPE, 2.0, "scanner"), ("displaced", "scanner"), folder / "raw", folder / "data")
