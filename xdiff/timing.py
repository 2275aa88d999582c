"""Unit costs of a preset's methods on this machine: what `xdiff plan` predicts from, and what the paper never measured.

    python -m xdiff.bench workflow/presets/real-brains-2mm.yaml workflow/presets/gpu.yaml --timing timing.tsv --sizes 2mm,1p5mm

On synthetic volumes (sizes.py), with the ordinary code. Every row is written when it is measured, and what the table has is not
measured again.
"""

from __future__ import annotations

import csv
import datetime
import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xdiff import __version__
from xdiff.budget import OutOfTime, time_budget, time_left_s
from xdiff.checkpoint import read_weights, write_weights
from xdiff.clocks import LEAST, NetworkClock, commit, seconds_of, timed, warmed
from xdiff.config import Config, MethodEntry, Sweep
from xdiff.cuda import fast_kernels, training_device
from xdiff.draws import ECHO
from xdiff.errors import InputError, NotSupported
from xdiff.ledger import forget_peak, peak_mib
from xdiff.local import Core
from xdiff.local_fit import fit_core
from xdiff.loop import Trainer, batches
from xdiff.metrics.evaluate import evaluate
from xdiff.observation import Observation
from xdiff.plain import digest
from xdiff.sample import device_name, sample
from xdiff.sizes import (
    ROWS,
    Prepared,
    Size,
    observation_of,
    prepare,
    rows_at,
    settings_of,
    size_of,
    untrained,
    volume,
    weights_at,
)
from xdiff.train import load_module, train
from xdiff.volumes import read_volume, write_volume

COLUMNS = (
    "what method module size shape spacing_mm contrasts K estimate steps rows evaluations batch precision repeats median_s q25_s "
    "q75_s peak_mib device threads torch version commit date settings note"
).split()
SAME = "what method module size K estimate steps device threads version settings".split()  # of a row that is there already
KS, STEPS = (1, 5, 31), 8
ESTIMATES = ("mean", "sample")  # mean_of_N costs N samples
UNFIT = (MemoryError, torch.OutOfMemoryError, NotSupported)  # a row says so, the others are measured
TRAIN_STEPS = 12
FIT_VALUES = 150_000  # voxels times contrasts up to which a fit is measured: it is minutes there
TRAINED_VALUES = 4_000_000  # up to which training is
SMALL = 24  # voxels along an axis of what weights are made on


# The table ----------------------------------------------------------------------------------------------------------


class Table:
    """Rows measured so far, in a TSV that each new one is appended to."""

    def __init__(self, path: Path) -> None:
        self.path, self.keys = path, set()
        if path.exists():
            with path.open(newline="") as handle:
                reader = csv.DictReader(handle, delimiter="\t")
                if reader.fieldnames != COLUMNS:
                    raise InputError(path, f"columns {reader.fieldnames}", f"those of a table of unit costs, {COLUMNS}")
                self.keys = {self._key(row) for row in reader}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row.get(name, "")) for name in SAME)

    def has(self, row: dict[str, Any]) -> bool:
        """Whether it was measured; raises OutOfTime where it was not and the budget is spent."""
        if self._key(row) in self.keys:
            return True
        if time_left_s() <= 0:
            raise OutOfTime(" ".join(row[name] for name in ("what", "method", "size") if name in row))
        return False

    @contextmanager
    def noting(self, rows: Sequence[dict[str, Any]]) -> Iterator[None]:
        """What does not fit inside becomes a note on each of the rows that has not been added by then, so that it is not tried
        again."""
        try:
            yield
        except UNFIT as error:
            note = f"{type(error).__name__}: {str(error)[:100]}".replace("\n", " ")
            for row in rows:
                if self._key(row) not in self.keys:
                    self.add(row, [], note=note)

    def add(self, row: dict[str, Any], seconds: Sequence[float], **found: Any) -> None:
        quartiles = np.percentile(seconds, (50, 25, 75)) if len(seconds) else []
        times = {name: f"{value:.6g}" for name, value in zip(("median_s", "q25_s", "q75_s"), quartiles, strict=False)}
        full = {**dict.fromkeys(COLUMNS, ""), **row, "repeats": len(seconds), **times, **found}
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(full)
        self.keys.add(self._key(full))
        name = " ".join(str(full[part]) for part in ("what", "method", "size", "estimate") if full[part])
        print(f"timing: {name}, K = {full['K'] or '-'}: {full['median_s'] or full['note']} s", flush=True)


