"""What each figure shows, as numbers (the data behind it) and as a caption that states them."""

from __future__ import annotations

import pandas as pd

from xdiff.layout import (
    TRIVIAL,
    Setting,
    base_setting,
    chosen_ks,
    difference_from,
    families,
    in_setting,
    is_reference,
    row_labels,
    settings_in_order,
    span,
)
from xdiff.panel import Panel
from xdiff.stats import POINT, ROW, is_curve, patient_values, summarise, summarise_patients


class NothingToShow(LookupError):
    """A figure has no data; the message says which."""


def drawable(metrics: pd.DataFrame) -> pd.DataFrame:
    """Without the rows `truth` (infinite) and `zeros` (a constant 10 dB below all others, which would squeeze them)."""
    return metrics[~metrics["method"].isin(["truth", "zeros"])]


def psnr(metrics: pd.DataFrame) -> pd.DataFrame:
    """PSNR in unseen and unseen_masked, summarised per point, row and region. Raises NothingToShow if there is none."""
    wanted = metrics["region"].isin(["unseen", "unseen_masked"]) & (metrics["metric"] == "psnr") & ~is_curve(metrics)
    if not wanted.any():
        raise NothingToShow("no scalar rows of psnr in unseen or unseen_masked")
    return summarise(metrics[wanted], [*POINT, *ROW, "region"])


def gains(metrics: pd.DataFrame) -> pd.DataFrame:
    """Patient-paired PSNR gain in `unseen` over the gaussian row of every row that is not trivial; may be empty."""
    wanted = (metrics["region"] == "unseen") & (metrics["metric"] == "psnr") & ~is_curve(metrics)
    values = patient_values(metrics[wanted], [*POINT, *ROW])
    floor = values[(values["method"] == "gaussian") & is_reference(values)]
    floor = floor.groupby([*POINT, "patient"])["value"].mean().rename("floor").reset_index()
    pairs = values[~values["method"].isin(TRIVIAL)].merge(floor, on=[*POINT, "patient"])
    return summarise_patients(pairs.assign(value=pairs["value"] - pairs["floor"]), [*POINT, *ROW])


def distance_curves(metrics: pd.DataFrame) -> pd.DataFrame:
    """PSNR per bin of distance (x, mm); bins that fewer than half the patients reach are left out."""
    wanted = (metrics["x_name"] == "distance_mm") & (metrics["metric"] == "psnr")
    if not wanted.any():
        raise NothingToShow("no curve rows (metric psnr, x_name distance_mm)")
    curves = summarise(metrics[wanted], [*POINT, *ROW, "x"])
    most = curves.groupby([*POINT, *ROW])["n"].transform("max")
    return curves[2 * curves["n"] >= most]


