"""Implicit shapes: distances in mm near the surface, and the partial volume that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from xdiff.data.implicit import Point, arc, both, column, cord, covered, ellipsoid, ramp, union


def grid(step_mm: float = 1.0) -> Point:
    axis = np.arange(-20, 20 + step_mm / 2, step_mm)
    return Point(*np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).astype(np.float32))


def litres(distance: np.ndarray, step_mm: float) -> float:
    return float(covered(distance, step_mm).sum()) * step_mm**3 / 1e6


@pytest.mark.parametrize("step_mm", [0.5, 1.0, 2.0, 4.0])
def test_the_volume_of_a_shape_does_not_depend_on_the_voxel(step_mm: float) -> None:
    radii = (14.0, 9.0, 11.0)
    assert litres(ellipsoid(grid(step_mm), radii), step_mm) == pytest.approx(4 / 3 * np.pi * np.prod(radii) / 1e6, rel=0.04)


@pytest.mark.parametrize("step_mm", [0.5, 1.0, 2.0])
def test_a_shell_thinner_than_a_voxel_keeps_its_volume(step_mm: float) -> None:
    sphere = ellipsoid(grid(step_mm), (12.0, 12.0, 12.0))
    shell = litres(sphere, step_mm) - litres(sphere + 0.8, step_mm)
    assert shell == pytest.approx(4 / 3 * np.pi * (12**3 - 11.2**3) / 1e6, rel=0.05)


def test_distances_are_in_mm_across_the_surface() -> None:
    p = Point(*np.array([[15.0, 0, 0], [13.0, 0, 0], [0, 10.0, 0], [0, 0, 10.5]], np.float32).T)
    np.testing.assert_allclose(ellipsoid(p, (14.0, 9.0, 11.0)), [1, -1, 1, -0.5], atol=0.12)
    band = cord(p, [(0, 0, -30), (0, 0, 30)], 3.0, (4, 1, 1))  # 12 mm to either side in x, 3 mm in y
    np.testing.assert_allclose(band[:3], [3, 1, 7], atol=0.6)


def test_a_cord_has_round_ends_and_follows_its_corners() -> None:
    path = [(-10, 0, 0), (0, 0, 0), (0, 10, 0)]
    p = Point(*np.array([[-14.0, 0, 0], [3, -3, 0], [0, 5, 2], [0, 0, 5]], np.float32).T)
    np.testing.assert_allclose(cord(p, path, 2.0), [2, np.sqrt(18) - 2, 0, 3], atol=1e-2)


def test_a_column_takes_its_sections_from_its_knots_and_ends_with_them() -> None:
    knots = [(-10, -4, 0, 3, 3), (0, 0, 0, 5, 8), (12, 6, 2, 4, 4)]
    p = Point(*np.array([[5.0, 0, 0], [0, 8, 0], [-1, 0, -10], [10, 2, 12], [0, 0, 15], [-4, 0, -13]], np.float32).T)
    distance = column(p, knots)
    np.testing.assert_allclose(distance[:4], 0, atol=0.05)
    np.testing.assert_allclose(distance[4:], 3, atol=2.1)
    assert (distance[4:] > 0.9).all()


def test_blending_fills_a_crease_and_rounds_an_edge() -> None:
    a, b = np.array([0.0, 5.0, -1.0]), np.array([0.0, -1.0, 8.0])
    np.testing.assert_allclose(union(a, b), np.minimum(a, b))
    np.testing.assert_allclose(union(a, b, 4.0), [-1, -1, -1])
    np.testing.assert_allclose(both(a, b, 4.0), [1, 5, 8])


def test_an_arc_runs_from_its_start_to_its_end() -> None:
    path = arc((0, 0, 0), (0, 10, 0), (10, 10, 0), n=4)
    assert path.shape == (5, 3)
    np.testing.assert_allclose(path[[0, 2, 4]], [(0, 0, 0), (2.5, 7.5, 0), (10, 10, 0)])


def test_a_ramp_rises_or_falls_between_its_ends() -> None:
    np.testing.assert_allclose(ramp(np.array([-1.0, 0, 1, 2, 9]), 0, 2), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(ramp(np.array([-1.0, 0, 1, 2, 9]), 2, 0), [1, 1, 0.5, 0, 0])