@functools.cache
def _machine() -> dict[str, Any]:
    where = {"threads": torch.get_num_threads(), "torch": torch.__version__, "version": __version__}
    return {**where, "commit": commit(), "date": datetime.date.today().isoformat()}


def row_of(what: str, size: Size, name: str = "", entry: MethodEntry | None = None, **known: Any) -> dict[str, Any]:
    """A row without its times."""
    on_gpu = training_device().type == "cuda" and entry is not None and settings_of(entry) is not None
    device = torch.cuda.get_device_name() if on_gpu else device_name()
    place = {"size": size.name, "shape": "x".join(map(str, size.shape)), "spacing_mm": size.spacing_mm}
    place |= {"contrasts": size.contrasts, "precision": "float32", "device": device, **_machine()}
    if entry:
        place |= {"method": name, "module": entry.module, "settings": digest(entry.params)[:8]}
    return {"what": what, **place, **known}


@contextmanager
def _memory(device: str) -> Iterator[Callable[[], int]]:
    """Yields a function that tells the largest memory since, in MiB: of the GPU where a row is of one, else of the process."""
    if torch.cuda.is_available() and device == torch.cuda.get_device_name():
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() // 2**20
    else:
        tells = forget_peak()
        yield lambda: int(peak_mib()) if tells else 0


# What is measured ---------------------------------------------------------------------------------------------------


