"""Measured unit costs, rows of results/reference/timing/*.tsv, and what they say about work that is not of the measured size.

One file is one machine. Nothing is assumed: a cost is a measured one, or a measured one times a ratio that is written beside it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xdiff.errors import InputError
from xdiff.stats import base_of

KINDS = (
    "preprocess",
    "fit",
    "train_step",
    "network",
    "reconstruct",
    "read_write",
    "evaluate",
)  # rows of other kinds are not read
NEEDED = "what method module size shape contrasts K estimate steps rows batch median_s peak_mib device date".split()


class Measured(NamedTuple):
    """One row: seconds of one unit of work, and what it was measured on. 0 and "" where the row says nothing."""

    what: str
    method: str
    module: str
    size: str
    shape: tuple[int, ...]
    contrasts: int
    k: int
    estimate: str
    steps: int
    rows: int
    batch: int
    seconds: float
    peak_mib: float
    device: str
    date: str

    @property
    def values(self) -> int:
        return math.prod(self.shape) * self.contrasts

    @property
    def on_gpu(self) -> bool:
        """sample.device_name() ends a processor's name with its threads, a GPU's name has none."""
        return not self.device.endswith("threads)")


class Wanted(NamedTuple):
    """A unit of work; what is 0 or "" does not matter to it."""

    what: str
    shape: tuple[int, ...]
    contrasts: int
    method: str = ""
    module: str = ""
    k: int = 0
    estimate: str = ""
    steps: int = 0
    rows: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Cost:
    """Seconds of one unit; peak_mib None where only another size's was measured; notes: how it differs from what was measured."""

    seconds: float
    peak_mib: float | None
    on_gpu: bool
    notes: tuple[str, ...] = ()


class Costs:
    """Rows of some files; where several have what is wanted, the first of them answers."""

    def __init__(self, files: Sequence[tuple[Path, Sequence[Measured]]]) -> None:
        self.files = [(path, sorted(rows, key=lambda r: r.date, reverse=True)) for path, rows in files]

    @property
    def sources(self) -> list[str]:
        """`FILE: DEVICES, DATES` of every file."""
        found = []
        for path, rows in self.files:
            devices, dates = (sorted({getattr(row, name) for row in rows}) for name in ("device", "date"))
            when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
            found.append(f"{path}: {'; '.join(devices)}, {when}")
        return found

    def find(self, wanted: Wanted) -> Cost | None:
        """The nearest measured cost, scaled to what is wanted; None where nothing of its kind was measured.

        Nearest: the same estimate, then size, K, steps, training volumes, batch. Size counts in voxels times contrasts, steps
        and volumes of a batch in their number; K and training volumes are taken as measured, and noted.
        """
        for _, rows in self.files:
            rows = [row for row in rows if row.what == wanted.what]
            fitting = _of_estimate(_of_method(rows, wanted), wanted.estimate)
            if fitting:
                return _scaled(min(fitting, key=lambda row: _distance(row, wanted)), wanted)
        return None


def _of_method(rows: list[Measured], wanted: Wanted) -> list[Measured]:
    """Rows of the method; else of what it is an ablation of; else of its module, where one method alone was measured of it."""
    if not wanted.module:
        return rows
    same = [row for row in rows if row.module == wanted.module]
    for name in (wanted.method, base_of(wanted.method)):
        named = [row for row in same if row.method == name]
        if named:
            return named
    return same if len({row.method for row in same}) == 1 else []


def _of_estimate(rows: list[Measured], estimate: str) -> list[Measured]:
    """Rows of the estimate; a number of draws where another number was measured; all where no estimate is wanted."""
    exact = [row for row in rows if not estimate or row.estimate == estimate]
    return exact or [row for row in rows if draws_of(estimate) and draws_of(row.estimate)]


def draws_of(estimate: str) -> int:
    """Number of draws of `sample` and `mean_of_N`; 0 of anything else."""
    if estimate.startswith("mean_of_"):
        return int(estimate.removeprefix("mean_of_"))
    return int(estimate == "sample")


