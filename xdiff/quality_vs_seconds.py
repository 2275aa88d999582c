"""The figure `quality_vs_seconds`: what a second of computing buys, every row at its PSNR and its time per volume."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator

from xdiff import step_sweep
from xdiff.captions import NothingToShow, drawable, psnr
from xdiff.drawing import MARKS, STYLE, Look, bars, looks, page
from xdiff.layout import TRIVIAL, base_setting, families, in_setting, row_labels, span
from xdiff.stats import POINT, ROW, is_curve, rows_among, summarise

MOST_K = 4
SHORTEST_S = 1e-5  # manifests keep five decimals
DEPTH_DB = 5  # below the best row of a panel; what is worse stands on the lower edge, or it would squeeze all others
SCORES = {"psnr": "PSNR in unseen (dB)", "crps": "CRPS in unseen_masked"}
_ROW_IN = {"psnr": 2.1, "crps": 1.6}
# What tells the estimates of a method apart: a sample is open, a mean full, a mean of several samples half full.
_MARKERS = {"sample": dict(markersize=4, fillstyle="none"), "mean": dict(markersize=5, fillstyle="full")}
_MEAN_OF_N = dict(markersize=6.5, fillstyle="bottom")


class Block(NamedTuple):
    """One family at its base setting: rows timed on the device (POINT, ROW, measure, mean, lo, hi, n, seconds), and the
    gaussian row where it has no time there."""

    title: str
    rows: pd.DataFrame
    floor: pd.DataFrame

    @property
    def ks(self) -> list[int]:
        return sorted(int(k) for k in self.rows["K"].unique())

    def at(self, k: int, measure: str) -> pd.DataFrame:
        return self.rows[(self.rows["K"] == k) & (self.rows["measure"] == measure)]

    @property
    def crps_ks(self) -> list[int]:
        """K with a CRPS to show; none where no sample was drawn with several numbers of steps."""
        return [k for k in self.ks if len(self.at(k, "crps"))] if stepped(self.rows).any() else []


class Quality(NamedTuple):
    """All that is drawn, the device whose times these are, and the rows of other devices, device -> labels."""

    blocks: list[Block]
    device: str
    left_out: dict[str, list[str]]


def scores(metrics: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over patients of `psnr` and `crps` (column measure) by point and row.

    The CRPS is that of the figure of steps: of an ensemble of samples; of a mean from its standard deviation, or its absolute
    error where it has none. It is there at points that have an ensemble: of sampled methods, and of the gaussian row. Raises
    NothingToShow where there is no PSNR in unseen.
    """
    summary = psnr(metrics)
    summary = summary[summary["region"] == "unseen"].drop(columns="region").assign(measure="psnr")
    if summary.empty:
        raise NothingToShow("no scalar rows of psnr in unseen")
    drawn = metrics[(metrics["metric"] == "crps") & (metrics["seed"] < 0)]
    sampled = rows_among(metrics, drawn, [*POINT, "method"])
    floor = rows_among(metrics[(metrics["method"] == "gaussian") & (metrics["estimate"] == "mean")], drawn, POINT)
    rows = metrics.loc[sampled.index.union(floor.index)]
    rows = rows[step_sweep.measures(rows) == "crps"]
    if rows.empty:
        return summary
    return pd.concat([summary, summarise(rows, [*POINT, *ROW]).assign(measure="crps")], ignore_index=True)


