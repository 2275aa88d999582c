"""Which acquisitions of an ISMRMRD file are lines of one 3D k-space, where each goes, and whether all of them are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.data.hdf5 import library, space_of
from xdiff.errors import InputError

BESIDE = ("NOISE_MEASUREMENT", "PARALLEL_CALIBRATION", "NAVIGATION_DATA", "PHASECORR_DATA", "HPFEEDBACK_DATA")
BESIDE += ("DUMMYSCAN_DATA", "RTFEEDBACK_DATA", "SURFACECOILCORRECTIONSCAN_DATA")  # acquisitions that are not of the image
ONE = ("average", "contrast", "phase", "repetition", "set")  # counters that a single volume does not use
LEAST_LINES = 4
LEAST_HALF = 5 / 8  # of an axis, where one edge was not acquired (partial Fourier)


@dataclass(frozen=True)
class Lines:
    """The lines of a volume: `numbers` in the file, ascending, and the place of each, `first` and `second`, within `shape`.

    heads: their headers. first_sample: where on the readout axis their samples begin. note: what is missing and may be.
    """

    numbers: np.ndarray
    first: np.ndarray
    second: np.ndarray
    shape: tuple[int, int]
    heads: np.ndarray
    channels: int
    samples: int
    first_sample: int
    note: str


def lines_of(header: Any, heads: np.ndarray, path: Path) -> Lines:
    """Sort the acquisitions, whose headers are `heads` (ISMRMRD's AcquisitionHeader).

    Raises InputError for another trajectory than a Cartesian one, several volumes, a line twice, and missing lines other than
    the corners beyond the ellipse in the plane of phase encodings, or one edge of an axis (partial Fourier, partial echo).
    """
    trajectory = getattr(header.encoding[0].trajectory, "value", header.encoding[0].trajectory)
    if trajectory != "cartesian":
        raise InputError(path, f"trajectory {trajectory!r}", "cartesian")
    numbers = np.flatnonzero((heads["flags"] & _mask(BESIDE)) == 0)
    heads = heads[numbers]
    if not len(heads):
        raise InputError(path, "noise and calibration alone", "the lines of an image")
    _check_one_volume(heads, path)
    encoded = space_of(header, "encodedSpace", path)
    first, second, shape = _places(header, heads["idx"], encoded.matrix, path)
    covered = np.zeros(shape, int)
    np.add.at(covered, (first, second), 1)
    if covered.max() > 1:
        y, z = np.argwhere(covered > 1)[0]
        raise InputError(path, f"{covered[y, z]} acquisitions of the line {y}, {z}", "each line once")
    note = _check_coverage(covered > 0, path)
    channels, samples = int(heads["active_channels"][0]), int(heads["number_of_samples"][0])
    start = _first_sample(samples, int(heads["center_sample"][0]), encoded.matrix[0], path)
    return Lines(numbers, first, second, shape, heads, channels, samples, start, note)


def _mask(names: tuple[str, ...]) -> np.uint64:
    """The bits of flags; ISMRMRD counts them from 1."""
    ismrmrd = library("ismrmrd")
    return np.uint64(sum(1 << (getattr(ismrmrd, f"ACQ_IS_{name}") - 1) for name in names))


def _check_one_volume(heads: np.ndarray, path: Path) -> None:
    if (heads["flags"] & _mask(("REVERSE",))).any():
        raise InputError(path, "lines that were read backwards", "all in one direction (no echo-planar imaging)")
    for name in ("number_of_samples", "active_channels", "encoding_space_ref", "center_sample"):
        if np.unique(heads[name]).size > 1:
            raise InputError(path, f"{name} {np.unique(heads[name])[:4].tolist()}", "the same for all lines")
    for name in ONE:
        if np.unique(heads["idx"][name]).size > 1:
            raise InputError(path, f"{np.unique(heads['idx'][name]).size} values of {name}", "a single volume")


def _places(header: Any, idx: np.ndarray, matrix: tuple[int, ...], path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Indices along both phase encodings and the sizes of their axes.

    mridata.org's conversion of GE's 3D files counts partitions as slices: where the second encoding step is always the same, the
    slice is taken. That they are k-space, not slices of an image, is seen from their energy later.
    """
    steps, slices = idx["kspace_encode_step_2"].astype(int), idx["slice"].astype(int)
    as_slices = np.unique(steps).size == 1
    if np.unique(slices).size > 1 and not as_slices:
        raise InputError(path, f"{np.unique(slices).size} slabs", "one 3D volume")
    partition = slices if as_slices else steps
    shape = (matrix[1], matrix[2] if matrix[2] > 1 else int(partition.max()) + 1)
    if min(shape) < LEAST_LINES:
        raise InputError(path, f"{shape[0]} x {shape[1]} phase encodings", f"3D k-space, at least {LEAST_LINES} x {LEAST_LINES}")
    limits = header.encoding[0].encodingLimits
    first = _placed(idx["kspace_encode_step_1"].astype(int), limits.kspace_encoding_step_1, shape[0], path)
    second = _placed(partition, limits.slice if as_slices else limits.kspace_encoding_step_2, shape[1], path)
    return first, second, shape


def _placed(steps: np.ndarray, limit: Any, n: int, path: Path) -> np.ndarray:
    """Encoding steps, of which the header says which one is the centre, on an axis of n."""
    centre = n // 2 if limit is None else int(limit.center)
    placed = steps - centre + n // 2
    if placed.min() < 0 or placed.max() >= n:
        found = f"encoding steps {steps.min()} to {steps.max()} with their centre at {centre}"
        raise InputError(path, found, f"steps within the {n} of encodedSpace")
    return placed


def _check_coverage(covered: np.ndarray, path: Path) -> str:
    """What is missing (phase 1, phase 2), where it may be. Raises InputError with the share of it where it may not."""
    inside = np.ones(covered.shape, bool)
    for axis, n in enumerate(covered.shape):
        acquired = np.flatnonzero(covered.any(axis=1 - axis))
        least, most = acquired[0], acquired[-1]
        # one edge may be missing, not both: that would be a volume of another resolution than the header says
        if most - least + 1 >= LEAST_HALF * n and (least <= 1 or most >= n - 2):
            outside = np.ones(n, bool)
            outside[least : most + 1] = False
            inside[(slice(None),) * axis + (outside,)] = False
    y, z = (np.abs(np.arange(n) - n // 2) / (n / 2 - 1) for n in covered.shape)
    inside &= np.hypot(y[:, None], z[None]) <= 1
    missing, wrong = float((~covered).mean()), float((inside & ~covered).sum() / inside.sum())
    if wrong:
        expected = "fully sampled k-space (but for corners, and one edge of an axis)"
        raise InputError(path, f"{wrong:.1%} of the lines within the ellipse missing", expected)
    return f"{missing:.1%} of the lines, in corners or at one edge, were not acquired and are zero" if missing else ""


def _first_sample(samples: int, centre: int, n: int, path: Path) -> int:
    """Where the samples of a line begin on a readout axis of n; a partial echo's centre is not in its middle."""
    first = 0 if samples == n else n // 2 - centre
    if not 0 <= first <= n - samples or samples < LEAST_HALF * n:
        found = f"{samples} samples with their centre at {centre}"
        raise InputError(path, found, f"at least {LEAST_HALF * n:.0f} of the {n} of encodedSpace")
    return first
