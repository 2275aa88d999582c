"""What the official X-Diffusion pipeline costs per volume: its networks with random weights, timed one by one.

    python -m xdiff.bench --official results/official.tsv --repeats 5 --budget 9

Drawn as the released code's `sample_model` would (its main never calls it: it saves the VAE's copy of the input): the 155
sections of a BraTS volume one at a time, 199 DDIM steps each, in float32, and the UNet called with a doubled batch for
guidance. Time does not depend on weights, so random ones do (xdiff/official_networks.py). The condition is counted as encoded
once per section; `sample_model` does it twice.
A measured row is one call of one network, alone in memory; what a volume costs is computed from the rows, and says so.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from xdiff import __version__
from xdiff.budget import time_budget, time_left_s
from xdiff.clocks import commit
from xdiff.cuda import channels_last, fast_kernels, training_device
from xdiff.errors import InputError
from xdiff.official_networks import SIZE, build, call_of
from xdiff.sample import device_name, peak_mib

COLUMNS = (
    "what method module size shape spacing_mm contrasts K estimate steps rows evaluations batch precision repeats "
    "median_s q25_s q75_s peak_mib device threads torch version commit date note"
).split()
SECTIONS = 155  # axial sections of a BraTS volume
STEPS = (199, 50, 1000)  # hard-coded in the released code; DDIM and DDPM of the paper
WARM_UP = {"cpu": 1, "cuda": 3}  # calls before the first that counts
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# The network that each row times, in the order in which they are measured: the large one last
NETWORK_OF = {"official_clip": "clip", "official_encode": "vae", "official_decode": "vae", "official_step": "unet"}


class Case(NamedTuple):
    """One row to measure."""

    what: str
    batch: int
    precision: str


def cases(device: torch.device) -> list[Case]:
    """What is measured on a device: batch 1 in float32 as released, then batches, bfloat16 on CUDA alone (on a CPU it is
    10 to 30 times slower than float32). Networks one after another, in each what keeps the released layout first."""
    batches = [(8, BFLOAT16), (32, BFLOAT16)] if device.type == "cuda" else [(2, FLOAT32)]
    every = [Case(what, *kind) for kind in [(1, FLOAT32), *batches] for what in NETWORK_OF]
    return sorted(every, key=lambda case: list(NETWORK_OF.values()).index(NETWORK_OF[case.what]))  # stable


def measure(
    out: Path,
    repeats: int,
    budget_min: float = math.inf,
    networks: Callable[[str], nn.Module] = build,
    device: torch.device | None = None,
) -> bool:
    """Measure what `out` has no row of, one row after another; False where the budget ended first (no row is begun after it).

    repeats: timed calls of a row, after its warm-up. networks: name -> network, one in memory at a time. Rows in `out` must be
    of this device, torch and number of threads and repeats (InputError). What a volume costs is computed from the rows.
    """
    if repeats < 1:
        raise InputError("--repeats", repeats, "at least 1")
    device = device or training_device()
    commit()  # of the code that runs, whatever is committed meanwhile
    rows = read_rows(out, _settings(device, repeats))
    done = {(row["what"], int(row["batch"]), row["precision"]) for row in rows}
    pending = [case for case in cases(device) if case not in done]
    with time_budget(budget_min):
        for name, group in itertools.groupby(pending, key=lambda case: NETWORK_OF[case.what]):
            network = None
            for case in group:
                if time_left_s() <= 0:
                    print(f"bench: budget of {budget_min:g} min spent before {case.what!r}; the same command goes on")
                    return False
                if network is None:
                    with device:
                        network = networks(name).eval().requires_grad_(False)
                rows.append(_measured(case, network, repeats, device))
                _write(rows, out)
    return True


def _measured(case: Case, network: nn.Module, repeats: int, device: torch.device) -> dict[str, str]:
    """One row, as text."""
    if case.precision == BFLOAT16:
        channels_last(network)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = os.getloadavg()[0]
    with torch.inference_mode(), _in_precision(case.precision, device):
        times = seconds(call_of(case.what, network, case.batch, device), repeats, device)
    load = max(before, os.getloadavg()[0])
    notes = [f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, {network.library}"]
    notes += [f"load {load:.1f} on {torch.get_num_threads()} threads"] if load > torch.get_num_threads() else []
    q25, median, q75 = np.percentile(times, [25, 50, 75])
    print(f"bench: {median:8.3f} s  {case.what}, batch {case.batch}, {case.precision}", flush=True)
    return _row(
        what=case.what,
        shape=f"{SIZE}x{SIZE}",
        steps=1,
        evaluations=2 * case.batch if case.what == "official_step" else "",
        batch=case.batch,
        precision=case.precision,
        median_s=f"{median:.6g}",
        q25_s=f"{q25:.6g}",
        q75_s=f"{q75:.6g}",
        peak_mib=_peak_mib(device),
        commit=commit(),
        date=date.today().isoformat(),
        note="; ".join(notes),
        **_settings(device, repeats),
    )


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, after the warm-up; the device is done when the clock is read."""
    synchronise = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    times = []
    for number in range(-WARM_UP[device.type], repeats):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        if number >= 0:
            times.append(time.perf_counter() - start)
    return times


