"""The other sections: figures, trust cards, tables, data, methods, provenance."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xdiff.markup import Table, to_html
from xdiff.page.blocks import anchor, escape, folded, image, paragraph, plain_table
from xdiff.trust.card import DISCLAIMER, READING, Card
from xdiff.trust.card import read as read_card
from xdiff.trust.wording import VERDICTS, Statement

ROOT = Path(__file__).parents[2]
OPEN_TABLES = 2  # of a family: PSNR in the headline region and in the foreground; the others unfold
SORTING = "A press on a heading sorts by that column, highest first; a second one turns the order round, a third one undoes it."


def figures(folder: Path) -> str:
    """Every figure of captions.json as an embedded PNG with its caption."""
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    return "".join(image(folder / f"{name}.png", name, caption, "captions.json") for name, caption in captions.items())


def tables(families: Sequence[tuple[str, Sequence[Table]]]) -> str:
    """The tables to read, by family; the first of each are open."""
    out = [paragraph(SORTING)]
    for title, own in families:
        rest = "".join(map(to_html, own[OPEN_TABLES:]))
        out.append(f"<h3>{escape(title)}</h3>\n{''.join(map(to_html, own[:OPEN_TABLES]))}")
        out += [folded(f"{len(own) - OPEN_TABLES} more tables of {title}", rest)] if rest else []
    return "".join(out)


def cards(folder: Path) -> str:
    """Every trust card below `folder` (TRAINED_ON/GRID/METHOD.json as xdiff trust wrote them), folded."""
    found = [(path, read_card(path)) for path in sorted(folder.rglob("*.json"))]
    text = "What each model keeps, what it invents, and when not to use it: sentences made by code from the tables below."
    made = "".join(_card(path, card) for path, card in found)
    return (
        f'{paragraph(text)}<p class="warning">{escape(DISCLAIMER)}</p>\n{made}{folded("How to read a card", paragraph(READING))}'
    )


def _card(path: Path, card: Card) -> str:
    statements = [s for _, own in card.sections for s in own]
    counts = {name: sum(s.verdict == name for s in statements) for name in VERDICTS}
    chips = "".join(_chip(name, f"{counts[name]} {name}") for name in VERDICTS if counts[name])
    place = f"trained on {card.model.trained_on}, grid {card.model.grid}"
    short = "".join(f"<li>{escape(line)}</li>\n" for line in card.short)
    body = "".join(f"<h4>{escape(heading)}</h4>\n{_claims(own)}" for heading, own in card.sections)
    picture = image(path.with_suffix(".png"), anchor("trust-figure", *card.model), card.caption, path.name)
    return (
        f'<details class="card" id="{escape(anchor("trust", *card.model))}"><summary><b>{escape(card.model.method)}</b>, '
        f"{escape(place)} {chips}</summary>\n<ul>{short}</ul>\n{picture}{to_html(card.table, 'given slices')}{body}</details>\n"
    )


def _chip(verdict: str, text: str) -> str:
    return f'<span class="verdict {verdict.replace(" ", "-")}">{escape(text)}</span>'


def _claims(statements: Sequence[Statement]) -> str:
    items = "".join(
        f"<li>{_chip(s.verdict, s.verdict)}<b>{escape(s.topic)}</b><p>{escape(s.text)}</p></li>\n" for s in statements
    )
    return f'<ul class="claims">{items}</ul>\n'


def data(folder: Path) -> str:
    """One cohort on one grid, from what xdiff/data_page.py wrote: source, split, shapes of the sources and the two figures."""
    about = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    name = f"{about['cohort']}, grid {about['grid']}"
    grid = f"{_times(about['shape'])} voxels of {about['spacing_mm']:g} mm, {about['frame']}"
    grid += f", {about['native_axis']} sections as acquired" if about["native_axis"] else ""
    cropped = "no subject has more than 1 % of its foreground outside the grid"
    if about["cropped"]["subjects"]:
        cropped = f"{about['cropped']['subjects']} subject(s) have more than 1 % of their foreground outside the grid, at most "
        cropped += f"{about['cropped']['largest']:.1%}"
    source = about["source"] or "not stated in the configuration (cohorts the workflow makes have none)"
    text = f"Source and licence: {source}. Contrasts: {', '.join(about['contrasts'])}. Grid: {grid}; {cropped}. "
    text += f"Fingerprint of the preprocessed data: {about['fingerprint'][:12]}."
    sides = [(side, str(n["patients"]), str(n["subjects"]), about["split"][:12]) for side, n in about["sides"].items()]
    shapes = [
        (_times(s["spacing_mm"]) or "others", _sizes(s["smallest"], s["largest"]), str(s["subjects"])) for s in about["sources"]
    ]
    return (
        f"<h3>{escape(name)}</h3>\n{paragraph(text)}"
        + plain_table(("side", "patients", "volumes", "sha256 of the split"), sides)
        + plain_table(("source spacing (mm)", "voxels", "volumes"), shapes)
        + "".join(
            image(folder / f"{key}.png", f"{key}-{about['cohort']}-{about['grid']}", caption, "summary.json")
            for key, caption in about["captions"].items()
        )
    )


def _sizes(smallest: Sequence[int], largest: Sequence[int]) -> str:
    """`88 to 105 x 106 x 94`: a range along the axes along which volumes differ."""
    return " x ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in zip(smallest, largest, strict=True))


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def splits(numbers: pd.DataFrame) -> str:
    """The split and the devices behind every family of results."""
    header = ("cohort", "trained on", "grid", "frame", "test patients", "volumes", "split", "devices")
    lines = []
    for (cohort, trained_on, grid, frame), own in numbers.groupby(["cohort", "trained_on", "grid", "frame"]):
        devices = sorted({name for joined in own["device"] if joined for name in joined.split(" + ")})
        counts = (str(own[c].max()) for c in ("n", "volumes"))
        lines.append((cohort, trained_on, grid, frame, *counts, ", ".join(sorted(set(own["split"]))), "; ".join(devices)))
    return plain_table(header, lines)


def methods(config: Mapping) -> str:
    """What each method is, in the words of its module, and its parameters."""
    header = ("method", "module", "idea and source", "parameters")
    named = config["methods"].items()
    lines = [
        (name, entry["module"], about_module(entry["module"]), _parameters(entry.get("params", {}))) for name, entry in named
    ]
    return plain_table(header, lines, "sortable text")


def about_module(name: str) -> str:
    """The docstring of a method's module, read without importing it, as torch would come along."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return " ".join(text.split()) if text else "not described: its module is not part of this repository"


def _parameters(params: Mapping) -> str:
    return "; ".join(f"{key}: {json.dumps(value)}" for key, value in params.items()).replace('"', "") or "none"


def provenance(about: Mapping, numbers: pd.DataFrame) -> str:
    """Commit, versions and machine, the splits behind the numbers, and the selection that was run."""
    pairs = [("command", about.get("command", "")), ("commit", about.get("commit", "")), ("Python", about.get("python", ""))]
    pairs += [("sha256 of the configuration", about.get("config_sha256", "")), ("machine", about.get("machine", ""))]
    pairs += [("note", about.get("note", ""))]
    pairs += [(f"{name} (package)", version) for name, version in about.get("packages", {}).items()]
    pairs += [(f"data {name}", str(sha)) for name, sha in about.get("data", {}).items()]
    run = about.get("config", {}).get("run", {})
    chosen = [(f"run.{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in run.items()]
    shown = [pair for pair in (*pairs, *chosen) if pair[1]]
    return splits(numbers) + plain_table(("what", "value"), shown, "text")
