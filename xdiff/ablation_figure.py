"""The figure `ablation`: what every ablation differs by from its base, and what it does to the spread of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from xdiff import ablation
from xdiff.ablation import DIFFERENCE, LINE
from xdiff.captions import NothingToShow
from xdiff.config import parts_of
from xdiff.drawing import STYLE, Look, bars, page
from xdiff.layout import Setting, span

# Okabe and Ito's colours; every K has a shape of its own besides, and so has every band.
K_MARKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#8f7700", "v"), ("#56b4e9", "P"))
BANDS = {"band_1": ("low", "<", "#ffffff"), "band_2": ("middle", "d", "#a6a6a6"), "band_3": ("high", ">", "#000000")}
RATIO = dict(color="#882255", marker="X", linestyle="none")
# ideal, and what is shaded: a sample as rough as the truth, draws that are nearly as wide as a posterior's
IDEALS = {"bands": (1.0, (0.7, 1.4)), "sample_to_mean": (2.0, (1.7, 2.3))}
LINEAR_DB = (
    0.1  # within it the axis of differences is linear, beyond it logarithmic: most parts are worth hundredths, some decibels
)
_LINE_IN = 0.27


class Block(NamedTuple):
    """One block: its setting, the names of its lines from top to bottom, which are bases, and the rows to draw, with a column
    y (line).

    differences: psnr_difference of means; spread: checks of samples at one K and number of steps, which `drawn` names."""

    title: str
    setting: Setting
    names: list[str]
    bases: list[bool]
    differences: pd.DataFrame
    spread: pd.DataFrame
    drawn: str


def blocks(metrics: pd.DataFrame) -> Iterator[Block]:
    """Every block of the long table. Raises NothingToShow where nothing is ablated."""
    found = ablation.numbers(metrics)
    if found.empty:
        raise NothingToShow("no ablation (a method BASE-WHAT, or trained on several cohorts) beside its base")
    for title, setting, here in ablation.blocks(found):
        order = here[["trained_on", *LINE]].drop_duplicates()
        places = {tuple(key): y for y, key in enumerate(order[LINE].itertuples(index=False, name=None))}
        here = here.assign(y=[places[key] for key in here[LINE].itertuples(index=False, name=None)])
        samples = here[(here["estimate"] == "sample") & here["measure"].isin(ablation.CHECKED)]
        drawn, spread = _at_one_point(samples)
        differences = here[(here["estimate"] == "mean") & (here["measure"] == f"psnr{DIFFERENCE}")]
        bases = [name(line) == line["base_method"].replace("_", " ") for _, line in order.iterrows()]
        yield Block(title, setting, [name(line) for _, line in order.iterrows()], bases, differences, spread, drawn)


def _at_one_point(samples: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Samples at K = 5, or else the smallest K there is, with the number of steps that most lines have."""
    if samples.empty:
        return "", samples
    k = 5 if (samples["K"] == 5).any() else samples["K"].min()
    samples = samples[samples["K"] == k]
    steps = ablation.common_steps(samples)
    return f"K = {k}, {steps} step{'s' * (steps != 1)}", samples[samples["steps"] == steps]


