"""What every part of a method is worth: each ablation against its base, patient by patient, from the long table alone.

An ablation is a method named BASE-WHAT (stats.base_of), or a method trained on its cohort and others together (`a+b`) beside
itself trained on `a` alone. A block is (trained_on, cohort, grid) of the bases.

`python -m xdiff.ablation --metrics results/metrics/all.tsv --out results/ablation` writes ablation.tsv and ablation.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xdiff.config import parts_of
from xdiff.errors import InputError
from xdiff.layout import Setting, base_setting, families, in_setting, method_rank, seconds_cells, span
from xdiff.markup import DASH, Cell, Table, to_markdown
from xdiff.posterior_checks import check_numbers
from xdiff.stats import (
    POINT,
    ROW,
    base_of,
    bootstrap_mean,
    costs,
    is_curve,
    is_history,
    paired_difference,
    patient_values,
    read_metrics,
)

# A row of the tables: which method, trained on what, is set against which base (trained on the block's `trained_on`).
LINE = ["base_method", "method", "row_trained_on"]
COLUMNS = [*POINT, *LINE, *ROW[1:], "measure", "mean", "lo", "hi", "n", "device"]
CHECKED = ("sample_to_mean", "band_1", "band_2", "band_3")
DIFFERENCE = "_difference"
_BLOCK = ["trained_on", "cohort", "grid"]
# measure -> ((heading, name of its column), decimals)
_SAMPLE_COLUMNS = {
    "sample_to_mean": (("MSE", "sample / mean"), 2),
    "band_1": (("variance / truth's", "low"), 2),
    "band_2": (("variance / truth's", "middle"), 2),
    "band_3": (("variance / truth's", "high"), 2),
    "crps": (("", "CRPS"), 4),
    "evaluations": (("", "evaluations"), 0),
}


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Every base with its ablations, the base first: trained_on (of the base), cohort, grid and LINE; empty where there are none.

    `rows`: any table with trained_on, cohort, grid and method.
    """
    present = set(rows[[*_BLOCK, "method"]].drop_duplicates().itertuples(index=False, name=None))
    found = []
    for trained_on, cohort, grid, method in present:
        base, home = base_of(method), parts_of(trained_on)[0]
        if base and (trained_on, cohort, grid, base) in present:
            found.append((trained_on, cohort, grid, base, method, trained_on))
        elif home != trained_on and (home, cohort, grid, method) in present:
            found.append((home, cohort, grid, method, method, trained_on))
    found += [(*key[:4], key[3], key[0]) for key in found]  # the bases themselves
    table = pd.DataFrame(found, columns=[*_BLOCK, *LINE]).drop_duplicates()
    rank, itself = table["base_method"].map(method_rank), _is_base(table)
    return table.assign(rank=rank, later=~itself).sort_values(
        [*_BLOCK, "rank", "base_method", "later", "row_trained_on", "method"], ignore_index=True
    )[[*_BLOCK, *LINE]]


def _is_base(rows: pd.DataFrame) -> pd.Series:
    return (rows["method"] == rows["base_method"]) & (rows["row_trained_on"] == rows["trained_on"])


def numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every measure of every base and ablation at every point, as COLUMNS, in the order of the tables; empty without ablations.

    `metrics`: the long table as read_metrics gives it. `measure` is psnr (dB, region unseen) or crps (of an ensemble of samples,
    unseen_masked), the mean over patients; psnr_difference or crps_difference, the ablation minus its base on the same patients
    with the same estimate and number of steps; a check of posterior_checks.py; evaluations or seconds (medians over volumes; n
    is 0, device says where). lo and hi end 95 % bootstrap intervals over n patients.
    """
    measured = metrics[~is_history(metrics)]
    wanted = lines(measured)
    if wanted.empty:
        return pd.DataFrame(columns=COLUMNS)
    keys = pd.MultiIndex.from_frame(wanted[["row_trained_on", "cohort", "grid", "method"]])
    measured = measured[pd.MultiIndex.from_frame(measured[[*_BLOCK, "method"]]).isin(keys)]
    scored = [pd.DataFrame(_scores(_in_lines(values, wanted), name), columns=COLUMNS[:-1]) for name, values in _values(measured)]
    checks = _in_lines(check_numbers(measured), wanted)
    checks = checks[checks["check"].isin(CHECKED)].rename(columns={"check": "measure"})
    timeless = [table.assign(device="") for table in (*scored, checks)]
    together = [table for table in (*timeless, _costs(measured, wanted)) if len(table)]
    if not together:
        return pd.DataFrame(columns=COLUMNS)
    found = pd.concat(together, ignore_index=True).reindex(columns=COLUMNS)
    order = wanted.assign(line=range(len(wanted)))
    measures = [*(f"{name}{end}" for name in ("psnr", "crps") for end in ("", DIFFERENCE)), *CHECKED, "evaluations", "seconds"]
    found = found.merge(order, on=[*_BLOCK, *LINE]).assign(at=found["measure"].map(measures.index))
    return found.sort_values([*POINT, "line", "estimate", "steps", "at"], ignore_index=True)[COLUMNS]


def _values(metrics: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(measure, one value per patient, point and row) of what is compared patient by patient."""
    scalar = ~is_curve(metrics)
    psnr = scalar & (metrics["metric"] == "psnr") & (metrics["region"] == "unseen")
    crps = scalar & (metrics["metric"] == "crps") & (metrics["region"] == "unseen_masked")
    crps &= (metrics["estimate"] == "sample") & (metrics["seed"] < 0)
    for name, mask in (("psnr", psnr), ("crps", crps)):
        if mask.any():
            yield name, patient_values(metrics[mask], [*POINT, *ROW])