class Timing:
    """All rows of some methods at some sizes."""

    def __init__(self, config: Config, methods: Sequence[str], table: Table, repeats: int, folder: Path) -> None:
        unknown = [name for name in methods if name not in config.methods]
        if unknown:
            raise InputError("--methods", unknown, f"some of {', '.join(config.methods)}")
        self.entries = {name: config.methods[name] for name in methods}
        self.table, self.repeats, self.folder = table, repeats, folder
        self._small: dict[int, Prepared] = {}

    def measure(self, size: Size) -> None:
        prepared = prepare(size, 0 if size.values > TRAINED_VALUES else 4, self.folder / size.name)
        self._without_method(size, prepared)
        for name, entry in self.entries.items():
            self._fit(size, name, entry)
            self._reconstruct(size, prepared, name, entry)
            if settings_of(entry) and size.values <= TRAINED_VALUES:
                self._train(size, prepared, name, entry)

    def small_weights(self, name: str, contrasts: int) -> Path:
        """Weights of a method, trained on small volumes of so many contrasts in seconds."""
        if contrasts not in self._small:
            small = Size("small", (SMALL,) * 3, 4.0, contrasts)
            self._small[contrasts] = prepare(small, 4, self.folder / f"small-{contrasts}")
        out = self.folder / f"models-{contrasts}" / name
        prepared = self._small[contrasts]
        train(name, untrained(self.entries[name]), prepared.store, prepared.split, out)
        return out

    def _weights_with_core(self, name: str, entry: MethodEntry, contrasts: int) -> Path:
        """The same, with the core beside which a prior of sections is checked, which it does not keep."""
        small = self.small_weights(name, contrasts)
        tensors, config = read_weights(small)
        if "rows" in tensors:
            return small
        prepared, settings = self._small[contrasts], settings_of(untrained(entry))
        core = fit_core(prepared.store, prepared.split, settings.core, small.parent)  # kept there by the training
        write_weights(small.with_name(f"{name}-core"), core.tensors(), config)
        return small.with_name(f"{name}-core")

    def _without_method(self, size: Size, prepared: Prepared) -> None:
        """Preprocessing, files, scores."""
        row = row_of("preprocess", size)
        if not self.table.has(row):
            self.table.add(row, [prepared.seconds])
        row, path = row_of("read_write", size), self.folder / "one.nii.gz"
        if not self.table.has(row):
            images, affine = volume(size, 0), np.eye(4)

            def both() -> None:
                for image in images:
                    write_volume(path, image, affine)
                    read_volume(path)

            self.table.add(row, timed(both, self.repeats))
        row = row_of("evaluate", size)
        if not self.table.has(row):
            out, entry = (
                self.folder / size.name / "scored",
                MethodEntry("baselines.interpolation", {"kind": "nearest"}, learns=False),
            )
            train("nearest", entry, prepared.store, prepared.split, out / "weights")
            sample(entry, out / "weights", prepared.store, prepared.split, Sweep(K=(5,)), out)
            self.table.add(row, timed(lambda: evaluate(out / "manifest-1-of-1.tsv"), self.repeats))

    def _fit(self, size: Size, name: str, entry: MethodEntry) -> None:
        """What is done once, by methods that do not iterate: of the others it is the core's."""
        if not entry.learns or settings_of(entry) or size.values > FIT_VALUES:
            return
        row = row_of("fit", size, name, entry, rows=ROWS)
        if self.table.has(row):
            return
        whole, out = prepare(size, ROWS, self.folder / f"{size.name}-whole"), self.folder / "fitted" / name
        with self.table.noting([row]), _memory(row["device"]) as peak:
            self.table.add(row, [seconds_of(lambda: train(name, entry, whole.store, whole.split, out))], peak_mib=peak())

    def _reconstruct(self, size: Size, prepared: Prepared, name: str, entry: MethodEntry) -> None:
        """Reconstructions, and the calls of the network in them."""
        known = {"rows": rows_at(entry, size) if entry.learns else 0}
        asked = [(k, estimate) for k in KS if k >= entry.min_k for estimate in ESTIMATES if estimate in entry.estimates]
        rows = {pair: row_of("reconstruct", size, name, entry, K=pair[0], estimate=pair[1], **known) for pair in asked}
        rows = {(k, e): {**row, "steps": STEPS if e != "mean" and entry.stepped else 1} for (k, e), row in rows.items()}
        if all([self.table.has(row) for row in rows.values()]):
            return
        method = None
        for (k, estimate), row in rows.items():
            observation = observation_of(prepared, k)
            if observation is None or self.table.has(row):
                continue
            with self.table.noting([row]):
                if method is None:
                    folder = self.folder / size.name / f"{name}-weights"
                    weights = weights_at(size, self.small_weights(name, size.contrasts), entry, folder)
                    method = load_module(entry).load(weights)
                self._one(method, observation, row, estimate)

    def _one(self, method: Any, observation: Observation, row: dict[str, Any], estimate: str) -> None:
        """Reconstructions, and in the same calls what the network takes of them."""
        generator, evaluations = np.random.default_rng(0), 0
        network = getattr(method, "network", None)
        clock = NetworkClock(network) if isinstance(network, nn.Module) else None

        def call() -> None:
            nonlocal evaluations
            evaluations = method.reconstruct(observation, row["steps"], estimate, generator)[2]

        with _memory(row["device"]) as peak:
            whole, inside = [], []
            for _ in range(warmed(call, self.repeats)):
                if clock:
                    clock.take()
                whole.append(seconds_of(call))
                inside.append(clock.take() if clock else 0.0)
            memory = peak()
        if clock:  # first: what has a row of a reconstruction is not measured again
            clock.remove()
            self.table.add({**row, "what": "network"}, inside, evaluations=evaluations)
        self.table.add(row, whole, evaluations=evaluations, peak_mib=memory)

    def _train(self, size: Size, prepared: Prepared, name: str, entry: MethodEntry) -> None:
        """A step of training, with its data made beside it; making the data alone; the network's part alone."""
        settings = replace(settings_of(untrained(entry)), steps=10**6)
        seen = settings.volumes * getattr(settings, "sections", 1)  # sections, of a method that draws some of every volume
        known = {"rows": rows_at(entry, size), "batch": settings.volumes, "evaluations": seen}
        rows = [row_of(what, size, name, entry, **known) for what in ("train_step", "train_data", "train_network")]
        rows = [row for row in rows if not self.table.has(row)]
        if not rows:
            return
        with self.table.noting(rows):
            folder = self.folder / size.name / f"{name}-training"
            tensors, _ = read_weights(weights_at(size, self._weights_with_core(name, entry, size.contrasts), entry, folder))
            core = Core.of(tensors, settings.base, training_device())
            names = prepared.split.side("train")
            core.linear.patients = tuple(names[i % len(names)] for i in range(len(tensors["rows"])))  # to be left out of it
            core.prepare()
            trainer = Trainer(load_module(entry).make_problem(prepared.store, prepared.split, core, settings, folder), settings)
            for row in rows:
                row["precision"] = "bfloat16" if trainer.fast else "float32"
            self._loop(trainer, rows)

    def _loop(self, trainer: Trainer, rows: Sequence[dict[str, Any]]) -> None:
        """Times of the rows, by what they are of. The loop is not begun anew for every repeat: nothing is prepared ahead of a
        first batch."""
        problem, repeats = trainer.problem, trainer.settings.draws.repeats
        with fast_kernels(trainer.device), _memory(rows[0]["device"]) as peak:
            one = problem.batch(0)
            network = timed(lambda: self._steps(trainer, itertools.repeat((one, 0.0))), LEAST)
            steady = ECHO * repeats  # before, every place of a batch has a draw of its own to make
            for step in range(steady):
                problem.batch(step)
            count = -(-TRAIN_STEPS // repeats) * repeats
            data = [seconds_of(lambda step=step: problem.batch(step)) for step in range(steady, steady + count)]
            waits: list[float] = []
            with closing(batches(problem, steady + count, trainer.settings.steps, trainer.device)) as made:
                whole = timed(lambda: waits.append(self._steps(trainer, made)), LEAST)
            memory, per_step = peak(), {"train_step": whole, "train_network": network}
            seconds = {what: [s / TRAIN_STEPS for s in found] for what, found in per_step.items()}
            seconds["train_data"] = [float(np.mean(data))]  # draws are used several times
            waiting = f"{sum(waits[-len(whole) :]) / sum(whole):.0%} waiting for data"
            for row in rows:
                note = waiting if row["what"] == "train_step" else ""
                self.table.add(row, seconds[row["what"]], peak_mib=memory, note=note)

    @staticmethod
    def _steps(trainer: Trainer, made: Iterator[tuple[Any, float]]) -> float:
        """TRAIN_STEPS steps on batches as `loop.batches` gives them; returns the seconds waited for these."""
        waited = 0.0
        for batch, seconds in itertools.islice(made, TRAIN_STEPS):
            trainer.update(batch)
            waited += seconds
        trainer.flush()
        return waited


def measure(
    config: Config, sizes: Sequence[str], methods: Sequence[str], out: Path, repeats: int = 5, budget_min: float = math.inf
) -> bool:
    """Measure the rows that `out` has not, one after another; False where the budget ended first (no row is begun after it).

    sizes: of sizes.SIZES or the configuration's grids; repeats: timed calls of a row. Raises InputError on names that are not
    there, or a file that is no such table.
    """
    if repeats < LEAST:
        raise InputError("--repeats", repeats, f"at least {LEAST}: quartiles of two are nothing")
    wanted = [size_of(name, config) for name in sizes]
    with tempfile.TemporaryDirectory(prefix="xdiff-timing-") as folder, time_budget(budget_min):
        timing = Timing(config, methods, Table(out), repeats, Path(folder))
        try:
            for size in wanted:
                timing.measure(size)
        except OutOfTime as stop:
            print(f"bench: budget of {budget_min:g} min spent before {stop}; the same command goes on")
            return False
    return True
