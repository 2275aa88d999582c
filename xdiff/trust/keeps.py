"""What a model keeps: the given slices, and whatever it knows of this very patient beyond the trivial rows."""

from __future__ import annotations

import pandas as pd

from xdiff.anatomy import NAMES
from xdiff.layout import base_setting, chosen_ks, in_setting, k_name
from xdiff.stats import CONTROL, patient_values
from xdiff.trust.evidence import REGIONS, RIVALS, Trial, distance_values, gains, gains_by_k, region_against, rivals_of
from xdiff.trust.wording import (
    BAD,
    EXACT,
    GOOD,
    LESIONS_KEPT,
    Statement,
    amount,
    by_k,
    ks_of,
    not_measured,
    patients,
    together,
    verdict,
)
from xdiff.tumours import CEILING, LESIONS


def keeps(trial: Trial) -> list[Statement]:
    """All statements of this section, in order."""
    return [given_slices(trial), *closer(trial), *by_distance(trial), *anatomy(trial), tumours_seen(trial)]


def given_slices(trial: Trial) -> Statement:
    """The largest error in any given voxel of any patient."""
    scores = trial.own(trial.at_base(trial.evidence.scores))
    rows = scores[(scores["region"] == "given") & (scores["metric"] == "max_error")]
    topic = "Given slices come back unchanged"
    if rows.empty:
        return not_measured(topic, "the table has no errors in given voxels")
    largest = rows["value"].max()
    n = patient_values(rows, ["K"]).groupby("K").size()
    text = (
        f"The largest error in any given voxel of any patient is {largest:.2g} of the intensity scale (up to {EXACT:g} counts as "
        f"unchanged; {ks_of(rows['K'])}, {patients(n)}; a maximum has no interval; {trial.where})."
    )
    return Statement(topic, GOOD if largest <= EXACT else BAD, text)


def closer(trial: Trial) -> list[Statement]:
    """For every rival: at which K the method is closer to the truth, and by how much."""
    present = rivals_of(trial)
    missing = [name for name in RIVALS if name not in present and name != trial.model.method]
    return [_closer(trial, rival) for rival in present] + [
        not_measured(_topic(name), "no such row in the table") for name in missing
    ]


def _topic(rival: str) -> str:
    return f"Closer to the truth than {RIVALS[rival]}"


def _closer(trial: Trial, rival: str) -> Statement:
    table = gains_by_k(trial, rival)
    shown = table[table["lo"] > 0]
    if table.empty:
        return not_measured(_topic(rival), f"no patient has both at the base setting ({trial.where})")
    if shown.empty:
        where = f"{ks_of(table['K'])}, {patients(table['n'])}; {trial.where}"
        text = f"At no measured number of slices ({where}): see below, when not to use it."
        return Statement(_topic(rival), together(map(verdict, table["lo"], table["hi"])), text)
    rest = "" if len(shown) == len(table) else f" Not shown at {ks_of(table.loc[~(table['lo'] > 0), 'K'])}: see below."
    region = REGIONS[region_against(rival)]
    text = f"PSNR {region} is higher: {by_k(shown, 'dB', signed=True)} ({patients(shown['n'])}; {trial.where}).{rest}"
    return Statement(_topic(rival), GOOD, text)


def by_distance(trial: Trial) -> list[Statement]:
    """How far from a given slice it is closer to the truth than the first rival, at up to two K."""
    values, present = distance_values(trial), rivals_of(trial)
    topic = "Closer to the truth far from a given slice"
    if values.empty or not present:
        return [not_measured(topic, "the table has no error by distance" if present else "no rival in the table")]
    rival = present[0]
    table = gains(trial, values, rival, ["K", "x"])
    return [_near(trial, rival, k, table[table["K"] == k]) for k in chosen_ks(table)]