def _in_lines(rows: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the columns of LINE, once for every line they belong to; their trained_on becomes that of the base."""
    return rows.rename(columns={"trained_on": "row_trained_on"}).merge(wanted, on=["row_trained_on", "cohort", "grid", "method"])


def _scores(values: pd.DataFrame, measure: str) -> Iterator[tuple]:
    """Rows of a measure and of its difference from the base."""
    for key, here in values.groupby([*POINT, "base_method", *ROW[1:]]):
        point, base, row = key[: len(POINT)], key[len(POINT)], key[len(POINT) + 1 :]
        floor = here[_is_base(here)].set_index("patient")["value"]
        for (method, trained_on), own in here.groupby(["method", "row_trained_on"]):
            line, value = (*point, base, method, trained_on, *row), own.set_index("patient")["value"]
            yield (*line, measure, *bootstrap_mean(value), len(value))
            if len(floor) and not _is_base(own).all():
                apart = paired_difference(value, floor)
                yield (*line, f"{measure}{DIFFERENCE}", apart.mean, apart.lo, apart.hi, apart.n)


def _costs(metrics: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    cost = _in_lines(costs(metrics).reset_index(), wanted)
    long = cost.melt([*POINT, *LINE, *ROW[1:], "device"], ["evaluations", "seconds"], "measure", "mean")
    return long[long["mean"].notna()].assign(n=0)


# --- tables to read


def label(line: pd.Series) -> str:
    """`xdiff-no-trunk`, or `xdiff, also trained on ixi-2mm`."""
    more = parts_of(line["row_trained_on"])[1:] if line["row_trained_on"] != line["trained_on"] else ()
    return line["method"] + (f", also trained on {' and '.join(more)}" if more else "")


def common_steps(rows: pd.DataFrame) -> int:
    """Of the numbers of steps of samples at one K, the one that most lines have; of several, the largest."""
    counts = rows.drop_duplicates([*LINE, "steps"])["steps"].value_counts()
    return int(counts[counts == counts.max()].index.max())


def blocks(found: pd.DataFrame) -> Iterator[tuple[str, Setting, pd.DataFrame]]:
    """(title of the family, its base setting, rows in it with a column `label`), of every block of ablation.tsv."""
    for title, family in families(found):
        setting = base_setting(family)
        here = family[in_setting(family, setting)]
        yield title, setting, here.assign(label=here.apply(label, axis=1))


def tables(found: pd.DataFrame) -> dict[str, list[Table]]:
    """Title of a family (as layout.families names it) -> its tables: means, samples at each K, steps and solver.

    `found`: as `numbers` returns it or ablation.tsv holds it.
    """
    out: dict[str, list[Table]] = {}
    for title, setting, here in blocks(found):
        means, samples = here[here["estimate"] == "mean"], here[here["estimate"] == "sample"]
        own = [_mean_table(means, setting)] if (means["measure"] == "psnr").any() else []
        for k, drawn in samples.groupby("K"):
            own += [_sample_table(rows, setting, k, steps) for steps, rows in _at_common_steps(drawn)]
            several = drawn.groupby("label")["steps"].transform("nunique") > 1
            own += [_steps_table(drawn[several], setting, k)] if several.any() else []
        out[title] = own
    return out


def _at_common_steps(drawn: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """(steps, rows): every base and its ablations at the number of steps that most of them have."""
    steps_of = {base: common_steps(rows) for base, rows in drawn.groupby("base_method")}
    for steps in sorted(set(steps_of.values())):
        yield steps, drawn[(drawn["steps"] == steps) & (drawn["base_method"].map(steps_of) == steps)]


def _mean_table(rows: pd.DataFrame, setting: Setting) -> Table:
    """Lines x K: PSNR of a base, what its ablations differ by, and what a volume costs."""
    ks = sorted(rows.loc[rows["measure"] == "psnr", "K"].unique())
    times, devices = _times(rows)
    body = []
    for (name, line), time in zip(_by_line(rows), times, strict=True):
        cells = [_own_or_difference(line[line["K"] == k], "psnr", 2) for k in ks]
        body.append((name, (*cells, _cell(line, "evaluations", 0), time)))
    caption = (
        "What each part is worth in `mean`: PSNR in unseen (dB) of the base, and below it what its ablations differ from it by, "
        f"paired over {span(_patients(rows))} test patients, with the 95 % bootstrap interval; {setting}. evaluations: sections "
        f"through a network per volume; s / volume: median time on {devices}."
    )
    columns = (*(("PSNR in unseen", f"K = {k}") for k in ks), ("", "evaluations"), ("", "s / volume"))
    return Table("Ablation", caption, columns, tuple(body))


def _sample_table(rows: pd.DataFrame, setting: Setting, k: int, steps: int) -> Table:
    """Lines x what must hold of samples, CRPS as the base's own and what its ablations differ by."""
    present = [name for name in _SAMPLE_COLUMNS if name in set(rows["measure"])]
    times, devices = _times(rows)
    body = []
    for (name, line), time in zip(_by_line(rows), times, strict=True):
        cells = [
            _own_or_difference(line, m, _SAMPLE_COLUMNS[m][1]) if m == "crps" else _cell(line, m, _SAMPLE_COLUMNS[m][1])
            for m in present
        ]
        body.append((name, (*cells, time)))
    differs = (
        "; CRPS in unseen_masked (lower is better) of the base, and what its ablations differ from it by"
        if "crps" in present
        else ""
    )
    caption = f"{_told(rows, setting, devices)}{differs}."
    columns = (*(_SAMPLE_COLUMNS[m][0] for m in present), ("", "s / volume"))
    return Table(f"Ablation: samples, K = {k}, {_counted(steps)}", caption, columns, tuple(body))


def _steps_table(rows: pd.DataFrame, setting: Setting, k: int) -> Table:
    """One line per method and number of steps, of the methods drawn with several."""
    present = [name for name in _SAMPLE_COLUMNS if name in set(rows["measure"])]
    drawn = rows.assign(label=rows["label"] + ", " + rows["steps"].map(_counted))
    times, devices = _times(drawn)
    cells = [(name, [_cell(line, m, _SAMPLE_COLUMNS[m][1]) for m in present]) for name, line in _by_line(drawn)]
    body = tuple((name, (*own, time)) for (name, own), time in zip(cells, times, strict=True))
    lower = "; CRPS in unseen_masked (lower is better)" if "crps" in present else ""
    columns = (*(_SAMPLE_COLUMNS[m][0] for m in present), ("", "s / volume"))
    return Table(f"Ablation: steps and solver, K = {k}", f"{_told(rows, setting, devices)}{lower}.", columns, body)


def _told(rows: pd.DataFrame, setting: Setting, devices: str) -> str:
    return (
        f"Samples, means over {span(_patients(rows))} test patients with the 95 % bootstrap interval; {setting}. sample / mean: "
        "MSE in unseen of one sample over that of the same method's mean, should be 2; variance in three bands of frequency over "
        f"the truth's, should be 1; {DASH}: not measured; evaluations: sections through a network per volume; s / volume: median "
        f"time on {devices}"
    )


def _counted(steps: int) -> str:
    return f"{steps} step{'s' * (steps != 1)}"


def _patients(rows: pd.DataFrame) -> pd.Series:
    return rows.loc[rows["n"] > 0, "n"]


def _by_line(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return list(rows.groupby("label", sort=False))


def _own_or_difference(line: pd.DataFrame, measure: str, decimals: int) -> Cell:
    """The base's own value; of an ablation its difference from the base, always with a sign."""
    return _cell(line, measure, decimals) if _is_base(line).all() else _cell(line, f"{measure}{DIFFERENCE}", decimals, sign="+")


def _cell(line: pd.DataFrame, measure: str, decimals: int, sign: str = "") -> Cell:
    """A mean with its interval; the median over K of a cost, which has none; a dash where it was not measured."""
    found = line[line["measure"] == measure]
    if found.empty or found["mean"].isna().all():
        return Cell(DASH)
    if len(found) > 1:
        return Cell(f"{found['mean'].median():.{decimals}f}")
    text, lo, hi = (f"{round(v, decimals) + 0.0:{sign}.{decimals}f}" for v in found[["mean", "lo", "hi"]].iloc[0].astype(float))
    return Cell(text) if np.isnan(found["lo"].item()) else Cell(text, lo, hi)


def _times(rows: pd.DataFrame) -> tuple[list[Cell], str]:
    """The column of times of every line, in order, and the devices they were taken on."""
    timed = rows[rows["measure"] == "seconds"]
    timed = timed.assign(method=timed["label"], estimate="", steps=0).rename(columns={"mean": "seconds"})
    return seconds_cells(timed, [(name, "", 0) for name, _ in _by_line(rows)])


def main(argv: Sequence[str] | None = None) -> None:
    """Write ablation.tsv and ablation.md into the folder `--out`; InputError where the long table has no ablation."""
    parser = argparse.ArgumentParser(
        prog="xdiff ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metrics", type=Path, required=True, help="results/metrics/all.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args(argv)
    found = numbers(read_metrics(args.metrics))
    if found.empty:
        raise InputError(args.metrics, "no ablation", "rows of a method BASE-WHAT, or trained on a+b, beside those of its base")
    args.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(args.out / "ablation.tsv", sep="\t", index=False, float_format="%.6g")
    parts = [f"## {title}\n\n" + "\n".join(map(to_markdown, own)) for title, own in tables(found).items()]
    (args.out / "ablation.md").write_text("# Ablation\n\n" + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