def seconds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Median seconds per volume of every row on every device: POINT, ROW, device, seconds."""
    timed = metrics[(metrics["metric"] == "seconds") & ~is_curve(metrics)]
    return timed.groupby([*POINT, *ROW, "device"])["value"].median().rename("seconds").reset_index()


def stepped(rows: pd.DataFrame) -> pd.Series:
    """True for the samples of a method that was drawn with several numbers of steps at that point; shape (rows,)."""
    drawn = rows[rows["estimate"] == "sample"]
    counts = drawn.groupby([*POINT, "method"])["steps"].nunique()
    at = pd.MultiIndex.from_frame(rows[[*POINT, "method"]])
    return (rows["estimate"] == "sample") & at.isin(counts[counts > 1].index)


def chosen_ks(ks: Sequence[int], swept: Sequence[int] = ()) -> list[int]:
    """At most MOST_K of the K there are: those with samples of several steps, then always the one that is farthest, in ratio,
    from those chosen, the larger of two; so that both ends are there and the gaps are even."""
    pool = list(swept) if len(swept) > MOST_K else list(ks)
    chosen = [min(pool)] if len(swept) > MOST_K or not swept else list(swept)
    while len(chosen) < min(MOST_K, len(pool)):
        left = [k for k in pool if k not in chosen]
        chosen.append(max(left, key=lambda k: (round(min(abs(log(k / c)) for c in chosen), 9), k)))
    return sorted(chosen)


def quality(metrics: pd.DataFrame) -> Quality:
    """What the figure shows of the long table, in the families' base settings.

    Times of two devices are never on one axis: the device is the one that most rows of methods that are not trivial were timed
    on (of all rows, where all are trivial). Raises NothingToShow where fewer than two rows have a PSNR and a time there.
    """
    metrics = drawable(metrics)
    parts = [own[in_setting(own, base_setting(own))].assign(title=title) for title, own in families(scores(metrics))]
    base = pd.concat(parts, ignore_index=True)
    timed = base.merge(seconds(metrics), on=[*POINT, *ROW])
    measured = timed[timed["measure"] == "psnr"]
    if len(measured) < 2:
        raise NothingToShow("fewer than two rows with a PSNR in unseen and a time")
    weighty = measured[~measured["method"].isin(TRIVIAL)]
    device = (weighty if len(weighty) else measured)["device"].value_counts().sort_index().idxmax()
    here = timed[timed["device"] == device]
    blocks = [_block(title, own, base[base["title"] == title]) for title, own in here.groupby("title", sort=False)]
    if sum((block.rows["measure"] == "psnr").sum() for block in blocks) < 2:
        raise NothingToShow(f"fewer than two rows with a PSNR in unseen and a time on {device}")
    return Quality(blocks, device, _left_out(measured, device))


def _block(title: str, rows: pd.DataFrame, everything: pd.DataFrame) -> Block:
    ks, swept = (sorted(int(k) for k in rows.loc[mask, "K"].unique()) for mask in (rows["measure"] == "psnr", stepped(rows)))
    chosen = chosen_ks(ks, swept)
    rows, everything = rows[rows["K"].isin(chosen)], everything[everything["K"].isin(chosen)]
    rows = rows.assign(seconds=rows["seconds"].clip(lower=SHORTEST_S))
    gaussian = (everything["method"] == "gaussian") & (everything["estimate"] == "mean")
    timed = pd.MultiIndex.from_frame(everything[[*POINT, *ROW]]).isin(pd.MultiIndex.from_frame(rows[[*POINT, *ROW]]))
    return Block(title, rows, everything[gaussian & ~timed])


def _left_out(measured: pd.DataFrame, device: str) -> dict[str, list[str]]:
    """Labels of the rows that have no time on the device at some point, by the devices that they have one on."""
    labels = row_labels(measured)
    here = pd.MultiIndex.from_frame(measured.loc[measured["device"] == device, [*POINT, *ROW]])
    others = measured[(measured["device"] != device) & ~pd.MultiIndex.from_frame(measured[[*POINT, *ROW]]).isin(here)]
    rows = {name: set(map(tuple, own[ROW].to_numpy())) for name, own in others.groupby("device")}
    return {name: [label for key, label in labels.items() if key in own] for name, own in rows.items()}


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per family a row of panels, one per K, with the PSNR; below, where samples have several steps, one with the CRPS."""
    shown = quality(metrics)
    look = _look(pd.concat([block.rows for block in shown.blocks]))
    heights = [0.3 + _ROW_IN["psnr"] + _ROW_IN["crps"] * bool(block.crps_ks) for block in shown.blocks]
    fig, places = page([block.title for block in shown.blocks], heights, look)
    for place, block in zip(places, shown.blocks, strict=True):
        _draw(place, block, look)
    return fig


def _look(rows: pd.DataFrame) -> Look:
    """(method, estimate) -> plot keywords: the method's colour and marker, filled by estimate; samples alone have a line."""
    named = row_labels(rows)
    out = {}
    for (method, estimate, _), style in looks(rows).items():
        counts = sorted(key[2] for key in named if key[:2] == (method, estimate))
        label = style["label"]
        if len(counts) > 1:
            label = f"{method} ({estimate}, {counts[0]} to {counts[-1]} steps)".replace("_", " ")
        own = _MARKERS.get(estimate, _MEAN_OF_N) | dict(color=style["color"], marker=style["marker"], label=label)
        out[method, estimate] = own | dict(linestyle="-" if estimate == "sample" and len(counts) > 1 else "none", linewidth=1)
    return out


def _draw(place: SubFigure, block: Block, look: Look) -> None:
    measures = ["psnr", *(["crps"] if block.crps_ks else [])]
    grid = place.add_gridspec(len(measures), len(block.ks), height_ratios=[_ROW_IN[m] for m in measures])
    first, lowest = None, {}
    for row, measure in enumerate(measures):
        columns = block.ks if measure == "psnr" else block.crps_ks
        for k in columns:
            ax = place.add_subplot(grid[row, block.ks.index(k)], sharex=first)
            first, lowest[k] = first or ax, ax
            _points(ax, block.at(k, measure), look)
            if measure == "psnr":
                ax.set_title(f"K = {k}")
                _stand_on_edge(ax, block.at(k, measure), look)
            _floor(ax, block.floor[(block.floor["K"] == k) & (block.floor["measure"] == measure)])
            if k == columns[0]:
                ax.set_ylabel(SCORES[measure])
    _seconds_axis(first)  # its ticks are all panels': they share the axis
    for ax in place.axes:
        ax.tick_params(labelbottom=ax in lowest.values())
        ax.set_xlabel("seconds per volume" if ax in lowest.values() else "")


