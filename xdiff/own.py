"""`xdiff train FOLDER`: a model of one's own volumes, without writing a configuration.

    xdiff train FOLDER --minutes 30
    xdiff evaluate FOLDER --given K=1,5

The folder is looked at as `xdiff check` does, split by patient, put on an array that fits its volumes, and a method is trained
on it. What was chosen is printed, and kept as OUT/own.yaml: a configuration for `xdiff bench` or Snakemake that makes the same
again. A model of one contrast is also made to find where given slices lie, so that `xdiff reconstruct` can use it.

With --entry, --data and --split this is `python -m xdiff.train`, what the workflow's rules call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xdiff import bench
from xdiff import train as harness
from xdiff.budget import OutOfTime, time_budget
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import Cohort, Config, MethodEntry
from xdiff.data.check import Findings, as_data, check
from xdiff.data.check_text import text_of
from xdiff.data.layouts import Files
from xdiff.data.recognise import RECOGNISERS
from xdiff.data.split import Split, patient_of, read_split
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors
from xdiff.out_of_distribution import calibrate
from xdiff.own_grid import choose_grid, described, extents, name_of
from xdiff.plain import from_dict, merge
from xdiff.plan import costs_of, plan
from xdiff.plan_text import by_method, time_text
from xdiff.whole_file import whole_file

CONFIG = "own.yaml"
LEAST_PATIENTS = 6  # 3 to train, 1 to validate, 2 to test
MANY_PATIENTS = 100  # from here on a tenth validates and a tenth tests
GIVEN = "given"  # name of the sweep that `xdiff evaluate` runs
POSED = "baselines.posed"
TRIVIAL = {
    "mean_template": {"module": "baselines.trivial", "params": {"kind": "mean_template"}},
    "linear": {"module": "baselines.interpolation", "params": {"kind": "linear"}, "learns": False, "min_k": 2},
    "gaussian": {"module": "baselines.trivial", "params": {"kind": "gaussian"}},
}
_CORE = {"cases": 1600, "voxels": 2500, "steps": 4000, "width": 128, "warped_rows": 3}
_NETWORK = {
    "core": _CORE,
    "steps": 1_000_000,  # the clock ends the training
    "checks": 4,
    "validate_k": [1, 5, 10],
    "validate_subjects": 9,
    "draws": {"repeats": 4, "max_k": 12},
    "seed": 0,
}
LEARNED = {  # as preset real-brains-48 has them
    "xdiff": {"module": "xdiff.model.method", "params": {**_NETWORK, "channels": [16, 32, 64], "trunk_channels": [16, 32, 64]}},
    "unet": {"module": "baselines.unet", "params": {**_NETWORK, "channels": [32, 64, 96]}},
    "gaussian_local": {"module": "baselines.gaussian_local", "params": _CORE},
}


@dataclass(frozen=True)
class Request:
    """What is asked: a folder of volumes, a method of LEARNED, minutes of training its network, `params` over the method's own,
    and what overrides what is found: the cohort's name, spacing_mm (0: chosen), layout, contrasts, whether bad subjects are left
    out, others to leave out."""

    folder: Path
    method: str = "xdiff"
    minutes: float = 30.0
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    spacing_mm: float = 0.0
    layout: str = "auto"
    contrasts: tuple[str, ...] = ()
    leave_out: bool = False
    exclude: tuple[str, ...] = ()


# What is there --------------------------------------------------------------------------------------------------------


def find_cohort(request: Request) -> tuple[str, dict[str, Any], Findings]:
    """Name and entry of the cohort in the folder, and what was found there.

    Raises InputError for fewer than LEAST_PATIENTS usable patients, and where something would stop the pipeline, which is then
    printed as `xdiff check` does; with `leave_out` subjects with such problems are left out, and those of `exclude` anyway.
    """
    folder = request.folder.resolve()
    findings = check(folder, request.layout, request.contrasts)
    ((name, entry),) = as_data(findings)["config"]["cohorts"].items()
    unknown = sorted(set(request.exclude) - {files.subject for files in findings.subjects})
    if unknown:
        raise InputError("--exclude", unknown, f"subjects of {folder}, such as {findings.subjects[0].subject}")
    entry["exclude"] = sorted({*entry.get("exclude", ()), *request.exclude})
    patients = {patient_of(files.subject) for files in usable(findings, entry)}
    stopping = [p for p in findings.problems if p.stops and p.subject not in request.exclude and not request.leave_out]
    few = len(patients) < LEAST_PATIENTS
    if findings.stops and (few or stopping):
        print(text_of(as_data(findings)))
    if few:
        raise InputError(folder, f"{len(patients)} usable patient(s)", f"at least {LEAST_PATIENTS}: to train, validate and test")
    if stopping:
        found = f"{len(stopping)} problem(s) that would stop the pipeline, the first {stopping[0].where}: {stopping[0].found}"
        raise InputError(folder, found, "none; mend the files, or go on without these subjects: --leave-out, --exclude")
    entry["split"] = split_rule(len(patients))
    if request.name:
        entry["root"] = folder.name
    return request.name or name, entry, findings


def usable(findings: Findings, entry: Mapping[str, Any]) -> list[Files]:
    """The subjects but for those that the entry leaves out."""
    return [files for files in findings.subjects if files.subject not in entry["exclude"]]


def split_rule(patients: int) -> dict[str, int]:
    """Below MANY_PATIENTS a fifth of the patients tests and a tenth validates, at least 2 and 1; else a tenth each."""
    return {} if patients >= MANY_PATIENTS else {"n_val": max(1, patients // 10), "n_test": max(2, patients // 5)}


# The configuration ----------------------------------------------------------------------------------------------------


def method_entry(request: Request) -> dict[str, Any]:
    """The entry of the method that is asked for. Raises InputError for another one, and where nothing would end its training."""
    if request.method not in LEARNED:
        raise InputError("--method", repr(request.method), f"one of {', '.join(LEARNED)} (others: write a configuration)")
    entry = LEARNED[request.method]
    clock = {"minutes": request.minutes} if "steps" in entry["params"] and "checks" in entry["params"] else {}
    params = merge({**entry["params"], **clock}, request.params)
    if clock and not params["minutes"] > 0 and "steps" not in request.params:
        raise InputError("--minutes", f"{params['minutes']:g}", "more than 0")
    return {**entry, "params": params}


def configuration(
    folder: Path, cohort: tuple[str, dict[str, Any]], grid: tuple[str, dict[str, Any]], methods: dict[str, Any]
) -> dict[str, Any]:
    """All of a configuration as plain data: one cohort, one grid, the trivial rows and `methods`, K = 1 and 5."""
    methods = {**TRIVIAL, **methods}
    run = {"cohorts": [cohort[0]], "grids": [grid[0]], "methods": list(methods), "sweeps": [GIVEN]}
    entries = {"cohorts": dict([cohort]), "grids": dict([grid]), "methods": methods, "sweeps": {GIVEN: {"K": [1, 5]}}}
    return {"data_root": str(folder.resolve().parent), **entries, "run": run}


def keep(data: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write OUT/own.yaml, with the methods that it has already for the same cohort and grid; returns what was written."""
    import yaml

    path = out / CONFIG
    if path.exists():
        known = yaml.safe_load(path.read_text())
        if all(known[key] == data[key] for key in ("cohorts", "grids")):
            methods = {**known["methods"], **data["methods"]}
            data = {**data, "methods": methods, "run": {**data["run"], "methods": list(methods)}}
        else:
            print(f"{path}: another cohort or another array than before; models made for that stay, but are no longer listed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110))
    return data


def out_of(name: str, out: Path | None) -> Path:
    """The results folder of a cohort of one's own: apart from the workflow's, so that neither overwrites the other's tables."""
    return out or Path("results") / "own" / name


# Training -------------------------------------------------------------------------------------------------------------


class Own(NamedTuple):
    """What was chosen: the configuration as plain data and as it is used, and the results folder."""

    data: dict[str, Any]
    config: Config
    out: Path


def prepare(request: Request, out: Path | None = None) -> Own:
    """Look at the folder, choose, say what was chosen and what it will take; nothing is written."""
    method = {request.method: method_entry(request)}  # before minutes are spent on reading
    name, entry, findings = find_cohort(request)
    subjects = usable(findings, entry)
    found = extents(subjects, from_dict(Cohort, entry, f"cohorts.{name}"))
    grid = choose_grid(found, request.spacing_mm)
    plain = {"shape": list(grid.shape), "spacing_mm": grid.spacing_mm, "native_axis": grid.native_axis}
    data = configuration(request.folder, (name, entry), (name_of(grid), plain), method)
    patients = len({patient_of(files.subject) for files in subjects})
    print(f"{name}: {len(subjects)} visits of {patients} patients, {', '.join(entry['contrasts'])}, layout {entry['layout']}")
    if entry["exclude"]:
        print(f"left out: {', '.join(entry['exclude'])}")
    print(f"array: {described(grid, found)} (--spacing MM for another)")
    own = Own(data, from_dict(Config, data), out_of(name, out))
    print("\n".join(forecast(own.config, request.method)), flush=True)
    return own


def forecast(config: Config, method: str) -> list[str]:
    """What preprocessing and training will take, from measured unit costs, with what was never measured."""
    try:
        lines = plan(config, costs_of((), "")).lines
    except InputError as error:
        return [f"time not predicted: {error}"]
    lines = [one for one in lines if one.stage == "preprocess" or (one.stage == "train" and one.at[2] == method)]
    return [*by_method(lines), f"in all {time_text(lines)}, by the unit costs of results/reference/timing"]


def train_own(config: Config, method: str, out: Path, budget_min: float = float("inf")) -> list[Path] | None:
    """Split, preprocess and train; the weights folders, that of the method and, for slices of unknown place, a posed one.

    None where the budget ended before: the same call goes on.
    """
    (name,), (grid,) = config.run.cohorts, config.run.grids

    def wanted(step: bench.Step) -> bool:
        return step.stage in ("split", "preprocess") or (step.stage == "train" and step.at[2] == method)

    with time_budget(budget_min):
        if not bench.run(config, out, None, budget_min, wanted):
            return None
        weights = out / "models" / name / grid / method
        store, split = Store(out / "data" / name / grid), read_split(out / "data" / name / "split.tsv")
        sides = ", ".join(f"{len(split.side(side))} {side}" for side in ("train", "val", "test"))
        print(f"split by patient: {sides}, {out / 'data' / name / 'split.tsv'}")
        cropped = store.index["cropped"]
        if cropped.max() > 0:
            print(
                f"the array does not hold all: {cropped.max():.1%} of the foreground of {cropped.idxmax()} is outside, the most"
            )
        if len(store.contrasts) > 1 or config.grids[grid].native_axis:
            return [weights]
        try:
            return [weights, with_poses(weights, store, split)]
        except OutOfTime:
            return None


def with_poses(weights: Path, store: Store, split: Split) -> Path:
    """The model beside itself as METHOD_posed, with a pose model and a threshold for slices unlike the training volumes."""
    config = read_weights(weights)[1]
    params = {"module": config["module"], "params": config["params"]}
    entry = MethodEntry(POSED, {**params, "weights": str(weights), "weights_sha256": config["sha256"]})
    out = weights.with_name(f"{weights.name}_posed")
    harness.train(out.name, entry, store, split, out)
    tensors, posed = read_weights(out)
    if "out_of_distribution" not in posed:
        model = harness.load_module(entry).load(out).model
        usual = calibrate(model, store.contrasts, (store.info["spacing_mm"],) * 3, store.norm)
        write_weights(out, tensors, {**posed, "out_of_distribution": usual})
    return out


# Command line ---------------------------------------------------------------------------------------------------------


def add_folder(parser: argparse.ArgumentParser) -> None:
    """What `train FOLDER` and `evaluate FOLDER` have in common."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="volumes of one cohort, as `xdiff check` finds them")
    parser.add_argument("--out", type=Path, help="results folder (results/own/NAME)")
    parser.add_argument("--name", default="", help="of the cohort, as results are labelled (the folder's)")
    parser.add_argument("--layout", default="auto", help=f"auto, {', '.join(RECOGNISERS)}")
    parser.add_argument("--contrasts", nargs="+", default=(), help="file suffixes, such as T1w; those most subjects have")
    parser.add_argument("--leave-out", action="store_true", help="go on without the subjects that `xdiff check` cannot use")
    parser.add_argument("--exclude", nargs="+", default=(), metavar="SUBJECT", help="go on without these")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    if any(word.split("=")[0] in ("--entry", "--data", "--split") for word in argv):
        return harness.main(argv)
    parser = argparse.ArgumentParser(
        prog="xdiff train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder(parser)
    parser.add_argument("--method", default="xdiff", help=f"{', '.join(LEARNED)} (xdiff)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training the network (30); the rest is told before")
    parser.add_argument("--spacing", type=float, default=0.0, metavar="MM", help="of the array, instead of the one chosen")
    parser.add_argument("--params", type=json.loads, default={}, metavar="JSON", help="over the method's own parameters")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and what it takes, and end")
    budget = f"stop after this long with exit status {harness.UNFINISHED}; the same command goes on"
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES", help=budget)
    args = parser.parse_args(argv)
    found = args.layout, tuple(args.contrasts), args.leave_out, tuple(args.exclude)
    request = Request(args.folder, args.method, args.minutes, args.params, args.name, args.spacing, *found)
    own = prepare(request, args.out)
    if args.dry_run:
        return
    keep(own.data, own.out)
    made = train_own(own.config, args.method, own.out, args.budget)
    if made is None:
        sys.exit(harness.UNFINISHED)
    print("\n".join(_next(own, args, made)))


def _next(own: Own, args: argparse.Namespace, made: Sequence[Path]) -> list[str]:
    """Where things are, and what can be done with them."""
    option = f" --out {args.out}" if args.out else ""
    lines = [f"configuration: {own.out / CONFIG}", *(f"weights: {path}" for path in made)]
    lines.append(f"xdiff evaluate {args.folder} --given K=1,5{option}")
    if made[-1].name.endswith("_posed"):
        return [*lines, f"xdiff reconstruct --given slice.nii.gz --model {made[-1]} --out volume.nii.gz"]
    if own.config.grids[own.config.run.grids[0]].native_axis:
        return [*lines, "xdiff reconstruct needs a model of isotropic voxels: none was made of sections as thick as these"]
    return [*lines, "xdiff reconstruct needs a model of one contrast: --contrasts NAME trains one"]


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
