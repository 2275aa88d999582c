"""The slice that travels with the package is the phantom's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xdiff.example import SLICE, write_slice
from xdiff.given import Reading, read_given

pytestmark = pytest.mark.slow


def test_the_example_is_made_again_and_reads_as_one_axial_slice(tmp_path: Path) -> None:
    write_slice(tmp_path / "slice.nii.gz")
    kept, made = (read_given([path], Reading())[0] for path in (SLICE, tmp_path / "slice.nii.gz"))
    assert (kept.axis, kept.count, kept.thickness_mm) == (2, 1, 2.0)
    np.testing.assert_allclose(kept.volume.affine, made.volume.affine)
    # other versions of numpy and scipy round the phantom's random fields by a grey value
    np.testing.assert_allclose(kept.volume.array, made.volume.array, atol=2)
    assert kept.volume.array.max() > 100
