"""The training harness: loads a method by name, trains it where it learns, and alone writes weights folders.

    python -m xdiff.train --method gaussian --entry JSON --data results/data/c/g --split split.tsv --out results/models/c/g/m

With several folders and splits the cohorts are joined: the first one's split, to which the others add their training sides.

On several GPUs: python -m torch.distributed.run --standalone --nproc-per-node 4 -m xdiff.train ... (team.py).

The same command again resumes, whatever the number of processes: checkpoints live beside `--out` in a folder keyed by the hash
of entry, data and split. With --budget an iterative training stops cleanly after that many minutes, with exit status 75 (1 of
torchrun); the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import ModuleType

from xdiff import team
from xdiff.budget import OutOfTime, time_budget
from xdiff.checkpoint import HISTORY, read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.data.joint import JointStore, open_data
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.locks import one_at_a_time
from xdiff.plain import digest, from_dict

UNFINISHED = 75  # exit status EX_TEMPFAIL of sysexits.h: the same command goes on
MODEL_VERSION = 2  # raise when a method's weights or results change their meaning


def load_module(entry: MethodEntry) -> ModuleType:
    """The method's module; the one place where names become code."""
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        raise InputError("methods.*.module", repr(entry.module), f"an importable module ({error})") from error
    if not hasattr(module, "load"):
        raise InputError(entry.module, "no function `load`", "a method: load(weights), and train(...) where it learns")
    return module


def train(name: str, entry: MethodEntry, store: Store, split: Split, out: Path) -> None:
    """Train one method on one store and write its weights folder `out`. Whoever trains the same at the same time waits, and then
    finds it done: of two in one folder of checkpoints each would remove the other's."""
    with one_at_a_time(out) if team.is_first() else nullcontext():
        _train(name, entry, store, split, out)


def _train(name: str, entry: MethodEntry, store: Store, split: Split, out: Path) -> None:
    described = {
        "method": name,
        "module": entry.module,
        "params": entry.params,
        "trained_on": store.cohort,
        "grid": store.grid,
        "shape": list(store.shape),
        "spacing_mm": store.info["spacing_mm"],
        "contrasts": list(store.contrasts),
        "frame": store.frame,
        "norm": store.norm,
        "data": store.fingerprint,
        "split": split.sha,
        "model_version": MODEL_VERSION,
        **({"splits": store.splits} if isinstance(store, JointStore) else {}),
    }
    key = digest(described)
    if team.from_first(_finished(out, key) if team.is_first() else None):
        print(f"{name}: weights of {key} are there already")
        return
    module = load_module(entry)
    workdir = out.with_name(f"{out.name}.checkpoints") / key
    start = time.perf_counter()
    tensors = {}
    if hasattr(module, "train"):
        if workdir.parent.exists() and not workdir.exists():
            print(f"{name}: settings, data or split differ from the last training, starting clean in {workdir}")
        workdir.mkdir(parents=True, exist_ok=True)
        tensors = module.train(store, split, entry.params, workdir)
    if not team.is_first():
        return
    (out / HISTORY).unlink(missing_ok=True)  # an old one beside new weights would pass for theirs
    sha = write_weights(out, tensors, {**described, "key": key, "seconds": round(time.perf_counter() - start, 2)})
    _keep_history(workdir / HISTORY, out / HISTORY)
    print(f"{name}: weights {sha[:12]} after {time.perf_counter() - start:.1f} s")


def _keep_history(source: Path, target: Path) -> None:
    """How the training went, beside its weights; an empty file where the method does not iterate."""
    temporary = target.with_name(f".{target.name}.tmp")
    if source.exists():
        shutil.copyfile(source, temporary)
    else:
        temporary.write_text("")
    os.replace(temporary, target)


def _finished(out: Path, key: str) -> bool:
    config = out / "config.json"
    if not config.exists() or not (out / HISTORY).exists() or json.loads(config.read_text()).get("key") != key:
        return False
    try:
        read_weights(out)
    except InputError:
        return False
    return True


@contextmanager
def _first_tells() -> Iterator[None]:
    """Inside, the first process of a team alone prints."""
    with nullcontext() if team.is_first() else redirect_stdout(io.StringIO()):
        yield


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff train", description="Train one method on one preprocessed cohort.")
    parser.add_argument("--method", required=True, help="name of the method, as results are labelled")
    parser.add_argument("--entry", required=True, help="its config entry as JSON")
    parser.add_argument(
        "--data", required=True, type=Path, nargs="+", help="preprocessed cohort, results/data/COHORT/GRID; several are joined"
    )
    parser.add_argument("--split", required=True, type=Path, nargs="+", help="split TSV of each")
    parser.add_argument("--out", required=True, type=Path, help="weights folder to write")
    budget = f"stop after this long with a checkpoint written and exit status {UNFINISHED}; the same command goes on"
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MINUTES", help=budget)
    args = parser.parse_args(argv)
    entry = from_dict(MethodEntry, json.loads(args.entry), f"methods.{args.method}")
    try:
        with time_budget(args.budget), team.team(), _first_tells():
            train(args.method, entry, *open_data(args.data, args.split), args.out)
    except OutOfTime as stop:
        print(f"{args.method}: budget of {args.budget:g} min spent at {stop}, checkpoint written; the same command goes on")
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
