"""Do generated bodies have their patients' volume, fat and spine: agreement with the real ones, from the long table alone.

Measured by xdiff/metrics/anatomy.py. Beside the methods stands `population_mean`, the control: the training subjects' mean for
everybody. It knows nothing of the patient, and what does not come closer to the truth has not shown that it does.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from xdiff.layout import (
    Columns,
    Setting,
    base_setting,
    by_k,
    chosen_ks,
    families,
    in_setting,
    k_name,
    method_rank,
    row_labels,
    span,
    table_of,
)
from xdiff.markup import Table
from xdiff.stats import (
    ANATOMY,
    CONTROL,
    FOUND,
    POINT,
    ROW,
    TRUTH,
    of_anatomy,
    one_step_count,
    paired_difference,
    patient_values,
    summarise,
    without_ablations,
)

KEYS = [*POINT, *ROW, "metric"]
AGREEMENT = ["bias", "bias_lo", "bias_hi", "limit_lo", "limit_hi", "mae", "mae_lo", "mae_hi", "r", "concordance"]
GAIN = ["gain", "gain_lo", "gain_hi", "p"]
COLUMNS = [*KEYS, *AGREEMENT, *GAIN, "n", "volumes", "missing"]
NAMES = {  # what is printed: name, unit, factor
    "body_volume_l": ("volume", "l", 1),
    "fat_fraction": ("fat", "%", 100),
    "adipose_volume_l": ("adipose tissue", "l", 1),
    "spine_cobb_deg": ("Cobb", "deg", 1),
    "spine_lateral_mm": ("lateral", "mm", 1),
    "spine_kyphosis_deg": ("kyphosis", "deg", 1),
    "spine_lordosis_deg": ("lordosis", "deg", 1),
    "spine_curvature_per_m": ("curvature", "1/m", 1),
}
TESTS_THE_CODE = "On phantoms this tests the code, not the science."
_SUBJECT = ["trained_on", "cohort", "grid", "frame", "subject", "metric"]


def pairs(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of anatomy but those of TRUTH, with the columns `truth` and `difference` (value - truth), where both are known."""
    rows = metrics[of_anatomy(metrics) & metrics["metric"].isin(ANATOMY)]
    truth = rows[rows["method"] == TRUTH].drop_duplicates(_SUBJECT)  # the same at every point
    truth = truth[[*_SUBJECT, "value"]].rename(columns={"value": "truth"})
    both = rows[rows["method"] != TRUTH].merge(truth, on=_SUBJECT)
    return both.assign(difference=both["value"] - both["truth"])


def numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Agreement of every measure at every point with the truth, as COLUMNS, in the order of the tables; empty without bodies.

    bias: mean of value - truth over n patients, with its 95 % bootstrap interval. limit_lo, limit_hi: 95 % limits of agreement
    (limits). mae: mean absolute error. r: Pearson's; concordance: Lin's (correlations). gain: the control's mean absolute error
    minus this one's, paired, with its interval and Wilcoxon's p, two-sided. missing: volumes in which the measure could not be
    taken, of `volumes` and them; no number holds these.
    """
    both, found = pairs(metrics), _missing(metrics)
    if both.empty and found.empty:
        return pd.DataFrame(columns=COLUMNS)
    found = (_agreement(both).merge(found, on=KEYS, how="outer") if len(both) else found).reindex(columns=COLUMNS)
    counts = ["n", "volumes", "missing"]
    found[counts] = found[counts].fillna(0).astype(int)
    order = found.assign(order=found["method"].map(method_rank), at=found["metric"].map(list(ANATOMY).index))
    return order.sort_values([*POINT[:-1], "order", *ROW, "at", "K"], ignore_index=True)[COLUMNS]


def _agreement(both: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS but `missing`, of `pairs`."""
    errors = both.assign(value=both["difference"].abs())
    bias = summarise(both.assign(value=both["difference"]), KEYS).drop(columns=["n", "volumes"])
    found = summarise(errors, KEYS).rename(columns={"mean": "mae", "lo": "mae_lo", "hi": "mae_hi"})
    found = found.merge(bias.rename(columns={"mean": "bias", "lo": "bias_lo", "hi": "bias_hi"}), on=KEYS)
    more = [(*key, *limits(own), *correlations(own)) for key, own in by_patient(both).groupby(KEYS)]
    found = found.merge(pd.DataFrame(more, columns=[*KEYS, "limit_lo", "limit_hi", "r", "concordance"]), on=KEYS)
    return found.merge(_gains(errors), on=KEYS, how="left")


