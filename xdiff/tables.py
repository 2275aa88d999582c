"""The paper's tables from results/metrics/all.tsv: main.tsv, paired.tsv, posterior.tsv, ablation.tsv, tumours.tsv, swap.tsv,
anatomy.tsv, main.md and main.tex; and what the paper printed, in paper.md and paper.tex, which no command here makes.

The .tsv hold every number (the last four none where nothing is ablated, segmented, swapped, or a body). main.md and main.tex
are to read: one number of steps per estimate, but for the posterior checks, which show all; ablations in tables of their own.

`python -m xdiff.tables --metrics results/metrics/all.tsv --out results/tables [--skipped results/metrics/skipped.tsv]`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xdiff import ablation, anatomy, posterior_checks, printed_table, tumours
from xdiff.errors import InputError
from xdiff.layout import GAIN_OVER, is_reference, layout, method_rank
from xdiff.markup import Cell, Table, to_latex, to_markdown
from xdiff.stats import (
    COSTS,
    MEASURE,
    POINT,
    ROW,
    costs,
    fill_contrasts_given,
    is_curve,
    paired_difference,
    patient_values,
    read_metrics,
    summarise,
)

MAIN_COLUMNS = [*POINT[:-1], *ROW, *MEASURE, "K", "mean", "lo", "hi", "n", "volumes", *COSTS]
MAIN_COLUMNS += ["device", "split"]
_NUMBERS = ["thickness_mm", "steps", "K", "mean", "lo", "hi", "p", "n", "draws", "volumes", *COSTS]
_NUMBERS += ["of_ceiling", "of_ceiling_lo", "of_ceiling_hi", "own", "swapped", *anatomy.AGREEMENT, *anatomy.GAIN, "missing"]
PAIRED_COLUMNS = [*POINT, "region", *ROW, "reference", "reference_method", "mean", "lo", "hi", "p", "n"]


def main_numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every scalar measure as mean, 95 % interval, n patients, volumes, beside the cost of its row: MAIN_COLUMNS."""
    scalars = metrics[~is_curve(metrics)]
    out = summarise(scalars, [*POINT, *ROW, *MEASURE])
    family = ["trained_on", "cohort", "grid", "frame"]
    splits = scalars.groupby(family)["split"].agg(lambda s: " + ".join(sorted(set(s)))).rename("split")
    out = out.join(costs(scalars), on=[*POINT, *ROW]).join(splits, on=family).fillna({"device": ""})
    order = out["method"].map(method_rank)
    by = [*POINT[:-1], "order", *ROW, *MEASURE, "K"]
    return out.assign(order=order).sort_values(by, ignore_index=True)[MAIN_COLUMNS]


def read_main(path: Path | str) -> pd.DataFrame:
    """main.tsv as main_numbers returned it."""
    return _read(path, MAIN_COLUMNS).fillna({"device": "", "split": ""})


def read_paired(path: Path | str) -> pd.DataFrame:
    """paired.tsv as paired_numbers returned it."""
    return _read(path, PAIRED_COLUMNS)


def read_posterior(path: Path | str) -> pd.DataFrame:
    """posterior.tsv as posterior_checks.check_numbers returned it."""
    return _read(path, posterior_checks.COLUMNS)


def read_ablation(path: Path | str) -> pd.DataFrame:
    """ablation.tsv as ablation.numbers returned it."""
    return _read(path, ablation.COLUMNS).fillna({"device": ""})


def read_tumours(path: Path | str) -> pd.DataFrame:
    """tumours.tsv as tumours.numbers returned it."""
    return _read(path, tumours.COLUMNS)


def read_swap(path: Path | str) -> pd.DataFrame:
    """swap.tsv as tumours.swap_numbers returned it."""
    return _read(path, tumours.SWAP_COLUMNS)


def read_anatomy(path: Path | str) -> pd.DataFrame:
    """anatomy.tsv as anatomy.numbers returned it."""
    return _read(path, anatomy.COLUMNS)


def _read(path: Path | str, columns: list[str]) -> pd.DataFrame:
    table = fill_contrasts_given(pd.read_csv(path, sep="\t", dtype={c: str for c in columns if c not in _NUMBERS}))
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError(path, f"no column {', '.join(missing)}", f"the columns {' '.join(columns)}")
    return table


