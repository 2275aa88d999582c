"""Patient-level statistics of results/metrics/all.tsv: reading and checking it, bootstrap intervals, paired tests.

The unit of every interval and test is the patient: contrasts are averaged per volume, then seeds, then the visits of a
patient, so that a patient with two visits and four contrasts counts once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from xdiff.data.split import patient_of
from xdiff.errors import InputError
from xdiff.signed_rank import signed_rank_p

# What was asked (POINT), what answered (ROW): the groups over which patients are averaged.
POINT = ["trained_on", "cohort", "grid", "frame", "axis", "policy", "contrasts_given", "thickness_mm", "K"]
ROW = ["method", "estimate", "steps"]
MEASURE = ["region", "metric"]
COSTS = ["seconds", "evaluations", "peak_mib"]  # of a volume; evaluations: sections through a network
LESION_METRICS = ["lesion_dice", "found", "distance_mm", "size_ml"]  # with x_name `lesion`: of one lesion each
MASK_METRICS = ["dice", "hd95", "lesion_hd95", "recall", "false_lesions", "volume_ml", *LESION_METRICS]
# of a body, in region `body`, contrast `all`: BODY_MEASURES and what is measured of the spine's centre-line (metrics/anatomy.py)
BODY_MEASURES = ("body_volume_l", "fat_fraction", "adipose_volume_l")
SPINE_MEASURES = ("spine_cobb_deg", "spine_lateral_mm", "spine_kyphosis_deg", "spine_lordosis_deg", "spine_curvature_per_m")
ANATOMY = (*BODY_MEASURES, *SPINE_MEASURES)
FOUND = {BODY_MEASURES: "body_found", SPINE_MEASURES: "spine_found"}  # 1 or 0: never undefined, so that misses are counted
ANATOMY_METRICS = [*ANATOMY, *FOUND.values()]
TRUTH, CONTROL = "truth", "population_mean"  # rows beside the methods': of the real volume, of the training subjects' mean
_TEXT = [*POINT[:-2], "method", "estimate", "subject", "contrast", *MEASURE, "x_name"]
_FREE_TEXT = ["indices", "norm", "split", "weights", "device"]
_WHOLE = ["K", "steps", "seed", "train_seed"]
_REAL = ["gap_mm", "thickness_mm", "x", "value"]
COLUMNS = [*_TEXT, *_FREE_TEXT, *_WHOLE, *_REAL]
_IDENTITY = [c for c in COLUMNS if c not in ("value", "norm", "split", "weights", "device")]
# 512 groups x 2000 resamples of float64 are 8 MB: the working set of one matrix product.
_GROUPS_AT_ONCE = 512


def read_metrics(path: Path | str) -> pd.DataFrame:
    """Read the long table, one measured number per row, and refuse what would make an average wrong.

    Empty `steps`, `seed`, `train_seed` become 0 and empty `thickness_mm` 0.0 (thin): these rows have no such setting.
    Rows whose value is NaN (a metric without a meaning there, such as the tumour of a healthy brain) are dropped and
    counted on stderr. Raises InputError on missing columns, no rows, text for numbers, duplicated rows, and
    mixed norms in one row of a table.
    """
    table = _read_columns(Path(path))
    table[_TEXT + _FREE_TEXT] = table[_TEXT + _FREE_TEXT].fillna("")
    if table["K"].isna().any():
        raise InputError(path, f"{int(table['K'].isna().sum())} rows without K", "an integer in every row")
    table[_WHOLE] = table[_WHOLE].fillna(0)
    broken = [c for c in _WHOLE if (table[c] % 1 != 0).any()]
    if broken:
        raise InputError(path, f"fractions in {', '.join(broken)}", "whole numbers")
    table[_WHOLE] = table[_WHOLE].astype(np.int64)
    table["thickness_mm"] = table["thickness_mm"].fillna(0.0)
    _refuse_duplicates(table, path)
    _refuse_mixed_norms(table, path)
    return _drop_undefined(table, path)


def _read_columns(path: Path) -> pd.DataFrame:
    """The file with its columns as text or float64, or an InputError that says what is not there."""
    types = {c: str for c in [*_TEXT, *_FREE_TEXT]} | {c: np.float64 for c in [*_WHOLE, *_REAL]}
    try:
        table = pd.read_csv(path, sep="\t", dtype=types)
    except ValueError as error:  # pandas names the text that is no number, but not the file
        raise InputError(path, str(error), f"numbers in {' '.join([*_WHOLE, *_REAL])}") from error
    table = fill_contrasts_given(table)
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise InputError(path, f"no column {', '.join(missing)}", f"the columns {' '.join(COLUMNS)}")
    if table.empty:
        raise InputError(path, "no rows", "one measured number per row")
    return table


def fill_contrasts_given(table: pd.DataFrame) -> pd.DataFrame:
    """A table written before sections could lack a contrast has no column `contrasts_given`: all were given."""
    return table if "contrasts_given" in table.columns else table.assign(contrasts_given="all")


def _refuse_duplicates(table: pd.DataFrame, path: Path | str) -> None:
    twice = table.duplicated(_IDENTITY)
    if twice.any():
        first = table.loc[twice, ["method", "estimate", "K", "axis", "policy", "subject", "contrast", *MEASURE, "x"]].iloc[0]
        example = " ".join(f"{name}={value}" for name, value in first.items())
        raise InputError(path, f"{int(twice.sum())} duplicated rows, first {example}", "each number once")


def _refuse_mixed_norms(table: pd.DataFrame, path: Path | str) -> None:
    norms = table[[*POINT, *ROW, "norm"]].drop_duplicates()
    mixed = norms[norms.duplicated([*POINT, *ROW], keep=False)]
    if len(mixed):
        first = mixed.iloc[0]
        raise InputError(path, f"norms {sorted(mixed['norm'].unique())} for {first['method']} K={first['K']}", "one norm")


def _drop_undefined(table: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    undefined = table["value"].isna()
    if undefined.any():
        counts = table.loc[undefined, MEASURE].value_counts().head(8)
        listed = ", ".join(f"{metric} in {region}: {n}" for (region, metric), n in counts.items())
        print(f"{path}: {int(undefined.sum())} undefined values left out ({listed})", file=sys.stderr)
    return table[~undefined].reset_index(drop=True)


def is_curve(metrics: pd.DataFrame) -> pd.Series:
    """True for the rows of curves and bands (which have an x), False for scalars; shape (rows,)."""
    return metrics["x_name"] != ""


def is_history(metrics: pd.DataFrame) -> pd.Series:
    """True for the rows that tell how a training went, on validation and training subjects; shape (rows,)."""
    return metrics["metric"].str.startswith("history_")


def of_masks(metrics: pd.DataFrame) -> pd.Series:
    """True for the rows of segmentations of volumes, False for those of the volumes themselves; shape (rows,)."""
    return metrics["metric"].isin(MASK_METRICS)


def of_anatomy(metrics: pd.DataFrame) -> pd.Series:
    """True for the rows of what bodies measure, of any method, of TRUTH and of CONTROL; shape (rows,)."""
    return metrics["metric"].isin(ANATOMY_METRICS)


def base_of(method: str) -> str:
    """The method that this one is an ablation of: `xdiff` of `xdiff-no-trunk`, by the first hyphen; "" for no ablation."""
    base, _, what = method.partition("-")
    return base if base and what else ""


def without_ablations(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without the ablations of a method that stands beside them (same training set, cohort and grid).

    They would bury the methods that are compared, and have a table and a figure of their own (ablation.py).
    """
    keys = ["trained_on", "cohort", "grid", "method"]
    present = set(rows[keys].drop_duplicates().itertuples(index=False, name=None))
    hidden = [key for key in present if base_of(key[-1]) and (*key[:-1], base_of(key[-1])) in present]
    return rows[~pd.MultiIndex.from_frame(rows[keys]).isin(hidden)] if hidden else rows


def costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """What every row cost, indexed by POINT and ROW: seconds, evaluations, peak_mib (medians over volumes) and device.

    `seconds` is empty where the volumes of a row were made on several devices, since times are never compared across devices.
    """
    timed = metrics[metrics["metric"].isin(COSTS) & ~is_curve(metrics)]
    cost = timed.groupby([*POINT, *ROW, "metric"])["value"].median().unstack("metric")
    cost = cost.reindex(columns=COSTS)
    devices = timed.groupby([*POINT, *ROW])["device"]
    cost["device"] = devices.agg(lambda d: " + ".join(sorted(set(d))))
    cost.loc[devices.nunique().reindex(cost.index) > 1, "seconds"] = np.nan
    return cost


def one_step_count(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of an estimate drawn with several numbers of steps, those with one: asked at most points, then the largest.

    `rows`: any table with the columns POINT and ROW. A sweep over steps has a figure of its own; in other figures and tables
    its lines would bury the methods that are compared.
    """
    family = ["trained_on", "cohort", "grid", "method", "estimate"]
    asked = rows[[*POINT, *ROW]].drop_duplicates().groupby([*family, "steps"]).size().rename("points").reset_index()
    kept = asked.sort_values(["points", "steps"]).drop_duplicates(family, keep="last")
    return rows_among(rows, kept, [*family, "steps"])


def rows_among(rows: pd.DataFrame, kept: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The rows whose `keys` are together in `kept` too."""
    keys = list(keys)
    return rows[pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(kept[keys]))]


