"""The results as one HTML page that opens from the disk without a network, and the ledger of what they cost.

`python -m xdiff.report --tables results/tables --figures results/figures --out results/report/index.html
 [--data results/data_page/C/G ...] [--benchmarks results/benchmarks] [--title ...]` writes the page;
`python -m xdiff.report --ledger results/benchmarks` prints the ledger.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xdiff.errors import InputError
from xdiff.markup import to_html
from xdiff.tables import read_ablation, read_anatomy, read_main, read_paired, read_posterior, read_swap, read_tumours, sections

_STYLE = """
:root { --ink: #1b1b1b; --faint: #666; --rule: #d9d9d9; --band: #f6f6f4; --accent: #b34a00; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: var(--ink);
  max-width: 1080px; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; } h4 { font-size: .95rem; margin: 0 0 .4rem; }
nav a { color: var(--accent); margin-right: 1rem; text-decoration: none; } nav a:hover { text-decoration: underline; }
figure { margin: 1.2rem 0 2rem; } figure img { max-width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: .85rem; max-width: 62rem; margin-top: .5rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
thead { border-bottom: 1px solid var(--ink); border-top: 1.5px solid var(--ink); }
tbody { border-bottom: 1.5px solid var(--ink); }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } tbody th { font-weight: normal; }
tbody tr:nth-child(even) { background: var(--band); } tbody tr:hover { background: #fdf0e4; }
.groups th { border-bottom: 1px solid var(--rule); text-align: center; }
th.key { cursor: pointer; } th.key:hover { color: var(--accent); } th[data-dir="1"]::after { content: " \\2191"; }
th[data-dir="-1"]::after { content: " \\2193"; }
td small { display: block; color: var(--faint); font-size: .72rem; line-height: 1.2; }
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""
# Sorts a table by the clicked column: numbers, highest first, dashes last; a second click turns the order round.
_SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const keys = [...table.querySelectorAll("th.key")], body = table.tBodies[0], first = [...body.rows];
  keys.forEach((key, column) => key.addEventListener("click", () => {
    const dir = key.dataset.dir === "-1" ? 1 : -1;
    keys.forEach(other => delete other.dataset.dir);
    key.dataset.dir = dir;
    const value = row => row.cells[column].dataset.v;
    const order = (a, b) => {
      if (column === 0) return -dir * (first.indexOf(a) - first.indexOf(b));
      const x = parseFloat(value(a)), y = parseFloat(value(b));
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return dir * (x - y);
    };
    [...body.rows].sort(order).forEach(row => body.appendChild(row));
  }));
});
"""


def read_ledger(folder: Path | str) -> pd.DataFrame:
    """What each rule took, from Snakemake's benchmark files `<rule>/**/*.tsv` (or `<rule>.tsv`), in order of cost.

    Columns: rule, jobs, seconds (sum of wall time), cpu_seconds (sum), max_rss_mb (largest). Snakemake writes `-` or
    `NA` for what it could not sample, as in jobs of a few milliseconds: these count as unknown, not as zero.
    Raises InputError when the folder holds no benchmark, or one without a column `s`.
    """
    folder = Path(folder)
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        runs = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        if "s" not in runs.columns:
            raise InputError(path, f"columns {' '.join(runs.columns)}", "a Snakemake benchmark with a column s")
        inside = path.relative_to(folder)
        rule = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        numbers = runs.reindex(columns=["s", "cpu_time", "max_rss"]).apply(pd.to_numeric)
        rows.append((rule, numbers["s"].sum(), numbers["cpu_time"].sum(min_count=1), numbers["max_rss"].max()))
    if not rows:
        raise InputError(folder, "no benchmark files", "<rule>/**/*.tsv as Snakemake writes them")
    runs = pd.DataFrame(rows, columns=["rule", "seconds", "cpu_seconds", "max_rss_mb"])
    groups = runs.groupby("rule")
    ledger = groups.agg(jobs=("seconds", "size"), seconds=("seconds", "sum"), max_rss_mb=("max_rss_mb", "max"))
    ledger.insert(2, "cpu_seconds", groups["cpu_seconds"].sum(min_count=1))
    return ledger.reset_index().sort_values(["seconds", "rule"], ascending=[False, True], ignore_index=True)


def ledger_lines(ledger: pd.DataFrame) -> list[tuple[str, ...]]:
    """The ledger as text: a header, one line per rule, and the total."""
    lines = [("rule", "jobs", "seconds", "CPU seconds", "max RSS (MB)")]
    for row in ledger.itertuples(index=False):
        lines.append((row.rule, str(row.jobs), *(_count(v) for v in (row.seconds, row.cpu_seconds, row.max_rss_mb))))
    total = (ledger["seconds"].sum(), ledger["cpu_seconds"].sum(min_count=1), ledger["max_rss_mb"].max())
    return [*lines, ("total", str(ledger["jobs"].sum()), *map(_count, total))]


def _count(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def ledger_text(ledger: pd.DataFrame) -> str:
    """The ledger as a table for the terminal, columns aligned."""
    lines = ledger_lines(ledger)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def page(tables: Path, figures: Path, benchmarks: Path | None, title: str, data: Sequence[Path] = ()) -> str:
    """The whole page as one string of HTML without any reference to another file."""
    numbers = read_main(tables / "main.tsv")
    families = sections(
        numbers,
        read_paired(tables / "paired.tsv"),
        read_posterior(tables / "posterior.tsv"),
        read_ablation(tables / "ablation.tsv"),
        read_tumours(tables / "tumours.tsv"),
        read_swap(tables / "swap.tsv"),
        read_anatomy(tables / "anatomy.tsv"),
    )
    parts = [("figures", "Figures", _figures(figures)), ("tables", "Tables", _tables(families))]
    parts += [("data", "Data", "".join(map(_data, data)))] if data else []
    parts += [("ledger", "What it cost", _ledger(benchmarks))] if benchmarks else []
    parts += [("provenance", "Where the numbers come from", _provenance(numbers))]
    links = "".join(f'<a href="#{key}">{html.escape(name)}</a>' for key, name, _ in parts)
    body = "".join(f'<section id="{key}"><h2>{html.escape(name)}</h2>\n{text}</section>\n' for key, name, text in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n<nav>{links}</nav>\n{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def _figures(folder: Path) -> str:
    """Every figure of captions.json as an embedded PNG with its caption."""
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    return "".join(_figure(folder / f"{name}.png", name, caption, "captions.json") for name, caption in captions.items())


def _figure(path: Path, name: str, caption: str, named_by: str) -> str:
    if not path.is_file():
        raise InputError(path, "no such file", f"the figure that {named_by} names")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
    return f'<figure id="{html.escape(name)}">{image}<figcaption>{html.escape(caption)}</figcaption></figure>\n'


def _data(folder: Path) -> str:
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
    text = f"Source and licence: {source}. Contrasts: {', '.join(about['contrasts'])}. Grid: {grid}; {cropped}."
    sides = [(side, str(n["patients"]), str(n["subjects"]), about["split"][:12]) for side, n in about["sides"].items()]
    shapes = [
        (_times(s["spacing_mm"]) or "others", _sizes(s["smallest"], s["largest"]), str(s["subjects"])) for s in about["sources"]
    ]
    return (
        f"<h3>{html.escape(name)}</h3>\n<p>{html.escape(text)}</p>\n"
        + _plain_table(("side", "patients", "volumes", "split"), sides)
        + _plain_table(("source spacing (mm)", "voxels", "volumes"), shapes)
        + "".join(
            _figure(folder / f"{key}.png", f"{key}-{about['cohort']}-{about['grid']}", caption, "summary.json")
            for key, caption in about["captions"].items()
        )
    )


def _sizes(smallest: Sequence[int], largest: Sequence[int]) -> str:
    """`88 to 105 x 106 x 94`: a range along the axes along which volumes differ."""
    return " x ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in zip(smallest, largest, strict=True))


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _tables(families: list) -> str:
    note = "<p>A click on a heading sorts by that column; a second click turns the order round.</p>\n"
    return note + "".join(f"<h3>{html.escape(title)}</h3>\n{''.join(map(to_html, own))}" for title, own in families)


def _ledger(folder: Path) -> str:
    """Seconds per rule, with the total as the last line."""
    header, *lines = ledger_lines(read_ledger(folder))
    return _plain_table(header, lines) + "<p>Wall time is summed over jobs, also over those that ran side by side.</p>\n"


def _provenance(numbers: pd.DataFrame) -> str:
    """The split and the devices behind every family of results."""
    header = ("cohort", "trained on", "grid", "frame", "test patients", "volumes", "split", "devices")
    lines = []
    for (cohort, trained_on, grid, frame), own in numbers.groupby(["cohort", "trained_on", "grid", "frame"]):
        devices = sorted({name for joined in own["device"] if joined for name in joined.split(" + ")})
        counts = (str(own[c].max()) for c in ("n", "volumes"))
        lines.append((cohort, trained_on, grid, frame, *counts, ", ".join(sorted(set(own["split"]))), "; ".join(devices)))
    return _plain_table(header, lines)


def _plain_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>\n" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page, or print the ledger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, help="print what every rule took, from this folder of benchmarks, and stop")
    parser.add_argument("--tables", type=Path, help="folder with main.tsv, paired.tsv, posterior.tsv, ablation.tsv")
    parser.add_argument("--figures", type=Path, help="folder with captions.json and the PNG files")
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders that xdiff data_page wrote, one per cohort and grid"
    )
    parser.add_argument("--out", type=Path, help="the page to write, such as results/report/index.html")
    parser.add_argument("--benchmarks", type=Path, help="Snakemake's benchmarks, for the ledger on the page")
    parser.add_argument("--title", default="X-Diffusion: results", help="heading of the page")
    args = parser.parse_args(argv)
    if args.ledger:
        print(ledger_text(read_ledger(args.ledger)))
        return
    if not (args.tables and args.figures and args.out):
        parser.error("--tables, --figures and --out are needed to write the page (or --ledger to print the ledger)")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(args.tables, args.figures, args.benchmarks, args.title, args.data), encoding="utf-8")


if __name__ == "__main__":
    main()
