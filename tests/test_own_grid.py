"""An array for one's own volumes: it holds them, and is as fine as they are or as a limit of voxels lets it be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import HEADS, write_heads

from xdiff.data.cohorts import find_subjects
from xdiff.errors import InputError, ManyInputErrors
from xdiff.own_grid import MARGIN_MM, MOST_VOXELS, Extent, choose_grid, described, extents, name_of
from xdiff.volumes import read_volume

BRAIN = Extent(np.array([140.0, 176.0, 132.0]), np.array([1.0, 1.0, 1.0]))
SMALLER = Extent(np.array([120.0, 180.0, 110.0]), np.array([1.0, 1.0, 1.0]))
CLINICAL = Extent(np.array([140.0, 176.0, 130.0]), np.array([0.5, 0.5, 5.0]))


def test_the_largest_box_along_each_axis_fits() -> None:
    grid = choose_grid([BRAIN, SMALLER])
    assert (np.array(grid.shape) * grid.spacing_mm >= np.array([140, 180, 132]) + MARGIN_MM).all()
    assert (grid.frame, grid.native_axis) == ("centred", "")


def test_the_spacing_is_the_finest_multiple_that_the_limit_allows() -> None:
    grid = choose_grid([BRAIN])
    assert math.prod(grid.shape) <= MOST_VOXELS < math.prod(choose_grid([BRAIN], grid.spacing_mm - 0.5).shape)
    assert grid.spacing_mm % 0.5 == 0
    assert choose_grid([BRAIN], most_voxels=10**8).spacing_mm == 1.0  # as the volumes are: nothing finer is made up


def test_a_spacing_that_is_asked_for_is_taken() -> None:
    assert choose_grid([BRAIN], 2.0).shape == (76, 92, 72)
    with pytest.raises(InputError, match=r"--spacing.*-1 mm"):
        choose_grid([BRAIN], -1.0)


def test_thick_sections_are_kept_as_acquired() -> None:
    grid = choose_grid([CLINICAL, CLINICAL])
    assert grid.native_axis == "axial"
    assert grid.shape[2] == 28  # (130 + 8) / 5, to a multiple of 4
    assert math.prod(grid.shape) <= MOST_VOXELS
    assert "axial sections as acquired" in described(grid, [CLINICAL])


def test_names_are_those_of_results() -> None:
    assert name_of(choose_grid([BRAIN], 1.5)) == "1p5mm"


def test_extents_are_the_foregrounds(tmp_path: Path) -> None:
    write_heads(tmp_path, 3)
    subjects = find_subjects(HEADS, tmp_path)
    found = extents(subjects, HEADS)
    inside = np.argwhere(read_volume(next(iter(subjects[0].images.values()))).array > 0)
    np.testing.assert_allclose(found[0].size_mm, (np.ptp(inside, axis=0) + 1) * found[0].spacing_mm)
    assert len(extents(subjects, HEADS, most=2)) == 2
    next(iter(subjects[1].images.values())).write_bytes(b"no image")
    with pytest.raises(ManyInputErrors, match="sub-01_T1w"):
        extents(subjects, HEADS)
