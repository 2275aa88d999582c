"""A LaTeX document of a run: all tables and figures with their captions, to be compiled as it stands.

python -m xdiff.document --tables results/tables --figures results/figures --out results/paper/main.tex
cd results/paper && pdflatex main.tex
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from xdiff.errors import InputError
from xdiff.markup import latex_escape

TABLES = ("main.tex", "paper.tex")  # of the folder of tables; floats
_HEAD = r"""% Made by python -m xdiff.document: compile with pdflatex
\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[a4paper,textwidth=175mm,textheight=245mm]{geometry}
\usepackage{booktabs,graphicx}
\usepackage[font=footnotesize]{caption}
\extrafloats{200}
\begin{document}
"""


def document(tables: Path, figures: Path, out: Path) -> str:
    """The text of a document that lies at `out`. Raises InputError on a missing table, caption or drawing."""
    return "\n".join([_HEAD, *_tables(tables, out), *_figures(figures, out), r"\end{document}", ""])


def _tables(folder: Path, out: Path) -> Iterator[str]:
    yield r"\section*{Tables}"
    for name in TABLES:
        if not (folder / name).exists():
            raise InputError(folder / name, "no such file", "tables as python -m xdiff.tables writes them")
        # \clearpage: LaTeX holds back floats that find no room, and gives up at some dozens
        body = (folder / name).read_text(encoding="utf-8")
        yield body.replace(r"\end{table}", "\\end{table}\n\\clearpage")


def _figures(folder: Path, out: Path) -> Iterator[str]:
    """One float per caption, no wider than the text, its drawing named from where the document lies."""
    captions = folder / "captions.json"
    if not captions.exists():
        raise InputError(captions, "no such file", "captions as python -m xdiff.figures writes them")
    yield "\\clearpage\n\\section*{Figures}"
    for name, caption in json.loads(captions.read_text(encoding="utf-8")).items():
        drawing = folder / f"{name}.pdf"
        if not drawing.exists():
            raise InputError(drawing, "no such file", "the drawing of every caption")
        path = Path(os.path.relpath(drawing, out.parent)).as_posix()
        yield "\n".join(
            [
                r"\begin{figure}[p]",
                r"\centering",
                rf"\includegraphics[width=\textwidth,height=0.8\textheight,keepaspectratio]{{\detokenize{{{path}}}}}",
                rf"\caption{{{latex_escape(caption)}}}",
                rf"\label{{fig:{name.replace('_', '-')}}}",
                r"\end{figure}",
                r"\clearpage",
            ]
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the document `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder that xdiff.tables wrote")
    parser.add_argument("--figures", type=Path, required=True, help="folder that xdiff.figures wrote")
    parser.add_argument("--out", type=Path, required=True, help="file to write, main.tex")
    args = parser.parse_args(argv)
    text = document(args.tables, args.figures, args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