def _distance(row: Measured, wanted: Wanted) -> tuple[float, ...]:
    wanted_values = math.prod(wanted.shape) * wanted.contrasts
    other = (row.shape, row.contrasts) != (wanted.shape, wanted.contrasts)
    return (
        other,
        abs(math.log(row.values / wanted_values)),
        abs(row.k - wanted.k) if wanted.k else 0,
        abs(math.log(row.steps / wanted.steps)) if wanted.steps and row.steps else 0,
        abs(row.rows - wanted.rows) if wanted.rows else 0,
        abs(row.batch - wanted.batch) if wanted.batch else 0,
    )


def _scaled(row: Measured, wanted: Wanted) -> Cost:
    factor, notes = math.prod(wanted.shape) * wanted.contrasts / row.values, []
    if other := (row.shape, row.contrasts) != (wanted.shape, wanted.contrasts):
        notes.append(f"scaled from {row.size}" + (f" x {row.contrasts} contrasts" if row.contrasts != wanted.contrasts else ""))
    if wanted.method and row.method != wanted.method:
        notes.append(f"as {row.method}")
    if wanted.estimate and row.estimate != wanted.estimate:
        factor *= draws_of(wanted.estimate) / draws_of(row.estimate)
        notes.append(f"scaled from {row.estimate}")
    for name, countable in (("steps", True), ("batch", True), ("rows", False), ("k", False)):
        found, asked = getattr(row, name), getattr(wanted, name)
        if asked and found and found != asked:
            factor *= asked / found if countable else 1
            notes.append(_other_number(name, found))
    return Cost(row.seconds * factor, None if other else row.peak_mib or None, row.on_gpu, tuple(notes))


def _other_number(name: str, found: int) -> str:
    texts = {
        "steps": "scaled from {} steps",
        "batch": "scaled from {} volumes a step",
        "rows": "of {} training volumes",
    }
    return texts.get(name, "measured at K = {}").format(found)


def read_costs(files: Sequence[Path], device: str = "") -> Costs:
    """The rows of these files, or of those with a device whose name has `device` in it, upper or lower case.

    Raises InputError on a file that is no table of unit costs, and where no file has such a device.
    """
    tables = [(path, _read(path)) for path in files]
    # a table without a row of KINDS says nothing about any machine here
    chosen = [(path, rows) for path, rows in tables if any(device.lower() in row.device.lower() for row in rows)]
    if device and not chosen:
        devices = sorted({row.device for _, rows in tables for row in rows})
        raise InputError("--device", repr(device), f"part of the name of one of {devices}")
    return Costs(chosen)


def _read(path: Path) -> list[Measured]:
    if not path.exists():
        raise InputError(path, "no such file", "a table of unit costs, as `xdiff bench --timing` writes it")
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        missing = [name for name in NEEDED if name not in (reader.fieldnames or [])]
        if missing:
            raise InputError(path, f"no column {missing[0]!r}", f"the columns {NEEDED}")
        rows = list(enumerate(reader, start=2))
    if not rows:
        raise InputError(path, "no row", "one row per measurement")
    return [_measured(row, f"{path}, line {number}") for number, row in rows if row["what"] in KINDS and row["median_s"]]


def _measured(row: dict[str, str], where: str) -> Measured:
    numbers = {}
    for name in ("contrasts", "K", "steps", "rows", "batch", "median_s", "peak_mib"):
        try:
            numbers[name] = float(row[name] or 0)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}, {name}", repr(row[name]), "a number") from error
    try:
        shape = tuple(int(n) for n in row["shape"].split("x"))
    except ValueError as error:
        raise InputError(f"{where}, shape", repr(row["shape"]), "a shape like 80x96x80") from error
    if numbers["contrasts"] < 1 or not numbers["median_s"] >= 0 or min(shape) < 1:
        found = f"contrasts {row['contrasts']}, median_s {row['median_s']}, shape {row['shape']}"
        raise InputError(where, found, "a number of contrasts, seconds and a shape")
    counts = [int(numbers[name]) for name in ("K", "steps", "rows", "batch")]
    k, steps, rows, batch = counts
    named = {name: row[name] for name in ("what", "method", "module", "size", "estimate", "device", "date")}
    measured = {"shape": shape, "contrasts": int(numbers["contrasts"]), "seconds": numbers["median_s"]}
    return Measured(**named, **measured, k=k, steps=steps, rows=rows, batch=batch, peak_mib=numbers["peak_mib"])
