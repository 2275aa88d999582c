"""The figure of a card: gain by K, gain by distance, calibration, and lesions or anatomy, in four small panels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.anatomy import NAMES
from xdiff.drawing import PAGE_IN, STYLE, bars, k_axis
from xdiff.layout import chosen_ks, k_name
from xdiff.stats import one_step_count, summarise
from xdiff.trust.evidence import Trial, distance_values, gains, gains_by_k, rivals_of
from xdiff.trust.invents import BANDS
from xdiff.trust.keeps import lesions
from xdiff.trust.wording import BAND, COVERAGE
from xdiff.tumours import LESIONS

# Okabe and Ito's, told apart by marker too
LOOKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))


def draw(trial: Trial) -> Figure:
    """Text width, two by two; a panel without numbers says `not measured`."""
    fig = Figure(figsize=(PAGE_IN, 4.4), layout="constrained")
    panels: list[tuple[str, Callable[[Axes, Trial], bool]]] = [
        ("A  closer to the truth, by given slices", _by_k),
        ("B  closer to the truth, by distance", _by_distance),
        ("C  uncertainty and samples", _calibration),
        ("D  lesions, or anatomy", _lesions_or_anatomy),
    ]
    for ax, (title, panel) in zip(fig.subplots(2, 2).flat, panels, strict=True):
        ax.set_title(title, loc="left", fontweight="bold")
        if not panel(ax, trial):
            ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="#666666")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    return fig


def save(trial: Trial, stem: Path) -> None:
    """`stem`.png and `stem`.pdf, the same bytes from the same table."""
    with mpl.rc_context(STYLE):
        fig = draw(trial)
        fig.savefig(stem.with_name(f"{stem.name}.png"), dpi=150, metadata={"Software": None})
        fig.savefig(stem.with_name(f"{stem.name}.pdf"), metadata={"Creator": None, "Producer": None, "CreationDate": None})


def _line(ax: Axes, table: pd.DataFrame, x: str, look: tuple[str, str], label: str) -> None:
    table = table.sort_values(x)
    colour, marker = look
    ax.errorbar(table[x], table["mean"], yerr=bars(table), color=colour, marker=marker, label=label, elinewidth=0.7)


def _by_k(ax: Axes, trial: Trial) -> bool:
    """Gain over every rival."""
    tables = {rival: gains_by_k(trial, rival) for rival in rivals_of(trial)}
    tables = {rival: table for rival, table in tables.items() if len(table)}
    if not tables:
        return False
    ks = sorted({int(k) for table in tables.values() for k in table["K"]})
    for (rival, table), look in zip(tables.items(), LOOKS, strict=False):
        _line(ax, table, "K", look, f"over {rival}".replace("_", " "))
    ax.axhline(0, color="black", linewidth=0.8)
    if ks[0] > 0:
        k_axis(ax, ks)
    ax.margins(y=0.2)  # room for the legend
    ax.set_ylabel("gain in PSNR (dB)")
    ax.legend()
    return True


def _by_distance(ax: Axes, trial: Trial) -> bool:
    """Gain over the first rival in the unseen foreground."""
    values, present = distance_values(trial), rivals_of(trial)
    table = gains(trial, values, present[0], ["K", "x"]) if present and len(values) else pd.DataFrame()
    if table.empty:
        return False
    for k, look in zip(chosen_ks(table), LOOKS, strict=False):
        _line(ax, table[table["K"] == k], "x", look, k_name(k))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="distance to the nearest given slice (mm)", ylabel=f"gain over {present[0]} (dB)".replace("_", " "))
    ax.legend()
    return True


def _calibration(ax: Axes, trial: Trial) -> bool:
    """Coverage of the nominal 90 % interval by K, and the variance of samples in three bands; both should lie on grey."""
    groups = list(_groups(trial))
    start, ticks = 0.0, []
    for name, table, (low, high), (colour, marker) in groups:
        at = start + np.arange(len(table))
        ax.fill_between([at[0] - 0.4, at[-1] + 0.4], low, high, color="#dddddd", linewidth=0, zorder=0)
        ax.errorbar(at, table["mean"], yerr=bars(table), color=colour, marker=marker, elinewidth=0.9, linewidth=0.6)
        ax.text(at.mean(), high, name, ha="center", va="bottom", fontsize=6, color=colour)
        ticks += list(zip(at, table["name"], strict=True))
        start = at[-1] + 1.6
    ax.set_xticks([x for x, _ in ticks], [name for _, name in ticks], fontsize=6)
    ax.set_ylabel("share, or variance / truth's")
    return bool(groups)


def _groups(trial: Trial) -> Iterator[tuple[str, pd.DataFrame, tuple[float, float], tuple[str, str]]]:
    """(title, rows with name, mean, lo, hi, limits of what counts as right, look)."""
    scores = trial.own(trial.at_base(trial.evidence.scores))
    covered = scores[(scores["metric"] == "coverage_90") & (scores["region"] == "unseen_masked")]
    if len(covered):
        yield "coverage, by K", summarise(covered, ["K"]).assign(name=lambda t: t["K"].astype(str)), COVERAGE, LOOKS[0]
    checks = trial.own(trial.at_base(trial.evidence.checks), any_row=True)
    checks = checks[checks["check"].isin(BANDS)]
    for k in chosen_ks(checks):
        own = one_step_count(checks)
        own = own[own["K"] == k].sort_values("check")
        yield f"variance, {k_name(k)}", own.assign(name=own["check"].map(BANDS).str.replace("middle", "mid")), BAND, LOOKS[1]


def _lesions_or_anatomy(ax: Axes, trial: Trial) -> bool:
    return _lesions(ax, trial) or _anatomy(ax, trial)


def _lesions(ax: Axes, trial: Trial) -> bool:
    """Share of the lesions found, of those seen and unseen by the given slices; dashed, in the real volumes."""
    drawn = False
    for region, look in zip(LESIONS, LOOKS, strict=False):
        own, real = lesions(trial, region)
        if own.empty:
            continue
        name = region.removeprefix("lesion_")
        _line(ax, own, "K", look, f"{name} by a given slice")
        real = real.sort_values("K")
        ax.plot(real["K"], real["mean"], color=look[0], linestyle="--", linewidth=0.8, label=f"{name}, real volumes")
        k_axis(ax, sorted({int(k) for k in own["K"]}))
        drawn = True
    if drawn:
        ax.set(ylabel="share of lesions found", ylim=(-0.05, 1.05))
        ax.legend()
    return drawn


def _anatomy(ax: Axes, trial: Trial) -> bool:
    """Mean absolute error of every measure over the control's: below 1, the method knows something of this patient."""
    own = trial.own(trial.at_base(trial.evidence.bodies)).dropna(subset=["gain"])
    if own.empty:
        return False
    names = [metric for metric in NAMES if metric in set(own["metric"])]
    for k, (colour, marker) in zip(chosen_ks(own), LOOKS, strict=False):
        at = own[own["K"] == k].set_index("metric").reindex(names)
        ax.plot(
            np.arange(len(names)),
            at["mae"] / (at["mae"] + at["gain"]),
            color=colour,
            marker=marker,
            linestyle="",
            label=k_name(k),
        )
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xticks(range(len(names)), [NAMES[name][0] for name in names], rotation=30, ha="right", fontsize=6)
    ax.set_ylabel("error / the control's")
    ax.legend()
    return True
