"""Tables and figures of runs again, from their long tables alone: what committed references are drawn by.

    python -m xdiff.redraw --reference results/reference/NAME [more] --out results/reference_figures [--workers N] [--small]

OUT/NAME is written for each. --small: figures as they are committed, as PNG alone in at most 256 colours; without it the PDF
beside the PNG.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from xdiff import document, figures, tables
from xdiff.errors import InputError

METRICS, PANELS, TUMOURS = "metrics.tsv.gz", "panel.npz", "tumour_panel.npz"


def redraw(reference: Path, out: Path, small: bool = False) -> None:
    """Write `out`/tables, `out`/figures and, unless small, `out`/main.tex, a document of both, of the run kept in the folder
    `reference`. Raises InputError where it has no table."""
    metrics = reference / METRICS
    if not metrics.exists():
        raise InputError(metrics, "no such file", "the long table of a kept run")
    tables.main(["--metrics", str(metrics), "--out", str(out / "tables")])
    images = [("--panel", PANELS), ("--tumours", TUMOURS)]
    shown = [text for option, name in images if (reference / name).exists() for text in (option, str(reference / name))]
    kinds = ["--formats", "png"] if small else []
    figures.main(["--metrics", str(metrics), *shown, *kinds, "--out", str(out / "figures")])
    if not small:
        document.main(["--tables", str(out / "tables"), "--figures", str(out / "figures"), "--out", str(out / "main.tex")])
    for chart in (out / "figures").glob("*.png") if small else ():
        fewer_colours(chart)


def fewer_colours(chart: Path) -> None:
    """Rewrite a PNG with a palette of 256 colours: a third of the size, and of lines, letters and greys nothing is lost."""
    with Image.open(chart) as drawn:
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(chart, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Write tables and figures of each folder of `--reference` into a folder of its name below `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, nargs="+", help="folders of results/reference")
    parser.add_argument("--out", type=Path, required=True, help="folder of a folder for each")
    parser.add_argument("--workers", type=int, default=1, help="how many to draw at a time")
    parser.add_argument("--small", action="store_true", help="PNG alone, in 256 colours")
    args = parser.parse_args(argv)
    tasks = [(folder, args.out / folder.name, args.small) for folder in args.reference]
    if args.workers == 1:
        for task in tasks:
            redraw(*task)
        return
    # forked, so that libraries are loaded once; each draws several, the largest first
    with ProcessPoolExecutor(args.workers, get_context("fork")) as pool:
        for done in [pool.submit(redraw, *task) for task in sorted(tasks, key=lambda task: -_size(task[0]))]:
            done.result()


def _size(folder: Path) -> int:
    """Bytes of a run's long table; 0 where it has none, which `redraw` says."""
    return (folder / METRICS).stat().st_size if (folder / METRICS).exists() else 0


if __name__ == "__main__":
    main()
