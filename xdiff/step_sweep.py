"""The figure `steps`: what a sample gains and loses with the number of steps it is drawn with, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, bars, looks, page
from xdiff.layout import base_setting, families, in_setting, span
from xdiff.stats import POINT, ROW, summarise

SCORES = {"psnr": "PSNR in unseen (dB)", "crps": "CRPS in unseen_masked"}
BANDS = {"band 1": "low", "band 2": "middle", "band 3": "high"}  # up to 0.125, 0.25 and 0.5 of the Nyquist frequency
BAND_LINES = dict(zip(BANDS, (":", "--", "-"), strict=True))
KEPT_VARIANCE = (0.7, 1.4)  # shaded: a sample as rough as the truth
_ROW_IN = 1.75


def step_rows(metrics: pd.DataFrame) -> pd.Series:
    """True for samples drawn with several numbers of steps at one point, and for the same method's mean there.

    `metrics`: the long table, numbers as text or not. Returns shape (rows,).
    """
    samples = metrics[metrics["estimate"] == "sample"]
    counts = samples.groupby([*POINT, "method"])["steps"].nunique()
    at = pd.MultiIndex.from_frame(metrics[[*POINT, "method"]])
    return at.isin(counts[counts > 1].index) & metrics["estimate"].isin(["sample", "mean"])


def numbers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval over patients of `psnr`, `crps` and `band 1` to `band 3` (column measure), by point and row.

    Rows of stepped methods, their mean, and the gaussian row at the same points. The CRPS of samples is that of an ensemble
    (rows whose seed is minus the number of draws); a mean without a spread has its absolute error instead, which is what the
    CRPS of a certain answer is. Raises NothingToShow where no method was drawn with two numbers of steps at one point.
    """
    stepped = step_rows(metrics)
    if not stepped.any():
        raise NothingToShow("no method with samples of two numbers of steps at the same K")
    points = pd.MultiIndex.from_frame(metrics.loc[stepped, POINT].drop_duplicates())
    at = pd.MultiIndex.from_frame(metrics[POINT]).isin(points)
    floor = at & (metrics["method"] == "gaussian") & (metrics["estimate"] == "mean")
    rows = metrics[stepped | floor]
    rows = rows.assign(measure=measures(rows))
    rows = rows[rows["measure"] != ""]
    return summarise(rows, [*POINT, *ROW, "measure"])


def measures(rows: pd.DataFrame) -> np.ndarray:
    """Which of the measures a row belongs to, "" for none."""
    scalar, masked = rows["x_name"] == "", rows["region"] == "unseen_masked"
    spread = scalar & masked & (rows["metric"] == "crps") & ((rows["estimate"] == "mean") | (rows["seed"] < 0))
    has_spread = rows["method"].isin(rows.loc[spread & (rows["estimate"] == "mean"), "method"])
    certain = scalar & masked & (rows["metric"] == "mae") & (rows["estimate"] == "mean") & ~has_spread
    band = (rows["metric"] == "band_variance") & (rows["x_name"] == "band")
    choices = {"psnr": scalar & (rows["region"] == "unseen") & (rows["metric"] == "psnr"), "crps": spread | certain}
    choices |= {f"band {b}": band & (rows["x"] == b) for b in (1, 2, 3)}
    return np.select([mask.to_numpy() for mask in choices.values()], list(choices), default="")


