"""Which voxels the given planes say something about, and how much: what is scored as unseen, what needs no error bar.

For thin sections of an array axis the three answers are the same. Thick and oblique sections show averages and interpolations
of voxels: every voxel that they touch (W > 0) is evidence, but few are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xdiff.planes import AnyPlane, Plane, Projection, coverage


def counts_as_given(planes: Sequence[AnyPlane], shape: Sequence[int]) -> np.ndarray:
    """Voxels (X, Y, Z) bool whose own value was seen, more than half: W > 1/2.

    Of a thin section of an axis every voxel. Of an oblique one about one layer: the voxels that lie within half a voxel of it.
    Of a thick section those that make up more than half of the average: one row in the middle where it is thinner than two
    sections, none where it is thicker, because an average of several voxels does not say what any of them is. Of
    a projection every voxel: it is of a contrast that is constant along it.
    """
    if any(isinstance(plane, Projection) for plane in planes):
        return np.ones(tuple(shape), dtype=bool)
    return coverage(planes, shape) > 0.5 + 1e-6


def known_exactly(planes: Sequence[AnyPlane], shape: Sequence[int]) -> np.ndarray:
    """Voxels (X, Y, Z) bool of the thin sections of an axis, all of a projection; of others, averages are known."""
    known = np.zeros(tuple(shape), dtype=bool)
    for plane in planes:
        if isinstance(plane, Projection):
            known[...] = True
        elif plane.thin:
            plane.cut(known[None])[...] = True
    return known


def share_seen(planes: Sequence[AnyPlane], shape: Sequence[int]) -> np.ndarray:
    """How much of every voxel, (X, Y, Z) in 0..1, lies within a given slab: oblique sections count as one voxel thick."""
    seen = np.zeros((1, *shape))
    for plane in planes:
        width = plane.thickness if isinstance(plane, Plane) else 1.0
        plane.spread(np.full(plane.cut(seen).shape, width), seen)
    return np.minimum(seen[0], 1)