def _missing(metrics: pd.DataFrame) -> pd.DataFrame:
    """KEYS and `missing`: the volumes without a measure, told by FOUND, as a measure without value is no row."""
    tables = []
    for measures, name in FOUND.items():
        told = metrics[(metrics["metric"] == name) & ~metrics["method"].isin([TRUTH, CONTROL])]
        count = (1 - told["value"]).groupby([told[c] for c in [*POINT, *ROW]]).sum().rename("missing").reset_index()
        tables += [count.assign(metric=measure) for measure in measures]
    return pd.concat(tables)[[*KEYS, "missing"]]


def by_patient(both: pd.DataFrame) -> pd.DataFrame:
    """Of `pairs`: KEYS, patient, and the mean over a patient's volumes of value, truth, difference and its square (`square`)."""
    columns = {
        "value": both["value"],
        "truth": both["truth"],
        "difference": both["difference"],
        "square": both["difference"] ** 2,
    }
    parts = [
        patient_values(both.assign(value=column), KEYS).set_index([*KEYS, "patient"])["value"].rename(name)
        for name, column in columns.items()
    ]
    return pd.concat(parts, axis=1).reset_index()


def limits(own: pd.DataFrame) -> tuple[float, float]:
    """95 % limits of agreement: the bias and 1.96 standard deviations of the differences below and above it; NaN for one patient.

    own: rows of by_patient of one point and measure. Where a patient has several volumes (draws, visits), the mean of their
    squared deviations is taken, so that neither their scatter is lost nor does a patient weigh more.
    Source: Bland and Altman 1999, Stat Methods Med Res 8:135.
    """
    if len(own) < 2:
        return float("nan"), float("nan")
    bias = own["difference"].mean()
    squares = own["square"] - 2 * bias * own["difference"] + bias**2
    sd = np.sqrt(max(0.0, squares.sum()) / (len(own) - 1))
    return float(bias - 1.96 * sd), float(bias + 1.96 * sd)


def correlations(own: pd.DataFrame) -> tuple[float, float]:
    """(Pearson's r, Lin's concordance) of value and truth, rows of by_patient; NaN for one patient or a constant truth.

    The concordance, 2 cov / (var + var + (difference of means)^2), is 1 only where values equal the truth: unlike r it falls with
    bias and with shrinkage to the mean. r is NaN of a constant. Source: Lin 1989, Biometrics 45:255.
    """
    value, truth = own["value"].to_numpy(), own["truth"].to_numpy()
    if len(own) < 2 or not np.ptp(truth):
        return float("nan"), float("nan")
    (vv, vt), (_, tt) = np.cov(value, truth, ddof=0)
    concordance = 2 * vt / (vv + tt + (value.mean() - truth.mean()) ** 2)
    return float(vt / np.sqrt(vv * tt)) if np.ptp(value) else float("nan"), float(concordance)


def _gains(errors: pd.DataFrame) -> pd.DataFrame:
    """KEYS and GAIN of every row but the control's own."""
    rows = []
    values = patient_values(errors, KEYS)
    for point, here in values.groupby([*POINT, "metric"]):
        control = here[here["method"] == CONTROL].set_index("patient")["value"]
        for row, own in here[here["method"] != CONTROL].groupby(ROW):
            own = own.set_index("patient")["value"]
            if len(control.index.intersection(own.index)):
                rows.append((*point[:-1], *row, point[-1], *paired_difference(control, own)[:4]))
    return pd.DataFrame(rows, columns=[*KEYS, *GAIN])


# --- tables to read


def tables(found: pd.DataFrame) -> dict[str, list[Table]]:
    """Family -> its tables, from what anatomy.tsv holds; ablations left out, one number of steps per estimate."""
    if found.empty:
        return {}
    shown = without_ablations(one_step_count(found))
    labels = row_labels(shown)
    return {title: _of_family(own, labels) for title, own in families(shown)}


def _of_family(own: pd.DataFrame, labels: dict) -> list[Table]:
    base = base_setting(own)
    here = _in_units(own[in_setting(own, base)])
    made: list[Table | None] = []
    for k in chosen_ks(here):
        at = here[here["K"] == k]
        if at["n"].any():
            made += [table(at, k, base, labels) for table in (_errors, _limits, _gained, _concordance)]
    return [table for table in (*made, _not_measured(here, base, labels)) if table]


