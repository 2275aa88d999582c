"""The array for a cohort of one's own, from its volumes: how large what they show is, and how fine they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xdiff.config import Cohort, Grid
from xdiff.data.cohorts import read_subject
from xdiff.data.layouts import Files
from xdiff.errors import InputError, ManyInputErrors
from xdiff.planes import AXIS_NAMES
from xdiff.volumes import spacing_of

SAMPLE = 40  # subjects whose voxels are looked at
MARGIN_MM = 8.0  # of both sides together: the largest of a sample is not the largest of all
MOST_VOXELS = 130_000  # a head at 4 mm: minutes of training on a CPU, seconds per volume
STEP_MM = 0.5
THICK = 2.0  # times the spacing in plane: sections are then kept as acquired, none is made up between them
MULTIPLE = 4  # of voxels, that networks can halve twice


class Extent(NamedTuple):
    """Of one subject, along its axes (X, Y, Z): `size_mm` (3,) of the foreground's box, `spacing_mm` (3,) of its voxels."""

    size_mm: np.ndarray
    spacing_mm: np.ndarray


def extents(subjects: Sequence[Files], cohort: Cohort, most: int = SAMPLE) -> list[Extent]:
    """Of `most` subjects spread evenly over the list. Raises ManyInputErrors where some cannot be read."""
    at = np.unique(np.linspace(0, len(subjects) - 1, min(most, len(subjects))).round().astype(int))
    found: list[Extent] = []
    errors: list[InputError] = []
    for files in (subjects[i] for i in at):
        try:
            subject = read_subject(files, cohort)
        except InputError as error:
            errors.append(error)
            continue
        voxels, spacing_mm = np.argwhere(subject.foreground), spacing_of(subject.affine)
        found.append(Extent((np.ptp(voxels, axis=0) + 1) * spacing_mm, spacing_mm))
    if errors:
        raise ManyInputErrors(errors, len(found))
    return found


def choose_grid(found: Sequence[Extent], spacing_mm: float = 0.0, most_voxels: int = MOST_VOXELS) -> Grid:
    """An array that holds the largest foreground box, and as fine as the volumes themselves where it then has at most
    `most_voxels`; else at the smallest multiple of STEP_MM with which it has no more.

    spacing_mm: where above 0, this one, whatever the number of voxels. Sections more than THICK times as far apart as pixels are
    kept as acquired (`native_axis`). Frame `centred`. Raises InputError for a spacing that is not positive.
    """
    if spacing_mm < 0:
        raise InputError("--spacing", f"{spacing_mm:g} mm", "more than 0")
    size_mm = np.max([one.size_mm for one in found], axis=0) + MARGIN_MM
    own_mm = np.median([one.spacing_mm for one in found], axis=0)
    thick = int(np.argmax(own_mm)) if own_mm.max() > THICK * np.median(own_mm) else None
    finest_mm = round(float(np.median(np.delete(own_mm, thick)) if thick is not None else own_mm.mean()), 3)

    def shape(spacing: float) -> tuple[int, int, int]:
        voxel_mm = np.full(3, spacing)
        if thick is not None:
            voxel_mm[thick] = min(one.spacing_mm[thick] for one in found)
        return tuple(MULTIPLE * math.ceil(n / MULTIPLE) for n in size_mm / voxel_mm)

    chosen = spacing_mm or finest_mm
    while not spacing_mm and math.prod(shape(chosen)) > most_voxels:
        chosen = STEP_MM * (math.floor(chosen / STEP_MM + 1e-6) + 1)
    return Grid(shape(chosen), chosen, native_axis="" if thick is None else AXIS_NAMES[thick])


def name_of(grid: Grid) -> str:
    """`4mm`, `1p5mm`, as results are labelled."""
    return f"{grid.spacing_mm:g}mm".replace(".", "p")


def described(grid: Grid, found: Sequence[Extent]) -> str:
    """The choice in words."""
    own_mm = np.median([one.spacing_mm for one in found], axis=0)
    text = f"{' x '.join(map(str, grid.shape))} voxels of {grid.spacing_mm:g} mm, of volumes of "
    text += " x ".join(f"{size:.3g}" for size in own_mm) + " mm; what they show is moved to the middle"
    return text + (f"; {grid.native_axis} sections as acquired" if grid.native_axis else "")