def seconds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Median seconds per volume of every stepped sample on every device: POINT, ROW, device, seconds."""
    timed = metrics[step_rows(metrics) & (metrics["metric"] == "seconds") & (metrics["estimate"] == "sample")]
    return timed.groupby([*POINT, *ROW, "device"])["value"].median().rename("seconds").reset_index()


class Block(NamedTuple):
    """One family at one K: its numbers, its times, and the devices that gave them."""

    title: str
    numbers: pd.DataFrame
    times: pd.DataFrame
    devices: list[str]


def blocks(metrics: pd.DataFrame) -> Iterator[Block]:
    """Every family at its base setting, at K = 1 and 5 where it has both, else at the first two K there are."""
    times = seconds(metrics)
    for title, own in families(numbers(metrics)):
        own = own[in_setting(own, base_setting(own))]
        ks = sorted(int(k) for k in own["K"].unique())
        for k in [1, 5] if {1, 5} <= set(ks) else ks[:2]:
            here = own[own["K"] == k]
            timed = times.merge(here[POINT].drop_duplicates(), on=POINT)
            yield Block(f"{title}, K = {k}", here, timed, sorted(timed["device"].unique()))


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per family and K: PSNR and CRPS against steps, and below against seconds on each device; beside them the bands."""
    parts = list(blocks(metrics))
    look = _look(pd.concat([part.numbers for part in parts]))
    fig, places = page([part.title for part in parts], [_ROW_IN * (1 + len(part.devices)) + 0.2 for part in parts], look)
    for place, part in zip(places, parts, strict=True):
        _draw(place, part, look)
    return fig


def _look(rows: pd.DataFrame) -> Look:
    """(method, estimate) -> plot keywords: the method's colour, solid samples, dashed mean, dotted gaussian row."""
    styles = {(method, estimate): style for (method, estimate, _), style in looks(rows).items()}
    out = {}
    for (method, estimate), style in styles.items():
        drawn = estimate == "sample"
        own = dict(color=style["color"], marker=style["marker"] if drawn else "", linewidth=1.2)
        own["linestyle"] = "-" if drawn else ":" if method == "gaussian" else "--"
        name = method.replace("_", " ")
        out[method, estimate] = own | dict(label=name if method == "gaussian" else f"{name} ({estimate})")
    return out


def _draw(place: SubFigure, part: Block, look: Look) -> None:
    scores = [name for name in SCORES if (part.numbers["measure"] == name).any()]
    banded = part.numbers["measure"].isin(list(BANDS)).any()
    grid = place.add_gridspec(1 + len(part.devices), len(scores) + bool(banded))
    steps = sorted(part.numbers.loc[part.numbers["estimate"] == "sample", "steps"].unique())
    for column, name in enumerate(scores):
        own = part.numbers[part.numbers["measure"] == name]
        top = place.add_subplot(grid[0, column])
        top.set_title(SCORES[name])
        _curves(top, own, "steps", look)
        _steps_axis(top, steps)
        for row, device in enumerate(part.devices, 1):
            ax = place.add_subplot(grid[row, column], sharey=top)
            _curves(ax, _on_device(own, part.times, device), "seconds", look)
            seconds_axis(ax, _letter(part.devices, device))
    if banded:
        _bands(place.add_subplot(grid[:, -1]), part.numbers, look, steps)


def _on_device(own: pd.DataFrame, times: pd.DataFrame, device: str) -> pd.DataFrame:
    """The samples timed on this device, with their seconds, and the reference rows, which have none."""
    timed = own.merge(times.loc[times["device"] == device, [*POINT, *ROW, "seconds"]], on=[*POINT, *ROW], how="left")
    return timed[(timed["estimate"] != "sample") | timed["seconds"].notna()]


def _letter(devices: Sequence[str], device: str) -> str:
    """What tells a device from the others in axis labels and caption; nothing where there is one."""
    return f" ({chr(ord('a') + devices.index(device))})" if len(devices) > 1 else ""


def _curves(ax: Axes, own: pd.DataFrame, x: str, look: Look) -> None:
    """Samples as a line with bars; means, which have no steps, as horizontal lines."""
    for (method, estimate), style in look.items():
        rows = own[(own["method"] == method) & (own["estimate"] == estimate)]
        if estimate == "sample":
            rows = rows.sort_values(x)
            ax.errorbar(rows[x], rows["mean"], yerr=bars(rows), elinewidth=0.7, zorder=3, **style)
        elif len(rows):
            ax.axhline(rows["mean"].item(), color=style["color"], linestyle=style["linestyle"], linewidth=1)


