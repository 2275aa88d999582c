"""python -m xdiff.segment train|masks|evaluate|panel"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.plain import from_dict
from xdiff.segment.evaluate import write_scores
from xdiff.segment.masks import KINDS, make_masks
from xdiff.segment.nnunet import Settings, train
from xdiff.segment.panel import build_tumour_panels


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff segment", description="nnU-Net on real and generated volumes, and its scores.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    learn = verbs.add_parser("train", help="train nnU-Net on the real volumes of the training patients; again: go on")
    learn.add_argument("--data", required=True, type=Path, help="preprocessed cohort, results/data/COHORT/GRID")
    learn.add_argument("--split", required=True, type=Path, help="split TSV")
    learn.add_argument("--settings", default="{}", help='JSON: {"tier": "cpu|gpu|full", "epochs": 0, "iterations": 0}')
    learn.add_argument("--out", required=True, type=Path, help="folder for nnU-Net's folders and segmenter.json")
    make = verbs.add_parser("masks", help="a mask for every volume of a manifest")
    make.add_argument("--kind", choices=KINDS, default="prediction", help="what is segmented (control: the given masks alone)")
    make.add_argument("--manifest", required=True, type=Path, nargs="+", help="one; several where no method is asked")
    make.add_argument("--model", required=True, type=Path, help="folder of the trained segmenter")
    make.add_argument("--out", required=True, type=Path, help="table to write; masks lie beside it")
    make.add_argument("--scores", type=Path, help="score them too, into this table")
    score = verbs.add_parser("evaluate", help="scores of the masks of one table")
    score.add_argument("--masks", required=True, type=Path)
    score.add_argument("--out", required=True, type=Path)
    views = verbs.add_parser("panel", help="cut the sections of the qualitative figure of tumours")
    views.add_argument("--masks", required=True, type=Path, nargs="+", help="tables of masks")
    views.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    if args.verb == "train":
        settings = from_dict(Settings, json.loads(args.settings), "segment")
        train(Store(args.data), read_split(args.split), settings, args.out)
    elif args.verb == "masks":
        make_masks(args.kind, args.manifest, args.model, args.out)
        if args.scores:
            write_scores(args.out, args.scores)
    elif args.verb == "panel":
        print(f"{build_tumour_panels(args.masks, args.out)} panels in {args.out}")
    else:
        write_scores(args.masks, args.out)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
