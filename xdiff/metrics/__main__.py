"""python -m xdiff.metrics evaluate|anatomy|collect|panel"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xdiff.config import without_fold
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.anatomy_rows import write_real
from xdiff.metrics.evaluate import COLUMNS, KEY, evaluate
from xdiff.metrics.history import history_rows
from xdiff.metrics.panel import build_panels


def collect(inputs: Sequence[Path], out: Path, histories: Sequence[Path] = ()) -> None:
    """Concatenate metric tables into all.tsv, and after them how trainings went; a point that two sweeps share is kept once.

    Folds of a cohort (config.FOLD) come together under its name: their test sides hold different patients. Their trainings
    stay apart.
    """
    tables = [pd.read_csv(p, sep="\t", dtype=str, keep_default_na=False) for p in inputs]
    for path, table in zip(inputs, tables, strict=True):
        if list(table.columns) != COLUMNS:
            raise InputError(path, f"columns {list(table.columns)}", COLUMNS)
    for table in tables:
        for column in ("cohort", "trained_on"):
            table[column] = table[column].map(without_fold)
    trainings = [rows for rows in map(history_rows, histories) if len(rows)]
    together = pd.concat([pd.concat(tables).drop_duplicates(KEY), *trainings], ignore_index=True)
    together.to_csv(out, sep="\t", index=False)
    print(f"{out}: {len(together)} rows of {len(inputs)} tables and {len(trainings)} trainings")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff metrics", description="Score predictions, collect scores, cut panels.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("evaluate", help="score every volume of one manifest")
    one.add_argument("--manifest", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--real", type=Path, help="anatomy of the cohort's real bodies: of every volume it is scored then")
    one.add_argument("--training", type=Path, nargs="*", default=[], help="anatomy of real bodies of every cohort trained on")
    bodies = verbs.add_parser("anatomy", help="measure the real bodies of a cohort with contrasts water and fat")
    bodies.add_argument("--data", type=Path, required=True, help="preprocessed cohort, results/data/COHORT/GRID")
    bodies.add_argument("--split", type=Path, required=True, help="split TSV")
    bodies.add_argument("--out", type=Path, required=True)
    many = verbs.add_parser("collect", help="join the tables of many manifests")
    many.add_argument("--inputs", type=Path, nargs="+", required=True)
    many.add_argument("--history", type=Path, nargs="*", default=[], help="history.jsonl of every model, empty or not")
    many.add_argument("--skipped", type=Path, nargs="*", default=[], help="tables of points left out, joined too")
    many.add_argument("--out", type=Path, required=True)
    many.add_argument("--out-skipped", type=Path)
    views = verbs.add_parser("panel", help="cut the sections of the qualitative figure")
    views.add_argument("--manifests", type=Path, nargs="+", required=True)
    views.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.verb == "evaluate":
        evaluate(args.manifest, args.real, args.training).to_csv(args.out, sep="\t", index=False)
    elif args.verb == "anatomy":
        write_real(Store(args.data), read_split(args.split), args.out)
    elif args.verb == "collect":
        collect(args.inputs, args.out, args.history)
        if args.out_skipped:
            pd.concat([pd.read_csv(p, sep="\t", dtype=str) for p in args.skipped]).to_csv(args.out_skipped, sep="\t", index=False)
    else:
        print(f"{build_panels(args.manifests, args.out)} panels in {args.out}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
