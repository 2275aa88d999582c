"""`xdiff evaluate FOLDER`: how good models are on the test patients of one's own cohort, beside the rows they have to beat.

    xdiff evaluate FOLDER --given K=1,5 axis=axial,coronal
    xdiff evaluate FOLDER --given K=1 --model WEIGHTS

After `xdiff train FOLDER` on what that prepared: its split, its array, its methods. With --model a model of anybody's, on an
array such as it was trained on; where the folder was never trained on, it is split first, as `xdiff train` would. Scores go to
OUT/metrics/all.tsv, tables to OUT/tables; nothing is trained but the trivial rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from xdiff import bench, tables
from xdiff.checkpoint import CONFIG as WEIGHTS_CONFIG
from xdiff.checkpoint import read_weights
from xdiff.config import Config, Grid, MethodEntry, Sweep, load_config
from xdiff.data.check import cohort_name
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors
from xdiff.layout import is_reference, row_labels, table_of
from xdiff.markup import Table
from xdiff.metrics.__main__ import collect
from xdiff.metrics.evaluate import evaluate
from xdiff.own import CONFIG, GIVEN, TRIVIAL, Request, add_folder, configuration, find_cohort, out_of
from xdiff.plain import from_dict
from xdiff.plan_text import aligned
from xdiff.sample import sample

FACTORS = ("K", "axis", "policy", "thickness_mm", "contrasts_given")
POINT = ["K", "axis", "policy", "reason"]  # columns of skipped.tsv
FEW_TESTED = 5


def parse_factors(words: Sequence[str]) -> Sweep:
    """`K=1,5 axis=axial` as a sweep. Raises InputError for other factors and values."""
    import yaml

    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in FACTORS:
            raise InputError("--given", repr(word), f"FACTOR=VALUE,VALUE with a factor of {', '.join(FACTORS)}")
        values[name] = yaml.safe_load(f"[{text}]")
    return from_dict(Sweep, values, "--given")


# Models ---------------------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A weights folder and what its config says."""

    weights: Path
    config: dict[str, Any]

    @property
    def place(self) -> str:
        """What results of it stand under: METHOD@TRAINED_ON."""
        return f"{self.config['method']}@{self.config['trained_on']}"


def own_models(config: Config, out: Path) -> list[Model]:
    """All that `xdiff train FOLDER` has finished. Raises InputError where there is none."""
    (name,), (grid,) = config.run.cohorts, config.run.grids
    folders = [out / "models" / name / grid / method for method in config.run.methods if method not in TRIVIAL]
    made = [Model(folder, read_weights(folder)[1]) for folder in folders if (folder / WEIGHTS_CONFIG).exists()]
    if not made:
        raise InputError(out, "no trained model", "those of a finished `xdiff train FOLDER`, or --model WEIGHTS")
    return made


def read_models(folders: Sequence[Path]) -> list[Model]:
    """Models for one array. Raises InputError for models of several arrays, and for two under one name."""
    models = [Model(folder, read_weights(folder)[1]) for folder in folders]
    for model in models[1:]:
        for key in ("shape", "spacing_mm", "frame", "contrasts"):
            if model.config[key] != models[0].config[key]:
                found = f"{key} {model.config[key]}"
                raise InputError(model.weights, found, f"{models[0].config[key]}, as {models[0].weights}: one array at a time")
    names = [model.place for model in models]
    if len(set(names)) < len(names):
        raise InputError("--model", f"models {names}", "each method of each cohort once")
    return models


# The run --------------------------------------------------------------------------------------------------------------


def run_of(request: Request, models: Sequence[Model], sweep: Sweep, out: Path) -> Config:
    """The configuration of the trivial rows on the array of the models: that of OUT/own.yaml, or one made now of the folder."""
    path = out / CONFIG
    if path.exists():
        config = load_config([path])
    else:
        name, entry, _ = find_cohort(request)
        grid = {"shape": models[0].config["shape"], "spacing_mm": models[0].config["spacing_mm"]}
        config = from_dict(Config, configuration(request.folder, (name, entry), ("array", grid), {}))
    (name,), (grid_name,) = config.run.cohorts, config.run.grids
    contrasts = list(config.cohorts[name].contrasts)
    grids = config.grids
    for model in models:
        if model.config["contrasts"] != contrasts:
            raise InputError(model.weights, f"a model of {model.config['contrasts']}", f"{contrasts}, as the folder has")
        if model.config["trained_on"] != name or model.config["grid"] != grid_name:
            grid_name = f"{model.config['trained_on']}-{model.config['grid']}"
            grids = {grid_name: Grid(tuple(model.config["shape"]), model.config["spacing_mm"], model.config["frame"])}
    methods = {method: config.methods[method] for method in TRIVIAL}
    run = replace(config.run, grids=(grid_name,), methods=tuple(TRIVIAL), sweeps=(GIVEN,))
    return replace(config, grids=grids, methods=methods, sweeps={GIVEN: sweep}, run=run)


