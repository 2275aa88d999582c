"""A table of numbers without a markup, and its three markups: GitHub Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

DASH = "\N{EN DASH}"
_LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: "\\" + c for c in "_%&#$"} | {DASH: "--", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


class Cell(NamedTuple):
    """One entry: the formatted number, the ends of its interval ("" for none), whether it is the best of its column."""

    text: str
    lo: str = ""
    hi: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`columns` are (group, name) pairs, `rows` (label, one Cell per column) pairs.

    Neighbouring columns of one group stand under one heading; with no group named there is no row of headings.
    """

    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    def __post_init__(self) -> None:
        for label, cells in self.rows:
            if len(cells) != len(self.columns):
                raise ValueError(f"{self.title}, row {label}: {len(cells)} cells, expected {len(self.columns)}")

    def groups(self) -> list[tuple[str, int]]:
        """(heading, number of columns under it), left to right; empty where no group is named."""
        if not any(group for group, _ in self.columns):
            return []
        return [(name, len(list(members))) for name, members in groupby(self.columns, key=lambda column: column[0])]


def to_markdown(table: Table) -> str:
    """The table as GitHub Markdown, under a bold title and over its caption."""
    header = ["", *(f"{group} {name}".strip() for group, name in table.columns)]
    lines = [f"**{_md(table.title)}**", "", _md_row(header), "|:--" + "|--:" * len(table.columns) + "|"]
    lines += [_md_row([label, *map(_md_cell, cells)]) for label, cells in table.rows]
    return "\n".join([*lines, "", _md(table.caption), ""])


def _md_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} [{cell.lo}, {cell.hi}]" if cell.lo else text


def _md_row(fields: list[str]) -> str:
    return "| " + " | ".join(_md(f, keep="*[]") for f in fields) + " |"


def _md(text: str, keep: str = "") -> str:
    for c in "\\_*|[]<":
        text = text if c in keep else text.replace(c, "\\" + c)
    return text


def latex_escape(text: str) -> str:
    """`text` with every character special to LaTeX made printable."""
    return "".join(_LATEX.get(c, c) for c in text)


def to_latex(table: Table, label: str) -> str:
    """The table as a LaTeX float; needs `booktabs` and nothing else. Intervals are set as sub- and superscripts."""
    body = [" & ".join([latex_escape(name), *map(_latex_cell, cells)]) + r" \\" for name, cells in table.rows]
    lines = [
        r"\begin{table}[tp]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}\renewcommand{\arraystretch}{1.15}",
        rf"\caption{{{latex_escape(table.title)}. {latex_escape(table.caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_latex_headings(table),
        " & ".join(["", *(latex_escape(name) for _, name in table.columns)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_headings(table: Table) -> list[str]:
    """The line of group headings and the rules under it; nothing where no group is named."""
    headings, rules, at = [], [], 2
    for name, span in table.groups():
        headings.append(rf"\multicolumn{{{span}}}{{c}}{{{latex_escape(name)}}}")
        rules += [rf"\cmidrule(lr){{{at}-{at + span - 1}}}"] if name else []
        at += span
    return [" & ".join(["", *headings]) + r" \\", "".join(rules)] if headings else []


def _latex_cell(cell: Cell) -> str:
    if not cell.lo:
        text = latex_escape(cell.text)
        return rf"\textbf{{{text}}}" if cell.best else text
    text = rf"\mathbf{{{cell.text}}}" if cell.best else cell.text
    return f"${text}_{{{cell.lo}}}^{{{cell.hi}}}$"


def to_html(table: Table, corner: str = "method") -> str:
    """The table as an HTML figure with `corner` over its labels; class `sortable`, each cell's number in `data-v` for scripts."""
    tags = [("th" if name else "td", name, span) for name, span in table.groups()]  # no rule under no heading
    top = "".join(f'<{tag} colspan="{span}">{html.escape(name)}</{tag}>' for tag, name, span in tags)
    top = f'<tr class="groups"><td></td>{top}</tr>' if top else ""
    names = "".join(f'<th class="key">{html.escape(name)}</th>' for _, name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>{"".join(map(_html_cell, cells))}</tr>\n' for label, cells in table.rows
    )
    return (
        f'<figure class="table"><h4>{html.escape(table.title)}</h4><div class="scroll"><table class="sortable">\n'
        f'<thead>{top}<tr><th class="key">{html.escape(corner)}</th>{names}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div><figcaption>{html.escape(table.caption)}</figcaption></figure>\n"
    )


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.best else text
    interval = f"<small>{html.escape(cell.lo)} to {html.escape(cell.hi)}</small>" if cell.lo else ""
    number = cell.text.split(" ")[0].lstrip("<")
    return f'<td data-v="{"" if number == DASH else html.escape(number)}">{text}{interval}</td>'
