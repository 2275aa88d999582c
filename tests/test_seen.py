"""What counts as given, what is known exactly, how much was seen: the same for thin sections, not for thick and oblique ones."""

from __future__ import annotations

import numpy as np
import pytest

from xdiff.planes import ObliquePlane, Plane, coverage, distance_mm
from xdiff.seen import counts_as_given, known_exactly, share_seen

SHAPE = (20, 22, 24)
COS, SIN = float(np.cos(np.radians(15))), float(np.sin(np.radians(15)))
TILTED = ObliquePlane((9.5, 10.5, 11.5), (1.0, 0.0, 0.0), (0.0, COS, SIN), (20, 24))


def rows_of(found: np.ndarray) -> dict[int, float]:
    """Values along the third axis of an array that is constant along the others, where not 0."""
    assert (found == found[:1, :1]).all()
    return {int(i): float(found[0, 0, i]) for i in np.flatnonzero(found[0, 0])}


@pytest.mark.parametrize("planes", [[Plane(2, 4)], [Plane(2, 4), Plane(2, 5), Plane(0, 3), Plane(1, 1)]])
def test_thin_sections_are_seen_given_and_known(planes: list[Plane]) -> None:
    touched = coverage(planes, SHAPE) > 0
    for found in (counts_as_given(planes, SHAPE), known_exactly(planes, SHAPE), share_seen(planes, SHAPE) == 1):
        np.testing.assert_array_equal(found, touched)


@pytest.mark.parametrize(
    ("thickness", "given", "seen"),
    [
        (1.25, {8}, {7: 0.125, 8: 1.0, 9: 0.125}),  # 5 mm slices on a grid of 4 mm
        (1.9, {8}, {7: 0.45, 8: 1.0, 9: 0.45}),
        (2.0, set(), {7: 0.5, 8: 1.0, 9: 0.5}),  # 8 mm: half of the average is the middle row, not more
        (3.0, set(), {7: 1.0, 8: 1.0, 9: 1.0}),
    ],
)
def test_of_a_thick_section_at_most_the_middle_counts_as_given(thickness: float, given: set, seen: dict) -> None:
    planes = [Plane(2, 8, thickness)]
    assert set(rows_of(counts_as_given(planes, SHAPE))) == given
    assert rows_of(share_seen(planes, SHAPE)) == pytest.approx(seen)
    assert not known_exactly(planes, SHAPE).any()


def test_next_to_an_oblique_section_about_one_layer_counts_as_given() -> None:
    given = counts_as_given([TILTED], SHAPE)
    distance = distance_mm([TILTED], SHAPE, (1.0, 1.0, 1.0))
    assert given.sum() == pytest.approx(20 * 22 / COS, rel=0.1)  # voxels in a layer as thick as one, 15 degrees tilted
    assert distance[given].max() < 0.75
    inside = np.zeros(SHAPE, bool)
    inside[1:-1, 1:-1, 1:-1] = True
    assert given[inside & (distance < 0.3)].all()
    assert not known_exactly([TILTED], SHAPE).any()
    assert known_exactly([TILTED, Plane(0, 3)], SHAPE).sum() == 22 * 24


def test_share_seen_never_exceeds_one() -> None:
    found = share_seen([Plane(2, 8, 3.0), Plane(2, 9, 3.0), Plane(0, 3), TILTED], SHAPE)
    assert found.min() == 0
    assert found.max() == 1
