"""What every job of a configuration will take, from unit costs: the same jobs as bench.steps, and nothing is started.

Entries that train the same core or the same network (local_fit.fit_core, training.fit_network) pay for it once, the first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdiff.bench import Step, steps
from xdiff.config import EMBEDDED, Config, Job, MethodEntry, has_water_fat, parts_of
from xdiff.data.joint import join_splits
from xdiff.data.split import Split, shard_of
from xdiff.errors import InputError
from xdiff.observation import Point, points_of
from xdiff.planned import is_counted, planned_split
from xdiff.train import load_module
from xdiff.unit_costs import Cost, Costs, Wanted

if TYPE_CHECKING:
    from xdiff.local_fit import CoreSettings
    from xdiff.loop import TrainingSettings

DRAWING = ("sampler", "assembly")  # settings of how a trained network is used, which does not train another one
CORE_ROW = ("gaussian_local", "baselines.gaussian_local")  # whose `fit` is the core of all methods, where theirs was not measured


@dataclass
class Line:
    """One job; `at` as bench.Step has it.

    seconds: what is known of its time, nothing where not counted; missing: what of it was never measured; at_most: whether it may
    be less; asks_gpu, mem_mb, runtime_min: of its entry; on_gpu: what its costs were measured on; peak_mib: 0 where not measured;
    after: lines it waits for; shared: (key, seconds) of a part that other lines wait for too, by its key.
    """

    stage: str
    place: str
    at: tuple[str, ...] = ()
    threads: int = 1
    seconds: float = 0.0
    counted: bool = True
    at_most: bool = False
    asks_gpu: bool = False
    on_gpu: set[bool] = field(default_factory=set)
    peak_mib: float = 0.0
    mem_mb: int = 0
    runtime_min: int = 0
    volumes: int = 0
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    shared: list[tuple[str, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.stage} {self.place}".rstrip()

    @property
    def gpu(self) -> bool:
        """By what was measured, and by the entry where something was not."""
        return True in self.on_gpu or (self.asks_gpu and (not self.on_gpu or bool(self.missing)))

    def add(self, cost: Cost | None, times: float, what: str) -> float:
        """Add so many units of a cost, or what is missing; returns the seconds added."""
        if cost is None:
            self.missing += [what] if what not in self.missing else []
            return 0.0
        self.seconds += times * cost.seconds
        self.on_gpu.add(cost.on_gpu)
        self.peak_mib = max(self.peak_mib, cost.peak_mib or 0.0)
        self.notes += [note for note in cost.notes if note not in self.notes]
        return times * cost.seconds


class Forecast:
    """Lines of all jobs of a configuration, in the order of bench.steps, `evaluate` after each `sample`.

    Raises InputError where the number of a cohort's subjects cannot be told (planned_split).
    """

    def __init__(self, config: Config, costs: Costs, data_root: Path | None = None) -> None:
        self.config, self.costs = config, costs
        self.owners: dict[tuple, str] = {}  # key of a core or a network -> the line that makes it
        self.planned = list(steps(config))
        cohorts = [step.at[0] for step in self.planned if step.stage == "split"]
        self.splits = {cohort: planned_split(config, cohort, data_root) for cohort in cohorts}
        self.expected = {cohort for cohort in cohorts if not is_counted(config, cohort, data_root)}
        self.lines: list[Line] = []
        for step in self.planned:
            self.lines += self._lines(step)

    def split_of(self, trained_on: str) -> Split:
        """The split of one cohort, or of several joined by `+`."""
        parts = parts_of(trained_on)
        splits = [self.splits[part] for part in parts]
        return splits[0] if len(parts) == 1 else join_splits(parts, splits)

    def _lines(self, step: Step) -> Iterator[Line]:
        if step.stage == "split":
            yield self._split(step)
        elif step.stage == "preprocess":
            yield from self._preprocess(step)
        elif step.stage == "train":
            yield self._train(step)
        elif step.stage == "sample":
            for number in range(1, self.config.run.shards + 1):
                yield from self._sample(step, number)
        elif step.stage == "segmenter":
            yield self._segmenter(step, step.place, [f"preprocess {step.at[0]} {step.at[1]}"])
        elif step.stage == "segment":
            for number in range(1, self.config.run.shards + 1):
                place = self._sharded(step, number)
                sampled = [f"sample {place}"] * (step.at[2] in self.config.methods)
                yield self._segmenter(step, place, [f"segmenter {step.at[0]} {step.at[1]}", *sampled])
        else:
            scored = [line.name for line in self.lines if line.stage == "evaluate"]
            yield Line(step.stage, step.place, step.at, counted=False, notes=["tables of scores and panels alone"], after=scored)

    def _split(self, step: Step) -> Line:
        """With what makes a cohort's files before they can be read."""
        cohort = step.at[0]
        entry = self.config.cohorts[cohort]
        made = {f"generate {cohort}": entry.layout in EMBEDDED, "stitching": entry.layout == "ukb"}
        made["skull stripping"] = bool(entry.skull_strip)
        line = Line(step.stage, step.place, step.at, counted=any(made.values()))
        line.notes = [] if line.counted else ["reads names of files alone"]
        line.notes += ["the download is not counted"] if cohort in self.expected and entry.download else []
        for what, wanted in made.items():
            if wanted:
                line.add(None, 1, what)
        return line

    def _preprocess(self, step: Step) -> Iterator[Line]:
        """One job; or of several shards each its own, and one that joins them. With frame `scanner` the training volumes are read
        before, which shards do in jobs of their own."""
        (cohort, grid), shards = step.at, self.config.run.data_shards
        subjects, after = list(self.splits[cohort].table["subject"]), [f"split {cohort}"]
        reading = ["reading of training volumes (frame scanner)"] if self.config.grids[grid].frame == "scanner" else []
        counted = f"{len(subjects)} subjects" + (" (plan.subjects)" if cohort in self.expected else "")
        line = Line(step.stage, step.place, step.at, volumes=len(subjects), notes=[counted], after=after)
        cost = self.costs.find(self._wanted("preprocess", cohort, grid))
        if shards == 1:
            line.add(cost, len(subjects), "preprocess")
            line.missing += reading
            yield line
            return
        places = [f"{step.place} {number}-of-{shards}" for number in range(1, shards + 1)]
        if reading:
            yield from (Line("centres", place, step.at, after=after, missing=list(reading)) for place in places)
            after = [f"centres {place}" for place in places]
        for number, place in enumerate(places, start=1):
            part = shard_of(subjects, f"{number}/{shards}")
            one = Line("preprocess_shard", place, step.at, volumes=len(part), notes=[f"{len(part)} subjects"], after=after)
            one.add(cost, len(part), "preprocess")
            yield one
        line.counted, line.after = False, [f"preprocess_shard {place}" for place in places]
        line.notes += ["joins its shards"]
        yield line

    @staticmethod
    def _line(step: Step, place: str, entry: MethodEntry) -> Line:
        """With what the entry asks for."""
        line = Line(step.stage, place, step.at, entry.threads, asks_gpu=entry.gpu > 0)
        line.mem_mb, line.runtime_min = entry.mem_mb, entry.runtime_min
        return line

    def _wanted(self, what: str, cohort: str, grid: str, method: str = "", **numbers: Any) -> Wanted:
        contrasts, shape = len(self.config.cohorts[parts_of(cohort)[0]].contrasts), self.config.grids[grid].shape
        module = self.config.methods[method].module if method else ""
        return Wanted(what, tuple(shape), contrasts, method, module, **numbers)

    def _segmenter(self, step: Step, place: str, after: list[str]) -> Line:
        """A job of nnU-Net, which has no unit costs: the line says that its time is missing."""
        entry = self.config.segment
        line = Line(step.stage, place, step.at, entry.threads, asks_gpu=entry.gpu > 0, after=after, missing=["nnU-Net"])
        line.mem_mb, line.runtime_min = entry.mem_mb, entry.runtime_min
        return line

    # Training ---------------------------------------------------------------------------------------------------------

    def _train(self, step: Step) -> Line:
        origin, grid, method = step.at
        entry = self.config.methods[method]
        line = self._line(step, step.place, entry)
        line.after = [f"preprocess {part} {grid}" for part in parts_of(origin)]
        if not entry.learns or not hasattr(load_module(entry), "train"):
            line.counted, line.asks_gpu, line.notes = False, False, ["nothing is learned"]
            return line
        core, settings = settings_of(entry)
        split = self.split_of(origin).with_training(settings.patients if settings else 0)
        data = (origin, grid, *(tuple(split.side(side)) for side in ("train", "val")))
        if draws_with(settings) and self._shared(line, ("network", *data, trained_part(settings)), "network"):
            line.asks_gpu = False
            return line
        self._fit(line, step, len(split.side("train")), (*data, str(core)) if core else None)
        if settings:
            self._iterate(line, step, settings, split)
        return line

    def _shared(self, line: Line, key: tuple, what: str) -> bool:
        """Whether another line makes this already; else this one does."""
        owner = self.owners.setdefault(key, line.place)
        if owner != line.place:
            line.notes.append(f"{what} of {owner}")
            line.after.append(f"train {owner}" if what == "network" else f"{what} train {owner}")
        return owner != line.place

    def _fit(self, line: Line, step: Step, rows: int, core_key: tuple | None) -> None:
        """What is done once before iterating, or all there is to do; the core by whoever comes first."""
        if core_key and self._shared(line, ("core", *core_key), "core"):
            return
        origin, grid, method = step.at
        wanted = self._wanted("fit", origin, grid, method, rows=rows)
        cost = self.costs.find(wanted)
        if cost is None and core_key:
            cost = self.costs.find(wanted._replace(method=CORE_ROW[0], module=CORE_ROW[1]))
        seconds = line.add(cost, 1, f"fit {method}")
        if core_key:
            line.shared.append((f"core {line.name}", seconds))

    def _iterate(self, line: Line, step: Step, settings: TrainingSettings, split: Split) -> None:
        """Steps, or minutes where these end first, and checks."""
        origin, grid, method = step.at
        cost = self.costs.find(self._wanted("train_step", origin, grid, method, batch=settings.volumes))
        count, clock_s = settings.steps, 60 * settings.minutes if settings.steps else 0
        if clock_s and (cost is None or clock_s < count * cost.seconds):
            line.notes.append(f"{settings.minutes:g} min by the clock")
            line.seconds += clock_s
            count = clock_s / cost.seconds if cost else None
            if cost:
                line.add(replace(cost, seconds=0.0, notes=()), 1, "")  # its device and its memory
        else:
            line.add(cost, count, f"train_step {method}")
        line.at_most |= settings.patience > 0
        self._checks(line, step, settings, split, count)

    def _checks(self, line: Line, step: Step, settings: TrainingSettings, split: Split, count: float | None) -> None:
        """The network on validation subjects and as many training subjects, before the first step and at each check."""
        origin, grid, method = step.at
        if not settings.checks and count is None:
            line.missing.append(f"train_step {method}")  # how many steps, so how many checks, the clock has room for
            return
        checks = 1 + (settings.checks or math.ceil(count / settings.validate_every))
        subjects = sum(min(settings.validate_subjects, len(split.side(side))) for side in ("val", "train"))
        for k in settings.validate_k:
            cost = self.costs.find(self._wanted("network", origin, grid, method, k=k, estimate="mean"))
            line.add(cost and replace(cost, notes=()), checks * subjects, f"network {method}")

    # Sampling and scoring ---------------------------------------------------------------------------------------------

    def _rows(self, entry: MethodEntry, trained_on: str) -> int:
        """Training volumes that a reconstruction combines, their warped copies counted."""
        if not entry.learns:
            return 0
        (core, settings), split = settings_of(entry), self.split_of(trained_on)
        rows = len(split.with_training(settings.patients if settings else 0).side("train"))
        return combined(core, rows) if core else rows

    def _sharded(self, step: Step, number: int) -> str:
        shards = self.config.run.shards
        return step.place + (f" {number}-of-{shards}" if shards > 1 else "")

    def _sample(self, step: Step, number: int) -> Iterator[Line]:
        """Sampling and scoring of one shard of a job."""
        job, shards = Job(*step.at), self.config.run.shards
        entry, sweep = self.config.methods[job.method], self.config.sweeps[job.sweep]
        subjects = self.splits[job.cohort].side("test")[number - 1 :: shards]
        if not subjects:
            raise InputError(f"cohorts.{job.cohort}", f"no test subject in shard {number}/{shards}", "at least one in each shard")
        points = points_of(sweep, entry.estimates, entry.min_k, entry.stepped)
        volumes = len(points) * len(subjects)
        line = self._line(step, self._sharded(step, number), entry)
        line.volumes = volumes
        line.at_most = not all(_is_plain(point) for point in points)
        line.notes = [f"{len(points)} points x {len(subjects)} subjects"]
        line.after = [f"preprocess {job.cohort} {job.grid}", f"train {job.method}@{job.trained_on} {job.grid}"]
        rows = self._rows(entry, job.trained_on)
        for point in points:
            counted = entry.stepped and point.estimate != "mean"
            numbers = {"k": point.K, "estimate": point.estimate, "steps": point.steps if counted else 0, "rows": rows}
            cost = self.costs.find(self._wanted("reconstruct", job.cohort, job.grid, job.method, **numbers))
            line.add(cost, len(subjects), f"reconstruct {job.method} {point.estimate}")
        line.add(self.costs.find(self._wanted("read_write", job.cohort, job.grid)), volumes, "read_write")
        yield line
        scored = Line("evaluate", line.place, step.at, volumes=volumes, at_most=line.at_most, after=[line.name])
        scored.add(self.costs.find(self._wanted("evaluate", job.cohort, job.grid)), volumes, "evaluate")
        if has_water_fat(self.config.cohorts[job.cohort]):
            scored.missing.append("anatomy")
        yield scored