@contextmanager
def _in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """float32: PyTorch's own settings, as released. bfloat16: autocast, and the kernels that training uses."""
    if precision == FLOAT32:
        yield
        return
    with fast_kernels(device), torch.autocast(device.type, torch.bfloat16):
        yield


def _peak_mib(device: torch.device) -> int:
    """On CUDA what tensors took at most in this row; on a CPU what the process took at most so far."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak_mib()


def _settings(device: torch.device, repeats: int) -> dict[str, str]:
    """What all measured rows of a file share."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device_name()
    shared = {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "repeats": repeats}
    return {key: str(value) for key, value in shared.items()}


# Rows --------------------------------------------------------------------------------------------------------------


def volume_rows(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """`official_volume` rows, computed from measured ones: STEPS, at batch 1 in float32 as released and at the fastest other
    batch. A volume is ceil(155 / batch) batches of (steps x step + clip + encode + decode); the last one may be part empty, and
    costs as much. None for a batch of which a network is not measured yet."""
    kinds: dict[tuple[int, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        kinds.setdefault((int(row["batch"]), row["precision"]), {})[row["what"]] = row
    whole = {kind: of for kind, of in kinds.items() if of.keys() >= NETWORK_OF.keys()}
    chosen = [kind for kind in whole if kind == (1, FLOAT32)]
    chosen += sorted(whole.keys() - chosen, key=lambda kind: volume_s(whole[kind], STEPS[0], kind[0]))[:1]
    return [_volume_row(whole[kind], steps, *kind) for kind in chosen for steps in STEPS]


def volume_s(of: dict[str, dict[str, str]], steps: int, batch: int) -> float:
    """Seconds of a volume of 155 sections. of: `what` -> its measured row, at this batch."""
    once = sum(float(of[what]["median_s"]) for what in NETWORK_OF if what != "official_step")
    return math.ceil(SECTIONS / batch) * (steps * float(of["official_step"]["median_s"]) + once)


def _volume_row(of: dict[str, dict[str, str]], steps: int, batch: int, precision: str) -> dict[str, str]:
    step = of["official_step"]
    formula = f"{math.ceil(SECTIONS / batch)} x ({steps} x official_step + official_clip + official_encode + official_decode)"
    return _row(
        what="official_volume",
        shape=f"{SIZE}x{SIZE}x{SECTIONS}",
        steps=steps,
        evaluations=2 * SECTIONS * steps,
        batch=batch,
        precision=precision,
        median_s=f"{volume_s(of, steps, batch):.2f}",
        note=f"computed: {formula}",
        **{key: step[key] for key in ("device", "threads", "torch", "commit", "date")},
    )


def _row(**values: object) -> dict[str, str]:
    """A row of COLUMNS; what a pipeline for one section of one contrast has no word for stays empty."""
    same = {"method": "xdiff_official", "module": "xdiff.official", "size": SIZE, "K": 1, "estimate": "sample"}
    filled = {**same, "version": __version__, **values}
    return {column: str(filled.get(column, "")) for column in COLUMNS}


def read_rows(path: Path, settings: dict[str, str]) -> list[dict[str, str]]:
    """Measured rows of an earlier call, [] without a file. InputError where a row was measured under other settings."""
    if not path.exists():
        return []
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if list(table.columns) != COLUMNS:
        raise InputError(path, f"columns {' '.join(table.columns)}", " ".join(COLUMNS))
    rows = table[table["what"].isin(NETWORK_OF)].to_dict("records")
    for row, (key, value) in itertools.product(rows, settings.items()):
        if row[key] != value:
            raise InputError(f"{path}, {key}", row[key], f"{value}, as now: a file is of one device; name another")
    return rows


def _write(rows: list[dict[str, str]], path: Path) -> None:
    """Measured rows and what follows from them; the file is whole at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pd.DataFrame([*rows, *volume_rows(rows)], columns=COLUMNS).to_csv(temporary, sep="\t", index=False)
    os.replace(temporary, path)