def paired_numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """PSNR of every row minus that of the references that are there, patient by patient, at every point.

    Columns: the point, region, method, estimate, steps, reference (gaussian | gaussian_local | best_trivial),
    reference_method, mean, lo, hi (dB), p (Wilcoxon signed rank, two-sided, not corrected for the number of rows), n.
    References are means, never samples. The best trivial row has the highest mean on these very patients, which favours it,
    never the method.
    """
    wanted = metrics["region"].isin(["unseen", "unseen_masked"]) & (metrics["metric"] == "psnr") & ~is_curve(metrics)
    values = patient_values(metrics[wanted & (metrics["method"] != "truth")], [*POINT, *ROW, "region"])
    rows = []
    for point, here in values.groupby([*POINT, "region"]):
        references = {name: name for name in GAIN_OVER}
        trivial = here[is_reference(here)]
        if len(trivial):
            references["best_trivial"] = trivial.groupby("method")["value"].mean().idxmax()
        for name, reference in references.items():
            itself = (here["method"] == reference) & (here["estimate"] == "mean")
            floor = here[itself].set_index("patient")["value"]
            for row, own in here[~itself].groupby(ROW) if len(floor) else ():
                difference = paired_difference(own.set_index("patient")["value"], floor)
                rows.append((*point, *row, name, reference, *difference))
    table = pd.DataFrame(rows, columns=PAIRED_COLUMNS)
    order = table["method"].map(method_rank)
    by = [*POINT, "region", "reference", "order", *ROW]
    return table.assign(order=order).sort_values(by, ignore_index=True)[PAIRED_COLUMNS]


def sections(
    numbers: pd.DataFrame,
    paired: pd.DataFrame,
    checks: pd.DataFrame,
    ablations: pd.DataFrame,
    masks: pd.DataFrame,
    swapped: pd.DataFrame,
    bodies: pd.DataFrame,
) -> list[tuple[str, list[Table]]]:
    """All tables to read, by family, from what main.tsv, paired.tsv, posterior.tsv, ablation.tsv, tumours.tsv, swap.tsv and
    anatomy.tsv hold."""
    more = [posterior_checks.tables(checks), ablation.tables(ablations), tumours.tables(masks, swapped), anatomy.tables(bodies)]
    return [(title, [*own, *(table for part in more for table in part.get(title, []))]) for title, own in layout(numbers, paired)]


def skipped_table(path: Path | str) -> Table | None:
    """The points left out before any reconstruction, as the file lists them; None where there are none.

    Any columns are printed as they are, but for `subject`, which is counted.
    """
    left_out = pd.read_csv(path, sep="\t", dtype=str).fillna("")
    if left_out.empty:
        return None
    if "subject" in left_out.columns:
        named = [c for c in left_out.columns if c != "subject"]
        left_out = left_out.groupby(named).size().reset_index(name="volumes").astype(str)
    columns = tuple(("", c) for c in left_out.columns[1:])
    rows = tuple((label, tuple(map(Cell, rest))) for label, *rest in left_out.itertuples(index=False, name=None))
    return Table("Points left out", "Listed, never shrunk to a K that fits.", columns, rows)


def markdown(parts: list[tuple[str, list[Table]]]) -> str:
    """main.md: one heading per family, one Markdown table per Table."""
    return "# Results\n\n" + "\n".join(f"## {title}\n\n" + "\n".join(map(to_markdown, tables)) for title, tables in parts)


def latex(parts: list[tuple[str, list[Table]]]) -> str:
    """main.tex: floats to \\input into a paper whose preamble has \\usepackage{booktabs}."""
    lines = ["% Made by python -m xdiff.tables for a text 17 cm wide; the preamble needs \\usepackage{booktabs}"]
    for i, (title, tables) in enumerate(parts):
        lines += [f"% {title}"]
        named = (Table(f"{title}: {t.title}", t.caption, t.columns, t.rows) for t in tables)
        lines += [to_latex(table, f"tab:{i}-{j}") for j, table in enumerate(named)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables that the head of this file names into the folder `--out`."""
    parser = argparse.ArgumentParser(
        prog="xdiff tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metrics", type=Path, required=True, help="results/metrics/all.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--skipped", type=Path, help="points left out, to list them under the tables")
    args = parser.parse_args(argv)
    metrics = read_metrics(args.metrics)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {"main": main_numbers(metrics), "paired": paired_numbers(metrics)}
    found["posterior"] = posterior_checks.check_numbers(metrics)
    found["ablation"] = ablation.numbers(metrics)
    found |= {"tumours": tumours.numbers(metrics), "swap": tumours.swap_numbers(metrics)}
    found["anatomy"] = anatomy.numbers(metrics)
    for name, table in found.items():
        table.to_csv(args.out / f"{name}.tsv", sep="\t", index=False, float_format="%.6g")
    parts = sections(*found.values())
    left_out = skipped_table(args.skipped) if args.skipped else None
    parts += [("Left out", [left_out])] if left_out else []
    (args.out / "main.md").write_text(markdown(parts), encoding="utf-8")
    (args.out / "main.tex").write_text(latex(parts), encoding="utf-8")
    (args.out / "paper.md").write_text(to_markdown(printed_table.table()), encoding="utf-8")
    (args.out / "paper.tex").write_text(to_latex(printed_table.table(), "tab:paper"), encoding="utf-8")


if __name__ == "__main__":
    main()
