"""The figure `timing`: seconds per volume of every row, one panel per device, since times of two devices are never compared."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, looks, page, rows_of
from xdiff.layout import base_setting, chosen_ks, families, in_setting, row_labels
from xdiff.stats import POINT, ROW, is_curve
from xdiff.step_sweep import seconds_axis

SHORTEST_S = 1e-5  # manifests keep five decimals
_FILLS = ("white", None)  # of the first and the second K
_QUANTILES = {"q25": 0.25, "mean": 0.5, "q75": 0.75}


def times(metrics: pd.DataFrame) -> pd.DataFrame:
    """Median (column mean) and quartiles over volumes of the seconds of every row on every device: POINT, ROW, device, q25, q75,
    volumes. Raises NothingToShow where nothing was timed."""
    timed = metrics[(metrics["metric"] == "seconds") & ~is_curve(metrics) & (metrics["method"] != "truth")]
    if timed.empty:
        raise NothingToShow("no rows of seconds")
    groups = timed.groupby([*POINT, *ROW, "device"])["value"]
    found = groups.quantile(list(_QUANTILES.values())).unstack()
    found.columns = list(_QUANTILES)
    return found.assign(volumes=groups.size()).reset_index()


def _blocks(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    parts = []
    for title, own in families(times(metrics)):
        own = own[in_setting(own, base_setting(own))]
        parts.append((title, own[own["K"].isin(chosen_ks(own))]))
    return parts


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per family one panel per device: every row a line, the smaller K open, the larger full."""
    parts = _blocks(metrics)
    look = looks(pd.concat([own for _, own in parts]))
    ks = sorted({int(k) for _, own in parts for k in own["K"]})
    heights = [0.8 + 0.2 * len(own[ROW].drop_duplicates()) for _, own in parts]
    fig, places = page([title for title, _ in parts], heights, _legend(ks))
    for place, (_, own) in zip(places, parts, strict=True):
        devices = sorted(own["device"].unique())
        names = [key for key in look if len(rows_of(own, key))]
        axes = place.subplots(1, len(devices), sharey=True, squeeze=False)[0]
        for ax, device in zip(axes, devices, strict=True):
            _dots(ax, own[own["device"] == device], names, look, ks)
            ax.set_title(device or "an unnamed device")
        axes[0].set_yticks(range(len(names)), [look[key]["label"] for key in names])
        axes[0].set_ylim(len(names) - 0.4, -0.6)
    return fig


def _legend(ks: Sequence[int]) -> Look:
    """The rows are named beside their lines: only the K are left to tell."""
    marker = dict(color="#444444", marker="o", linestyle="none")
    return {(k,): marker | dict(label=f"K = {k}", markerfacecolor=_fill(i, ks) or "#444444") for i, k in enumerate(ks)}


def _fill(i: int, ks: Sequence[int]) -> str | None:
    return _FILLS[-1] if len(ks) == 1 else _FILLS[min(i, 1)]


def _dots(ax: Axes, own: pd.DataFrame, names: list[tuple], look: Look, ks: Sequence[int]) -> None:
    for y, key in enumerate(names):
        for i, k in enumerate(ks):
            row = rows_of(own[own["K"] == k], key)
            if row.empty:
                continue
            at = row[list(_QUANTILES)].clip(lower=SHORTEST_S)
            ends = [at["mean"] - at["q25"], at["q75"] - at["mean"]]
            style = look[key] | dict(linestyle="none", markersize=4, markerfacecolor=_fill(i, ks) or look[key]["color"])
            ax.errorbar(at["mean"], [y + 0.3 * (i - (len(ks) - 1) / 2)] * len(at), xerr=ends, elinewidth=0.9, **style)
    seconds_axis(ax, "")


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure: devices, volumes, and the row that takes longest on each."""
    parts = _blocks(metrics)
    rows = pd.concat([own for _, own in parts])
    labels, told = row_labels(rows), []
    for title, own in parts:
        for device, here in own.groupby("device"):
            longest = here.loc[here["mean"].idxmax()]
            name = labels[longest["method"], longest["estimate"], longest["steps"]]
            told.append(
                f"{title}, {device or 'an unnamed device'}: longest {name}, {longest['mean']:.2g} s at K = {longest['K']}"
            )
    ks = sorted(int(k) for k in rows["K"].unique())
    fills = f"open K = {ks[0]}, full K = {ks[-1]}" if len(ks) == 2 else f"K = {', '.join(map(str, ks))}"
    least = " Times below 10 us are drawn at 10 us." if (rows["mean"] < SHORTEST_S).any() else ""
    return (
        f"Seconds per volume, one panel per device ({fills}): median with quartiles over volumes. Times of two devices are never "
        f"compared.{least} {'. '.join(told)}."
    )
