"""One card: its sections of statements, in short, as Markdown, and as plain data that the report page lays out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from xdiff.errors import InputError
from xdiff.layout import k_name
from xdiff.markup import Cell, Table, to_markdown
from xdiff.stats import summarise_patients
from xdiff.trust.evidence import Model, Trial, gains_by_k, is_home, rivals_of, unseen
from xdiff.trust.invents import invents
from xdiff.trust.keeps import keeps
from xdiff.trust.limits import is_made, limits
from xdiff.trust.wording import BAD, GOOD, OPEN, VERDICTS, Statement, ks_of, patients

DISCLAIMER = (
    "Research software, not a medical device: nothing on this card supports a diagnosis or any decision about a patient. What "
    "was not given to the method is an estimate, however real it looks."
)
READING = (
    "Every sentence is written by code from the table of results. K is the number of given slices. PSNR measures closeness to "
    "the truth: 3 dB more is half the squared error. In brackets: 95 % bootstrap interval over patients; it is not corrected "
    f"for how many there are: of twenty, one misses by chance. {GOOD.capitalize()}: the whole interval is on the right side, or "
    f"the number within the limits named. {BAD.capitalize()}: a number of the sentence is on the wrong side. "
    f"{OPEN.capitalize()}: an interval does not tell. The conditions: along which axis the slices lie, how they were chosen "
    "(uniform: spread evenly), the frame (centred: the method was told where the head or body lies, scanner: it was not), and "
    "their thickness. The mean of the training volumes, the linear estimate and interpolation need no network: what is not "
    "better than they are has no use."
)


@dataclass(frozen=True)
class Card:
    """`sections`: (heading, statements); `table`: PSNR and gains by K; `caption`: of the figure beside it."""

    model: Model
    cohort: str
    short: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Statement, ...]], ...]
    table: Table
    caption: str

    @property
    def title(self) -> str:
        return f"Trust card: {self.model.method}, trained on {self.model.trained_on}, grid {self.model.grid}"


def make_card(trials: Sequence[Trial], made: Sequence[str] = ()) -> Card:
    """The card of one model from what evidence.trials_of gives, on the cohort it was trained on, or else the first there is.

    `made`: cohorts that are no patients, besides those the workflow embeds.
    """
    home = trials[0]
    sections = (
        ("What it keeps", tuple(keeps(home))),
        ("What it invents or leaves out", tuple(invents(home))),
        ("When not to use it", tuple(limits(trials, made))),
    )
    short = tuple(in_short(home, [s for _, statements in sections for s in statements], made))
    return Card(home.model, home.cohort, short, sections, gain_table(home), caption(home))


def in_short(trial: Trial, statements: Sequence[Statement], made: Sequence[str]) -> Iterator[str]:
    """A few lines for who reads no further, computed like the rest."""
    if is_made(trial.cohort, made):
        yield f"{trial.cohort} is made by the workflow: this card tests the code and says nothing about patients."
    elif not is_home(trial):
        yield f"Not tested on the cohort it was trained on: this card is about {trial.cohort}."
    yield from _beaten(trial)
    counts = {name: [s.topic for s in statements if s.verdict == name] for name in VERDICTS}
    for name in (BAD, OPEN):
        if counts[name]:
            yield f"{name.capitalize()}: {'; '.join(counts[name])}."
    yield f"Of {len(statements)} claims below: " + ", ".join(f"{len(counts[name])} {name}" for name in VERDICTS) + "."


def _beaten(trial: Trial) -> Iterator[str]:
    """At which K it is shown to be closer to the truth than all rivals that were tested, and at which it is not."""
    rivals = rivals_of(trial)
    tables = [table for table in (gains_by_k(trial, rival) for rival in rivals) if len(table)]
    if not tables:
        return
    lowest = pd.concat(tables).assign(lo=lambda t: t["lo"].fillna(float("-inf"))).groupby("K")["lo"].min()
    names, n = ", ".join(rivals), patients(pd.concat(tables)["n"])
    better, rest = lowest.index[lowest > 0], lowest.index[~(lowest > 0)]
    if len(better):
        yield f"Shown to be closer to the truth than {names} at {ks_of(better)} ({n}; {trial.where})."
    if len(rest):
        yield f"Not shown to be closer than all of {names} at {ks_of(rest)}: there the simpler one will do ({n}; {trial.where})."


def gain_table(trial: Trial) -> Table:
    """A line per K: PSNR in `unseen`, and what the method gains over every rival."""
    values = unseen(trial)
    rows = trial.own(values)[["K", "patient", "value", "volumes"]]
    columns = {"PSNR (dB)": summarise_patients(rows, ["K"])}
    columns |= {f"over {rival} (dB)": gains_by_k(trial, rival) for rival in rivals_of(trial)}
    ks = sorted(columns["PSNR (dB)"]["K"])
    body = [(k_name(int(k)), tuple(_cell(table[table["K"] == k]) for table in columns.values())) for k in ks]
    n = patients(columns["PSNR (dB)"]["n"])
    text = (
        "PSNR in what was not given, and how much higher it is than that of simpler rows (than interpolation's: in the unseen "
        f"foreground, as it would be charged for what it paints outside); 95 % bootstrap intervals, {n}; {trial.where}."
    )
    return Table("Closeness to the truth", text, tuple(("", name) for name in columns), tuple(body))


def _cell(rows: pd.DataFrame) -> Cell:
    if rows.empty:
        return Cell("\N{EN DASH}")
    text, lo, hi = (f"{round(v, 2) + 0.0:.2f}" for v in rows[["mean", "lo", "hi"]].iloc[0])
    return Cell(text) if lo == "nan" else Cell(text, lo, hi)


def caption(trial: Trial) -> str:
    """Of the figure (picture.py)."""
    named = ", ".join(rivals_of(trial)) or "no rival"
    return (
        f"{trial.model.method} at a glance. A: PSNR above {named}, by the number of given slices. B: the same by the distance to "
        "the nearest given slice, above the first of them. C: share of unseen voxels inside the nominal 90 % interval, and the "
        "variance of samples over the truth's in three bands of frequency (grey: counts as right). D: share of lesions that the "
        "segmenter finds, or the error of anatomy over the control's. Bars: 95 % bootstrap intervals over patients; "
        f"{trial.where}. An empty panel was not measured."
    )


def markdown(card: Card, figure: str) -> str:
    """The card as GitHub Markdown; `figure`: name of the image beside it."""
    lines = [f"# {card.title}", "", f"> {DISCLAIMER}", "", "## In short", "", *(f"- {line}" for line in card.short), ""]
    lines += [f"![{card.caption}]({figure})", "", to_markdown(card.table)]
    for heading, statements in card.sections:
        lines += [f"## {heading}", ""]
        lines += [f"- **{s.topic}: {s.verdict}.** {_escaped(s.text)}" for s in statements]
        lines.append("")
    return "\n".join([*lines, "## How to read it", "", READING, ""])


def _escaped(text: str) -> str:
    """Underscores of method names are no emphasis, and brackets no links."""
    for character in "_*[]<":
        text = text.replace(character, "\\" + character)
    return text


def write(card: Card, stem: Path) -> None:
    """`stem`.md and `stem`.json; the figure is picture.draw's."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.md").write_text(markdown(card, f"{stem.name}.png"), encoding="utf-8")
    plain = asdict(card) | {"model": card.model._asdict(), "title": card.title}
    plain["sections"] = [[heading, [s._asdict() for s in statements]] for heading, statements in card.sections]
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Card:
    """The card that `write` left as JSON. Raises InputError where it is not one."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        table = plain["table"]
        rows = tuple((label, tuple(Cell(*cell) for cell in cells)) for label, cells in table["rows"])
        made = Table(table["title"], table["caption"], tuple(map(tuple, table["columns"])), rows)
        sections = tuple((heading, tuple(Statement(**s) for s in statements)) for heading, statements in plain["sections"])
        return Card(Model(**plain["model"]), plain["cohort"], tuple(plain["short"]), sections, made, plain["caption"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"{type(error).__name__} ({error})", "a trust card as `xdiff trust` writes it") from error
