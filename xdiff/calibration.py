"""The figure `calibration`: do intervals cover what they say, and where among its draws does the truth lie?"""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, looks, page, rows_of
from xdiff.layout import base_setting, chosen_ks, families, in_setting, row_labels, span
from xdiff.stats import POINT, ROW, is_curve, summarise

NOMINAL = {"coverage_50": 50, "coverage_90": 90, "coverage_95": 95}
_LEVEL_MARKS = {50: "v", 90: "o", 95: "^"}


def coverages(metrics: pd.DataFrame) -> pd.DataFrame:
    """Share of voxels of unseen_masked within the nominal interval, in %, by point, row and nominal (50, 90, 95)."""
    wanted = metrics["metric"].isin(list(NOMINAL)) & (metrics["region"] == "unseen_masked") & ~is_curve(metrics)
    rows = metrics[wanted]
    if rows.empty:
        raise NothingToShow("no rows of coverage")
    rows = rows.assign(nominal=rows["metric"].map(NOMINAL), value=100 * rows["value"])
    return summarise(rows, [*POINT, *ROW, "nominal"])


def ranks(metrics: pd.DataFrame) -> pd.DataFrame:
    """Density of the truth's rank, by point, row and x (relative rank, 0 to 1); may be empty."""
    return summarise(metrics[(metrics["metric"] == "rank_density") & (metrics["x_name"] == "rank")], [*POINT, *ROW, "x"])


def _blocks(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """(title, coverages, ranks) of every family at its base setting, at most two K."""
    histograms = dict(families(ranks(metrics)))
    out = []
    for title, own in families(coverages(metrics)):
        base = base_setting(own)
        own = own[in_setting(own, base) & own["K"].isin(chosen_ks(own))]
        drawn = histograms.get(title)
        drawn = own.iloc[:0] if drawn is None else drawn[in_setting(drawn, base) & drawn["K"].isin(own["K"])]
        out.append((title, own, drawn))
    return out


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per family and K: what intervals of 50, 90 and 95 % cover, and below, where there are any, rank histograms."""
    parts = _blocks(metrics)
    look = looks(pd.concat([own[ROW] for _, *both in parts for own in both if len(own)]))
    heights = [0.85 + 0.2 * len(own[ROW].drop_duplicates()) + 1.6 * bool(len(drawn)) for _, own, drawn in parts]
    fig, places = page([title for title, *_ in parts], heights, look)
    for place, (_, own, drawn), height in zip(places, parts, heights, strict=True):
        ks, histograms = sorted(own["K"].unique()), bool(len(drawn))
        ratios = [height - 1.6, 1.6] if histograms else [1]
        axes = place.subplots(1 + histograms, len(ks), squeeze=False, height_ratios=ratios)
        names = [key for key in look if len(rows_of(own, key))]
        for column, k in enumerate(ks):
            _coverage(axes[0, column], own[own["K"] == k], names, look)
            axes[0, column].set_title(f"K = {k}", pad=12)
            if histograms:
                _histogram(axes[1, column], drawn[drawn["K"] == k], look)
        if histograms:
            axes[1, 0].set_ylabel("density of the rank")
    return fig


def _coverage(ax: Axes, own: pd.DataFrame, names: list[tuple], look: Look) -> None:
    """One line per row of the tables; dotted where each kind of interval should be, a shape per kind."""
    for nominal, marker in _LEVEL_MARKS.items():
        if not (own["nominal"] == nominal).any():
            continue
        ax.axvline(nominal, color="black", linestyle=":", linewidth=0.9, zorder=1)
        ax.annotate(
            f"{nominal}", (nominal, 1), (0, 1), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center"
        )
        for y, key in enumerate(names):
            row = rows_of(own[own["nominal"] == nominal], key)
            ends = [(row["mean"] - row["lo"]).fillna(0).clip(lower=0), (row["hi"] - row["mean"]).fillna(0).clip(lower=0)]
            style = look[key] | dict(marker=marker, linestyle="none", markersize=4)
            ax.errorbar(row["mean"], [y] * len(row), xerr=ends, elinewidth=0.7, **style)
    ax.set_yticks(range(len(names)), [look[key]["label"] for key in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("voxels within the interval (%)")


def _histogram(ax: Axes, drawn: pd.DataFrame, look: Look) -> None:
    ax.axhline(1, color="black", linestyle=":", linewidth=0.9)
    for key, style in look.items():
        own = rows_of(drawn, key).sort_values("x")
        if len(own):
            ax.plot(own["x"], own["mean"], **style | dict(markersize=3))
    ax.set(xlim=(0, 1), xlabel="rank of the truth, 0 to 1")
    ax.set_ylim(bottom=0)


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure, with the coverage of every nominal 90 % interval."""
    parts = _blocks(metrics)
    rows = pd.concat([own for _, own, _ in parts])
    labels, told = row_labels(rows), []
    for title, own, _ in parts:
        for k, here in own[own["nominal"] == 90].groupby("K"):
            named = "; ".join(f"{labels[r['method'], r['estimate'], r['steps']]} {r['mean']:.1f}" for _, r in here.iterrows())
            told.append(f"{title}, K = {k}: {named}")
    below = (
        " Below, the density of the truth's rank among the draws (of a mean with a standard deviation: the probability integral "
        "transform): flat at 1 is calibrated, high ends are too narrow, a high middle is too wide."
    )
    return (
        "Calibration in unseen_masked: share of voxels within mean +- z standard deviations, for nominal "
        f"{', '.join(str(n) for n in sorted(rows['nominal'].unique()))} % (dotted); left of its line a spread is too narrow, "
        f"right of it too wide. Bars: 95 % bootstrap interval over {span(rows['n'])} test patients."
        f"{below if any(len(drawn) for *_, drawn in parts) else ''} Coverage of nominal 90 % intervals (%). {'. '.join(told)}."
    )
