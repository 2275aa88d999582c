"""Is a sampler's output what draws of a posterior would be? Ratios with a known value, from the long table alone.

Of every method with samples, at every point: the error of its own mean against the exact posterior mean where a cohort has one
(`field_posterior`), the error of a sample against that of the mean, the variance in three bands of frequency, and CRPS. An
ablation is another method, hence another row; the tables to read leave BASE-WHAT to ablation.py. The checks are necessary, not
sufficient: a wrong sampler can pass them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from xdiff.layout import Setting, base_setting, difference_from, families, in_setting, method_rank, span
from xdiff.markup import DASH, Cell, Table
from xdiff.stats import (
    POINT,
    ROW,
    is_curve,
    one_step_count,
    paired_ratio,
    patient_values,
    rows_among,
    summarise,
    without_ablations,
)

CLOSED_FORM = "field_posterior"
# check -> ((heading, name of its column), decimals)
CHECKS = {
    "mean_to_closed_form": (("MSE", "mean / exact"), 3),
    "sample_to_mean": (("MSE", "sample / mean"), 2),
    "band_1": (("variance / truth's", "low"), 2),
    "band_2": (("variance / truth's", "middle"), 2),
    "band_3": (("variance / truth's", "high"), 2),
    "crps": (("", "CRPS"), 4),
    "mean_mae": (("", "MAE of mean"), 4),
}
COLUMNS = [*POINT, *ROW, "check", "mean", "lo", "hi", "n", "draws"]
_AT = [*POINT, "method"]


def check_numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every check of every method with samples, as COLUMNS; `metrics`: the long table as read_metrics gives it.

    `mean` is the ratio of two MSEs in region unseen, each a mean over patients, or the mean over patients of a band's variance
    relative to the truth's, of CRPS or MAE (unseen_masked; units of the truth's scale); lo and hi end its 95 % bootstrap
    interval over n patients; `draws` is the number of seeds a patient was drawn with. A check without its rows is left out.
    """
    samples = metrics[(metrics["estimate"] == "sample") & (metrics["seed"] >= 0)]
    draws = samples.groupby([*POINT, *ROW])["seed"].nunique().rename("draws").reset_index()
    ratios = pd.DataFrame(_error_ratios(metrics), columns=COLUMNS[:-1])
    measured = [table for table in (ratios, _scores(metrics, draws)) if len(table)]
    if not measured:
        return pd.DataFrame(columns=COLUMNS)
    found = pd.concat(measured).merge(draws, on=[*POINT, *ROW])
    order = {name: i for i, name in enumerate(CHECKS)}
    found = found.assign(rank=found["method"].map(method_rank), order=found["check"].map(order))
    return found.sort_values([*POINT, "rank", *ROW, "order"], ignore_index=True)[COLUMNS]


def check_rows(metrics: pd.DataFrame) -> pd.Series:
    """True for the band variances of samples, and for MAE of the same method's mean at the same point; shape (rows,).

    `metrics`: the long table, numbers as text or not. What else the checks are made of (psnr, crps), the main table shows too.
    """
    sampled = metrics["estimate"] == "sample"
    at = pd.MultiIndex.from_frame(metrics[_AT])
    own_mean = at.isin(at[sampled]) & (metrics["estimate"] == "mean")
    return (sampled & (metrics["metric"] == "band_variance")) | (own_mean & (metrics["metric"] == "mae"))


def _error_ratios(metrics: pd.DataFrame) -> Iterator[tuple]:
    """Rows of mean_to_closed_form and sample_to_mean, from the PSNR in `unseen` turned back into MSE."""
    wanted = (metrics["region"] == "unseen") & (metrics["metric"] == "psnr") & ~is_curve(metrics)
    psnr = metrics[wanted]
    errors = patient_values(psnr.assign(value=10 ** (-psnr["value"] / 10)), [*POINT, *ROW])
    means = one_step_count(errors[errors["estimate"] == "mean"])
    means = {at: own.set_index("patient")["value"] for at, own in means.groupby(_AT)}
    for key, own in errors[errors["estimate"] == "sample"].groupby([*POINT, *ROW]):
        point, method = key[: len(POINT)], key[len(POINT)]
        mean, exact = means.get((*point, method)), means.get((*point, CLOSED_FORM))
        if mean is not None and exact is not None:
            yield (*key, "mean_to_closed_form", *paired_ratio(mean, exact))
        if mean is not None:
            yield (*key, "sample_to_mean", *paired_ratio(own.set_index("patient")["value"], mean))


