"""What the statements of a card are made of: the long table, what tables.py makes of it, and differences paired by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from xdiff import anatomy, posterior_checks, tumours
from xdiff.config import parts_of
from xdiff.layout import Setting, base_grid, base_setting, in_setting, method_rank
from xdiff.stats import (
    POINT,
    ROW,
    is_curve,
    is_history,
    one_step_count,
    patient_values,
    rows_among,
    summarise_patients,
    without_ablations,
)
from xdiff.trust import WITHOUT_CARD

# What a method has to beat, and what these rows are called in a sentence.
RIVALS = {
    "gaussian": "the best linear estimate (gaussian)",
    "mean_template": "the mean of the training volumes (mean_template)",
    "linear": "linear interpolation between the given slices (linear)",
}
# Interpolation paints beyond the head and is charged for it in `unseen`: to be fair to it, it is met in the foreground alone.
HEADLINE, FOREGROUND = "unseen", "unseen_masked"
REGIONS = {HEADLINE: "in what was not given", FOREGROUND: "in the unseen foreground"}
NATIVE = "native_mean_template"  # on a cohort that the model was not trained on, the mean of that cohort's own training volumes


class Model(NamedTuple):
    """What a card is of; `grid` in either frame."""

    trained_on: str
    grid: str
    method: str


@dataclass(frozen=True)
class Evidence:
    """The long table without trainings, and masks, swaps, checks and bodies as tables.py has them."""

    scores: pd.DataFrame
    masks: pd.DataFrame
    swaps: pd.DataFrame
    checks: pd.DataFrame
    bodies: pd.DataFrame


@dataclass(frozen=True)
class Trial:
    """One model on one cohort: its evidence, the row (estimate, steps) that is judged, the base setting, and PSNR per patient.

    `psnr`: columns POINT, ROW, region, patient, value, volumes, of all methods, in dB.
    """

    model: Model
    cohort: str
    evidence: Evidence
    base: Setting
    row: tuple[str, int]
    psnr: pd.DataFrame

    @property
    def where(self) -> str:
        """The condition of what is said at the base setting."""
        return f"{self.cohort}; {self.base}"

    def at_base(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[in_setting(table, self.base)]

    def own(self, table: pd.DataFrame, any_row: bool = False) -> pd.DataFrame:
        """The method's rows of any table, of the estimate that is judged, or of any."""
        mask = table["method"] == self.model.method
        return table[mask if any_row else mask & (table["estimate"] == self.row[0]) & (table["steps"] == self.row[1])]


def gather(metrics: pd.DataFrame) -> Evidence:
    """`metrics`: as stats.read_metrics gives it."""
    scores = metrics[~is_history(metrics)]
    checks = posterior_checks.check_numbers(scores)
    return Evidence(scores, tumours.numbers(scores), tumours.swap_numbers(scores), checks, anatomy.numbers(scores))


def models(evidence: Evidence, methods: Sequence[str] = ()) -> list[Model]:
    """Every model in the table, in the order of the tables: of the named methods, else of all but trivial rows and ablations."""
    rows = without_ablations(evidence.scores) if not methods else evidence.scores
    wanted = rows["method"].isin(methods) if methods else ~rows["method"].isin(WITHOUT_CARD)
    found = rows.loc[wanted & (rows["metric"] == "psnr"), ["trained_on", "grid", "method"]].drop_duplicates()
    keys = {Model(*key)._replace(grid=base_grid(key[1])) for key in found.itertuples(index=False, name=None)}
    return sorted(keys, key=lambda m: (m.trained_on, m.grid, method_rank(m.method), m.method))


def trials_of(evidence: Evidence, model: Model) -> list[Trial]:
    """One per cohort, those that the model was trained on first."""
    scores = evidence.scores[evidence.scores["grid"].map(base_grid) == model.grid]
    trained = scores["trained_on"] == model.trained_on
    cohorts = scores.loc[trained, "cohort"].unique()
    trials = [_trial(evidence, model, cohort, _with_others(scores[scores["cohort"] == cohort], model)) for cohort in cohorts]
    return sorted(filter(None, trials), key=lambda trial: (not is_home(trial), trial.cohort))