def patient_values(metrics: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One value per patient and group: columns `keys`, patient, value, volumes (visits behind the value).

    Averages over contrasts, then seeds and training seeds, then visits, in this order: a missing contrast of one seed
    weighs no more than the others.
    """
    keys = list(keys)
    frame = metrics[[*keys, "subject", "seed", "train_seed", "value"]].copy()
    for name in [*keys, "subject"]:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype("category")  # grouping by codes is ten times faster than by strings
    for by in ([*keys, "subject", "seed", "train_seed"], [*keys, "subject"]):
        frame = frame.groupby(by, observed=True, sort=False)["value"].mean().reset_index()
    patients = {subject: patient_of(subject) for subject in frame["subject"].unique()}
    frame["patient"] = frame["subject"].map(patients).astype("category")
    grouped = frame.groupby([*keys, "patient"], observed=True, sort=True)["value"]
    out = grouped.agg(value="mean", volumes="size").reset_index()
    return out.astype({c: metrics[c].dtype for c in keys} | {"patient": str})


def summarise(metrics: pd.DataFrame, keys: Sequence[str], n_boot: int = 2000) -> pd.DataFrame:
    """Mean over patients and 95 % bootstrap interval of every group: `keys`, mean, lo, hi, n (patients), volumes."""
    return summarise_patients(patient_values(metrics, keys), keys, n_boot)


def summarise_patients(values: pd.DataFrame, keys: Sequence[str], n_boot: int = 2000) -> pd.DataFrame:
    """The same from one value per patient and group (`keys`, patient, value, volumes), as patient_values gives them."""
    keys = list(keys)
    values = values.sort_values([*keys, "patient"])
    groups = values.groupby(keys, sort=False)
    out = groups["volumes"].agg(n="size", volumes="sum").reset_index()
    out[["mean", "lo", "hi"]] = np.nan
    starts = np.concatenate([[0], np.cumsum(out["n"].to_numpy())[:-1]])  # the groups are contiguous
    flat = values["value"].to_numpy()
    for n in out["n"].unique():
        rows = np.flatnonzero(out["n"].to_numpy() == n)
        for part in np.split(rows, range(_GROUPS_AT_ONCE, len(rows), _GROUPS_AT_ONCE)):
            stacked = flat[starts[part][:, None] + np.arange(n)]
            out.loc[part, ["mean", "lo", "hi"]] = _intervals(stacked, n_boot, seed=0)
    return out[[*keys, "mean", "lo", "hi", "n", "volumes"]]


def bootstrap_mean(values_by_patient: pd.Series, n_boot: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over patients with its 95 % percentile bootstrap interval, as (mean, lo, hi).

    `values_by_patient`: one number per row, indexed by patient; rows of one patient (visits) are averaged first.
    The interval of fewer than two patients, or of infinite values, is NaN. Raises ValueError on no values or NaN.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    means = _by_patient(values_by_patient).to_numpy()
    mean, lo, hi = _intervals(means[None], n_boot, seed)[0]
    return float(mean), float(lo), float(hi)


class PairedDifference(NamedTuple):
    """Mean of a - b over the patients in both, its 95 % bootstrap interval, Wilcoxon signed-rank p, patients."""

    mean: float
    lo: float
    hi: float
    p: float
    n: int


def paired_difference(a: pd.Series, b: pd.Series, n_boot: int = 2000, seed: int = 0) -> PairedDifference:
    """Compare two methods on the patients that both have; `a`, `b`: values indexed by patient (visits are averaged).

    p is two-sided; it is 1 where no patient differs, and it cannot fall below 2^(1-n): six patients are the least
    that can give p < 0.05. Raises ValueError when no patient is in both.
    """
    ours, theirs = _of_both(a, b)
    difference = ours - theirs
    mean, lo, hi = _intervals(difference[None], n_boot, seed)[0]
    return PairedDifference(float(mean), float(lo), float(hi), signed_rank_p(difference), len(difference))


class PairedRatio(NamedTuple):
    """Mean of a over the mean of b, over the patients in both; its 95 % bootstrap interval; patients."""

    ratio: float
    lo: float
    hi: float
    n: int


def paired_ratio(a: pd.Series, b: pd.Series, n_boot: int = 2000, seed: int = 0) -> PairedRatio:
    """Ratio of two means over the patients that both have; `a`, `b` >= 0: values indexed by patient (visits are averaged).

    A patient is drawn with both its values. NaN where b is 0 in all patients; the interval is NaN where it is 0 in one, where
    a value is infinite, or of fewer than two patients. Raises ValueError when no patient is in both.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 10.3 (a ratio of means).
    """
    above, below = _of_both(a, b)
    ratio = above.mean() / below.mean() if below.any() else np.nan
    if len(above) < 2 or not (np.isfinite(above).all() and np.isfinite(below).all() and below.all()):
        return PairedRatio(float(ratio), np.nan, np.nan, len(above))
    weights = _resampling_weights(len(above), n_boot, seed)
    lo, hi = np.quantile((weights @ above) / (weights @ below), [0.025, 0.975])
    return PairedRatio(float(ratio), float(lo), float(hi), len(above))


def _of_both(a: pd.Series, b: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) of the patients that are in both, sorted by patient. Raises ValueError when there is none."""
    a, b = _by_patient(a), _by_patient(b)
    both = a.index.intersection(b.index)
    if both.empty:
        raise ValueError(f"no patient in both: {len(a)} and {len(b)} values")
    both = both.sort_values()
    return a.loc[both].to_numpy(), b.loc[both].to_numpy()


def _by_patient(values: pd.Series) -> pd.Series:
    """Mean per patient, sorted by patient, so that the result does not depend on the order of the rows."""
    if values.empty or values.isna().any():
        raise ValueError(f"{int(values.isna().sum())} NaN among {len(values)} values, expected at least one and no NaN")
    if values.index.is_unique:  # the rule; grouping would take most of the time of thousands of tests
        return values.sort_index()
    return values.groupby(level=0, sort=True).mean()


@lru_cache(maxsize=32)
def _resampling_weights(n: int, n_boot: int, seed: int) -> np.ndarray:
    """Weights (n_boot, n) of bootstrap means: how often each of n patients is drawn, over n; every row sums to 1."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot) / n


def _intervals(values: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """Mean, lower and upper 95 % bound of every row of `values` (groups, patients); shape (groups, 3)."""
    out = np.full((len(values), 3), np.nan)
    out[:, 0] = values.mean(axis=1)
    bounded = np.isfinite(values).all(axis=1)
    if values.shape[1] >= 2 and bounded.any():
        means = values[bounded] @ _resampling_weights(values.shape[1], n_boot, seed).T
        out[bounded, 1:] = np.quantile(means, [0.025, 0.975], axis=1).T
    return out
