"""What of a finished run was not work: Snakemake's share of its time, and that of importing libraries in every job.

    python -m xdiff.overhead                the run in this folder (its .snakemake), made on one machine
    python -m xdiff.overhead --run FOLDER

Snakemake notes when every job's command began and ended and what it was (.snakemake/metadata). What it takes to import is timed
now, on this machine, for every module that jobs ran; what a method loads only when it is called (torch, monai) is work. Cores
that stand still while others work are in no number here.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from xdiff.errors import InputError

REPEATS = 3
SNAKEMAKE = "snakemake.cli"
MODULE = re.compile(r"-m (xdiff[\w.]*)")  # of a training in several processes, behind torchrun, too


@dataclass(frozen=True)
class Job:
    """One finished job: its rule, the modules that its command runs, and when it ran, in seconds since 1970."""

    rule: str
    modules: tuple[str, ...]
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Overhead:
    """Seconds. whole: of all runs of Snakemake that had a job; alone: of these, while no job ran, starting it included;
    jobs: of all commands, side by side or not; imports: module -> how many commands run it, seconds to import it once."""

    whole: float
    alone: float
    jobs: float
    imports: dict[str, tuple[int, float]]

    @property
    def importing(self) -> float:
        return sum(count * seconds for count, seconds in self.imports.values())


def read_jobs(folder: Path) -> list[Job]:
    """Finished jobs from .snakemake/metadata. Raises InputError where there are none, or a record is of another kind."""
    spans: dict[tuple[str, str], tuple[float, float]] = {}  # a job's outputs have a record each, written one after the other
    for path in (p for p in (folder / ".snakemake/metadata").rglob("*") if p.is_file()):
        try:
            record = json.loads(path.read_text())
            name, start_s, end_s = (record["rule"], record["shellcmd"] or ""), record["starttime"], record["endtime"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(path, f"{type(error).__name__} {error}", "a record with starttime and endtime") from error
        first, last = spans.get(name, (start_s, end_s))
        spans[name] = min(first, start_s), min(last, end_s)
    if not spans:
        raise InputError(folder / ".snakemake/metadata", "no record of a job", "those that a finished run of Snakemake leaves")
    jobs = [Job(rule, tuple(MODULE.findall(command)), *span) for (rule, command), span in spans.items()]
    return sorted(jobs, key=lambda job: job.start_s)


def read_sessions(folder: Path) -> list[tuple[float, float]]:
    """When every run of Snakemake began (the name of its log) and ended (its log's last change), in seconds since 1970."""
    logs = sorted((folder / ".snakemake/log").glob("*.snakemake.log"))
    begun = [datetime.strptime(log.name.split(".snakemake")[0], "%Y-%m-%dT%H%M%S.%f").timestamp() for log in logs]
    return [(start, log.stat().st_mtime) for start, log in zip(begun, logs, strict=True)]


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def import_s(module: str) -> float:
    """Median wall time of a Python that imports a module (of a package what `python -m` runs) and ends."""
    code = f"import importlib.util as u; m = {module!r}; s = u.find_spec(m); "
    code += "__import__(m + '.__main__' if s.submodule_search_locations else m)"
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def overhead(folder: Path, seconds_to_import: Callable[[str], float] = import_s) -> Overhead:
    """Of the run in a folder. Raises InputError where its records or logs are missing."""
    jobs = read_jobs(folder)
    sessions = [(a, b) for a, b in read_sessions(folder) if any(a <= job.start_s <= b for job in jobs)]
    lost = [job for job in jobs if not any(a <= job.start_s <= b for a, b in sessions)]
    if lost:
        raise InputError(folder / ".snakemake/log", f"no log of the run of {len(lost)} job(s)", "those of all runs")
    starting = len(sessions) * seconds_to_import(SNAKEMAKE)  # which comes before it opens its log
    whole = covered_s(sessions)
    counts = Counter(module for job in jobs for module in job.modules)
    return Overhead(
        whole=starting + whole,
        alone=starting + whole - covered_s((job.start_s, job.end_s) for job in jobs),
        jobs=sum(job.end_s - job.start_s for job in jobs),
        imports={module: (count, seconds_to_import(module)) for module, count in sorted(counts.items())},
    )


def overhead_text(found: Overhead) -> str:
    """A table for the terminal."""
    lines = [
        ("", "seconds", "share"),
        ("whole run", f"{found.whole:,.1f}", ""),
        ("  Snakemake alone, no job running", f"{found.alone:,.1f}", f"{found.alone / found.whole:.1%}"),
        ("all jobs", f"{found.jobs:,.1f}", ""),
        ("  imports", f"{found.importing:,.1f}", f"{found.importing / found.jobs:.1%}"),
    ]
    for module, (count, seconds) in found.imports.items():
        lines.append(
            (f"    {module}: {count} x {seconds:.2f} s", f"{count * seconds:,.1f}", f"{count * seconds / found.jobs:.1%}")
        )
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join(f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}".rstrip() for a, b, c in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff overhead", description="Snakemake's and the imports' share of a run's time.")
    parser.add_argument("--run", type=Path, default=Path(), help="folder in which Snakemake ran")
    print(overhead_text(overhead(parser.parse_args(argv).run)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
