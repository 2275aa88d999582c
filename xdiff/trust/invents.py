"""What a model invents, or leaves out: unseen lesions, other patients' anatomy, detail that is not there, false certainty."""

from __future__ import annotations

import pandas as pd

from xdiff.layout import base_setting, in_setting
from xdiff.stats import one_step_count, summarise
from xdiff.trust.evidence import Trial
from xdiff.trust.keeps import lesions, share_kept
from xdiff.trust.wording import (
    BAD,
    BAND,
    COVERAGE,
    DETAIL,
    GOOD,
    OPEN,
    SAMPLE_RATIO,
    Statement,
    all_within,
    by_k,
    ks_of,
    not_measured,
    patients,
    together,
    verdict,
)
from xdiff.tumours import CEILING, LESIONS, UNSEEN, regions_in

BANDS = {"band_1": "low", "band_2": "middle", "band_3": "high"}


def invents(trial: Trial) -> list[Statement]:
    """All statements of this section, in order."""
    statements = [tumours_unseen(trial), false_tumours(trial), *swapped(trial)]
    return [*statements, detail(trial), *samples(trial), intervals(trial)]


def tumours_unseen(trial: Trial) -> Statement:
    """Lesions that no given slice crosses: nobody can draw what was not told."""
    topic = "Tumours that no given slice crosses are there"
    own, real = lesions(trial, LESIONS[1])
    if own.empty or real.empty:
        return not_measured(topic, "no segmented volumes with such lesions in the table")
    text = (
        f"Share found by the segmenter: {by_k(own)}; in the real volumes {by_k(real)} ({patients(own['n'])} with such lesions; "
        f"{trial.cohort}; {base_setting(own)}). An empty place in such a volume says nothing."
    )
    return Statement(topic, together(share_kept(own, real)), text)


def false_tumours(trial: Trial) -> Statement:
    """Lesions where there are none, against the segmenter's own false ones on the real volumes."""
    topic = "No tumours where there are none"
    found = trial.evidence.masks
    found = found[found["metric"] == "false_lesions"]
    own = trial.own(found)
    if own.empty:
        return not_measured(topic, "no segmented volumes in the table")
    own = own[(own["region"] == regions_in(trial.evidence.masks)[0]) & in_setting(own, base_setting(own))]
    same = in_setting(found, base_setting(own)) & (found["region"] == own["region"].iloc[0])
    real = found[(found["method"] == CEILING) & same & found["K"].isin(own["K"])]
    if real.empty:
        return not_measured(topic, "the segmenter was not run on the real volumes")
    ceiling = real.set_index("K")["mean"]
    rows = own[own["K"].isin(ceiling.index)].itertuples()
    judged = [BAD if row.lo > ceiling[row.K] else GOOD if row.mean <= ceiling[row.K] else OPEN for row in rows]
    text = (
        f"False lesions per volume: {by_k(own)}; of the same segmenter on the real volumes {by_k(real)} ({patients(own['n'])}; "
        f"{trial.cohort}; {base_setting(own)})."
    )
    return Statement(topic, together(judged), text)


def swapped(trial: Trial) -> list[Statement]:
    """How much of the result is the patient's: the same places given from another patient's volume."""
    topic = "The result comes from the patient's own slices"
    own = trial.own(trial.evidence.swaps)
    if own.empty:
        return [not_measured(topic, "no volumes made from another patient's slices (policy swap) in the table")]
    return [_swapped(trial, f"{topic}: {metric}", metric, rows) for metric, rows in _measures(own)]