def _with_others(scores: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Of one cohort, the rows of the model's training, and what else it must face: linear interpolation, which is run for one
    training alone as it learns nothing, and the mean of the cohort's own training volumes, called NATIVE."""
    here, native = (scores[scores["trained_on"] == name] for name in (model.trained_on, scores["cohort"].iloc[0]))
    parts = [here]
    if not (here["method"] == "linear").any():
        parts.append(native[native["method"] == "linear"])
    if model.trained_on != scores["cohort"].iloc[0]:
        parts.append(native[native["method"] == "mean_template"].assign(method=NATIVE))
    return pd.concat([rows.assign(trained_on=model.trained_on) for rows in parts if len(rows)])


def is_home(trial: Trial) -> bool:
    """Whether the model was trained on other patients of this cohort."""
    return trial.cohort == trial.model.trained_on or trial.cohort in parts_of(trial.model.trained_on)


def _trial(evidence: Evidence, model: Model, cohort: str, rows: pd.DataFrame) -> Trial | None:
    wanted = rows["region"].isin(["unseen", "unseen_masked"]) & (rows["metric"] == "psnr") & ~is_curve(rows)
    own = rows[wanted & (rows["method"] == model.method)]
    if own.empty:
        return None
    estimates = sorted(own["estimate"].unique(), key=lambda name: (name != "mean", name))
    judged = one_step_count(own[own["estimate"] == estimates[0]])
    values = patient_values(rows[wanted & (rows["method"] != "truth")], [*POINT, *ROW, "region"])
    others = (evidence.masks, evidence.swaps, evidence.checks, evidence.bodies)
    narrowed = Evidence(rows, *(_of(table, model, cohort) for table in others))
    return Trial(model, cohort, narrowed, base_setting(judged), (estimates[0], int(judged["steps"].iloc[0])), values)


def _of(table: pd.DataFrame, model: Model, cohort: str) -> pd.DataFrame:
    """The rows of all methods that were trained and tested where the model was."""
    same = (table["trained_on"] == model.trained_on) & (table["cohort"] == cohort)
    return table[same & (table["grid"].map(base_grid) == model.grid)]


def rivals_of(trial: Trial) -> list[str]:
    """Those of RIVALS that were tested beside the method."""
    present = set(trial.psnr.loc[trial.psnr["estimate"] == "mean", "method"])
    return [name for name in RIVALS if name in present and name != trial.model.method]


def gains(trial: Trial, values: pd.DataFrame, rival: str, keys: Sequence[str] = ("K",)) -> pd.DataFrame:
    """Value of the method minus that of the rival's mean, paired by patient: `keys`, mean, lo, hi (95 %), n, volumes.

    `values`: as Trial.psnr, of one region and setting; empty where no patient has both.
    """
    keys = list(keys)
    other = values[(values["method"] == rival) & (values["estimate"] == "mean")]
    return differences(trial.own(values), other, keys)


def differences(own: pd.DataFrame, other: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean of own - other over the patients that both have, by `keys`, with its 95 % bootstrap interval."""
    both = own.merge(other[[*keys, "patient", "value"]], on=[*keys, "patient"], suffixes=("", "_other"))
    both = both.assign(value=both["value"] - both["value_other"])
    if both.empty:
        return pd.DataFrame(columns=[*keys, "mean", "lo", "hi", "n", "volumes"])
    return summarise_patients(both[[*keys, "patient", "value", "volumes"]], keys)


def region_against(rival: str) -> str:
    """The region in which a method meets this rival."""
    return FOREGROUND if rival == "linear" else HEADLINE


def unseen(trial: Trial, region: str = HEADLINE) -> pd.DataFrame:
    """PSNR per patient in one region at the base setting, of all methods."""
    return trial.at_base(trial.psnr[trial.psnr["region"] == region])


def gains_by_k(trial: Trial, rival: str) -> pd.DataFrame:
    """PSNR above a rival's at the base setting, in its region: K, mean, lo, hi, n, volumes."""
    return gains(trial, unseen(trial, region_against(rival)), rival)


def distance_values(trial: Trial) -> pd.DataFrame:
    """PSNR per patient, K and distance (x, mm) at the base setting; without the bins that fewer than half the patients reach."""
    scores = trial.evidence.scores
    curve = trial.at_base(scores[(scores["x_name"] == "distance_mm") & (scores["metric"] == "psnr")])
    if curve.empty:
        return pd.DataFrame(columns=[*POINT, *ROW, "x", "patient", "value", "volumes"])
    values = patient_values(curve, [*POINT, *ROW, "x"])
    reached = values.groupby([*POINT, *ROW, "x"]).size().rename("n").reset_index()
    most = reached.groupby([*POINT, *ROW])["n"].transform("max")
    return rows_among(values, reached[2 * reached["n"] >= most], [*POINT, *ROW, "x"])