def _seconds_axis(ax: Axes) -> None:
    """As in the figure of steps, with fewer ticks: up to four panels share the width of the page."""
    step_sweep.seconds_axis(ax, "")
    low, high = ax.get_xlim()
    if high / low > 30:
        ax.xaxis.set_major_locator(LogLocator(numticks=4))


def _points(ax: Axes, own: pd.DataFrame, look: Look) -> None:
    below = [4, -9]  # of the numbers of steps of one method and of the next, in points
    for (method, estimate), style in look.items():
        rows = own[(own["method"] == method) & (own["estimate"] == estimate)].sort_values("steps")
        if rows.empty:
            continue
        ax.errorbar(rows["seconds"], rows["mean"], yerr=bars(rows), elinewidth=0.7, zorder=3, **style)
        if estimate == "sample" and len(rows) > 1:
            for _, row in rows.iloc[[0, -1]].iterrows():
                place, text = (row["seconds"], row["mean"]), str(row["steps"])
                ax.annotate(text, place, (3, below[0]), textcoords="offset points", fontsize=6.5, color=style["color"])
            below = below[::-1]


def _stand_on_edge(ax: Axes, own: pd.DataFrame, look: Look) -> None:
    """Cut the axis DEPTH_DB below the best row; the marker of what is worse on its lower edge."""
    edge = own["mean"].max() - DEPTH_DB
    low = own[own["mean"] < edge]
    if low.empty:
        return
    ax.set_ylim(bottom=edge)
    for row in low.itertuples():
        style = look[row.method, row.estimate] | dict(linestyle="none", label="_")
        ax.plot([row.seconds], [edge], clip_on=False, zorder=5, **style)


def _floor(ax: Axes, rows: pd.DataFrame) -> None:
    if len(rows):
        ax.axhline(rows["mean"].iloc[0], color=MARKS["gaussian"][0], linestyle=":", linewidth=1)


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure, with its numbers."""
    shown = quality(metrics)
    rows = pd.concat([block.rows for block in shown.blocks])
    labels = row_labels(rows)
    spread = any(block.crps_ks for block in shown.blocks)
    below = ", and below CRPS in unseen_masked (lower is better; a mean without a standard deviation has its absolute error)"
    blur = " Few steps raise PSNR by blurring towards the mean: it is to be read with the CRPS below." if spread else ""
    joined = " A line joins one method's samples from few steps to many (the numbers at its ends)." if stepped(rows).any() else ""
    told = " ".join(f"{block.title}: {_told(block, labels)}." for block in shown.blocks)
    return (
        f"Quality against the median seconds per volume on {shown.device or 'an unnamed device'}: PSNR in unseen"
        f"{below if spread else ''}, at most {MOST_K} K at the base setting. Full: the mean; half full: a mean of several "
        f"samples; open: one sample.{joined}{blur}{_notes(shown, rows)} Bars: 95 % bootstrap interval over {span(rows['n'])} "
        f"test patients. {told}"
    )


def _notes(shown: Quality, rows: pd.DataFrame) -> str:
    """What the figure does not show as it is."""
    others = "; ".join(f"{device or 'an unnamed device'}: {', '.join(names)}" for device, names in shown.left_out.items())
    notes = f" Left out, since times of two devices are never compared: {others}." if others else ""
    notes += (
        " Dotted: the gaussian row, which has no time on this device." if any(len(block.floor) for block in shown.blocks) else ""
    )
    psnr = rows[rows["measure"] == "psnr"]
    deep = psnr["mean"] < psnr.groupby(POINT)["mean"].transform("max") - DEPTH_DB
    notes += f" Rows more than {DEPTH_DB} dB below the best of a panel stand on its lower edge." if deep.any() else ""
    return notes + (" Times below 10 us are drawn at 10 us." if (rows["seconds"] <= SHORTEST_S).any() else "")


def _told(block: Block, labels: dict) -> str:
    """The best row at every K, of several that print the same the fastest; the ends of what was sampled with several steps."""
    parts = []
    for k in block.ks:
        here = block.at(k, "psnr")
        best = here[here["mean"].round(2) == here["mean"].max().round(2)].sort_values("seconds").iloc[0]
        name = labels[best["method"], best["estimate"], best["steps"]]
        parts.append(f"K = {k}: best {name} {best['mean']:.2f} dB in {best['seconds']:.2g} s")
        swept = block.rows[stepped(block.rows) & (block.rows["K"] == k)].sort_values("steps")
        parts += [f"samples of {method}, {_ends(own)}" for method, own in swept.groupby("method")]
    return "; ".join(parts)


def _ends(own: pd.DataFrame) -> str:
    """Fewest and most steps of one method's samples at one point: what they score and take."""
    first, last = own["steps"].iloc[[0, -1]]
    parts = [f"{first} to {last} steps"]
    for measure, digits in (("psnr", 2), ("crps", 4)):
        found = own.loc[own["measure"] == measure, "mean"]
        parts += [f"{measure.upper()} {found.iloc[0]:.{digits}f} to {found.iloc[-1]:.{digits}f}"] if len(found) else []
    begin, end = own["seconds"].iloc[[0, -1]]
    return ", ".join([*parts, f"{begin:.2g} to {end:.2g} s"])