def setting_panels(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of every family asked in several settings, at K = 1 and 5 where there are such K.

    The rows have a column `setting`, in words; the base setting comes first, then axes, policies, frames, thicknesses, contrasts.
    """
    summary = psnr(metrics)
    panels = []
    for title, own in families(summary[summary["region"] == "unseen_masked"]):
        base = base_setting(own)
        parts = [own[in_setting(own, s)].assign(setting=_named(s, base)) for s in settings_in_order(own, base)]
        own = pd.concat(parts, ignore_index=True)
        varied = own.groupby("K")["setting"].transform("nunique") > 1
        own = own[varied & own["K"].isin(chosen_ks(own[varied]))]
        if len(own):
            panels.append((title, own))
    if not panels:
        raise NothingToShow("one axis, policy, frame, thickness and choice of contrasts only")
    return panels


def _named(setting: Setting, base: Setting) -> str:
    """What sets the setting apart, or the base in full, over two lines."""
    return difference_from(setting, base) or f"{base.axis}, {base.policy},\n{base.frame}"


def psnr_vs_k(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    summary = psnr(metrics)
    labels = row_labels(metrics)
    parts = []
    for title, own in families(summary):
        base = base_setting(own)
        own = own[in_setting(own, base) & (own["region"] == "unseen") & (own["method"] != "truth")]
        told = [_best_and_floor(own[own["K"] == k], k, labels) for k in sorted({own["K"].min(), own["K"].max()})]
        parts.append(f"{title} ({base}): {'; '.join(told)}")
    zeros = summary[(summary["method"] == "zeros") & (summary["region"] == "unseen")]["mean"]
    below = f" The row zeros (at most {zeros.max():.1f} dB in unseen) is not drawn." if len(zeros) else ""
    return (
        "PSNR against the number K of given slices, in unseen (the headline) and unseen_masked, and the gain over the "
        "gaussian row paired by patient (its axis is logarithmic beyond 1 dB where a row loses more than 2). Bars: 95 % "
        "bootstrap interval over "
        f"{span(summary['n'])} test patients.{below} Best row and best trivial row in unseen (dB). {'. '.join(parts)}."
    )


def _best_and_floor(rows: pd.DataFrame, k: int, labels: dict) -> str:
    ranked = rows.sort_values("mean")
    best, trivial = ranked.iloc[-1], ranked[is_reference(ranked)]
    told = f"K = {k}: {_name(best, labels)} {_value(best)}"
    if trivial.empty:
        return told
    if trivial.index[-1] == best.name:
        return f"{told}, a trivial row"
    return f"{told}, {_name(trivial.iloc[-1], labels)} {_value(trivial.iloc[-1])}"


def error_vs_distance(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    curves = distance_curves(drawable(metrics))
    labels = row_labels(metrics)
    parts = []
    for title, own in families(curves):
        own = own[in_setting(own, base_setting(own)) & (own["K"] == chosen_ks(curves)[0])]
        for key in [k for k in labels if k[0] in ("gaussian", "xdiff") and k[1] == "mean"]:
            line = own[(own[ROW] == list(key)).all(axis=1)].sort_values("x")
            if len(line):
                near, far = line.iloc[0], line.iloc[-1]
                told = f"{near['mean']:.1f} dB at {near['x']:.3g} mm to {far['mean']:.1f} dB at {far['x']:.3g} mm"
                parts.append(f"{title}, {labels[key]}: {told}")
    numbers = f" At K = {chosen_ks(curves)[0]}, {'; '.join(parts)}." if parts else ""
    return (
        f"PSNR in unseen_masked against the distance to the nearest given slice. Bars: 95 % bootstrap interval over "
        f"patients ({span(curves['n'])}); distances that fewer than half of them reach are left out.{numbers}"
    )


def axes_policies(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    labels = row_labels(metrics)
    parts = []
    for title, panels in setting_panels(drawable(metrics)):
        for k, own in panels.groupby("K"):
            best = own.loc[own.groupby("setting", sort=False)["mean"].idxmax()]
            told = "; ".join(f"{r['setting']}: {_name(r, labels)} {r['mean']:.2f}" for _, r in best.iterrows())
            parts.append(f"{title}, K = {k}: {told}".replace("\n", " "))
    return (
        "PSNR in unseen_masked by axis, policy, frame and thickness of the given slices. Bars: 95 % bootstrap interval "
        f"over patients. Best row of each setting (dB). {'. '.join(parts)}."
    )


def panel(one: Panel) -> str:
    """Caption of a qualitative figure."""
    given = str(one.indices).strip("[]").replace(" ", "").replace(",", ", ")
    trained = "" if one.trained_on == one.cohort else f", trained on {one.trained_on}"
    spread = " Last, on the same scale, the standard deviation that methods give with their mean." if one.std_names else ""
    return (
        f"{one.subject} of {one.cohort} (grid {one.grid}, {one.contrast}{trained}): truth and reconstructions from "
        f"K = {one.K} {one.axis} slice{'s' * (one.K != 1)} (index {given}; blue lines, and a blue frame where the view "
        f"is itself given), estimate {one.estimate}. Below, absolute error on one scale from 0 to "
        f"{one.error_limit():.2f}, where 1 is the truth's 99.5th percentile; larger errors share its colour.{spread}"
    )


def _name(row: pd.Series, labels: dict) -> str:
    return labels[row["method"], row["estimate"], row["steps"]]


def _value(row: pd.Series) -> str:
    ends = "" if pd.isna(row["lo"]) else f" [{row['lo']:.2f}, {row['hi']:.2f}]"
    return f"{row['mean']:.2f}{ends}"