def _measures(own: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(what was scored, its rows at the base setting) of PSNR, and of the Dice of the whole lesion."""
    own = own[in_setting(own, base_setting(own))]
    parts = [("PSNR", own[own["metric"] == "psnr"])]
    if (own["metric"] == "dice").any():
        region = regions_in(own)[0] + UNSEEN
        parts.append((f"Dice of {region}", own[(own["metric"] == "dice") & (own["region"] == region)]))
    return [(name, rows) for name, rows in parts if len(rows)]


def _swapped(trial: Trial, topic: str, metric: str, rows: pd.DataFrame) -> Statement:
    unit = "dB" if metric == "PSNR" else ""
    other = "; ".join(f"{row.swapped:.2f} {unit}".strip() for row in rows.sort_values("K").itertuples())
    text = (
        f"Own slices instead of another test patient's at the same places add {by_k(rows, unit, signed=True)} to {metric} in "
        f"what was not given, over {other} ({patients(rows['n'])}; {trial.cohort}; {base_setting(rows)}). "
        "The rest it knows of everybody."
    )
    return Statement(topic, together(map(verdict, rows["lo"], rows["hi"])), text)


def detail(trial: Trial) -> Statement:
    """Whether fine detail is there at all: a mean leaves it out."""
    topic = f"Fine detail is there ({_named(trial.row)})"
    scores = trial.own(trial.at_base(trial.evidence.scores))
    rows = scores[(scores["metric"] == "sharpness") & (scores["region"] == "unseen_masked")]
    if rows.empty:
        return not_measured(topic, "no sharpness in the table")
    table = summarise(rows, ["K"])
    text = (
        f"Amplitude of fine detail (0.25 to 0.5 of the Nyquist frequency) over the truth's, two sections or more from a given "
        f"one: {by_k(table)} ({patients(table['n'])}; under {DETAIL:g} more than half of its power is missing; {trial.where})."
    )
    return Statement(topic, all_within(table, (DETAIL, float("inf"))), text)


def _named(row: tuple[str, int]) -> str:
    estimate, steps = row
    return estimate.replace("_", " ") + (f", {steps} steps" if steps > 1 else "")


def samples(trial: Trial) -> list[Statement]:
    """Whether draws scatter as those of a posterior would."""
    own = trial.own(trial.at_base(trial.evidence.checks), any_row=True)
    topics = ("Samples scatter as a posterior's draws", "Samples have as much detail as the truth")
    if own.empty:
        return [not_measured(topic, "no samples in the table") for topic in topics]
    own = one_step_count(own)
    steps = f"{int(own['steps'].iloc[0])} steps" if own["steps"].iloc[0] > 1 else "1 step"
    return [_scatter(trial, topics[0], own, steps), _bands(trial, topics[1], own, steps)]


def _scatter(trial: Trial, topic: str, own: pd.DataFrame, steps: str) -> Statement:
    rows = own[own["check"] == "sample_to_mean"].dropna(subset=["mean"])
    if rows.empty:
        return not_measured(topic, "no error of samples beside that of the mean in the table")
    text = (
        f"Squared error of one sample over that of the mean: {by_k(rows)}; of a posterior's draws it is 2 "
        f"({SAMPLE_RATIO[0]:g} to {SAMPLE_RATIO[1]:g} counts; above, samples scatter too widely, below, too little; {steps}, "
        f"{patients(rows['n'])}; {trial.where})."
    )
    return Statement(topic, all_within(rows, SAMPLE_RATIO), text)


def _bands(trial: Trial, topic: str, own: pd.DataFrame, steps: str) -> Statement:
    rows = own[own["check"].isin(BANDS)].dropna(subset=["mean"])
    if rows.empty:
        return not_measured(topic, "no variances of bands in the table")
    listed = ". ".join(f"{BANDS[check]} frequencies, {by_k(part)}" for check, part in rows.groupby("check"))
    text = (
        f"Variance of a sample over the truth's: {listed} ({BAND[0]:g} to {BAND[1]:g} counts as equal; {steps}, "
        f"{patients(rows['n'])}; {trial.where}). Detail that is as strong as the truth's need not be the patient's."
    )
    return Statement(topic, all_within(rows, BAND), text)


def intervals(trial: Trial) -> Statement:
    """Whether the standard deviation that comes with the volume tells how far off it is."""
    topic = "Its own uncertainty can be believed"
    scores = trial.own(trial.at_base(trial.evidence.scores))
    rows = scores[(scores["metric"] == "coverage_90") & (scores["region"] == "unseen_masked")]
    if rows.empty:
        return not_measured(topic, "no standard deviation was scored: the volume does not say how sure it is")
    table = summarise(rows, ["K"])
    low, high = (table.loc[mask, "K"] for mask in (table["mean"] < COVERAGE[0], table["mean"] > COVERAGE[1]))
    told = [f"too narrow, so overconfident, at {ks_of(low)}"] if len(low) else []
    told += [f"too wide, so overcautious, at {ks_of(high)}"] if len(high) else []
    told = f": {', '.join(told)}" if told else ""
    shares = table.assign(**{name: 100 * table[name] for name in ("mean", "lo", "hi")})
    text = (
        f"Share of unseen voxels inside its nominal 90 % interval: {by_k(shares, '%', 1)} "
        f"({100 * COVERAGE[0]:g} to {100 * COVERAGE[1]:g} % counts as right; {patients(table['n'])}; {trial.where}){told}."
    )
    return Statement(topic, all_within(table, COVERAGE), text)
