"""The 24 rotations of the cube, which map the voxel grid, its planes and their sections exactly on one another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xdiff.planes import Plane


@dataclass(frozen=True)
class CubeRotation:
    """One of the 24 rotations that map the voxel grid on itself: new axis a is old axis perm[a], reversed where flip[a]."""

    perm: tuple[int, int, int]
    flip: tuple[bool, bool, bool]

    def volume(self, volume: np.ndarray) -> np.ndarray:
        """Rotate (C, X, Y, Z), exactly."""
        turned = np.transpose(volume, (0, *(p + 1 for p in self.perm)))
        return np.flip(turned, [a + 1 for a in range(3) if self.flip[a]])

    def plane(self, plane: Plane, shape: Sequence[int]) -> Plane:
        """The same section after the rotation; `shape` is the (X, Y, Z) before it."""
        axis = self.perm.index(plane.axis)
        index = shape[plane.axis] - 1 - plane.index if self.flip[axis] else plane.index
        return Plane(axis, index, plane.thickness)

    def section(self, section: np.ndarray, plane: Plane) -> np.ndarray:
        """The pixels (C, h, w) of `plane` before the rotation as the rotated plane reads them."""
        axis = self.perm.index(plane.axis)
        new_axes = [a for a in range(3) if a != axis]
        old_axes = [a for a in range(3) if a != plane.axis]
        order = [old_axes.index(self.perm[a]) for a in new_axes]
        turned = np.transpose(section, (0, *(o + 1 for o in order)))
        return np.flip(turned, [n + 1 for n, a in enumerate(new_axes) if self.flip[a]])

    def inverse(self) -> CubeRotation:
        perm = tuple(self.perm.index(a) for a in range(3))
        return CubeRotation(perm, tuple(self.flip[p] for p in perm))


def cube_rotations() -> Iterator[CubeRotation]:
    """The 24 proper rotations of the cube."""
    for perm in itertools.permutations(range(3)):
        parity = np.linalg.det(np.eye(3)[list(perm)])
        for flip in itertools.product((False, True), repeat=3):
            if parity * (-1) ** sum(flip) > 0:
                yield CubeRotation(perm, flip)
