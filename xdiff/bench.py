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


def tasks(config: Config, out: Path, data_root: Path | None) -> Iterator[Task]:
    """Everything a configuration asks for, in an order in which every input exists."""
    grid_jobs = jobs(config)
    stores = sorted({(name, job.grid) for job in grid_jobs for name in (job.cohort, *parts_of(job.trained_on))})
    for cohort in sorted({name for name, _ in stores}):
        yield Task(f"split {cohort}", lambda c=cohort: _split(config, c, out, data_root))
    for cohort, grid in stores:
        yield Task(f"preprocess {cohort} {grid}", lambda c=cohort, g=grid: _preprocess(config, c, g, out, data_root))
    for origin, grid, method in sorted({(j.trained_on, j.grid, j.method) for j in grid_jobs}):
        yield Task(f"train {method}@{origin} {grid}", lambda o=origin, g=grid, m=method: _train(config, o, g, m, out))
    for job in grid_jobs:
        name = f"sample {job.method}@{job.trained_on} {job.cohort} {job.grid} {job.sweep}"
        yield Task(name, lambda j=job: _sample(config, j, out))
    yield Task("collect", lambda: _collect(grid_jobs, out))


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
    official = "measure what the official pipeline costs per volume, in place of a preset (xdiff/official.py)"
    parser.add_argument("--official", type=Path, metavar="OUT.tsv", help=official)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each row of --official")
    args = parser.parse_args(argv)
    if args.official and args.preset:
        parser.error("--official measures without a preset")
    if args.official:
        finished = _official(args.official, args.repeats, args.budget)
    else:
        finished = run(load_config([args.config, *args.preset]), args.out, args.data_root, args.budget)
    if not finished:
        sys.exit(UNFINISHED)


def _official(out: Path, repeats: int, budget_min: float) -> bool:
    from xdiff.official import measure  # torch, which a grid of trivial methods starts without

    return measure(out, repeats, budget_min)


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
