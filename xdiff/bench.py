"""A preset's whole grid in one process, without Snakemake: for a machine that has torch and a GPU but no network.

    python -m xdiff.bench workflow/presets/real-brains-48.yaml --data-root DIR --out results --budget 9

Same functions, same folders and same resume keys as the workflow, so that either can go on where the other stopped.
With --budget it stops cleanly after that many minutes, between two jobs or two steps of a training, with exit status 75; the
same command goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from xdiff.budget import OutOfTime, time_budget, time_left_s
from xdiff.config import EMBEDDED, Config, Job, jobs, load_config, parts_of, raw_folder
from xdiff.data.__main__ import generate, split
from xdiff.data.joint import open_data
from xdiff.data.preprocess import preprocess
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors
from xdiff.metrics.__main__ import collect
from xdiff.metrics.evaluate import evaluate
from xdiff.metrics.panel import build_panels
from xdiff.sample import sample
from xdiff.train import HISTORY, UNFINISHED, train

REPOSITORY = Path(__file__).resolve().parents[1]


class Task(NamedTuple):
    """One piece of work: a name for the ledger, and what to call."""

    name: str
    call: object


class Step(NamedTuple):
    """What a task is about: its stage, and `at` = (cohort,), (cohort, grid), (trained_on, grid, method), a Job or nothing."""

    stage: str
    at: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        if self.stage == "train":
            origin, grid, method = self.at
            return f"{method}@{origin} {grid}"
        if self.stage == "sample":
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
    yield Step("collect")


def tasks(config: Config, out: Path, data_root: Path | None) -> Iterator[Task]:
    """The steps with what does them."""
    calls = {
        "split": lambda cohort: _split(config, cohort, out, data_root),
        "preprocess": lambda cohort, grid: _preprocess(config, cohort, grid, out, data_root),
        "train": lambda origin, grid, method: _train(config, origin, grid, method, out),
        "sample": lambda *job: _sample(config, Job(*job), out),
        "collect": lambda: _collect(jobs(config), out),
    }
    for step in steps(config):
        yield Task(step.name, partial(calls[step.stage], *step.at))


def _split(config: Config, cohort: str, out: Path, data_root: Path | None) -> None:
    entry, path = config.cohorts[cohort], out / "data" / cohort / "split.tsv"
    if entry.layout in EMBEDDED:
        generate(entry, raw_folder(config, cohort, out, data_root))
    file = REPOSITORY / entry.split.file if entry.split.file else None
    split(entry, raw_folder(config, cohort, out, data_root), path, file)


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
    folder = _folder(job, out / "samples")
    weights = out / "models" / job.trained_on / job.grid / job.method
    sample(entry, weights, Store(data / job.grid), read_split(data / "split.tsv"), config.sweeps[job.sweep], folder)
    table = _folder(job, out / "metrics") / "1-of-1.tsv"
    table.parent.mkdir(parents=True, exist_ok=True)
    evaluate(folder / "manifest-1-of-1.tsv").to_csv(table, sep="\t", index=False)


def _folder(job: Job, base: Path) -> Path:
    return base / job.cohort / job.grid / f"{job.method}@{job.trained_on}" / job.sweep


def _collect(grid_jobs: list[Job], out: Path) -> None:
    models = sorted({(j.trained_on, j.grid, j.method) for j in grid_jobs})
    histories = [out.joinpath("models", *model) / HISTORY for model in models]
    collect([_folder(job, out / "metrics") / "1-of-1.tsv" for job in grid_jobs], out / "metrics" / "all.tsv", histories)
    skipped = [pd.read_csv(_folder(job, out / "samples") / "skipped-1-of-1.tsv", sep="\t", dtype=str) for job in grid_jobs]
    pd.concat(skipped).to_csv(out / "metrics" / "skipped.tsv", sep="\t", index=False)
    build_panels([_folder(job, out / "samples") / "manifest-1-of-1.tsv" for job in grid_jobs], out / "metrics" / "panel.npz")


def run(config: Config, out: Path, data_root: Path | None, budget_min: float) -> bool:
    """Do the tasks; False where the budget ended before they did. What is finished is not done again."""
    if config.run.shards != 1:
        raise InputError("run.shards", config.run.shards, "1: bench is one process")
    with time_budget(budget_min):
        for task in tasks(config, out, data_root):
            if time_left_s() <= 0:
                print(f"bench: budget of {budget_min:g} min spent before {task.name!r}; the same command goes on")
                return False
            start = time.perf_counter()
            try:
                task.call()
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
    args = parser.parse_args(argv)
    if not run(load_config([args.config, *args.preset]), args.out, args.data_root, args.budget):
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
