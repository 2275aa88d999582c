"""What a preset will take, before anything is started: time, memory, GPU-hours and disk of its jobs, from measured unit costs.

    python -m xdiff.plan workflow/presets/real-brains-2mm.yaml workflow/presets/gpu.yaml --data-root DIR

Nothing is guessed: a time is a measured one (results/reference/timing/*.tsv) or a measured one scaled, which its note says, and
what was never measured is printed as `?` and listed. With --summary a row per stage and method, for a grid of thousands of jobs.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import heapq
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from xdiff.bench import REPOSITORY
from xdiff.config import Config, Job, MethodEntry, load_config, parts_of
from xdiff.errors import InputError, ManyInputErrors
from xdiff.forecast import Forecast, Line, combined, draws_with, settings_of
from xdiff.plan_text import by_job, by_method, duration, memory_text, size_of, unknown
from xdiff.unit_costs import Costs, read_costs

TIMING = REPOSITORY / "results" / "reference" / "timing"
NIFTI_HEADER_BYTES, NPY_HEADER_BYTES = 352, 128
NETWORK_COPIES = 7  # weights, network-KEY, and a checkpoint's weights, average, best and two moments
COLUMNS = "stage job seconds complete at_most peak_mib mem_mb gpu threads volumes note missing".split()


# Totals -------------------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """A line, or the part of one that lines share: name, seconds, threads, whether on a GPU, and names that it waits for."""

    name: str
    seconds: float
    threads: int
    gpu: bool
    after: set[str]


def _jobs(lines: Sequence[Line], cores: int) -> Iterator[_Job]:
    """What lines share is a job of its own, made by its first line, which goes on when it is there; who waits for it holds no
    core here."""
    for line in lines:
        after, own_s, threads = set(line.after), line.seconds, min(line.threads, cores)
        for key, seconds in line.shared:
            yield _Job(key, seconds, threads, line.gpu, after)
            after, own_s = {key}, own_s - seconds
        yield _Job(line.name, own_s, threads, line.gpu, after)


def makespan_s(lines: Sequence[Line], cores: int, gpus: int = 1) -> float:
    """Seconds until all lines have ended where `cores` cores and `gpus` GPUs take them as they come, as Snakemake does.

    A line starts when what it waits for has ended and its threads (at most `cores`) are free, lines in their order.
    """
    jobs = list(_jobs(lines, cores))
    followers: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        for name in job.after:
            followers.setdefault(name, []).append(number)
    unmet = [len(job.after) for job in jobs]
    ready = [number for number, count in enumerate(unmet) if not count]
    running: list[tuple[float, int]] = []
    now, ended = 0.0, 0
    while ready or running:
        for number in list(ready):
            job = jobs[number]
            if not cores:
                break
            if job.threads <= cores and (gpus or not job.gpu):
                heapq.heappush(running, (now + job.seconds, number))
                cores, gpus = cores - job.threads, gpus - job.gpu
                ready.remove(number)
        now, number = heapq.heappop(running)
        ended, cores, gpus = ended + 1, cores + jobs[number].threads, gpus + jobs[number].gpu
        for follower in followers.get(jobs[number].name, []):
            unmet[follower] -= 1
            if not unmet[follower]:
                bisect.insort(ready, follower)
    if ended < len(jobs):
        raise ValueError(
            f"lines {[job.name for job, left in zip(jobs, unmet, strict=True) if left]} wait for lines that are not there"
        )
    return now


def pieces(lines: Sequence[Line], piece_s: float) -> tuple[int, float]:
    """(number of runs of `bench --budget`, seconds of the longest): a training stops where a piece ends, anything else goes on to
    its end."""
    count, used, longest = 1, 0.0, 0.0
    for line in lines:
        if used >= piece_s:
            count, used = count + 1, 0.0
        used += line.seconds
        if line.stage == "train" and used > piece_s:
            more = math.ceil(used / piece_s) - 1
            count, used, longest = count + more, used - more * piece_s, max(longest, piece_s)
        longest = max(longest, used)
    return count, longest


class Disk(NamedTuple):
    """Bytes at most: the preprocessed store, weights with their checkpoints, and volumes with their standard deviations."""

    store: int
    weights: int
    volumes: int


def disk(forecast: Forecast) -> Disk:
    """Uncompressed: float16 (float32 where norm is none) and 1 byte each of foreground and labels per voxel of the store; the
    kept training volumes of every weights folder and core, and NETWORK_COPIES of every network; float32 volumes, each with a
    standard deviation. What is small beside that (JSON, tables, registration) is not in it.
    """
    config = forecast.config
    store = weights = volumes = 0
    for line in forecast.lines:
        if line.stage == "preprocess":
            entry, voxels = config.cohorts[line.at[0]], math.prod(config.grids[line.at[1]].shape)
            arrays = 2 + (entry.labels is not None)
            per_voxel = len(entry.contrasts) * (4 if entry.norm == "none" else 2) + arrays - 1
            store += line.volumes * (voxels * per_voxel + arrays * NPY_HEADER_BYTES)
        elif line.stage == "sample":
            job = Job(*line.at)
            one = NIFTI_HEADER_BYTES + 4 * math.prod(config.grids[job.grid].shape)
            volumes += 2 * line.volumes * len(config.cohorts[job.cohort].contrasts) * one
        elif line.stage == "train" and line.counted:
            weights += _weights_bytes(forecast, line, config.methods[line.at[2]])
    return Disk(store, weights, volumes)


def _weights_bytes(forecast: Forecast, line: Line, entry: MethodEntry) -> int:
    """Training volumes (of a core with their warped copies, and once more in `core-KEY`) and networks."""
    config, (origin, grid, _) = forecast.config, line.at
    cohort = config.cohorts[parts_of(origin)[0]]
    core, settings = settings_of(entry)
    rows = len(forecast.split_of(origin).with_training(settings.patients if settings else 0).side("train"))
    inner = 0
    if "module" in entry.params:  # baselines.posed keeps the weights of another method beside its own
        other = replace(entry, module=entry.params["module"], params=entry.params.get("params", {}))
        inner = _weights_bytes(forecast, line, other)
    made = {key[0] for key, owner in forecast.owners.items() if owner == line.place}
    if core:
        rows = (1 + ("core" in made)) * combined(core, rows)
    per_value = 4 if cohort.norm == "none" else 2
    values = rows * math.prod(config.grids[grid].shape) * len(cohort.contrasts)
    network = sum(p.numel() for p in settings.network(len(cohort.contrasts)).parameters()) if settings else 0
    copies = 1 if draws_with(settings) and "network" not in made else NETWORK_COPIES
    return inner + values * per_value + copies * 4 * network


# Text ---------------------------------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """What runs at once with Snakemake, and the minutes of a run of `bench --budget`."""

    cores: int = 2
    gpus: int = 1
    piece_min: float = 10


def text(forecast: Forecast, machine: Machine, command: str, summary: bool = False) -> str:
    """A row per job (of a summary: per stage and method), then totals, what has no known cost, and where costs are from."""
    table = (by_method if summary else by_job)(forecast.lines)
    gaps = unknown(forecast.lines)
    return "\n".join(
        [*table, "", *_totals(forecast, machine), "", *gaps, *([""] if gaps else []), *_provenance(forecast, command)]
    )


def _totals(forecast: Forecast, machine: Machine) -> list[str]:
    lines, piece_min = forecast.lines, machine.piece_min
    at = "at least " if any(line.missing for line in lines) else "at most " if any(line.at_most for line in lines) else ""
    count, longest_s = pieces(lines, 60 * piece_min)
    used, total_s = disk(forecast), sum(line.seconds for line in lines)
    cpu_s = sum(line.seconds * line.threads for line in lines)
    largest = max((line for line in lines if line.counted), key=lambda line: line.peak_mib or line.mem_mb)
    parts = ", ".join(f"{name} {size_of(size)}" for name, size in used._asdict().items())
    wall, where = duration(makespan_s(lines, machine.cores, machine.gpus)), f"{machine.cores} cores"
    where += f" and {machine.gpus} GPUs" if machine.gpus > 1 else ""
    return [
        f"jobs            {len(lines)}",
        f"wall time       {at}{wall} with {where}, {at}{duration(total_s)} in one process",
        f"pieces          {at}{count} of {piece_min:g} min (bench --budget {piece_min:g}), the longest {duration(longest_s)}",
        f"CPU-hours       {at}{cpu_s / 3600:.2f} (time x threads)",
        f"GPU-hours       {at}{sum(line.seconds for line in lines if line.gpu) / 3600:.2f}",
        f"disk            at most {size_of(sum(used))}, uncompressed, without raw data: {parts}",
        f"largest memory  {memory_text(largest)} MiB",
    ]


def _provenance(forecast: Forecast, command: str) -> list[str]:
    lines, sources = forecast.lines, forecast.costs.sources
    found = [f"costs: {source}" for source in sources] or [f"costs: none, {TIMING} holds no table"]
    found.append("the tables do not hold a method's settings: their costs are of networks as they were when measured")
    found.append("not in it: starting processes, loading weights, final fits after a training")
    on_cpu = sum(line.asks_gpu and not line.gpu for line in lines)
    if on_cpu:
        found.append(f"jobs that ask for a GPU but are counted with what a CPU took, in CPU-hours: {on_cpu}")
    if any(line.mem_mb and not line.peak_mib and line.counted for line in lines):
        found.append("*: MB as the entry asks for (mem_mb), not measured at this size; on a GPU, memory is the GPU's")
    if any(line.at_most for line in lines):
        less = "points may be left out (too little unseen, not supported), and a training may stop by its patience"
        found.append(f"<=: {less}; totals count them in full")
    if any(line.missing for line in lines):
        found.append(f"? and >=: not measured; {command} measures it (but not `generate`)")
    return found


def write_tsv(lines: Sequence[Line], path: Path) -> None:
    """The lines as a table with COLUMNS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines:
            known = [f"{line.seconds:.3f}" if line.counted else "", not line.missing, line.at_most, f"{line.peak_mib:.0f}"]
            place = [line.mem_mb, line.gpu, line.threads, line.volumes, "; ".join(line.notes), "; ".join(line.missing)]
            writer.writerow([line.stage, line.place, *known, *place])


