"""The 24 rotations of the cube: exact on volumes, planes and sections, at the papers' sizes too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from xdiff.planes import Plane
from xdiff.rotations import CubeRotation, cube_rotations

SHAPE = (7, 8, 9)
BRATS, UKB_LIKE = (240, 240, 155), (155, 240, 240)


def volume_of(contrasts: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((contrasts, *SHAPE))


def test_there_are_24_proper_rotations() -> None:
    turns = list(cube_rotations())
    assert len(turns) == len(set(turns)) == 24
    for turn in turns:
        matrix = np.zeros((3, 3))
        for new, (old, flipped) in enumerate(zip(turn.perm, turn.flip, strict=True)):
            matrix[new, old] = -1 if flipped else 1
        assert np.linalg.det(matrix) == pytest.approx(1)


@pytest.mark.parametrize(
    "turn", list(cube_rotations()), ids=lambda t: "".join(map(str, t.perm)) + "".join("-+"[not f] for f in t.flip)
)
def test_cutting_a_rotated_volume_gives_the_rotated_section(turn: CubeRotation) -> None:
    """Bit-exact for every section of every axis, thin; thick sections to rounding; and the inverse turns back."""
    x = volume_of()
    turned = turn.volume(x)
    assert turned.shape[1:] == tuple(SHAPE[p] for p in turn.perm)
    for axis in range(3):
        for index, thickness in itertools.product(range(SHAPE[axis]), (1.0, 2.5)):
            plane = Plane(axis, index, thickness)
            expected = turn.section(plane.cut(x), plane)
            found = turn.plane(plane, SHAPE).cut(turned)
            np.testing.assert_allclose(found, expected, rtol=0, atol=0 if plane.thin else 1e-12)
            assert turn.inverse().plane(turn.plane(plane, SHAPE), turned.shape[1:]) == plane
    np.testing.assert_array_equal(turn.inverse().volume(turned), x)


@pytest.mark.parametrize("shape", [BRATS, UKB_LIKE])
def test_rotations_at_the_papers_sizes(shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).integers(0, 255, (1, *shape), dtype=np.uint8)
    for turn in cube_rotations():
        for axis, index in ((0, shape[0] - 1), (1, 17), (2, 3)):
            plane = Plane(axis, index)
            found = turn.plane(plane, shape).cut(turn.volume(x))
            np.testing.assert_array_equal(found, turn.section(plane.cut(x), plane))