def _near(trial: Trial, rival: str, k: int, table: pd.DataFrame) -> Statement:
    """The bins from the nearest on in which the interval is above 0 without a gap."""
    table = table.sort_values("x")
    shown = table[(table["lo"] > 0).cumprod() == 1]
    topic = f"Closer to the truth far from a given slice, {k_name(k)}"
    nearest = table.iloc[0]
    if shown.empty:
        text = (
            f"Not shown even next to a given slice: {amount(nearest, 'dB', signed=True)} against {RIVALS[rival]} at "
            f"{nearest['x']:g} mm ({patients(table['n'])}; {trial.where})."
        )
        return Statement(topic, verdict(nearest["lo"], nearest["hi"]), text)
    last = shown.iloc[-1]
    text = (
        f"Closer than {RIVALS[rival]} from {nearest['x']:g} mm ({amount(nearest, 'dB', signed=True)}) to {last['x']:g} mm "
        f"({amount(last, 'dB', signed=True)}) from the nearest given slice, of distances up to {table['x'].max():g} mm "
        f"({patients(shown['n'])}; voxels of the foreground, bins of 4 mm; {trial.where})."
    )
    return Statement(topic, GOOD, text)


def anatomy(trial: Trial) -> list[Statement]:
    """Volume, fat and spine: closer to this patient's than the training subjects' mean is?"""
    topic = "Volume, fat and spine of this patient"
    own = trial.own(trial.at_base(trial.evidence.bodies))
    own = own.dropna(subset=["gain"])
    if own.empty:
        return [not_measured(topic, f"no anatomy beside the control {CONTROL} in the table")]
    return [statement for k in chosen_ks(own) for statement in _anatomy_at(trial, k, own[own["K"] == k])]


def _anatomy_at(trial: Trial, k: int, own: pd.DataFrame) -> list[Statement]:
    """One statement of the measures that beat the control, one of those that do not."""
    own = own.assign(verdict=list(map(verdict, own["gain_lo"], own["gain_hi"])))
    missing = int(own["missing"].max())
    tail = f"{patients(own['n'])}; {trial.where}"
    tail = f"{missing} volumes could not be measured; {tail}" if missing else tail
    out = []
    for shown in (True, False):
        rows = own[(own["verdict"] == GOOD) == shown]
        if rows.empty:
            continue
        words = (
            "closer to the real ones than the control, the same value for everybody"
            if shown
            else "not shown to be closer than the control"
        )
        listed = "; ".join(_measure(row) for row in rows.to_dict("records"))
        topic = f"Volume, fat and spine of this patient, {k_name(k)}"
        text = f"Mean absolute error of the control ({CONTROL}) minus the method's: {listed}: {words} ({k_name(k)}; {tail})."
        out.append(Statement(topic, together(rows["verdict"]), text))
    return out


def _measure(row: dict) -> str:
    name, unit, factor = NAMES[row["metric"]]
    scaled = {"mean": factor * row["gain"], "lo": factor * row["gain_lo"], "hi": factor * row["gain_hi"]}
    return f"{name} {amount(scaled, unit, signed=True)}, of an error of {factor * row['mae']:.2f} {unit}"


def lesions(trial: Trial, region: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share of a patient's lesions found, of the method and on the real volumes: rows by K at the base setting of the masks."""
    found = trial.evidence.masks
    found = found[(found["metric"] == "found") & (found["region"] == region)]
    own = trial.own(found)
    if own.empty:
        return own, own
    base = base_setting(own)
    own = own[in_setting(own, base)]
    real = found[(found["method"] == CEILING) & in_setting(found, base) & found["K"].isin(own["K"])]
    return own, real


def share_kept(own: pd.DataFrame, real: pd.DataFrame) -> list[str]:
    """Verdict by K on the share of lesions found in generated volumes, against that in the real ones."""
    ceiling = real.set_index("K")["mean"]
    shared = own[own["K"].isin(ceiling.index)]
    return [GOOD if row.mean >= LESIONS_KEPT * ceiling[row.K] else BAD for row in shared[["K", "mean"]].itertuples()]


def tumours_seen(trial: Trial) -> Statement:
    """Lesions that a given slice crosses, against what the same segmenter finds in the real volumes."""
    topic = "Tumours that a given slice crosses are still there"
    own, real = lesions(trial, LESIONS[0])
    if own.empty or real.empty:
        return not_measured(topic, "no segmented volumes in the table")
    text = (
        f"Share found by the segmenter: {by_k(own)}; in the real volumes {by_k(real)} ({patients(own['n'])} with such lesions; "
        f"at least {LESIONS_KEPT:g} of the real share counts as kept; {trial.cohort}; {base_setting(own)})."
    )
    return Statement(topic, together(share_kept(own, real)), text)