def costs_of(files: Sequence[Path], device: str) -> Costs:
    """The costs in `files`, or else in the committed tables, of which those of one machine are taken.

    Raises InputError where the committed ones are of several machines and `device` does not choose between them.
    """
    costs = read_costs(files or sorted(TIMING.glob("*.tsv")), device) if files or device or TIMING.is_dir() else Costs([])
    devices = [{row.device for row in rows} for _, rows in costs.files]
    if not files and devices and set.union(*devices) != max(devices, key=len):
        names = "; ".join(sorted(set.union(*devices)))
        raise InputError(TIMING, f"tables of several machines ({names})", "--device SUBSTRING or --costs FILE")
    return costs


def plan(config: Config, costs: Costs, data_root: Path | None = None) -> Forecast:
    """The forecast of a configuration; raises InputError where it has no job."""
    forecast = Forecast(config, costs, data_root)
    if not any(line.stage == "sample" for line in forecast.lines):
        raise InputError("run", "no job", "cohorts, grids, methods and sweeps whose `only` do not exclude each other")
    return forecast


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff plan", description="Time, memory, GPU-hours and disk of a preset's jobs.")
    parser.add_argument("preset", type=Path, nargs="*", help="overlays on config.yaml, in order")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config.yaml", help="the configuration they overlay")
    parser.add_argument("--data-root", type=Path, help="folder of the raw cohorts (else data_root, XDIFF_DATA_ROOT, `data`)")
    parser.add_argument("--device", default="", metavar="SUBSTRING", help="take tables of a machine with such a device")
    parser.add_argument("--costs", type=Path, nargs="+", default=[], metavar="FILE", help="tables of unit costs, the first first")
    parser.add_argument("--summary", action="store_true", help="a row per stage and method in place of one per job")
    parser.add_argument("--cores", type=int, default=2, help="of the run with Snakemake")
    parser.add_argument("--gpus", type=int, default=1, help="of the run with Snakemake")
    parser.add_argument("--piece", type=float, default=10, metavar="MINUTES", help="of each run of bench --budget")
    parser.add_argument("--tsv", type=Path, help="write the lines to this table too")
    args = parser.parse_args(argv)
    if args.cores < 1 or args.gpus < 1 or not args.piece > 0:
        found = f"{args.cores}, {args.gpus}, {args.piece:g}"
        raise InputError("--cores, --gpus, --piece", found, "at least one core, one GPU and some minutes")
    forecast = plan(load_config([args.config, *args.preset]), costs_of(args.costs, args.device), args.data_root)
    presets = " ".join(str(path) for path in args.preset)
    machine, command = Machine(args.cores, args.gpus, args.piece), f"python -m xdiff.bench {presets} --timing OUT.tsv"
    print(text(forecast, machine, command, args.summary))
    if args.tsv:
        write_tsv(forecast.lines, args.tsv)


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
