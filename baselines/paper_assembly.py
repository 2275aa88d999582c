"""How the paper puts volumes together: rotated views averaged, volumes of several given slices multiplied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from baselines.paper_schedule import SOLVERS
from xdiff.errors import InputError
from xdiff.plain import one_of
from xdiff.rotations import CubeRotation, cube_rotations

WHERE = "methods.*.params.assembly"
# The first three turn every axis into every other without a mirrored direction, the first of all turns nothing
VIEWS = tuple(sorted(cube_rotations(), key=lambda turn: sum(turn.flip)))
MERGES = ("multiplicative", "mean")


@dataclass(frozen=True)
class Assembly:
    """solver: ddim (eta 0) or ddpm; views: rotations of which the volumes are averaged; paste: the given slices are put into
    the result. The paper does not paste; here it is the default, because every other method gives them back exactly."""

    solver: str = "ddim"
    views: int = 1
    paste: bool = True

    def __post_init__(self) -> None:
        one_of(f"{WHERE}.solver", self.solver, SOLVERS)
        if not 1 <= self.views <= len(VIEWS):
            raise InputError(f"{WHERE}.views", self.views, f"1 to {len(VIEWS)} rotations of the cube")


@dataclass(frozen=True)
class SliceAssembly(Assembly):
    """Of volumes that are conditioned on one slice each. guidance: weight of classifier-free guidance (2207.12598), 1 for the
    conditional estimate alone, with half the evaluations; merge: of the volumes of K > 1 given slices (merge_slices)."""

    guidance: float = 1.0
    merge: str = "multiplicative"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(f"{WHERE}.merge", self.merge, MERGES)
        if self.guidance < 0:
            raise InputError(f"{WHERE}.guidance", self.guidance, "0 (unconditional), 1 (conditional) or more, such as 3.0")


@dataclass(frozen=True)
class StackAssembly(Assembly):
    """Of sections whose estimate sees the stack of its axis. apart: so many stacks of a view, each from its own noise; section i
    comes from stack i modulo apart, so that from 2 on no two neighbours are of one draw. Costs as many times more."""

    apart: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views > 3:
            raise InputError(f"{WHERE}.views", self.views, "1 to 3: this network knows upright sections of three axes")
        if self.apart < 1:
            raise InputError(f"{WHERE}.apart", self.apart, "at least 1")


def average_views(make: Callable[[CubeRotation], tuple[np.ndarray, int]], views: int) -> tuple[np.ndarray, int]:
    """X = 1/N sum_i R_i^T X_{R_i}, and the evaluations of all. make(R): volume (C, ...) of the array turned by R, and its own."""
    total, evaluations = 0.0, 0
    for turn in VIEWS[:views]:
        volume, used = make(turn)
        total, evaluations = total + turn.inverse().volume(volume), evaluations + used
    return total / views, evaluations


def merge_slices(volumes: Sequence[np.ndarray], how: str) -> np.ndarray:
    """One volume of those that K given slices, in their order, led to. multiplicative: the paper's 1/(K-1) sum_j x_j x_{j+1}.

    The product needs intensities of 0 to 1, 1 the brightest: 0 times anything stays 0, 1 changes nothing, and everything between
    comes out darker (two volumes that agree on 0.5 give 0.25). Values below 0 count as 0, or two of them made a bright one;
    the few above 1 are left.
    """
    if len(volumes) == 1:
        return volumes[0]
    if how == "mean":
        return sum(volumes) / len(volumes)
    positive = [np.maximum(volume, 0) for volume in volumes]
    return sum(a * b for a, b in zip(positive[:-1], positive[1:], strict=True)) / (len(volumes) - 1)
