"""When not to use a model: where it does not beat the trivial rows, and what nobody has tried."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from xdiff.config import EMBEDDED, POLICIES
from xdiff.layout import Setting, chosen_ks, difference_from, in_setting, k_name, settings_in_order
from xdiff.planes import AXES
from xdiff.stats import POINT, ROW, is_curve, patient_values
from xdiff.trust.evidence import (
    HEADLINE,
    NATIVE,
    REGIONS,
    RIVALS,
    Trial,
    differences,
    distance_values,
    gains,
    gains_by_k,
    is_home,
    region_against,
    rivals_of,
    unseen,
)
from xdiff.trust.wording import (
    ALL_K,
    BAD,
    FEW_PATIENTS,
    GOOD,
    OPEN,
    Statement,
    amount,
    by_k,
    ks_of,
    not_measured,
    numbers_of,
    patients,
    together,
    verdict,
)

SLICES = [name for name in POLICIES if name not in ("swap", "projection")]  # ways of choosing slices from one's own volume


def limits(trials: Sequence[Trial], made: Sequence[str]) -> list[Statement]:
    """All statements of this section, in order. `trials`: of one model, its home first; `made`: cohorts that are no patients."""
    trial = trials[0]
    statements = [who(trial, made), *every_k(trial), every_distance(trial), frame(trial), *settings(trial), contrasts(trial)]
    return [*statements, *elsewhere(trials), trained_again(trial)]


def is_made(cohort: str, made: Sequence[str]) -> bool:
    """Whether the workflow makes this cohort: named so, or called after one that is embedded (`phantom-body-dxa`)."""
    return cohort in made or cohort.startswith(EMBEDDED)


def who(trial: Trial, made: Sequence[str]) -> Statement:
    """Whether there were patients at all, and enough."""
    n = trial.own(unseen(trial)).groupby("K")["patient"].nunique()
    topic = "Tested on enough real patients"
    if is_made(trial.cohort, made):
        text = f"{trial.cohort} is made by the workflow ({patients(n)}): this tests the code and says nothing about patients."
        return Statement(topic, BAD, text)
    enough = int(n.min()) >= FEW_PATIENTS
    home = "" if is_home(trial) else " It was never tested on the cohort it was trained on."
    text = (
        f"{trial.cohort}, {patients(n)}, none of them trained on; with fewer than {FEW_PATIENTS} intervals are too narrow.{home}"
    )
    return Statement(topic, GOOD if enough else BAD, text)


def every_k(trial: Trial) -> list[Statement]:
    """The K at which it is not shown to be closer to the truth than a rival, and those that nobody tried."""
    out = [_every_k(trial, rival) for rival in rivals_of(trial)]
    tried = sorted({int(k) for k in trial.own(unseen(trial))["K"]})
    left = [k for k in ALL_K if k not in tried]
    if left and trial.base.policy != "projection":
        out.append(not_measured("Any other number of slices", f"{ks_of(left)} (tried: {ks_of(tried)}; {trial.where})"))
    return [statement for statement in out if statement]


def _every_k(trial: Trial, rival: str) -> Statement | None:
    table = gains_by_k(trial, rival)
    if table.empty:
        return None
    doubtful, region = table[~(table["lo"] > 0)], REGIONS[region_against(rival)]
    topic = f"Better than {RIVALS[rival]} at every K tried"
    if doubtful.empty:
        least = table.loc[table["mean"].idxmin()]
        where = f"PSNR {region}; {patients(table['n'])}; {trial.where}"
        text = f"At {ks_of(table['K'])}; least at {k_name(int(least['K']))}: {amount(least, 'dB', signed=True)} ({where})."
        return Statement(topic, GOOD, text)
    text = f"Not at {by_k(doubtful, 'dB', signed=True)} (PSNR {region}; {patients(doubtful['n'])}; {trial.where})."
    return Statement(topic, together(map(verdict, doubtful["lo"], doubtful["hi"])), text)


def every_distance(trial: Trial) -> Statement:
    """The distances from a given slice at which it is not shown to be better than the first rival."""
    values, present = distance_values(trial), rivals_of(trial)
    topic = "Better at every distance from a given slice"
    if values.empty or not present:
        return not_measured(topic, "the table has no error by distance" if present else "no rival in the table")
    table = gains(trial, values, present[0], ["K", "x"])
    table = table[table["K"].isin(chosen_ks(table))]
    doubtful = table[~(table["lo"] > 0)]
    where = f"{patients(table['n'])}; against {RIVALS[present[0]]}; {trial.where}"
    if doubtful.empty:
        least = table.loc[table["mean"].idxmin()]
        at = f"{least['x']:g} mm, {k_name(int(least['K']))}"
        text = f"At {ks_of(table['K'])}; least {amount(least, 'dB', signed=True)} at {at} ({where})."
        return Statement(topic, GOOD, text)
    parts = [f"{k_name(int(k))}: {_doubtful(rows)}" for k, rows in doubtful.groupby("K")]
    return Statement(topic, together(map(verdict, doubtful["lo"], doubtful["hi"])), f"Not at {'; '.join(parts)} ({where}).")


def _doubtful(rows: pd.DataFrame) -> str:
    worst = rows.loc[rows["mean"].idxmin()]
    return f"{numbers_of(sorted(rows['x']))} mm, worst {amount(worst, 'dB', signed=True)} at {worst['x']:g} mm"


def frame(trial: Trial) -> Statement:
    """What it costs not to be told where the hidden volume lies, and whether it still beats the mean template then."""
    topic = "Works where nobody says where the head or body lies (scanner frame)"
    values = trial.psnr[trial.psnr["region"] == "unseen"]
    other = values[in_setting(values, trial.base._replace(frame="scanner"))]
    if trial.base.frame == "scanner":
        return Statement(topic, GOOD, f"All numbers of this card are in the scanner's frame ({trial.where}).")
    own = trial.own(other)
    if own.empty:
        return not_measured(topic, f"all numbers are in the frame {trial.base.frame}, which puts the hidden volume in the middle")
    lost = differences(own, trial.own(unseen(trial)), ["K"])
    over = gains(trial, other, "mean_template")
    text = f"Compared with {trial.base.frame}, PSNR {REGIONS[HEADLINE]} changes by {by_k(lost, 'dB', signed=True)} "
    text += f"({patients(lost['n'])}). "
    where = f"{trial.cohort}; {trial.base._replace(frame='scanner')}"
    if over.empty:
        return Statement(topic, OPEN, f"{text}The mean template was not tested there ({where}).")
    text += f"It is {by_k(over, 'dB', signed=True)} above {RIVALS['mean_template']} there ({patients(over['n'])}; {where})."
    return Statement(topic, together(map(verdict, over["lo"], over["hi"])), text)


def settings(trial: Trial) -> list[Statement]:
    """Other axes, ways of choosing slices, thicknesses and given contrasts: gain over the first rival, or that nobody tried."""
    values = trial.psnr[trial.psnr["region"] == "unseen_masked"]
    same = values[(values["frame"] == trial.base.frame) & (values["policy"] != "swap")]
    own, present = trial.own(same), rivals_of(trial)
    others = [s for s in settings_in_order(own, trial.base) if s != trial.base]
    out = [_setting(trial, setting, same, present[0]) for setting in others if present]
    tried = {"axes": ("axis", list(AXES)), "ways of choosing slices": ("policy", SLICES)}
    for what, (column, every) in tried.items():
        left = [name for name in every if name not in set(own[column])]
        if left and trial.base.policy != "projection":
            out.append(not_measured(f"Other {what}", ", ".join(left)))
    if own["thickness_mm"].nunique() < 2 and trial.base.policy != "projection":
        out.append(not_measured("Thick slices", f"all slices were {str(trial.base).split(', ')[3]}"))
    return [statement for statement in out if statement]


def _setting(trial: Trial, setting: Setting, values: pd.DataFrame, rival: str) -> Statement | None:
    topic = f"Better than {RIVALS[rival]} when slices are given otherwise: {difference_from(setting, trial.base)}"
    table = gains(trial, values[in_setting(values, setting)], rival)
    if table.empty:
        return None
    text = f"PSNR in the unseen foreground: {by_k(table, 'dB', signed=True)} ({patients(table['n'])}; {trial.cohort}; {setting})."
    return Statement(topic, together(map(verdict, table["lo"], table["hi"])), text)


def contrasts(trial: Trial) -> Statement:
    """Whether it holds for every contrast of the cohort; of another one nothing is known."""
    topic = "Holds for every contrast"
    scores = trial.evidence.scores
    wanted = (scores["metric"] == "psnr") & (scores["region"] == "unseen") & ~is_curve(scores) & (scores["method"] != "truth")
    rows = trial.at_base(scores[wanted])
    names = sorted(trial.own(rows)["contrast"].unique())
    if len(names) < 2:
        return not_measured(topic, f"{names[0]} alone was tested ({trial.where})")
    present = rivals_of(trial)
    if not present:
        return not_measured(topic, "no rival in the table")
    table = gains(trial, patient_values(rows, [*POINT, *ROW, "contrast"]), present[0], ["contrast", "K"])
    listed = ". ".join(f"{name}, {by_k(part, 'dB', signed=True)}" for name, part in table.groupby("contrast"))
    text = f"PSNR {REGIONS[HEADLINE]} above {RIVALS[present[0]]}: {listed} ({patients(table['n'])}; {trial.where}). "
    text += "Of others nothing is known."
    return Statement(topic, together(map(verdict, table["lo"], table["hi"])), text)


def elsewhere(trials: Sequence[Trial]) -> list[Statement]:
    """On cohorts that the model was not trained on: above what, if anything, of the same training it is."""
    away = [trial for trial in trials if not is_home(trial)]
    if not away:
        return [not_measured("Holds on other cohorts (scanners, organs)", "tested on the cohort that it was trained on alone")]
    return [_elsewhere(trial, rival) for trial in away for rival in (*rivals_of(trial), NATIVE)]


def _elsewhere(trial: Trial, rival: str) -> Statement:
    named = RIVALS.get(rival, f"the mean of the training volumes of {trial.cohort} itself")
    topic = f"On {trial.cohort}, which it was not trained on, better than {named}"
    table = gains_by_k(trial, rival)
    if table.empty:
        return not_measured(topic, "no such row in the table")
    where = f"{patients(table['n'])}; trained on {trial.model.trained_on}; {trial.where}"
    text = f"PSNR {REGIONS[region_against(rival)]}: {by_k(table, 'dB', signed=True)} ({where})."
    return Statement(topic, together(map(verdict, table["lo"], table["hi"])), text)


def trained_again(trial: Trial) -> Statement:
    """How much another training of the same recipe differs: the range of the mean PSNR over training seeds."""
    topic = "The same when it is trained again"
    scores = trial.evidence.scores
    wanted = (scores["metric"] == "psnr") & (scores["region"] == "unseen") & ~is_curve(scores)
    own = trial.own(trial.at_base(scores[wanted]))
    if own["train_seed"].nunique() < 2:
        return not_measured(topic, "trained once, so that intervals hold patients' variation alone")
    each = [patient_values(rows, ["K"]).groupby("K")["value"].mean() for _, rows in own.groupby("train_seed")]
    means = pd.concat(each).groupby(level="K")
    ends = zip(means.min().index, means.min(), means.max(), strict=True)
    spans = "; ".join(f"{k_name(int(k))}: {low:.2f} to {high:.2f} dB" for k, low, high in ends)
    n = patients(pd.Series([own["subject"].nunique()]))
    text = f"Mean PSNR {REGIONS[HEADLINE]}, over {own['train_seed'].nunique()} trainings: {spans} ({n}; {trial.where})."
    return Statement(topic, OPEN, text)
