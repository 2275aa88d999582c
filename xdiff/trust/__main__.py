"""`python -m xdiff.trust --metrics results/metrics/all.tsv --out results/trust [--methods xdiff ...] [--made COHORT ...]`

Writes a card per model, OUT/TRAINED_ON/GRID/METHOD.md with .json, .png and .pdf beside it; needs neither torch nor volumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xdiff.errors import InputError
from xdiff.stats import read_metrics
from xdiff.trust.card import make_card, write
from xdiff.trust.evidence import gather, models, trials_of
from xdiff.trust.picture import save


def write_cards(metrics: Path, out: Path, methods: Sequence[str] = (), made: Sequence[str] = ()) -> list[Path]:
    """The Markdown files written. Raises InputError where the table has no model that a card could be of."""
    evidence = gather(read_metrics(metrics))
    wanted = models(evidence, methods)
    if not wanted:
        raise InputError(
            metrics, f"no PSNR of {', '.join(methods) or 'any method but the trivial ones'}", "a model to write a card of"
        )
    paths = []
    for model in wanted:
        trials = trials_of(evidence, model)
        if not trials:  # scored in other regions alone
            raise InputError(metrics, f"no PSNR in unseen of {model.method}, grid {model.grid}", "the headline of every method")
        stem = out / model.trained_on / model.grid / model.method
        write(make_card(trials, made), stem)
        save(trials[0], stem)
        paths.append(stem.with_name(f"{stem.name}.md"))
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff trust", description="A trust card per model, from the collected scores alone.")
    parser.add_argument("--metrics", type=Path, required=True, help="results/metrics/all.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cards")
    parser.add_argument(
        "--methods", nargs="*", default=[], help="cards of these alone; else of all but trivial ones and ablations"
    )
    parser.add_argument("--made", nargs="*", default=[], help="cohorts that are no patients, besides the embedded ones")
    args = parser.parse_args(argv)
    for path in write_cards(args.metrics, args.out, args.methods, args.made):
        print(path)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
