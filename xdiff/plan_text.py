"""A forecast's lines as text: a row per job, or per stage and method, and what has no known cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xdiff.forecast import Line
from xdiff.stats import base_of

OF_METHODS = ("train", "sample")  # stages whose costs differ from method to method; its name is the third of Line.at
ON_CPU = "asks for a GPU, measured on a CPU"


def by_job(lines: Sequence[Line]) -> list[str]:
    """A header, and a row per line."""
    rows = [("stage", "time", "MiB", "gpu", "job", "note")]
    for line in lines:
        memory = memory_text(line) if line.counted else "-"
        rows.append((line.stage, time_text([line]), memory, "yes" if line.gpu else "no", line.place, remarks(line)))
    return aligned(rows)


class Group(NamedTuple):
    """Lines of one stage and method; "" for the method in stages that are not OF_METHODS."""

    stage: str
    method: str
    lines: list[Line]


def groups(lines: Sequence[Line]) -> list[Group]:
    """By stage and method, in order of their first lines, ablations with their base; what is not counted is in none."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.counted:
            method = line.at[2] if line.stage in OF_METHODS else ""
            found.setdefault((line.stage, base_of(method) or method), []).append(line)
    return [Group(*key, members) for key, members in found.items()]


def by_method(lines: Sequence[Line]) -> list[str]:
    """A header, and a row per group: what all its jobs take together, and the longest of them."""
    rows = [("stage", "method", "jobs", "time", "longest", "gpu", "note")]
    for group in groups(lines):
        longest = max(group.lines, key=lambda line: line.seconds)
        on_gpu = sum(line.gpu for line in group.lines)
        gpu = "no" if not on_gpu else "yes" if on_gpu == len(group.lines) else f"{on_gpu} of {len(group.lines)}"
        cells = (str(len(group.lines)), time_text(group.lines), time_text([longest]), gpu, _remarks_of(group))
        rows.append((group.stage, group.method or "-", *cells))
    return aligned(rows)


def _remarks_of(group: Group) -> str:
    """In short: whether scaled, on what measured, and what is missing."""
    scaled = any(note.startswith("scaled") for line in group.lines for note in line.notes)
    on_cpu = any(line.asks_gpu and not line.gpu for line in group.lines)
    whole = [what for line in group.lines for what in line.missing]
    missing = dict.fromkeys(what.split()[0] if group.method else what for what in whole)  # `fit` of `fit unet`
    parts = ["scaled"] if scaled else []
    return "; ".join([*parts, *([ON_CPU] if on_cpu else []), *([f"no cost known: {', '.join(missing)}"] if missing else [])])


def unknown(lines: Sequence[Line]) -> list[str]:
    """What has no known cost, with the number of jobs that it is a part of; a header first, and nothing where all is known."""
    jobs: dict[str, int] = {}
    for line in lines:
        for what in line.missing:
            jobs[what] = jobs.get(what, 0) + 1
    if not jobs:
        return []
    incomplete = sum(bool(line.missing) for line in lines)
    rows = [(what, f"{count} job{'s' * (count > 1)}") for what, count in jobs.items()]
    return [f"no cost known for all or part of {incomplete} of {len(lines)} jobs, so that totals leave it out:", *aligned(rows)]


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns two spaces apart; the last one as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]


# Cells --------------------------------------------------------------------------------------------------------------


def memory_text(line: Line) -> str:
    """MiB as measured, else MB as asked for."""
    return f"{line.peak_mib:.0f}" if line.peak_mib else f"{line.mem_mb}*" if line.mem_mb else "?"


def remarks(line: Line) -> str:
    """Its notes, what is unlike what its entry asks for, and what is missing."""
    extra = [ON_CPU] if line.asks_gpu and not line.gpu else []
    if line.runtime_min and line.seconds > 60 * line.runtime_min:
        extra.append(f"longer than its runtime_min, {line.runtime_min}")
    missing = [f"not measured: {', '.join(line.missing)}"] if line.missing else []
    return "; ".join([*line.notes, *extra, *missing])


def time_text(lines: Sequence[Line]) -> str:
    """Of all lines together: `-` where none is counted, `?` where nothing is known, `>=` where something is not, `<=` where some
    may be less."""
    seconds = sum(line.seconds for line in lines)
    if not any(line.counted for line in lines):
        return "-"
    if any(line.missing for line in lines):
        return f">= {duration(seconds)}" if seconds else "?"
    return f"<= {duration(seconds)}" if any(line.at_most for line in lines) and seconds else duration(seconds)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3.4 min`, `5.6 h`."""
    if seconds < 59.5:
        return "< 0.1 s" if 0 < seconds < 0.05 else f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def size_of(count: float) -> str:
    """`12.3 MiB`, `4.5 GiB`, of bytes."""
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
