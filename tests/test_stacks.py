"""Parallel planes: grouping by direction, offsets in mm, feet of voxels, and the tilted stack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiff.planes import AXES, ObliquePlane, Plane
from xdiff.stacks import TILT_DEGREES, foot_pixels, normal_of, stacks, tilted_stack

SHAPE, SPACING_MM = (20, 24, 18), (2.0, 3.0, 4.0)


def ball(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    return sum(g**2 for g in grid) < 1


def angle_degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


def test_planes_group_by_direction_and_lie_in_order() -> None:
    tilted = tilted_stack(2, 3, ball(), SPACING_MM)
    planes = [Plane(2, 9), tilted[2], Plane(0, 3), Plane(2, 1, 2.5), tilted[0], tilted[1]]
    found = stacks(planes, SPACING_MM)
    assert [s.axis for s in found] == [0, 2, None]
    assert [s.members for s in found] == [(2,), (3, 0), (4, 5, 1)]
    assert [s.planes for s in found] == [(planes[2],), (planes[3], planes[0]), tuple(tilted)]
    assert found[0].offsets_mm == (6.0,)
    assert found[1].offsets_mm == (4.0, 36.0)
    assert found[1].normal == (0.0, 0.0, 1.0)
    assert np.ptp(np.diff(found[2].offsets_mm)) < 0.01  # mm: equidistant


def test_opposite_normals_are_one_direction() -> None:
    there = ObliquePlane((4, 5, 6), (1, 0, 0), (0, 0.8, 0.6), (5, 5))
    back = ObliquePlane((4, 5, 9), (0, 0.8, 0.6), (1, 0, 0), (5, 5))
    (found,) = stacks([back, there], (1.0, 1.0, 1.0))
    assert found.members == (1, 0)
    np.testing.assert_allclose(np.diff(found.offsets_mm), 3 * 0.8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_the_foot_is_the_nearest_point_of_the_plane(seed: int) -> None:
    """In mm, for any pose, skewed pixels and anisotropic voxels: what is left is along the normal and as long as the distance."""
    rng = np.random.default_rng(seed)
    plane = ObliquePlane(tuple(rng.uniform(3, 12, 3)), *(tuple(v) for v in rng.standard_normal((2, 3))), (6, 7))
    voxels = rng.uniform(0, 15, (9, 3))
    i, j = foot_pixels(plane, voxels, SPACING_MM)
    feet = np.array(plane.centre) + np.outer(i - 2.5, plane.u) + np.outer(j - 3.0, plane.v)
    left = (voxels - feet) * SPACING_MM
    normal = normal_of(plane, SPACING_MM)
    assert np.linalg.norm(normal) == pytest.approx(1)
    np.testing.assert_allclose(left - np.outer(left @ normal, normal), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("axis", "turned_about", "goes"), [("axial", 0, (1, 2)), ("coronal", 0, (2, 1)), ("sagittal", 2, (1, 0))]
)
@pytest.mark.parametrize("count", [1, 4])
def test_a_tilted_stack_lies_as_it_says(axis: str, turned_about: int, goes: tuple[int, int], count: int) -> None:
    """15 degrees in mm about the stated axis and to the stated side, equidistant over the foreground along the normal."""
    planes = tilted_stack(AXES[axis], count, ball(), SPACING_MM)
    (found,) = stacks(planes, SPACING_MM)
    assert found.planes == tuple(planes)
    normal = np.array(found.normal)
    assert angle_degrees(normal, np.eye(3)[AXES[axis]]) == pytest.approx(TILT_DEGREES, abs=1e-3)
    assert normal[turned_about] == pytest.approx(0, abs=1e-6)
    for plane in planes:
        assert plane.nearest_axis == AXES[axis]
        along = [np.multiply(d, SPACING_MM) for d in (plane.u, plane.v)]
        pitch = min(n for a, n in enumerate(SPACING_MM) if a != AXES[axis])
        np.testing.assert_allclose(np.linalg.norm(along, axis=1), pitch, rtol=1e-5)
        assert abs(along[0] @ along[1]) < 1e-4
        (leaning,) = (d for d in along if abs(d[turned_about]) < 1e-9)
        assert leaning[goes[0]] > 0
        assert leaning[goes[1]] > 0
    places = (np.argwhere(ball()) * SPACING_MM) @ normal
    expected = np.linspace(places.min(), places.max(), count + 2)[1:-1]
    np.testing.assert_allclose(found.offsets_mm, expected, atol=0.01)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_tilted_section_is_as_wide_as_the_array(axis: str) -> None:
    """Every voxel's foot lies in every plane of the stack as far as the two axes of the section go: nothing of a head is cut off
    at its edges; and the size is the same for every subject."""
    planes = tilted_stack(AXES[axis], 3, ball(), SPACING_MM)
    small = ball() & (np.arange(SHAPE[1]) > 12)[None, :, None]
    assert {p.size for p in planes} == {p.size for p in tilted_stack(AXES[axis], 5, small, SPACING_MM)}
    for plane in planes:
        points = plane.points()
        for across in (a for a in range(3) if a != AXES[axis]):
            assert points[:, across].min() <= 1e-3
            assert points[:, across].max() >= SHAPE[across] - 1 - 1e-3
            assert points[:, across].min() > -2 * max(SPACING_MM) / SPACING_MM[across]