def evaluate_own(config: Config, models: Sequence[Model], out: Path) -> Path:
    """Reconstruct and score the test side with the trivial rows and the models; the folder of tables."""
    (name,), (grid,) = config.run.cohorts, config.run.grids
    split_file = out / "data" / name / "split.tsv"
    # what `xdiff train` made stays, whatever has become of the folder: patients that a model has seen must not be tested
    there = {"split": split_file.exists(), "preprocess": (out / "data" / name / grid / "dataset.json").exists()}

    def wanted(step: bench.Step) -> bool:
        return step.stage != "collect" and not there.get(step.stage, False)

    bench.run(config, out, None, float("inf"), wanted)
    store, split = Store(out / "data" / name / grid), read_split(split_file)
    made, scored = [], []
    for model in models:
        at = Path(name, grid, model.place, GIVEN)
        entry = MethodEntry(model.config["module"], model.config["params"])
        sample(entry, model.weights, store, split, config.sweeps[GIVEN], out / "samples" / at)
        scores = evaluate(out / "samples" / at / "manifest-1-of-1.tsv")
        table = out / "metrics" / at / "1-of-1.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        scores.to_csv(table, sep="\t", index=False)
        made, scored = [*made, at], [*scored, table]
    rows = [Path(name, grid, f"{method}@{name}", GIVEN) for method in TRIVIAL]
    return _tables([*rows, *made], [*(out / "metrics" / at / "1-of-1.tsv" for at in rows), *scored], out)


def _tables(places: Sequence[Path], scores: Sequence[Path], out: Path) -> Path:
    metrics, skipped = out / "metrics" / "all.tsv", out / "metrics" / "skipped.tsv"
    collect(scores, metrics)
    left_out = [pd.read_csv(out / "samples" / at / "skipped-1-of-1.tsv", sep="\t", dtype=str) for at in places]
    pd.concat(left_out).to_csv(skipped, sep="\t", index=False)
    tables.main(["--metrics", str(metrics), "--skipped", str(skipped), "--out", str(out / "tables")])
    return out / "tables"


# Text -----------------------------------------------------------------------------------------------------------------


def text(folder: Path) -> str:
    """PSNR in `unseen` and the gains over the gaussian row, from main.tsv and paired.tsv, to be read on a terminal."""
    numbers = tables.read_main(folder / "main.tsv")
    psnr = numbers[(numbers["metric"] == "psnr") & (numbers["region"] == "unseen")]
    paired = tables.read_paired(folder / "paired.tsv")
    gains = paired[(paired["reference"] == "gaussian") & (paired["region"] == "unseen") & ~is_reference(paired)]
    frames = " and ".join(sorted(psnr["frame"].unique()))
    parts = [f"PSNR (dB) in what was not given, frame {frames}: mean over the test patients [95 % interval]", *_lines(psnr)]
    if len(gains):
        parts += ["", "the same patients: gain over gaussian (dB)", *_lines(gains)]
    parts += _left_out(folder.parent / "metrics" / "skipped.tsv")
    n = int(psnr["n"].min())
    if n < FEW_TESTED:
        parts += ["", f"{n} test patients: too few to say what the next one will be like"]
    return "\n".join(parts)


def _left_out(path: Path) -> list[str]:
    """What could not be given, and why, each once."""
    skipped = pd.read_csv(path, sep="\t", dtype=str)
    seen = {f"left out: {axis}, {policy}, K = {k}: {why}" for k, axis, policy, why in skipped[POINT].itertuples(index=False)}
    return ["", *sorted(seen)] if seen else []


def _lines(rows: pd.DataFrame) -> list[str]:
    """Rows by method, those of models of other cohorts named so, columns by what was given."""
    other = rows["trained_on"] != rows["cohort"]
    rows = rows.assign(method=rows["method"].where(~other, rows["method"] + "@" + rows["trained_on"]))
    factors = [c for c in ("axis", "policy", "thickness_mm", "contrasts_given") if rows[c].nunique() > 1]
    columns = {
        (" ".join(str(v) for v in key[:-1]), f"K = {key[-1]}"): part for key, part in rows.groupby([*factors, "K"], sort=True)
    }
    table = table_of("", "", columns, row_labels(rows))
    return _aligned(table)


def _aligned(table: Table) -> list[str]:
    header = ("", *(f"{group} {name}".strip() for group, name in table.columns))
    cells = [(label, *(f"{c.text} [{c.lo}, {c.hi}]" if c.lo else c.text for c in row)) for label, row in table.rows]
    return aligned([header, *cells])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="xdiff evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder(parser)
    given = f"what is given of every test volume: FACTOR=VALUE,VALUE ... of {', '.join(FACTORS)} (K=1,5)"
    parser.add_argument("--given", nargs="+", default=["K=1,5"], metavar="FACTOR=VALUES", help=given)
    parser.add_argument("--model", nargs="+", type=Path, default=[], metavar="WEIGHTS", help="weights folders (the folder's own)")
    args = parser.parse_args(argv)
    sweep = parse_factors(args.given)
    found = args.layout, tuple(args.contrasts), args.leave_out, tuple(args.exclude)
    request = Request(args.folder, "", 0, {}, args.name, 0, *found)
    out = out_of(args.name or cohort_name(args.folder.resolve()), args.out)
    if not args.model and not (out / CONFIG).exists():
        raise InputError(out / CONFIG, "no such file", f"`xdiff train {args.folder}` before, or --model WEIGHTS")
    models = read_models(args.model) if args.model else own_models(load_config([out / CONFIG]), out)
    folder = evaluate_own(run_of(request, models, sweep, out), models, out)
    print(text(folder))
    print(f"\nall numbers: {folder}; samples, times and other regions are in {folder / 'main.md'}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
