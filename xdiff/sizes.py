"""Arrays of the sizes that unit costs are measured at, and methods with weights of these sizes, made in seconds.

Times depend on sizes, not on anatomy, nor on what weights are: volumes are smooth noise inside an ellipsoid and 0 around it, as a
skull-stripped head; methods are trained on a few small ones, and what their weights hold of training volumes is replaced by
ROWS volumes of the size that is measured.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import Cohort, Config, Grid, MethodEntry, SplitRule
from xdiff.data.preprocess import preprocess
from xdiff.data.split import Split, split_by_count
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian_fit import MAX_ROWS_MIB
from xdiff.local_fit import CoreSettings
from xdiff.loop import TrainingSettings
from xdiff.observation import NotEnoughSections, Observation, Point, choose_planes, leaves_enough_unseen, observe
from xdiff.plain import from_dict
from xdiff.train import load_module
from xdiff.volumes import write_volume

FINER = 1.25
ROWS = 41  # training volumes, as openneuro-ds002748 has


@dataclass(frozen=True)
class Size:
    """An array to measure at."""

    name: str
    shape: tuple[int, int, int]
    spacing_mm: float
    contrasts: int = 1

    @property
    def values(self) -> int:
        return int(np.prod(self.shape)) * self.contrasts


SIZES = {
    "64": Size("64", (64, 64, 64), 3.0),
    "2mm": Size("2mm", (80, 96, 80), 2.0),
    "1p5mm": Size("1p5mm", (128, 128, 128), 1.5),
    "brats": Size("brats", (240, 240, 155), 1.0, 4),
}


def size_of(name: str, config: Config) -> Size:
    """One of SIZES, or a grid of the configuration with one contrast. Raises InputError."""
    if name in SIZES:
        return SIZES[name]
    if name in config.grids:
        return Size(name, tuple(config.grids[name].shape), config.grids[name].spacing_mm)
    raise InputError("--sizes", repr(name), f"some of {', '.join([*SIZES, *config.grids])}")


# Volumes ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _texture(shape: tuple[int, int, int]) -> np.ndarray:
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape).astype(np.float32), 2.0, mode="wrap")
    return 1 + 0.3 * rough / rough.std()


def volume(size: Size, number: int) -> np.ndarray:
    """(C, X, Y, Z) float32, about 1 inside an ellipsoid, 0 outside; another for every number. The ellipsoid fills 23 % of the
    array: at BraTS' size it is no larger than a brain can be (data/heads.py)."""
    lines = [((np.arange(n) - (n - 1) / 2) / (0.38 * n)) ** 2 for n in size.shape]
    inside = sum(line.reshape([-1 if a == axis else 1 for a in range(3)]) for axis, line in enumerate(lines)) < 1
    shifts = np.random.default_rng(number).integers(0, size.shape, (size.contrasts, 3))
    moved = (np.roll(_texture(size.shape), tuple(shift), (0, 1, 2)) for shift in shifts)
    return np.stack([np.where(inside, np.clip(texture, 0.05, None), 0) for texture in moved]).astype(np.float32)


class Prepared(NamedTuple):
    """A preprocessed cohort, and the seconds that preprocessing took for each volume."""

    store: Store
    split: Split
    seconds: float


def prepare(size: Size, count: int, folder: Path) -> Prepared:
    """`count` training subjects and a test subject of a size, written as NIfTI and preprocessed as any cohort is: from files that
    are FINER times as fine, as real ones are."""
    names = tuple(f"c{i}" for i in range(size.contrasts))
    for number in range(count + 1):
        for name, image in zip(names, volume(size, number), strict=True):
            fine = ndimage.zoom(image, FINER, order=1)
            affine = np.diag([size.spacing_mm * n / m for n, m in zip(image.shape, fine.shape, strict=True)] + [1.0])
            write_volume(folder / f"raw/sub-{number:03d}/anat/sub-{number:03d}_{name}.nii.gz", 900 * fine, affine)
    split = split_by_count([f"sub-{number:03d}" for number in range(count + 1)], 0, 0, 1)
    cohort, grid = Cohort("bids", names, split=SplitRule(n_test=1)), Grid(size.shape, size.spacing_mm)
    start = time.perf_counter()
    preprocess(cohort, grid, ("timing", size.name), folder / "raw", split, folder / "data")
    return Prepared(Store(folder / "data"), split, (time.perf_counter() - start) / (count + 1))


# Methods ------------------------------------------------------------------------------------------------------------


def settings_of(entry: MethodEntry) -> TrainingSettings | None:
    """Of a method that iterates: its module's Settings, or what its `settings_of(params)` chooses among several kinds."""
    module = load_module(entry)
    if hasattr(module, "settings_of"):
        return module.settings_of(entry.params)
    own = getattr(module, "Settings", None)
    return own.of(entry.params) if isinstance(own, type) and issubclass(own, TrainingSettings) else None


def core_of(entry: MethodEntry) -> CoreSettings | None:
    """Of a method that fits a core."""
    settings = settings_of(entry)
    if settings:
        return settings.core
    fits = hasattr(load_module(entry), "fit_core")
    return from_dict(CoreSettings, entry.params, "methods.*.params") if fits else None


def untrained(entry: MethodEntry) -> MethodEntry:
    """The entry with networks of its own size and a training that is over at once."""
    settings, short = settings_of(entry), {"cases": 24, "voxels": 200, "steps": 10, "warped_rows": 0}
    if settings:
        draws = {**entry.params.get("draws", {}), "donors": 0.0}
        cut = {"steps": 0, "minutes": 0, "validate_subjects": 0, "draws": draws}
        return replace(entry, params={**entry.params, **cut, "core": {**entry.params.get("core", {}), **short}})
    return replace(entry, params={**entry.params, **short}) if core_of(entry) else entry


def rows_at(entry: MethodEntry, size: Size) -> int:
    """Training volumes of the linear-Gaussian estimate: ROWS and their warped copies, as many as memory lets in."""
    core, fits = core_of(entry), max(2, int(MAX_ROWS_MIB / (2 * 2 * size.values / 2**20)))
    return min(ROWS * (1 + core.warped_rows) if core else ROWS, core.max_volumes if core else ROWS, fits)


def weights_at(size: Size, small: Path, entry: MethodEntry, folder: Path) -> Path:
    """The weights `small`, with what they hold of training volumes replaced by volumes of `size`."""
    tensors, config = read_weights(small)
    base = tuple(config["shape"])
    for name, array in tensors.items():
        if array.ndim == 5 and array.shape[2:] == base:
            many = range(rows_at(entry, size))
            tensors[name] = np.stack([volume(size, number).astype(array.dtype) for number in many])
        elif array.ndim == 4 and array.shape[1:] == base:
            tensors[name] = volume(size, 0).astype(array.dtype)
    place = {"shape": list(size.shape), "grid": size.name, "spacing_mm": [size.spacing_mm] * 3}
    write_weights(folder, tensors, {**config, **place})
    return folder


def observation_of(prepared: Prepared, k: int) -> Observation | None:
    """What is given of the test subject: k axial sections; None where they are too many."""
    store, subject = prepared.store, prepared.split.side("test")[0]
    foreground = store.foreground(subject)
    try:
        point = Point(k, "axial", "uniform", 0.0, 1, "mean", 0)
        planes = choose_planes(point, foreground, None, store.spacing_mm(subject), subject)
    except NotEnoughSections:
        return None
    if not leaves_enough_unseen(planes, foreground):
        return None
    return observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)
