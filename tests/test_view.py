"""What the given planes look like from every voxel, against a search through them one voxel at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from xdiff.observation import Observation, observe
from xdiff.planes import AnyPlane, ObliquePlane, Plane
from xdiff.stacks import tilted_stack
from xdiff.view import Sides, View

SHAPE, SPACING = (9, 11, 10), (2.0, 3.0, 2.5)
HEAD = np.ones(SHAPE, dtype=bool)
# nearest to an axial section; leaves the array at the top, and its pixels do not reach all columns either
STEEP = ObliquePlane((4.03, 5.02, 7.51), (1.0, 0.0, 0.0), (0.0, 1.0, 0.96), (7, 30))
SMALL = ObliquePlane((4.03, 5.02, 6.21), (1.0, 0.0, 0.03), (0.0, 1.0, 0.21), (4, 5))
PLANES = {
    "one": [Plane(2, 4)],
    "unordered": [Plane(1, 8), Plane(1, 1), Plane(1, 4)],
    "neighbours": [Plane(0, 3), Plane(0, 4), Plane(0, 8)],
    "ends": [Plane(2, 0), Plane(2, 9)],
    "thick": [Plane(2, 2, 2.5), Plane(2, 7, 2.5)],
    "mixed": [Plane(2, 3), Plane(0, 6), Plane(2, 8), Plane(1, 2)],
    "tilted": tilted_stack(2, 3, HEAD, SPACING),
    "tilted coronal": tilted_stack(1, 4, HEAD, SPACING),
    "steep": [STEEP, Plane(2, 5)],
    "small": [SMALL],
}
of_all = pytest.mark.parametrize("planes", PLANES.values(), ids=PLANES)


def seen(planes: list[AnyPlane], contrasts: int = 2) -> Observation:
    volume = np.random.default_rng(0).random((contrasts, *SHAPE), dtype=np.float32)
    return observe(volume, planes, [f"c{i}" for i in range(contrasts)], SPACING, "centred", "none")


def axis_of(plane: AnyPlane) -> int:
    if isinstance(plane, Plane):
        return plane.axis
    return int(np.abs(np.cross(plane.u, plane.v)).argmax())


def height(plane: AnyPlane, axis: int, voxel: tuple[int, ...]) -> float | None:
    """Where the plane crosses the line through a voxel along an axis: c + a u + b v = voxel + t e; None beyond its pixels."""
    if isinstance(plane, Plane):
        return float(plane.index)
    system = np.stack([plane.u, plane.v, -np.eye(3)[axis]], axis=1)
    a, b, t = np.linalg.solve(system, np.subtract(voxel, plane.centre))
    return voxel[axis] + t if abs(a) <= plane.size[0] / 2 and abs(b) <= plane.size[1] / 2 else None


def either_side(planes: list[AnyPlane], axis: int, voxel: tuple[int, ...]) -> tuple[float | None, float | None]:
    """Heights of the nearest planes at or before a voxel, and at or after it, within the array."""
    found = [height(p, axis, voxel) for p in planes if axis_of(p) == axis]
    inside = [h for h in found if h is not None and -0.5 < h < SHAPE[axis] - 0.5]
    before, after = ([h for h in inside if h <= voxel[axis]], [h for h in inside if h >= voxel[axis]])
    return max(before, default=None), min(after, default=None)


def whole(tensor: torch.Tensor) -> np.ndarray:
    return tensor.expand(SHAPE).numpy()


@of_all
def test_sides_are_the_nearest_given_sections_before_and_after(planes: list[AnyPlane]) -> None:
    view, checked = View.of(seen(planes)), 0
    assert [side.axis for side in view.sides] == sorted({axis_of(p) for p in planes})
    for side in view.sides:
        rows, away, there = (
            [whole(t) for t in pair]
            for pair in ((side.before, side.after), (side.before_away, side.after_away), (side.has_before, side.has_after))
        )
        for voxel in itertools.product(*map(range, SHAPE)):
            for i, expected in enumerate(either_side(planes, side.axis, voxel)):
                assert there[i][voxel] == (expected is not None)
                if expected is None:
                    assert away[i][voxel] >= SHAPE[side.axis]  # further than any that is there
                else:
                    assert away[i][voxel] == pytest.approx(abs(expected - voxel[side.axis]), abs=1e-4)
                    assert abs(rows[i][voxel] - expected) <= 0.5 + 1e-4
                    checked += 1
    assert checked > 50


@of_all
def test_an_image_is_read_at_the_section_on_that_side(planes: list[AnyPlane]) -> None:
    view, image = View.of(seen(planes)), np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    for side in view.sides:
        for after, rows, there in ((False, side.before, side.has_before), (True, side.after, side.has_after)):
            found, rows, there = side.at(torch.from_numpy(image), after).numpy(), whole(rows), whole(there)
            for voxel in itertools.product(range(0, 9, 4), range(11), range(10)):
                source = tuple(rows[voxel] if a == side.axis else i for a, i in enumerate(voxel))
                assert found[voxel] == (image[source] if there[voxel] else 0)


@of_all
def test_the_nearest_section_is_picked(planes: list[AnyPlane]) -> None:
    """In mm, straight along each axis."""
    view = View.of(seen(planes))
    names = [torch.full(SHAPE, float(side.axis)) for side in view.sides]
    picked = view.pick(names).numpy()
    for voxel in itertools.product(*map(range, SHAPE)):
        away = {}
        for side in view.sides:
            both = [h for h in either_side(planes, side.axis, voxel) if h is not None]
            away[side.axis] = min((abs(h - voxel[side.axis]) * SPACING[side.axis] for h in both), default=2e3)
        assert away[int(picked[voxel])] <= min(away.values()) + 1e-4


def test_picked_images_may_have_channels() -> None:
    view = View.of(seen(PLANES["mixed"]))
    images = [torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    picked = view.pick(images)
    for i, image in enumerate(images):
        where = view.nearest == i
        assert where.any() and torch.equal(picked[..., where], image[..., where])


@pytest.mark.parametrize("name", ["one", "unordered", "neighbours", "ends"])
def test_interpolation_between_sections_of_one_axis_is_the_observations(name: str) -> None:
    observation = seen(PLANES[name])
    np.testing.assert_allclose(View.of(observation).interpolated, observation.interpolated, atol=1e-6)


@pytest.mark.parametrize("name", ["thick", "mixed", "tilted", "tilted coronal", "steep"])
def test_interpolation_elsewhere_is_along_the_axis_of_the_nearest_section(name: str) -> None:
    observation = seen(PLANES[name])
    view, found = View.of(observation), View.of(observation).interpolated.numpy()
    assert found.shape == observation.evidence.shape
    for voxel in itertools.product(*map(range, SHAPE)):
        axis = view.sides[int(view.nearest[voxel])].axis
        before, after = either_side(PLANES[name], axis, voxel)

        def shown(level: float, voxel: tuple[int, ...] = voxel, axis: int = axis) -> np.ndarray:
            return observation.evidence[(slice(None), *(round(level) if a == axis else i for a, i in enumerate(voxel)))]

        if before is None and after is None:
            expected = np.zeros(2)
        elif before is None or after is None:
            expected = shown(after if before is None else before)
        else:
            share = (voxel[axis] - before) / (after - before) if after > before else 0.0
            expected = (1 - share) * shown(before) + share * shown(after)
        np.testing.assert_allclose(found[(slice(None), *voxel)], expected, atol=1e-4)


def test_a_plane_that_leaves_the_array_is_absent_in_those_columns() -> None:
    view = View.of(seen([STEEP]))
    (side,) = view.sides
    there = whole(side.has_before) | whole(side.has_after)
    heights = 7.51 + (np.arange(SHAPE[1]) - 5.02) * 0.96
    inside = (heights > -0.5) & (heights < SHAPE[2] - 0.5)
    reached = np.abs(np.arange(SHAPE[0]) - 4.03) <= 3.5
    assert 0 < inside.sum() < SHAPE[1] and 0 < reached.sum() < SHAPE[0]
    np.testing.assert_array_equal(there, np.broadcast_to(np.outer(reached, inside)[..., None], SHAPE))
    assert not view.interpolated[:, ~torch.from_numpy(there)].any()


@of_all
def test_a_view_holds_what_the_observation_does(planes: list[AnyPlane]) -> None:
    observation = seen(planes)
    view = View.of(observation)
    for name in ("evidence", "mask", "known", "distance_mm"):
        np.testing.assert_array_equal(getattr(view, name), getattr(observation, name))
    assert view.shape == SHAPE and view.spacing_mm == SPACING and view.given.tolist() == [True, True]
    assert view.exact == bool(view.known[:, view.mask].all())


def test_a_side_reads_zero_where_there_is_no_section() -> None:
    nothing, row = torch.zeros(1, 1, 4, dtype=torch.bool), torch.zeros(1, 1, 4, dtype=torch.long)
    side = Sides(2, row, row, torch.ones(1, 1, 4), torch.ones(1, 1, 4), nothing, ~nothing)
    image = torch.arange(8.0).reshape(1, 2, 4) + 1
    assert not side.at(image, after=False).any()
    assert side.at(image, after=True).tolist() == [[[1.0] * 4, [5.0] * 4]]
