"""python -m xdiff.data generate|download|card|strip|stitch|split|preprocess|centres: the steps before any method, one rule each.

A large cohort is preprocessed in shards: `preprocess --shard i/n` on as many machines, then `preprocess` once, which finds their
work done and writes the index. With frame `scanner`, `centres --shard i/n` comes before all that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xdiff.config import EMBEDDED, Cohort, Grid
from xdiff.data.card import write_card
from xdiff.data.cohorts import find_subjects
from xdiff.data.preprocess import find_centres, preprocess, preprocess_shard
from xdiff.data.skull_strip import skull_strip
from xdiff.data.split import read_split, split_by_rule, unlisted, write_split
from xdiff.errors import InputError, ManyInputErrors
from xdiff.plain import from_dict, to_json

VERBS = {
    "generate": "write an embedded cohort",
    "download": "bring the raw files of a cohort by the route in its entry",
    "card": "write a cohort's data card",
    "strip": "strip whole heads into a folder of our own",
    "stitch": "make volumes of UK Biobank's archives in a folder of our own",
    "split": "split by patient",
    "centres": "find where a shard's training subjects lie, for frame scanner",
    "preprocess": "put on a grid",
}


def generate(cohort: Cohort, out: Path, workers: int = 1) -> None:
    """Write an embedded cohort below `out`. Subjects that exist are kept, unless the settings have changed since."""
    settings = dict(cohort.generate)
    if cohort.layout == "phantom-brain":
        from xdiff.data.phantom_brain import write_phantom_brain

        write = partial(write_phantom_brain, workers=workers)
    elif cohort.layout == "phantom-body":
        from xdiff.data.phantom_body import write_phantom_body

        write = partial(write_phantom_body, workers=workers)
    elif cohort.layout == "phantom-knee":
        from xdiff.data.phantom_knee import write_phantom_knee

        write = partial(write_phantom_knee, workers=workers)
    elif cohort.layout == "gaussian-field":
        from xdiff.data.gaussian_field import write_gaussian_field as write
    else:
        raise InputError("cohorts.*.layout", repr(cohort.layout), f"an embedded cohort: {', '.join(EMBEDDED)}")
    _start_clean_if_changed(out, to_json([cohort.layout, settings]))
    subjects = write(out, **settings)
    print(f"{out}: {len(subjects)} subjects")


def _start_clean_if_changed(out: Path, settings: str) -> None:
    """Subjects of other settings (a seed, a shape) must not stay among the new ones; only a folder of our own is emptied."""
    record = out / "settings.json"
    if record.exists() and record.read_text() != settings:
        print(f"{out}: generated with other settings ({record.read_text()}), starting clean")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(settings)


def split(cohort: Cohort, root: Path, out: Path, file: Path | None) -> None:
    """Write the split of the subjects found below `root`: the committed file where there is one, else by rank."""
    subjects = [files.subject for files in find_subjects(cohort, root)]
    if file is not None:
        result = read_split(file)
        unused = unlisted(result, subjects, file)
        if unused:
            print(f"{file}: {len(unused)} subject(s) below {root} are not listed and stay unused: {unused[:5]}")
    else:
        result = split_by_rule(subjects, cohort.split)
    write_split(result, out)
    sizes = {side: len(result.side(side)) for side in ("train", "val", "test")}
    print(f"{out}: {sizes}, sha256 {result.sha[:12]}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff data", description="Generate or download cohorts, split and preprocess them.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in VERBS.items():
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--entry", required=True, help="the cohort's config entry as JSON")
        if verb != "download":
            sub.add_argument("--out", type=Path, required=True)
        if verb in ("generate", "stitch", "preprocess", "centres"):
            sub.add_argument("--workers", type=int, default=1, help="processes")
        if verb != "generate":
            sub.add_argument("--root", type=Path, required=True, help="folder of the raw cohort")
        if verb == "download":
            sub.add_argument("--record", type=Path, help="where to say that it is done")
        if verb == "split":
            sub.add_argument("--file", type=Path, help="a committed split TSV")
        if verb in ("preprocess", "centres"):
            sub.add_argument("--split", type=Path, required=True)
        if verb in ("stitch", "preprocess", "centres"):
            help = "i/n: every n-th subject from the i-th, and no index"
            sub.add_argument("--shard", default="1/1" if verb == "centres" else "", help=help)
        if verb == "preprocess":
            sub.add_argument("--grid", required=True, help="the grid's config entry as JSON")
            sub.add_argument("--names", nargs=2, required=True, metavar=("COHORT", "GRID"))
    args = parser.parse_args(argv)
    cohort = from_dict(Cohort, json.loads(args.entry), "cohorts.*")
    if args.verb == "generate":
        generate(cohort, args.out, args.workers)
    elif args.verb == "download":
        from xdiff.data.download import download  # requests, which nothing else here needs

        download(cohort, args.root, args.record)
    elif args.verb == "card":
        write_card(cohort, args.root, args.out, args.root.name)
    elif args.verb == "strip":
        skull_strip(cohort, args.root, args.out)
    elif args.verb == "stitch":
        from xdiff.data.ukb import stitch_cohort

        errors = stitch_cohort(cohort, args.root, args.out, args.shard, args.workers)
        if args.shard:
            _left(errors, args.shard)
    elif args.verb == "split":
        split(cohort, args.root, args.out, args.file)
    elif args.verb == "centres":
        _left(find_centres(cohort, args.root, read_split(args.split), args.out, args.shard, args.workers), args.shard)
    else:
        _preprocess(cohort, args)


def _preprocess(cohort: Cohort, args: argparse.Namespace) -> None:
    grid = from_dict(Grid, json.loads(args.grid), f"grids.{args.names[1]}")
    shared = (cohort, grid, tuple(args.names), args.root, read_split(args.split), args.out)
    if args.shard:
        _left(preprocess_shard(*shared, args.shard, args.workers), args.shard)
    else:
        preprocess(*shared, args.workers)


def _left(errors: Sequence[InputError], shard: str) -> None:
    """Say which subjects of a shard are bad; the step that needs all of them tries them again and fails."""
    print("\n".join([f"shard {shard}: {len(errors)} input(s) could not be used here", *(f"  - {error}" for error in errors)]))


if __name__ == "__main__":
    try:
        main()
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")
