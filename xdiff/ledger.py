"""What a task of `xdiff bench` took, in benchmark files like Snakemake's, so that `xdiff report --ledger` reads both alike.

One file per task. A task that goes on from where it stopped has a line per piece, whose seconds add up; one that makes
everything anew keeps its last line, as Snakemake does. Whether a piece did anything is seen on the disk, not asked of the task:
one that finds everything done leaves no line. The time of a process that is killed is lost.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

COLUMNS = "s h:m:s max_rss max_vms max_uss max_pss io_in io_out mean_load cpu_time settings".split()
UNKNOWN = "NA"
# Volumes, weights and checkpoints are written only when they are made: size and time of change tell, and reading them all would
# take as long as some tasks. Every other file may be written again as it was, so its content tells.
_WRITTEN_ONCE = (".npy", ".gz", ".safetensors", ".pt")


@contextmanager
def measured(benchmark: Path, makes: Sequence[Path], settings: str | None) -> Iterator[None]:
    """Add what the block took to the file `benchmark`, also where it raises, unless nothing of `makes` has changed.

    `makes`: files and folders that the block writes. `settings`: digest of what its results depend on; earlier lines of the same
    settings are pieces of the same work and stay. None: everything was made anew, and earlier lines go.
    Columns as Snakemake's, in seconds and MiB, `NA` for what is not measured: s (wall), cpu_time (this process and its
    children that have ended), max_rss (of this process while the block ran, NA where the system does not tell).
    """
    before = trace(makes)
    tells_memory = forget_peak()
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    try:
        yield
    finally:
        wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s
        if trace(makes) != before:
            line = dict.fromkeys(COLUMNS, UNKNOWN) | {"s": f"{wall_s:.4f}", "h:m:s": _clock(wall_s), "cpu_time": f"{cpu_s:.2f}"}
            line |= {"max_rss": f"{peak_mib():.2f}"} if tells_memory else {}
            _append(benchmark, line | {"settings": settings or UNKNOWN})


def trace(makes: Sequence[Path]) -> dict[str, tuple]:
    """Path -> what would differ had the file been made anew, of every file in `makes` and below."""
    files = [p for top in makes for p in ([top] if top.is_file() else sorted(top.rglob("*"))) if p.is_file()]
    return {str(p): _state(p) for p in files}


def _state(path: Path) -> tuple:
    if path.suffix in _WRITTEN_ONCE:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    with path.open("rb") as handle:
        return (hashlib.file_digest(handle, "sha256").hexdigest(),)


def _append(path: Path, line: dict[str, str]) -> None:
    """Lines of the same settings stay, and Snakemake's, which name none."""
    table = pd.DataFrame([line])
    if path.exists() and line["settings"] != UNKNOWN:
        earlier = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        named = earlier["settings"] if "settings" in earlier.columns else pd.Series(UNKNOWN, earlier.index)
        table = pd.concat([earlier[named.isin([line["settings"], UNKNOWN])], table])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    table.fillna(UNKNOWN).to_csv(temporary, sep="\t", index=False)
    os.replace(temporary, path)


def _cpu_s() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _clock(seconds: float) -> str:
    """h:mm:ss, hours beyond a day counted on."""
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"


def forget_peak() -> bool:
    """Start the peak of this process's memory anew, so that it is the task's; False where the system has no such thing.

    Source: proc(5), /proc/pid/clear_refs (5) and VmHWM in /proc/pid/status; Linux alone.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mib() -> float:
    """Largest resident memory since forget_peak."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
