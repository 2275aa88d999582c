"""A preset's whole grid in one process, without Snakemake: for a machine that has torch and a GPU but no network.

    python -m xdiff.bench workflow/presets/real-brains-48.yaml --data-root DIR --out results --budget 9
    python -m xdiff.bench workflow/presets/real-brains-48.yaml --timing timing.tsv --sizes 48,2mm
    python -m xdiff.bench --official official.tsv

Same functions, same folders and same resume keys as the workflow, so that either can go on where the other stopped.
With --budget it stops cleanly after that many minutes, between two jobs or two steps of a training, with exit status 75; the
same command goes on. What every task took goes into the benchmarks that the rules of the workflow write too, so that
`xdiff report --ledger` and `xdiff reference` work after it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from xdiff import tables
from xdiff.budget import OutOfTime, time_budget, time_left_s
from xdiff.config import (
    EMBEDDED,
    Config,
    Job,
    has_water_fat,
    jobs,
    load_config,
    method_json,
    parts_of,
    raw_folder,
    segment_jobs,
    segment_json,
    source_folder,
    with_real,
)
from xdiff.data.__main__ import generate, split
from xdiff.data.joint import open_data
from xdiff.data.overlap import warn_of_overlaps
from xdiff.data.preprocess import preprocess
from xdiff.data.skull_strip import skull_strip
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors
from xdiff.ledger import measured
from xdiff.metrics.__main__ import collect
from xdiff.metrics.anatomy_rows import write_real
from xdiff.metrics.evaluate import evaluate
from xdiff.metrics.panel import build_panels
from xdiff.plain import digest
from xdiff.sample import sample
from xdiff.segment import nnunet
from xdiff.segment.evaluate import write_scores
from xdiff.segment.masks import METHODS as REAL
from xdiff.segment.masks import make_masks
from xdiff.segment.panel import build_tumour_panels
from xdiff.train import HISTORY, UNFINISHED, train

REPOSITORY = Path(__file__).resolve().parents[1]


class Task(NamedTuple):
    """One piece of work: a name to print, what to call, and for the ledger the benchmark's path below `results/benchmarks`
    without .tsv, the files and folders that the call writes, and the digest under which pieces of it add up (ledger.measured).
    """

    name: str
    call: Callable[[], None]
    benchmark: str = ""
    makes: tuple[Path, ...] = ()
    settings: str | None = None


class Step(NamedTuple):
    """What a task is about: its stage, and `at` = (cohort,), (cohort, grid), (trained_on, grid, method), a Job or nothing."""

    stage: str
    at: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        if self.stage == "train":
            origin, grid, method = self.at
            return f"{method}@{origin} {grid}"
        if self.stage in ("sample", "segment"):
            job = Job(*self.at)
            return f"{job.method}@{job.trained_on} {job.cohort} {job.grid} {job.sweep}"
        return " ".join(self.at)

    @property
    def name(self) -> str:
        return f"{self.stage} {self.place}".rstrip()


def steps(config: Config) -> Iterator[Step]:
    """Everything a configuration asks for, in an order in which every input exists."""
    grid_jobs = jobs(config)
    stores = sorted({(name, job.grid) for job in grid_jobs for name in (job.cohort, *parts_of(job.trained_on))})
    yield from (Step("split", (cohort,)) for cohort in sorted({name for name, _ in stores}))
    yield from (Step("preprocess", store) for store in stores)
    yield from (Step("train", at) for at in sorted({(j.trained_on, j.grid, j.method) for j in grid_jobs}))
    yield from (Step("sample", job) for job in grid_jobs)
    masked = segment_jobs(config)
    yield from (Step("segmenter", at) for at in sorted({(job.cohort, job.grid) for job in masked}))
    yield from (Step("segment", job) for job in with_real(masked))
    yield Step("collect")


def every(step: Step) -> bool:
    """All steps are wanted."""
    return True


def tasks(config: Config, out: Path, data_root: Path | None, wanted: Callable[[Step], bool] = every) -> Iterator[Task]:
    """The steps that are wanted with what does them: some of them in several tasks, as the workflow has rules."""
    made = {
        "split": lambda cohort: _split_tasks(config, cohort, out, data_root),
        "preprocess": lambda cohort, grid: _preprocess_tasks(config, cohort, grid, out, data_root),
        "train": lambda origin, grid, method: _train_tasks(config, origin, grid, method, out),
        "sample": lambda *job: _sample_tasks(config, Job(*job), out),
        "segmenter": lambda cohort, grid: _segmenter_tasks(config, cohort, grid, out),
        "segment": lambda *job: _segment_tasks(config, Job(*job), out),
        "collect": lambda: _final_tasks(config, out),
    }
    for step in filter(wanted, steps(config)):
        yield from made[step.stage](*step.at)


def _split_tasks(config: Config, cohort: str, out: Path, data_root: Path | None) -> Iterator[Task]:
    """What must be done before a cohort can be read is here, too: one is generated, stripped or stitched."""
    entry, raw = config.cohorts[cohort], raw_folder(config, cohort, out, data_root)
    if entry.layout in EMBEDDED:
        call = partial(generate, entry, raw)
        yield Task(f"generate {cohort}", call, f"generate/{cohort}", (raw,), _settings(config, (cohort,)))
    if entry.skull_strip:
        call = partial(skull_strip, entry, source_folder(config, cohort, data_root), raw)
        yield Task(f"skull_strip {cohort}", call, f"skull_strip/{cohort}", (raw,), _settings(config, (cohort,)))
    if entry.layout == "ukb":
        from xdiff.data.ukb import stitch_cohort  # requests, through the reading of archives

        call = partial(stitch_cohort, entry, source_folder(config, cohort, data_root), raw)
        yield Task(f"stitch {cohort}", call, f"stitch/{cohort}", (raw,), _settings(config, (cohort,)))
    path = out / "data" / cohort / "split.tsv"
    file = REPOSITORY / entry.split.file if entry.split.file else None
    yield Task(f"split {cohort}", partial(split, entry, raw, path, file), f"split/{cohort}", (path,))


def _preprocess_tasks(config: Config, cohort: str, grid: str, out: Path, data_root: Path | None) -> Iterator[Task]:
    call, settings = partial(_preprocess, config, cohort, grid, out, data_root), _settings(config, (cohort,), grid)
    yield Task(f"preprocess {cohort} {grid}", call, f"preprocess/{cohort}/{grid}", (out / "data" / cohort / grid,), settings)
    if has_water_fat(config.cohorts[cohort]):
        table = _real(cohort, grid, out)
        call = partial(_measure, cohort, grid, out)
        yield Task(f"anatomy {cohort} {grid}", call, f"anatomy/{cohort}/{grid}", (table,), settings)


def _train_tasks(config: Config, origin: str, grid: str, method: str, out: Path) -> Iterator[Task]:
    folder = out / "models" / origin / grid
    call, settings = partial(_train, config, origin, grid, method, out), _settings(config, parts_of(origin), grid, method)
    makes = (folder,)  # all of it: parts that methods share stand beside them, with their checkpoints
    yield Task(Step("train", (origin, grid, method)).name, call, f"train/{origin}/{grid}/{method}", makes, settings)


def _sample_tasks(config: Config, job: Job, out: Path) -> Iterator[Task]:
    step, place = Step("sample", job), f"{_folder(job, Path())}/1-of-1"
    settings = _settings(config, (job.cohort, *parts_of(job.trained_on)), job.grid, job.method)
    folder, table = _folder(job, out / "samples"), _table(job, out)
    yield Task(step.name, partial(_sample, config, job, out), f"sample/{place}", (folder,), settings)
    yield Task(f"evaluate {step.place}", partial(_evaluate, config, job, out), f"evaluate/{place}", (table,))


def _segmenter_tasks(config: Config, cohort: str, grid: str, out: Path) -> Iterator[Task]:
    folder, name = _segmenter(cohort, grid, out), f"{cohort} {grid}"
    settings = digest([_settings(config, (cohort,), grid), segment_json(config.segment)])
    call = partial(_train_segmenter, config, cohort, grid, out)
    yield Task(f"segmenter {name}", call, f"segmenter/{cohort}/{grid}", (folder,), settings)


def _segment_tasks(config: Config, job: Job, out: Path) -> Iterator[Task]:
    place, masks, table = f"{_folder(job, Path())}/1-of-1", _masks(job, out), _mask_scores(job, out)
    kind = next((kind for kind, name in REAL.items() if name == job.method), "prediction")
    alike = [j for j in segment_jobs(config) if j._replace(method=job.method) == job]
    manifests = [_folder(j, out / "samples") / "manifest-1-of-1.tsv" for j in (alike if kind != "prediction" else [job])]
    step, model = Step("segment", job), _segmenter(job.cohort, job.grid, out)
    yield Task(step.name, partial(_segment, kind, manifests, model, masks, table), f"segment/{place}", (masks.parent, table))


def _final_tasks(config: Config, out: Path) -> Iterator[Task]:
    """One table and the panels of all jobs; from them tables and, where matplotlib is installed, figures."""
    grid_jobs, masked = jobs(config), with_real(segment_jobs(config))
    table, skipped, panel, tumours = (
        out / "metrics" / name for name in ("all.tsv", "skipped.tsv", "panel.npz", "tumour_panel.npz")
    )
    yield Task("collect", partial(_collect, grid_jobs, masked, out), "collect/all", (table, skipped))
    manifests = [_folder(job, out / "samples") / "manifest-1-of-1.tsv" for job in grid_jobs]
    yield Task("panel", partial(build_panels, manifests, panel), "panel/all", (panel,))
    if masked:
        call = partial(build_tumour_panels, [_masks(job, out) for job in masked], tumours)
        yield Task("tumour_panel", call, "tumour_panel/all", (tumours,))
    made = out / "tables"
    arguments = ["--metrics", str(table), "--skipped", str(skipped), "--out", str(made)]
    yield Task("tables", partial(tables.main, arguments), "tables/all", (made,))
    call = partial(_figures, table, panel, tumours if masked else None, out / "figures")
    yield Task("figures", call, "figures/all", (out / "figures",))


def _settings(config: Config, cohorts: Sequence[str], grid: str = "", method: str = "") -> str:
    """Digest of what the configuration says of a task, but for its sweep, which may grow without redoing anything."""
    entries = [asdict(config.cohorts[name]) for name in cohorts]
    entries += [asdict(config.grids[grid])] if grid else []
    return digest([*entries, method_json(config.methods[method])] if method else entries)


def _preprocess(config: Config, cohort: str, grid: str, out: Path, data_root: Path | None) -> None:
    entry, folder = config.cohorts[cohort], out / "data" / cohort
    root = raw_folder(config, cohort, out, data_root)
    preprocess(entry, config.grids[grid], (cohort, grid), root, read_split(folder / "split.tsv"), folder / grid)


def _train(config: Config, origin: str, grid: str, method: str, out: Path) -> None:
    folders = [out / "data" / part for part in parts_of(origin)]
    data = open_data([folder / grid for folder in folders], [folder / "split.tsv" for folder in folders])
    train(method, config.methods[method], *data, out / "models" / origin / grid / method)


def _sample(config: Config, job: Job, out: Path) -> None:
    data, entry = out / "data" / job.cohort, config.methods[job.method]
    weights = out / "models" / job.trained_on / job.grid / job.method
    folder = _folder(job, out / "samples")
    sample(entry, weights, Store(data / job.grid), read_split(data / "split.tsv"), config.sweeps[job.sweep], folder)


def _real(cohort: str, grid: str, out: Path) -> Path:
    return out / "metrics" / cohort / grid / "anatomy.tsv"


def _measure(cohort: str, grid: str, out: Path) -> None:
    data = out / "data" / cohort
    write_real(Store(data / grid), read_split(data / "split.tsv"), _real(cohort, grid, out))


def _evaluate(config: Config, job: Job, out: Path) -> None:
    manifest, table, real, training = _folder(job, out / "samples") / "manifest-1-of-1.tsv", _table(job, out), None, []
    if has_water_fat(config.cohorts[job.cohort]):
        real = _real(job.cohort, job.grid, out)
        training = [_real(part, job.grid, out) for part in parts_of(job.trained_on)]
    table.parent.mkdir(parents=True, exist_ok=True)
    evaluate(manifest, real, training).to_csv(table, sep="\t", index=False)


def _folder(job: Job, base: Path) -> Path:
    return base / job.cohort / job.grid / f"{job.method}@{job.trained_on}" / job.sweep


def _table(job: Job, out: Path) -> Path:
    return _folder(job, out / "metrics") / "1-of-1.tsv"


def _segmenter(cohort: str, grid: str, out: Path) -> Path:
    return out / "models" / cohort / grid / "nnunet"


def _masks(job: Job, out: Path) -> Path:
    return _folder(job, out / "segmentations") / "masks-1-of-1.tsv"


def _mask_scores(job: Job, out: Path) -> Path:
    return _folder(job, out / "metrics") / "masks-1-of-1.tsv"


def _train_segmenter(config: Config, cohort: str, grid: str, out: Path) -> None:
    data, settings = out / "data" / cohort, nnunet.Settings(config.segment.tier, config.segment.epochs, config.segment.iterations)
    nnunet.train(Store(data / grid), read_split(data / "split.tsv"), settings, _segmenter(cohort, grid, out))


def _segment(kind: str, manifests: Sequence[Path], model: Path, masks: Path, table: Path) -> None:
    make_masks(kind, manifests, model, masks)
    write_scores(masks, table)


def _collect(grid_jobs: list[Job], masked: list[Job], out: Path) -> None:
    models = sorted({(j.trained_on, j.grid, j.method) for j in grid_jobs})
    histories = [out.joinpath("models", *model) / HISTORY for model in models]
    tables = [*(_table(job, out) for job in grid_jobs), *(_mask_scores(job, out) for job in masked)]
    collect(tables, out / "metrics" / "all.tsv", histories)
    skipped = [pd.read_csv(_folder(job, out / "samples") / "skipped-1-of-1.tsv", sep="\t", dtype=str) for job in grid_jobs]
    pd.concat(skipped).to_csv(out / "metrics" / "skipped.tsv", sep="\t", index=False)


def _figures(table: Path, panel: Path, tumours: Path | None, out: Path) -> None:
    """Figures where there is matplotlib; where there is none, as on a lent machine, a word that they are missing."""
    if importlib.util.find_spec("matplotlib") is None:
        print(f"bench: no figures: matplotlib is not installed here; elsewhere, python -m xdiff.figures --metrics {table}")
        return
    from xdiff import figures

    more = ["--tumours", str(tumours)] if tumours else []
    figures.main(["--metrics", str(table), "--panel", str(panel), *more, "--out", str(out)])


def _do(task: Task, out: Path) -> None:
    """Call the task, and put what it took into its benchmark, where it has one."""
    if not task.benchmark:
        return task.call()
    with measured(out / "benchmarks" / f"{task.benchmark}.tsv", task.makes, task.settings):
        task.call()


def run(config: Config, out: Path, data_root: Path | None, budget_min: float, wanted: Callable[[Step], bool] = every) -> bool:
    """Do the tasks; False where the budget ended before they did. What is finished is not done again. wanted: of which steps."""
    if config.run.shards != 1:
        raise InputError("run.shards", config.run.shards, "1: bench is one process")
    with time_budget(budget_min):
        for task in tasks(config, out, data_root, wanted):
            if time_left_s() <= 0:
                print(f"bench: budget of {budget_min:g} min spent before {task.name!r}; the same command goes on")
                return False
            start = time.perf_counter()
            try:
                _do(task, out)
            except OutOfTime as stop:
                print(f"bench: budget of {budget_min:g} min spent in {task.name!r} at {stop}; the same command goes on")
                return False
            print(f"bench: {time.perf_counter() - start:8.1f} s  {task.name}", flush=True)
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff bench", description="A preset's whole grid in one process, without Snakemake.")
    parser.add_argument("preset", type=Path, nargs="*", help="overlays on config.yaml, in order")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config.yaml", help="the configuration they overlay")
    parser.add_argument("--data-root", type=Path, help="folder of the raw cohorts (else data_root, XDIFF_DATA_ROOT, `data`)")
    parser.add_argument("--out", type=Path, default=Path("results"))
    budget = "start no task after this long, and stop a training at its next step"
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES", help=budget)
    official = "measure what the official pipeline costs per volume, in place of a preset (xdiff/official.py)"
    parser.add_argument("--official", type=Path, metavar="OUT.tsv", help=official)
    timing = "measure what the preset's methods cost on this machine instead of running it (xdiff/timing.py)"
    parser.add_argument("--timing", type=Path, metavar="OUT.tsv", help=timing)
    parser.add_argument(
        "--sizes", default="64,2mm,1p5mm", help="of --timing, with commas: 64, 2mm, 1p5mm, brats, or a grid's name"
    )
    parser.add_argument("--methods", default="", help="of --timing, with commas; else those of the preset")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each row of --timing and --official")
    args = parser.parse_args(argv)
    if args.official and (args.preset or args.timing):
        parser.error("--official measures without a preset")
    if args.official:
        finished = _official(args.official, args.repeats, args.budget)
    elif args.timing:
        finished = _timing(load_config([args.config, *args.preset]), args)
    else:
        config = load_config([args.config, *args.preset])
        warn_of_overlaps(config)
        finished = run(config, args.out, args.data_root, args.budget)
    if not finished:
        sys.exit(UNFINISHED)


def _timing(config: Config, args: argparse.Namespace) -> bool:
    from xdiff.timing import measure

    methods = args.methods.split(",") if args.methods else [name for name in config.run.methods if _on_any_volume(config, name)]
    return measure(config, args.sizes.split(","), methods, args.timing, args.repeats, args.budget)


def _on_any_volume(config: Config, method: str) -> bool:
    """False for what needs to know the law of a cohort's random fields."""
    cohorts = config.methods[method].only.cohorts
    return not cohorts or any(config.cohorts[name].layout != "gaussian-field" for name in cohorts)


def _official(out: Path, repeats: int, budget_min: float) -> bool:
    from xdiff.official import measure  # torch, which a grid of trivial methods starts without

    return measure(out, repeats, budget_min)


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
