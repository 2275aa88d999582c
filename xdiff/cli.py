"""`xdiff VERB ...`: the same verbs that the rules call as `python -m xdiff.VERB`.

python -m xdiff.cli --markdown > workflow/docs/cli.md    # the help of every verb as one page
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress

from xdiff import __version__
from xdiff.errors import InputError, ManyInputErrors

WIDTH = 110  # of the help in the page
VERBS = {
    "data": ("xdiff.data.__main__", "generate or download a cohort, split by patient, put volumes on a grid"),
    "check": ("xdiff.data.check", "say what a folder of volumes holds, before anything is run"),
    "train": ("xdiff.own", "train a method on a folder of one's own volumes, or on one preprocessed cohort"),
    "evaluate": ("xdiff.own_evaluate", "score models on the test patients of one's own folder, beside the trivial rows"),
    "sample": ("xdiff.sample", "reconstruct the test subjects at every point of a sweep"),
    "reconstruct": ("xdiff.reconstruction", "a volume, its uncertainty and a preview from slices of one's own"),
    "models": ("xdiff.models", "list the models that travel with the package"),
    "export": ("xdiff.export", "make trained weights a small model with a name, a card and measured worth"),
    "metrics": ("xdiff.metrics.__main__", "score reconstructions, collect scores, cut panels"),
    "segment": ("xdiff.segment.__main__", "nnU-Net: train it on real volumes, segment generated ones, score the masks"),
    "tables": ("xdiff.tables", "tables from the collected scores"),
    "ablation": ("xdiff.ablation", "table of the ablations alone, from the collected scores"),
    "figures": ("xdiff.figures", "figures from the collected scores"),
    "trust": ("xdiff.trust.__main__", "a trust card per model: what it keeps, what it invents, when not to use it"),
    "view": ("xdiff.viewer.__main__", "a volume in the browser, offline, beside the truth, the difference and the uncertainty"),
    "data_page": ("xdiff.data_page", "montage, intensities, sources and split of a preprocessed cohort, for the report"),
    "report": ("xdiff.report", "one offline page; the ledger of seconds per stage"),
    "overhead": ("xdiff.overhead", "what share of a run Snakemake and imports took"),
    "reference": ("xdiff.reference", "keep a finished run's table, figures and provenance under results/reference"),
    "bench": ("xdiff.bench", "run a preset's train, sample and metrics grid in one process, without Snakemake"),
    "plan": ("xdiff.plan", "predict time, memory, GPU-hours and disk of a preset before anything is started"),
}


def usage() -> str:
    """The help text: every verb with its one line."""
    lines = "\n".join(f"  {verb:<13}{text}" for verb, (_, text) in VERBS.items())
    head = f"xdiff {__version__}: a 3D MRI volume from one slice or a few"
    return f"{head}\n\nusage: xdiff VERB [options], xdiff VERB --help\n\n{lines}"


def markdown() -> str:
    """All help as one Markdown page: a section per verb, and one per verb of a verb."""
    parts = ["# The command line", "Made by `python -m xdiff.cli --markdown`; do not edit.", f"```\n{usage()}\n```"]
    for verb, (module, _) in VERBS.items():
        parts += [f"## xdiff {verb}", _block(module, [])]
        for inner in _inner_verbs(_help(module, [])):
            parts += [f"### xdiff {verb} {inner}", _block(module, [inner])]
    parts += ["## python -m xdiff.train", "What the workflow's rules call.", _block("xdiff.train", [])]
    return "\n\n".join(parts) + "\n"


def _block(module: str, words: list[str]) -> str:
    return f"```\n{_help(module, words)}\n```"


def _help(module: str, words: list[str]) -> str:
    """What `--help` prints, at WIDTH whatever the terminal's."""
    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with redirect_stdout(text), suppress(SystemExit):
            importlib.import_module(module).main([*words, "--help"])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return text.getvalue().rstrip()


def _inner_verbs(text: str) -> Iterator[str]:
    """The verbs that a help lists as its first positional argument."""
    found = re.search(r"^positional arguments:\n  \{([a-z_,]+)\}$", text, re.MULTILINE)
    yield from found[1].split(",") if found else ()


def main(argv: list[str] | None = None) -> None:
    """Dispatch to a verb; bad input ends with one message and exit code 1, not with a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(__version__)
        return
    if argv[0] == "--markdown":
        print(markdown(), end="")
        return
    if argv[0] not in VERBS:
        sys.exit(f"error: verb {argv[0]!r}, expected one of {', '.join(VERBS)}")
    try:
        importlib.import_module(VERBS[argv[0]][0]).main(argv[1:])
    except (InputError, ManyInputErrors) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
