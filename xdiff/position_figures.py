"""The figures `error_vs_depth` and `slice_position`: where in the volume the error is, and what it matters where a slice lies."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.captions import NothingToShow, drawable
from xdiff.drawing import STYLE, lines, looks, page
from xdiff.layout import base_setting, chosen_ks, families, in_setting, row_labels, span
from xdiff.panel import GIVEN
from xdiff.stats import POINT, ROW, is_curve, summarise

TOWARDS = {"axial": "superior", "coronal": "anterior", "sagittal": "right"}  # ends of the axes of RAS+
EVEN = ("uniform", "centre")  # policies whose sections are evenly spaced, so that K and gap_mm say where they lie
ALONE = ("uniform", "centre", "random")  # policies that give one whole section of the patient's own, at K = 1
LEAST_PLACES, MOST_BINS = 4, 8


# Error against depth --------------------------------------------------------------------------------------------------


def depth_curves(metrics: pd.DataFrame) -> pd.DataFrame:
    """PSNR by depth (x, mm from the middle of the given slices); depths that fewer than half the patients reach are left out."""
    wanted = (metrics["x_name"] == "depth_mm") & (metrics["metric"] == "psnr")
    if not wanted.any():
        raise NothingToShow("no curve rows (metric psnr, x_name depth_mm)")
    curves = summarise(metrics[wanted], [*POINT, *ROW, "x"])
    return curves[2 * curves["n"] >= curves.groupby([*POINT, *ROW])["n"].transform("max")]


def given_at_mm(metrics: pd.DataFrame, own: pd.DataFrame, k: int) -> list[float]:
    """Mean places of the K given slices on the axis of depth; none where they are not evenly spaced."""
    if own["policy"].iloc[0] not in EVEN:
        return []
    at = (metrics["K"] == k) & (metrics["x_name"] == "depth_mm")
    for name in ("cohort", "grid", "axis", "policy"):
        at &= metrics[name] == own[name].iloc[0]
    gap_mm = metrics.loc[at, "gap_mm"].mean() if k > 1 else 0.0
    return [float((i - (k - 1) / 2) * gap_mm) for i in range(k)]


@mpl.rc_context(STYLE)
def error_vs_depth(metrics: pd.DataFrame) -> Figure:
    """PSNR in unseen_masked along the axis of the given slices, which are marked; one panel per family and K."""
    metrics = drawable(metrics)
    curves = depth_curves(metrics)
    look, parts = looks(curves), list(families(curves))
    fig, blocks = page([title for title, _ in parts], [2.1] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        own = own[in_setting(own, base_setting(own))]
        ks = chosen_ks(own)
        axes = block.subplots(1, len(ks), sharey=True, squeeze=False)[0]
        for ax, k in zip(axes, ks, strict=True):
            here = own[own["K"] == k]
            for place in given_at_mm(metrics, here, k):
                ax.axvline(place, color=GIVEN, linewidth=1.6, zorder=1)
            lines(ax, here, "x", look)
            ax.set_title(f"K = {k}")
            ax.set_xlabel(f"mm towards {TOWARDS[here['axis'].iloc[0]]}")
        axes[0].set_ylabel("PSNR (dB)")
    return fig


def error_vs_depth_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    curves = depth_curves(drawable(metrics))
    labels, told = row_labels(curves), []
    for title, own in families(curves):
        own = own[in_setting(own, base_setting(own)) & (own["K"] == chosen_ks(own)[0])]
        for key in [key for key in labels if key[0] in ("gaussian", "xdiff") and key[1] == "mean"]:
            line = own[(own[ROW] == list(key)).all(axis=1)]
            if len(line):
                worst, best = line.loc[line["mean"].idxmin()], line.loc[line["mean"].idxmax()]
                ends = f"{worst['mean']:.1f} dB at {worst['x']:+.0f} mm to {best['mean']:.1f} dB at {best['x']:+.0f} mm"
                told.append(f"{title}, K = {line['K'].iloc[0]}, {labels[key]}: {ends}")
    return (
        "PSNR in unseen_masked, section by section along the axis of the given slices (bins of 4 mm), from the middle of them. "
        f"Blue: the given slices, at their mean places. Bars: 95 % bootstrap interval over patients ({span(curves['n'])}); "
        f"depths that fewer than half of them reach are left out.{' Worst and best: ' + '; '.join(told) + '.' if told else ''}"
    )


# PSNR against the place of one slice ------------------------------------------------------------------------------------


def position_curves(metrics: pd.DataFrame) -> pd.DataFrame:
    """PSNR in unseen_masked at K = 1 by the place of the given section (x: the middle of its bin, counted in sections).

    Columns of summarise, with `policy` and `frame` merged into the family; a family and axis with fewer than LEAST_PLACES places
    is left out. Raises NothingToShow where none is left.
    """
    wanted = (metrics["metric"] == "psnr") & (metrics["region"] == "unseen_masked") & ~is_curve(metrics) & (metrics["K"] == 1)
    wanted &= metrics["policy"].isin(ALONE) & metrics["indices"].str.fullmatch(r"\d+") & (metrics["contrasts_given"] == "all")
    rows = metrics[wanted].assign(place=lambda r: r["indices"].astype(float))
    parts = []
    for _, own in rows.groupby(["trained_on", "cohort", "grid", "frame", "axis", "thickness_mm"]):
        if own["place"].nunique() >= LEAST_PLACES:
            edges = np.linspace(own["place"].min(), own["place"].max() + 1, min(MOST_BINS, own["place"].nunique()) + 1)
            which = np.digitize(own["place"], edges[1:-1])
            parts.append(own.assign(x=(edges[which] + edges[which + 1] - 1) / 2, policy="one slice"))
    if not parts:
        raise NothingToShow(f"fewer than {LEAST_PLACES} places of one given section")
    return summarise(pd.concat(parts), [*POINT, *ROW, "x"])


@mpl.rc_context(STYLE)
def slice_position(metrics: pd.DataFrame) -> Figure:
    """Per family one panel per axis: PSNR from one slice against where it lies."""
    curves = position_curves(drawable(metrics))
    look, parts = looks(curves), list(families(curves))
    fig, blocks = page([title for title, _ in parts], [2.1] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        own = own[own["frame"] == base_setting(own).frame]
        names = [name for name in TOWARDS if (own["axis"] == name).any()]
        axes = block.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            _place_axis(ax, own[own["axis"] == name], name)
            lines(ax, own[own["axis"] == name], "x", look)
        axes[0].set_ylabel("PSNR in unseen_masked (dB)")
    return fig


def _place_axis(ax: Axes, own: pd.DataFrame, name: str) -> None:
    ax.set_title(f"one {name} slice")
    ax.set_xlabel(f"its index, towards {TOWARDS[name]}")
    ax.set_xlim(own["x"].min() - 2, own["x"].max() + 2)


def slice_position_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    curves = position_curves(drawable(metrics))
    labels, told = row_labels(curves), []
    for title, own in families(curves):
        for axis, here in own.groupby("axis"):
            best = here.loc[here["mean"].idxmax()]
            name = labels[best["method"], best["estimate"], best["steps"]]
            told.append(f"{title}, {axis}: {name} {best['mean']:.2f} dB at section {best['x']:.0f}")
    return (
        "PSNR in unseen_masked from one given slice (policies uniform, centre and random together) against its index in the "
        f"array, in at most {MOST_BINS} bins. Bars: 95 % bootstrap interval over {span(curves['n'])} patients of a bin. "
        f"Best: {'; '.join(told)}."
    )
