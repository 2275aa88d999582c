"""The figure `training_curves`: loss, and what validation and training subjects gain over the gaussian row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, page
from xdiff.layout import method_rank
from xdiff.stats import is_history

SIDES = {"validation": "-", "training": "--"}
KEPT = dict(color="#8c8c8c", linestyle=(0, (1, 1)), linewidth=1.2)
_LOSS_COLOUR = "#444444"


class Training(NamedTuple):
    """One training. loss: step -> mean loss since the check before; gain: (side, K) columns of dB over the gaussian row,
    by step; kept: the step whose weights were kept, None where no check says so."""

    method: str
    trained_on: str
    grid: str
    loss: pd.Series
    gain: pd.DataFrame
    kept: int | None

    @property
    def title(self) -> str:
        return f"{self.method} on {self.trained_on}, grid {self.grid}"


def trainings(metrics: pd.DataFrame) -> Iterator[Training]:
    """Every training that the long table tells of, by cohort, grid and method; history rows alone are looked at."""
    rows = metrics[is_history(metrics)]
    if rows.empty:
        raise NothingToShow("no rows of a training (metric history_*)")
    rank = rows["method"].map(method_rank).rename("rank")
    for (trained_on, grid, _, method), own in rows.groupby(["trained_on", "grid", rank, "method"]):
        scores = {name: own[own["metric"] == f"history_{name}"] for name in ("loss", "psnr", "psnr_gaussian", "best")}
        psnr, floor = (scores[n].pivot(index="x", columns=["subject", "K"], values="value") for n in ("psnr", "psnr_gaussian"))
        kept = int(scores["best"]["value"].iloc[-1]) if len(scores["best"]) else None
        yield Training(method, trained_on, grid, scores["loss"].set_index("x")["value"].sort_index(), psnr - floor, kept)


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """One row of panels per training: its loss, and its gain over the gaussian row by K on both sides."""
    found = list(trainings(metrics))
    ks = sorted({int(k) for training in found for _, k in training.gain.columns})
    colours = {k: mpl.colormaps["viridis"](0.8 * i / max(1, len(ks) - 1)) for i, k in enumerate(ks)}
    fig, blocks = page([training.title for training in found], [1.9] * len(found), _look(colours))
    for block, training in zip(blocks, found, strict=True):
        left, right = block.subplots(1, 2)
        left.plot(training.loss, color=_LOSS_COLOUR)
        left.set_title("mean training loss since the check before")
        _loss_axis(left, training.loss)
        _gains(right, training, colours)
        for ax in (left, right):
            ax.set_xlabel("optimiser step")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            if training.kept is not None:
                ax.axvline(training.kept, zorder=1, **KEPT)
    return fig


def _look(colours: dict[int, tuple]) -> Look:
    """The legend: a colour per K, a line style per side, and the kept step."""
    look: Look = {(k,): dict(label=f"K = {k}", color=colour) for k, colour in colours.items()}
    look |= {(side,): dict(label=f"{side} subjects", color="black", linestyle=line) for side, line in SIDES.items()}
    return look | {("kept",): dict(label="step kept", **KEPT)}


def _gains(ax: Axes, training: Training, colours: dict[int, tuple]) -> None:
    for (side, k), gain in training.gain.items():
        many = len(gain) > 40  # markers would hide the line
        ax.plot(gain, color=colours[k], linestyle=SIDES[side], marker="" if many else ".", markersize=3)
        if side == "validation" and training.kept in gain.index:
            ax.plot(training.kept, gain[training.kept], "o", color=colours[k], markersize=5, zorder=4)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_title("gain over the gaussian row, unseen (dB)")
    if training.gain.empty:
        return
    low, high = (float(v) for v in (training.gain.min().min(), training.gain.max().max()))
    low, high = min(low, 0.0), max(high, 0.0)
    # the first checks are sometimes hopeless: then they run off the axis rather than press all others together
    settled = min(float(training.gain.iloc[len(training.gain) // 2 :].min().min()), -0.5 * high)
    low = settled if low - high < 3 * (settled - high) else low
    margin = max(0.05 * (high - low), 0.01)
    ax.set_ylim(low - margin, high + margin)


def _loss_axis(ax: Axes, loss: pd.Series) -> None:
    """Logarithmic where the loss falls by more than a factor of three."""
    if loss.min() > 0 and loss.max() > 3 * loss.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure: which step was kept, what it gained, and whether training went on rising while validation fell."""
    told = " ".join(f"{training.title}: {_told(training)}." for training in trainings(metrics))
    return (
        "Training: mean loss since the check before, and the gain in PSNR (dB, unseen) of the averaged weights over the gaussian "
        "row (0) by K, on validation subjects (solid) and on training subjects (dashed; the gaussian row is leave-one-out). "
        "Early checks may lie below the axis. "
        f"Dotted line and dots: the step whose weights were kept, the best on validation. {told}"
    )


def _told(training: Training) -> str:
    steps = training.loss.index
    if training.kept is None:
        return f"no check of {len(steps)} says that its weights were kept"
    place = f"step {training.kept:,} of {steps[-1]:,.0f} kept"
    if training.kept not in training.gain.index:
        return f"{place}, without validation"
    gains = []
    for side in (side for side in SIDES if side in training.gain.columns.get_level_values("subject")):
        own = training.gain.loc[training.kept, side].sort_index()
        gains.append(f"{side} " + ", ".join(f"{gain:+.2f} dB at K = {k}" for k, gain in own.items()))
    return f"{place}; {'; '.join(gains)}{_afterwards(training)}"


def _afterwards(training: Training) -> str:
    """What happened from the kept step to the last one, averaged over K."""
    change = (training.gain.iloc[-1] - training.gain.loc[training.kept]).groupby("subject").mean()
    if training.kept == training.gain.index[-1]:
        return "; validation was still rising at the end" if _rising(training) else "; the last check was the best"
    if set(change.index) != set(SIDES):
        return "; after it " + ", ".join(f"{side} {value:+.2f} dB" for side, value in change.items())
    overfitted = change["training"].round(2) > 0 > change["validation"].round(2)  # what prints as 0.00 is no claim
    verdict = "overfitting, training rose while validation fell" if overfitted else "no overfitting seen"
    return f"; after it training {change['training']:+.2f} dB, validation {change['validation']:+.2f} dB: {verdict}"


def _rising(training: Training) -> bool:
    """Whether the mean over K on validation rose over the last quarter of the checks."""
    if "validation" not in training.gain.columns.get_level_values("subject"):
        return False
    mean = training.gain["validation"].mean(axis=1)
    return len(mean) > 1 and mean.iloc[-1] > mean.iloc[-max(2, len(mean) // 4)]