def name(line: pd.Series) -> str:
    """How a line is called under its base: `xdiff` itself, `no trunk`, `+ ixi-2mm`."""
    what = (
        "" if line["method"] == line["base_method"] else line["method"].removeprefix(f"{line['base_method']}-").replace("-", " ")
    )
    more = parts_of(line["row_trained_on"])[1:] if line["row_trained_on"] != line["trained_on"] else ()
    return " ".join(filter(None, (what, *(f"+ {cohort}" for cohort in more)))) or line["base_method"].replace("_", " ")


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per block one line per ablation, under its base: differences in dB by K, and the checks of samples beside their ideals."""
    parts = list(blocks(metrics))
    ks = sorted({int(k) for part in parts for k in part.differences["K"]})
    look = _look(ks, any(len(part.spread) for part in parts))
    fig, places = page([part.title for part in parts], [0.75 + _LINE_IN * len(part.names) for part in parts], look)
    for place, part in zip(places, parts, strict=True):
        _draw(place, part, ks, look)
    return fig


def _look(ks: Sequence[int], sampled: bool) -> Look:
    look: Look = {}
    for i, k in enumerate(ks):
        colour, marker = K_MARKS[i % len(K_MARKS)]
        look["K", k] = dict(label=f"K = {k}", color=colour, marker=marker, linestyle="none")
    if sampled:
        for band, (told, marker, fill) in BANDS.items():
            look[(band,)] = dict(label=f"{told} band", color="#000000", marker=marker, markerfacecolor=fill, linestyle="none")
        look[("sample_to_mean",)] = dict(label="sample / mean", **RATIO)
    return look


def _draw(place: SubFigure, part: Block, ks: Sequence[int], look: Look) -> None:
    panels = 3 if len(part.spread) else 1
    axes = place.subplots(1, panels, sharey=True, squeeze=False, width_ratios=(2.2, 1.3, 1.0)[:panels])[0]
    _differences(axes[0], part.differences, ks, look)
    if panels == 3:
        _spread(axes[1], part.spread, {band: look[(band,)] for band in BANDS}, IDEALS["bands"])
        _spread(axes[2], part.spread, {"sample_to_mean": look[("sample_to_mean",)]}, IDEALS["sample_to_mean"])
        axes[1].set_title("variance in bands / truth's")
        axes[2].set_title("MSE, sample / mean")
        for ax in axes[1:]:
            ax.set_xlabel(part.drawn)
        _ratio_axis(axes[1])
    _lines_axis(axes[0], part)


def _differences(ax: Axes, rows: pd.DataFrame, ks: Sequence[int], look: Look) -> None:
    """The K of one line side by side within it."""
    ax.axvline(0, color="black", linewidth=0.8, zorder=1)
    for i, k in enumerate(ks):
        own = rows[rows["K"] == k]
        y = own["y"] + 0.62 * ((i + 0.5) / len(ks) - 0.5)
        ax.errorbar(own["mean"], y, xerr=bars(own), elinewidth=0.9, **look["K", k] | dict(markersize=3.5))
    ax.set_title("PSNR in unseen minus the base's (dB)")
    ends = rows[["mean", "lo", "hi"]].to_numpy(float)
    if len(ends) and np.nanmax(np.abs(ends)) > 10 * LINEAR_DB:
        _symlog(ax, float(np.nanmin(ends)), float(np.nanmax(ends)))


def _symlog(ax: Axes, low: float, high: float) -> None:
    ax.set_xscale("symlog", linthresh=LINEAR_DB, linscale=1.2)
    low, high = min(1.35 * low, -LINEAR_DB), max(1.35 * high, LINEAR_DB)
    sides = [t * s for t in (0.1, 1, 10) for s in (1, 3)]
    ticks = [t for t in sorted([0.0, *sides, *(-t for t in sides)]) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(low, high)


def _spread(ax: Axes, rows: pd.DataFrame, shown: dict[str, dict], ideal: tuple[float, tuple[float, float]]) -> None:
    """Points of the measures `shown` beside their ideal; the measures of one line side by side within it."""
    ax.axvspan(*ideal[1], color="#ececec", zorder=0)
    ax.axvline(ideal[0], color="black", linewidth=0.8, zorder=1)
    for i, (measure, style) in enumerate(shown.items()):
        own = rows[rows["measure"] == measure]
        y = own["y"] + 0.62 * ((i + 0.5) / len(shown) - 0.5)
        ax.errorbar(own["mean"], y, xerr=bars(own), elinewidth=0.7, **style | dict(markersize=4))


def _ratio_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 8 else (1, 1.4, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _lines_axis(ax: Axes, part: Block) -> None:
    """Names of the lines, those of the bases bold, every second line shaded in all panels."""
    ax.set_yticks(range(len(part.names)), part.names)
    for tick, is_base in zip(ax.get_yticklabels(), part.bases, strict=True):
        tick.set_fontweight("bold" if is_base else "normal")
    ax.set_ylim(len(part.names) - 0.5, -0.5)
    for other in ax.figure.axes:
        other.tick_params(axis="y", length=0)
        other.grid(False, axis="y")
        for y in range(0, len(part.names), 2):
            other.axhspan(y - 0.5, y + 0.5, color="#f7f7f7", zorder=-1)


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure, with the largest differences of every block in numbers."""
    parts = list(blocks(metrics))
    rows = pd.concat([part.differences for part in parts])
    patients = f" over {span(rows['n'])} test patients" if len(rows) else ""
    wide = len(rows) and rows[["mean", "lo", "hi"]].abs().max().max() > 10 * LINEAR_DB
    axis = f" (axis linear within {LINEAR_DB:g} dB, logarithmic beyond)" if wide else ""
    bands, ratio = IDEALS["bands"][1], IDEALS["sample_to_mean"][1]
    beside = (
        f" Beside them, of samples: the variance in three bands of frequency over the truth's (ideal 1, grey {bands[0]} to "
        f"{bands[1]}) and the squared error of one sample over that of the mean (ideal 2, grey {ratio[0]} to {ratio[1]})."
    )
    told = " ".join(f"{part.title} ({part.setting}): {_told(part)}." for part in parts)
    return (
        "What every part is worth: PSNR in unseen of `mean` of each ablation minus that of its base (the line above it, at 0), "
        f"paired by patient{axis}. Bars: 95 % bootstrap interval{patients}."
        f"{beside if any(len(part.spread) for part in parts) else ''} {told}"
    )


def _told(part: Block) -> str:
    """The three largest differences at the K where most lines have one."""
    rows = part.differences
    if rows.empty:
        return "no means to compare"
    counts = rows["K"].value_counts()
    k = counts[counts == counts.max()].index.min()
    here = rows[rows["K"] == k]
    largest = here.loc[here["mean"].abs().sort_values(ascending=False, kind="stable").index[:3]]
    values = []
    for _, row in largest.iterrows():
        ends = "" if pd.isna(row["lo"]) else f" [{row['lo']:+.2f}, {row['hi']:+.2f}]"
        values.append(f"{row['label']} {row['mean']:+.2f}{ends}")
    return f"largest at K = {k}: {'; '.join(values)} dB"