def _in_units(rows: pd.DataFrame) -> pd.DataFrame:
    """With numbers in the units that NAMES prints."""
    factors = rows["metric"].map({metric: factor for metric, (_, _, factor) in NAMES.items()})
    scaled = [c for c in (*AGREEMENT, *GAIN) if c not in ("r", "concordance", "p")]
    return rows.assign(**{c: rows[c] * factors for c in scaled})


def _columns(rows: pd.DataFrame, mean: str, lo: str = "", hi: str = "") -> Columns:
    """A column per measure, of the numbers that are called so in COLUMNS."""
    named = rows.assign(mean=rows[mean], lo=rows[lo] if lo else np.nan, hi=rows[hi] if hi else np.nan).dropna(subset=["mean"])
    columns = {("", f"{name} ({unit})"): named[named["metric"] == metric] for metric, (name, unit, _) in NAMES.items()}
    return {key: part for key, part in columns.items() if len(part)}


def _errors(at: pd.DataFrame, k: int, base: Setting, labels: dict) -> Table | None:
    columns = _columns(at, "mae")
    caption = (
        f"Mean absolute error of what is measured in each method's bodies, {k_name(k)}; {_patients(at)}, {base}. {_CONTROL} "
        f"Lowest of each column in bold: where that is the control, no method has shown anything. {TESTS_THE_CODE}"
    )
    lowest = [name for _, name in columns]
    return columns and table_of(f"Anatomy, absolute error, {k_name(k)}", caption, columns, labels, interval=False, lowest=lowest)


_CONTROL = f"{CONTROL}: the training subjects' mean for everybody, the control."


def _limits(at: pd.DataFrame, k: int, base: Setting, labels: dict) -> Table | None:
    columns = _columns(at, "bias", "limit_lo", "limit_hi")
    caption = (
        f"Bias (generated minus real) and, in brackets, the 95 % limits of agreement of Bland and Altman, {k_name(k)}; "
        f"{_patients(at)}, {base}. {_CONTROL} {TESTS_THE_CODE}"
    )
    return columns and table_of(f"Anatomy, bias and limits, {k_name(k)}", caption, columns, labels, ranked=False)


def _gained(at: pd.DataFrame, k: int, base: Setting, labels: dict) -> Table | None:
    columns = _columns(at, "gain", "gain_lo", "gain_hi")
    caption = (
        f"Absolute error of the control ({CONTROL}) minus that of each method, {k_name(k)}: above 0, the method knows something "
        f"of this very patient. Paired over {_patients(at)}, with the 95 % bootstrap interval; {base}. Wilcoxon p values are in "
        f"anatomy.tsv. {TESTS_THE_CODE}"
    )
    return columns and table_of(f"Anatomy, gain over the population mean, {k_name(k)}", caption, columns, labels)


def _concordance(at: pd.DataFrame, k: int, base: Setting, labels: dict) -> Table | None:
    columns = {("", name.split(" (")[0]): part for (_, name), part in _columns(at, "concordance").items()}
    caption = (
        f"Lin's concordance of generated and real, {k_name(k)}: 1 where they are equal, 0 of a constant; {_patients(at)}, "
        f"{base}. {_CONTROL} Pearson's r is in anatomy.tsv. {TESTS_THE_CODE}"
    )
    return columns and table_of(f"Anatomy, concordance, {k_name(k)}", caption, columns, labels, interval=False)


def _not_measured(here: pd.DataFrame, base: Setting, labels: dict) -> Table | None:
    """In how many of a method's volumes there is no body, or no spine: all of a measure's other numbers are without these."""
    rows = here[here["method"] != CONTROL]
    rows = rows.assign(mean=100 * rows["missing"] / (rows["missing"] + rows["volumes"]), lo=np.nan, hi=np.nan)
    columns = {}
    for measures, name in FOUND.items():
        columns |= by_k(rows[(rows["metric"] == measures[0]) & rows["K"].isin(chosen_ks(rows))], f"no {name.split('_')[0]}")
    caption = (
        f"Share (%) of each method's volumes in which no body, or no spine in it, could be found, so that nothing was measured: "
        f"they are in no other table of anatomy. {base}."
    )
    lowest = [name for _, name in columns]
    return columns and table_of("Anatomy, volumes not measured (%)", caption, columns, labels, interval=False, lowest=lowest)


def _patients(rows: pd.DataFrame) -> str:
    return f"{span(rows.loc[rows['n'] > 0, 'n'])} test patients"