def _bands(ax: Axes, own: pd.DataFrame, look: Look, steps: Sequence[int]) -> None:
    """Variance relative to the truth's, one line per method and band, the bands named at the right end of the lines."""
    ax.set_title("variance in bands / truth's")
    ax.axhspan(*KEPT_VARIANCE, color="#ececec", zorder=0)
    ax.axhline(1, color="black", linewidth=0.8)
    for (method, estimate), style in look.items():
        for band, line in BAND_LINES.items() if estimate == "sample" else ():
            rows = own[(own["method"] == method) & (own["estimate"] == estimate) & (own["measure"] == band)].sort_values("steps")
            ax.errorbar(rows["steps"], rows["mean"], yerr=bars(rows), elinewidth=0.7, zorder=3, **style | dict(linestyle=line))
    for band, line in BAND_LINES.items():
        ax.plot([], [], color="black", linestyle=line, label=f"{BANDS[band]} frequencies")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(handles=ax.lines[-3:][::-1], loc="best", handlelength=2.2)
    _steps_axis(ax, steps)


def _steps_axis(ax: Axes, steps: Sequence[int]) -> None:
    """A logarithmic axis that names the numbers of steps there are, as many as have room."""
    ax.set_xscale("log", base=2)
    least = np.log2(steps[-1] / steps[0]) / 8
    named = [steps[-1]]
    for count in reversed(steps[:-1]):
        if np.log2(named[-1] / count) >= least:
            named.append(count)
    ax.set_xticks(named, [str(count) for count in named])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("steps")


def seconds_axis(ax: Axes, letter: str) -> None:
    """A logarithmic axis of seconds per volume; `letter` tells a device from others (_letter)."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    subs = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 2, 5)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"seconds per volume{letter}")


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure, with its numbers."""
    parts = list(blocks(metrics))
    devices = [f"{device or 'an unnamed device'}{_letter(p.devices, device)}" for p in parts for device in p.devices]
    clocks = f", and below against the median seconds per volume on {'; '.join(dict.fromkeys(devices))}" if devices else ""
    draws = -metrics.loc[step_rows(metrics) & (metrics["metric"] == "crps") & (metrics["seed"] < 0), "seed"]
    ensemble = f" of {span(draws)} draws" if len(draws) else ""
    told = " ".join(f"{part.title}: {_told(part)}." for part in parts)
    return (
        f"Samples against the number of steps they are drawn with: PSNR in unseen, CRPS{ensemble} in unseen_masked (lower is "
        f"better){clocks}; beside them the variance in three bands of frequency over the truth's (grey: {KEPT_VARIANCE[0]} to "
        f"{KEPT_VARIANCE[1]}). Few steps raise PSNR by blurring towards the mean, which the bands show: no panel is to be read "
        "alone. Dashed: the same method's mean, whose CRPS is its absolute error; dotted: the gaussian row, whose CRPS is from "
        "its standard deviation. Bars: 95 % bootstrap interval over "
        f"{span(pd.concat([part.numbers['n'] for part in parts]))} test patients. {told}"
    )


def _told(part: Block) -> str:
    """Fewest and most steps of every method, then the reference rows."""
    out = []
    for (method, estimate), rows in part.numbers.groupby(["method", "estimate"], sort=False):
        names = {name: f"{name.upper()}" for name in SCORES} | ({"band 3": "high band"} if estimate == "sample" else {})
        values = []
        for name, written in names.items():
            own = rows[rows["measure"] == name].sort_values("steps")["mean"].to_numpy()
            if len(own):
                ends = dict.fromkeys(f"{v:.2f}" if name != "crps" else f"{v:.4f}" for v in (own[0], own[-1]))
                values.append(f"{written} {' to '.join(ends)}")
        if estimate == "sample":
            steps = rows["steps"]
            values += [_times(part, method, device) for device in part.devices]
            out.append(f"{method}, {steps.min()} to {steps.max()} steps, {', '.join(filter(None, values))}")
        else:
            out.append(f"{method} mean {', '.join(values)}")
    return "; ".join(out)


def _times(part: Block, method: str, device: str) -> str:
    own = part.times[(part.times["method"] == method) & (part.times["device"] == device)].sort_values("steps")["seconds"]
    return f"{own.iloc[0]:.2g} to {own.iloc[-1]:.2g} s{_letter(part.devices, device)}" if len(own) else ""
