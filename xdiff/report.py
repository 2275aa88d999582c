"""The results as one HTML page that opens from the disk without a network, and the ledger of what they cost.

`python -m xdiff.report --tables results/tables --figures results/figures --out results/report/index.html
 [--cards results/trust] [--data results/data_page/C/G ...] [--benchmarks results/benchmarks] [--config-json CONFIG | --provenance
 provenance.json] [--title ...]` writes the page;
`python -m xdiff.report --ledger results/benchmarks` prints the ledger.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xdiff import provenance
from xdiff.errors import InputError
from xdiff.page import parts
from xdiff.page.blocks import document, paragraph, plain_table
from xdiff.page.overview import overview
from xdiff.tables import read_ablation, read_anatomy, read_main, read_paired, read_posterior, read_swap, read_tumours, sections

LEAD = (
    "A 3D MRI volume from one slice or a few: every method trained and tested on the same splits by patient, and scored on what "
    "it was not given. Every number on this page comes from the tables that this run made."
)


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


def page(
    tables: Path,
    figures: Path,
    title: str,
    about: Mapping[str, Any],
    cards: Path | None = None,
    data: Sequence[Path] = (),
    ledger: pd.DataFrame | None = None,
) -> str:
    """The whole page as one string of HTML without any reference to another file.

    tables, figures, cards, data: folders of xdiff tables, figures, trust and data_page; about: as provenance.here gives it;
    ledger: as read_ledger gives it. What is not given has no section.
    """
    numbers, paired = read_main(tables / "main.tsv"), read_paired(tables / "paired.tsv")
    families = sections(
        numbers,
        paired,
        read_posterior(tables / "posterior.tsv"),
        read_ablation(tables / "ablation.tsv"),
        read_tumours(tables / "tumours.tsv"),
        read_swap(tables / "swap.tsv"),
        read_anatomy(tables / "anatomy.tsv"),
    )
    made = [("overview", "Overview", overview(numbers, paired, about))]
    made += [("cards", "Trust cards", parts.cards(cards))] if cards else []
    made += [("figures", "Figures", parts.figures(figures)), ("tables", "Tables", parts.tables(families))]
    made += [("methods", "Methods", parts.methods(about["config"]))] if "config" in about else []
    made += [("data", "Data", "".join(map(parts.data, data)))] if data else []
    made += [("ledger", "What it cost", _ledger(ledger))] if ledger is not None else []
    made += [("provenance", "Where the numbers come from", parts.provenance(about, numbers))]
    return document(title, LEAD, made)


def _ledger(ledger: pd.DataFrame) -> str:
    """Seconds per rule, with the total in words below, so that it stays where it is when the table is sorted."""
    header, *lines, total = ledger_lines(ledger)
    text = f"In all {total[1]} jobs, {total[2]} seconds (CPU {total[3]}), at most {total[4]} MB of memory. "
    return plain_table(header, lines) + paragraph(text + "Wall time is summed over jobs, also over those that ran side by side.")


def read_provenance(path: Path) -> dict[str, Any]:
    """provenance.json of a committed reference. Raises InputError where it is none."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {**about, "config_sha256": provenance.sha256_of(about["config"])}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(path, f"{type(error).__name__} ({error})", "provenance.json as xdiff reference writes it") from error


def kept_ledger(about: Mapping[str, Any]) -> pd.DataFrame | None:
    """The ledger that a reference's provenance holds, or None where it has none."""
    lines = about.get("ledger", [])
    return pd.DataFrame(lines)[["rule", "jobs", "cpu_seconds", "seconds", "max_rss_mb"]] if lines else None


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page, or print the ledger."""
    parser = argparse.ArgumentParser(
        prog="xdiff report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledger", type=Path, help="print what every rule took, from this folder of benchmarks, and stop")
    parser.add_argument("--tables", type=Path, help="folder with main.tsv, paired.tsv, posterior.tsv, ablation.tsv")
    parser.add_argument("--figures", type=Path, help="folder with captions.json and the PNG files")
    parser.add_argument("--cards", type=Path, help="folder that xdiff trust wrote")
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders that xdiff data_page wrote, one per cohort and grid"
    )
    parser.add_argument("--out", type=Path, help="the page to write, such as results/report/index.html")
    parser.add_argument("--benchmarks", type=Path, help="Snakemake's benchmarks, for the ledger on the page")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config-json", type=json.loads, help="what was run, as provenance.selected gives it; the rest is told here"
    )
    where.add_argument("--provenance", type=Path, help="provenance.json of a committed reference, instead")
    parser.add_argument("--title", default="X-Diffusion: results", help="heading of the page")
    args = parser.parse_args(argv)
    if args.ledger:
        print(ledger_text(read_ledger(args.ledger)))
        return
    if not (args.tables and args.figures and args.out):
        parser.error("--tables, --figures and --out are needed to write the page (or --ledger to print the ledger)")
    about = read_provenance(args.provenance) if args.provenance else provenance.here(args.config_json)
    ledger = read_ledger(args.benchmarks) if args.benchmarks else kept_ledger(about)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = page(args.tables, args.figures, args.title, about, args.cards, args.data, ledger)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