def _is_plain(point: Point) -> bool:
    """Whether nothing can keep sample.py from doing the point: one thin section with all contrasts. Others it may leave out,
    where too little would stay unseen, sections do not fit, or the method does not support them."""
    everywhere = point.policy in ("uniform", "centre", "random")
    return point.K == 1 and everywhere and not point.thickness_mm and point.contrasts_given == "all"


def combined(core: CoreSettings, rows: int) -> int:
    """Volumes that a core combines: training volumes and their warped copies, as far as it has room."""
    return min(rows * (1 + core.warped_rows), max(rows, core.max_volumes))


def settings_of(entry: MethodEntry) -> tuple[Any, TrainingSettings | None]:
    """CoreSettings of an entry that fits a core, else None; and its TrainingSettings where it iterates. Loads its module."""
    from xdiff import sizes  # torch, which a table of costs needs not

    return sizes.core_of(entry), sizes.settings_of(entry)


def draws_with(settings: TrainingSettings | None) -> bool:
    """Whether entries of the module may share a network and differ in how they draw with it."""
    return any(hasattr(settings, name) for name in DRAWING)


def trained_part(settings: TrainingSettings) -> str:
    """What of the settings decides the network; `trained` names those of another method whose training is shared."""
    values = asdict(getattr(settings, "trained", settings))
    return str({name: value for name, value in values.items() if name not in DRAWING})