def _scores(metrics: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Rows of the bands, of CRPS of the draws (whose seed is minus their number), and of MAE of the method's own mean.

    `drawn`: points and rows (POINT, ROW) that have samples.
    """
    sampled, masked = metrics["estimate"] == "sample", (metrics["region"] == "unseen_masked") & ~is_curve(metrics)
    band = sampled & (metrics["metric"] == "band_variance") & (metrics["x_name"] == "band")
    crps = sampled & masked & (metrics["metric"] == "crps") & (metrics["seed"] < 0)
    mae = masked & (metrics["metric"] == "mae") & (metrics["estimate"] == "mean")
    bands = metrics[band].assign(check=metrics.loc[band, "x"].map("band_{:.0f}".format))
    own_mean = rows_among(metrics[mae], drawn, _AT)
    parts = [summarise(pd.concat([bands, metrics[crps].assign(check="crps")]), [*POINT, *ROW, "check"])]
    if len(own_mean):
        summary = summarise(one_step_count(own_mean), _AT).assign(check="mean_mae")
        parts.append(summary.merge(drawn[[*POINT, *ROW]], on=_AT))
    return pd.concat(parts)[COLUMNS[:-1]]


def tables(checks: pd.DataFrame) -> dict[str, list[Table]]:
    """Title of a family (as layout.families names it) -> its tables, one per frame, at the base setting.

    `checks`: as check_numbers returns them or posterior.tsv holds them.
    """
    out = {}
    for title, family in families(without_ablations(checks)):
        base = base_setting(family)
        frames = [base, *(base._replace(frame=f) for f in sorted(set(family["frame"]) - {base.frame}))]
        parts = [(setting, family[in_setting(family, setting)]) for setting in frames]
        out[title] = [_table(part, setting, base) for setting, part in parts if len(part)]
    return out


def _table(checks: pd.DataFrame, setting: Setting, base: Setting) -> Table:
    """One line per K, method and number of steps, in this order; a column is left out where no line has its number."""
    present = [name for name in CHECKS if name in set(checks["check"])]
    lines = checks.assign(rank=checks["method"].map(method_rank)).groupby(["K", "rank", "method", "steps"])
    body = []
    for (k, _, method, steps), own in lines:
        numbers = own.set_index("check")
        cells = [_cell(numbers.loc[name], CHECKS[name][1]) if name in numbers.index else Cell(DASH) for name in present]
        body.append((method, (Cell(str(k)), Cell(str(steps)), *cells)))
    apart = difference_from(setting, base)
    title = f"Posterior checks, {apart}" if apart else "Posterior checks"
    columns = (("", "K"), ("", "steps"), *(CHECKS[name][0] for name in present))
    return Table(title, _caption(checks, setting), columns, tuple(body))


def _cell(number: pd.Series, decimals: int) -> Cell:
    if pd.isna(number["mean"]):
        return Cell(DASH)
    text, lo, hi = (f"{number[name]:.{decimals}f}" for name in ("mean", "lo", "hi"))
    return Cell(text) if lo == "nan" else Cell(text, lo, hi)


def _caption(checks: pd.DataFrame, setting: Setting) -> str:
    """What each column should be, over how many patients and draws."""
    told = {
        "mean_to_closed_form": f"mean / exact: MSE in unseen of the method's own mean over that of the exact posterior mean "
        f"({CLOSED_FORM}), should be 1",
        "sample_to_mean": "sample / mean: MSE in unseen of one sample over that of the method's own mean, should be 2 (3.01 dB)",
        "band_1": "variance of a sample in three bands of frequency over the truth's, should be 1, a little more in "
        "bands of few modes, since it is a mean of ratios",
        "crps": "CRPS of the draws in unseen_masked (lower is better)",
        "mean_mae": "MAE of the method's own mean there, which is the CRPS of a certain answer; of a Gaussian posterior CRPS is "
        "0.71 of it",
    }
    present = set(checks["check"])
    columns = "; ".join(text for name, text in told.items() if name in present)
    return (
        f"What must hold of draws from a posterior. {columns}. Means over {span(checks['n'])} test patients (samples of each: "
        f"{span(checks['draws'])}), with the 95 % bootstrap interval over patients; {setting}. {DASH}: not measured. "
        "These checks are necessary, not sufficient: a sampler that fails one is wrong, one that passes all may be wrong still."
    )
