"""One slice to try `xdiff reconstruct` on: of a phantom, so that it can travel with the package.

python -m xdiff.example xdiff/examples/slice.nii.gz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from xdiff.data.phantom_brain import phantom_subject
from xdiff.volumes import write_volume

SLICE = Path(__file__).parent / "examples" / "slice.nii.gz"
SEED, PATIENT, SPACING_MM, HEIGHT_MM = 12, 0, 2.0, 18.0


def write_slice(path: Path) -> None:
    """An axial T1-weighted slice of a phantom brain without a tumour, 2 mm thick, HEIGHT_MM above the origin of MNI space."""
    images, _, affine = phantom_subject(SEED, PATIENT, 0, SPACING_MM, tumour=False)
    index = int(round((HEIGHT_MM - affine[2, 3]) / SPACING_MM))
    affine = affine.copy()
    affine[:3, 3] += affine[:3, 2] * index
    write_volume(path, images["t1n"][:, :, [index]].astype(np.int16), affine)


if __name__ == "__main__":
    write_slice(Path(sys.argv[1]))
