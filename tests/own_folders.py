"""A folder of volumes as a person has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from displaced_heads import head

from xdiff.volumes import write_volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_cohort(folder: Path, n: int) -> Path:
    """n heads of one contrast in BIDS layout, 24 x 26 x 28 voxels of 2 mm."""
    for i in range(n):
        write_volume(folder / f"sub-{i:02d}" / "anat" / f"sub-{i:02d}_T1w.nii.gz", 1000 * head(i)[0], AFFINE)
    return folder
