"""Solids have the surfaces that they say, and what is painted has their volume, whatever the voxels."""

from __future__ import annotations

import numpy as np
import pytest

from xdiff.data.solids import Canvas, Profile, Solid, ball, blended, column, cutter, rod

HALF_MM = 30.0


def canvas(voxel_mm: float) -> Canvas:
    axis = np.arange(-HALF_MM, HALF_MM + voxel_mm / 2, voxel_mm, dtype=np.float32)
    return Canvas(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), voxel_mm, 1)


def volume_mm3(solid: Solid, voxel_mm: float = 2.0) -> float:
    painted = canvas(voxel_mm)
    painted.paint(solid, (1.0,), 5)
    assert set(np.unique(painted.parts)) <= {0, 5}
    return float(painted.amounts[0].sum() * voxel_mm**3)


def at(solid: Solid, *point: float) -> float:
    return float(solid.distance(*(np.float32([value]) for value in point))[0])


@pytest.mark.parametrize("voxel_mm", [1.5, 2.0, 3.0])
def test_partial_volume_gives_a_balls_volume_at_every_spacing(voxel_mm: float) -> None:
    assert volume_mm3(ball((1, 2, -3), (14, 14, 14)), voxel_mm) == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.015)


def test_a_turned_ellipsoid_has_its_volume_within_its_box() -> None:
    solid = ball((0, 0, 0), (20, 10, 7), (30, 40, -50))
    assert volume_mm3(solid) == pytest.approx(4 / 3 * np.pi * 20 * 10 * 7, rel=0.02)
    assert all(-20 <= low < -7 and 7 < high <= 20 for low, high in zip(solid.low, solid.high, strict=True))


def test_a_turn_about_z_takes_x_to_y() -> None:
    solid = ball((0, 0, 0), (20, 5, 5), (0, 0, 90))
    assert at(solid, 0, 19, 0) < 0 < at(solid, 19, 0, 0)


def test_distances_of_a_rod_are_exact() -> None:
    solid = rod([(0, 0, -10), (0, 0, 10)], 4)
    found = [at(solid, 7, 0, 3), at(solid, 0, 0, 17), at(solid, 0, 0, 0)]
    assert found == pytest.approx([3, 3, -4], abs=1e-3)
    assert volume_mm3(solid, 1.0) == pytest.approx(np.pi * 16 * 20 + 4 / 3 * np.pi * 64, rel=0.02)


def test_a_column_follows_its_knots() -> None:
    solid = column((-20, 20), (-5, 5), (0, 0), (6, 6), (10, 10))
    for z in (-15.0, 0.0, 15.0):
        assert at(solid, z / 4 + 6, 0, z) == pytest.approx(0, abs=0.2) and at(solid, z / 4, 10, z) == pytest.approx(0, abs=0.1)
    assert at(solid, 0, 0, 25) > 0
    assert volume_mm3(solid) == pytest.approx(np.pi * 60 * 40, rel=0.05)


def test_a_square_column_fills_more_than_an_ellipse() -> None:
    round_one, square = (volume_mm3(column((-20, 20), (0, 0), (0, 0), (9, 9), (9, 9), power)) for power in (2.0, 6.0))
    assert 1.15 < square / round_one < 4 / np.pi


def test_parts_are_cut_grown_and_joined() -> None:
    solid, half = ball((0, 0, 0), (12, 12, 12)), cutter(lambda x, y, z: x)
    whole = volume_mm3(solid)
    assert volume_mm3(solid.within(half)) == pytest.approx(whole / 2, rel=0.02)
    assert volume_mm3(solid.without(half)) == pytest.approx(whole / 2, rel=0.02)
    assert volume_mm3(solid.grown(3)) == pytest.approx(whole * (15 / 12) ** 3, rel=0.02)
    two = blended([solid, ball((14, 0, 0), (8, 8, 8))], 6)
    assert volume_mm3(two) > volume_mm3(blended([solid, ball((14, 0, 0), (8, 8, 8))], 0.01))


def test_a_profile_is_constant_beyond_its_knots() -> None:
    profile = Profile((10, -10, 0), (3, 1, 2))
    np.testing.assert_allclose(profile(np.float32([-99, -10, 0, 10, 99])), [1, 1, 2, 3, 3], atol=1e-6)


def test_later_paint_covers_earlier_paint_and_what_lies_elsewhere_paints_nothing() -> None:
    painted = canvas(3.0)
    painted.paint(ball((0, 0, 0), (20, 20, 20)), (1.0,), 1)
    painted.paint(ball((0, 0, 0), (10, 10, 10)), (3.0,), 2)
    middle = tuple(n // 2 for n in painted.parts.shape)
    assert painted.parts[middle] == 2 and painted.amounts[0][middle] == 3
    before = painted.amounts.copy()
    painted.paint(ball((500, 0, 0), (10, 10, 10)), (9.0,), 7)
    assert painted.block(ball((500, 0, 0), (10, 10, 10))) is None
    np.testing.assert_array_equal(painted.amounts, before)
