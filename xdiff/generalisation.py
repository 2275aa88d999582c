"""The figure `generalisation`: methods trained on another cohort beside the same methods trained on this one, and beside
interpolation, which was trained on nothing."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.captions import NothingToShow, drawable, psnr
from xdiff.config import parts_of
from xdiff.drawing import STYLE, Look, bars, k_axis, looks, page
from xdiff.layout import base_grid, base_setting, in_setting, is_reference, row_labels, span
from xdiff.stats import ROW

UNTRAINED = ("nearest", "linear", "cubic")
REGIONS = ("unseen", "unseen_masked")
_FOREIGN = dict(linestyle="--", markerfacecolor="white")


def blocks(metrics: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(title, PSNR of means at the base setting) of every cohort and grid that models of its own and of another cohort were asked
    on; interpolation once. Raises NothingToShow where there is no such cohort."""
    rows = psnr(drawable(metrics))
    rows = rows[rows["estimate"] == "mean"]
    found = False
    for (cohort, grid), own in rows.assign(base=rows["grid"].map(base_grid)).groupby(["cohort", "base"]):
        own = own[[name == cohort or cohort not in parts_of(name) for name in own["trained_on"]]]  # of both: an ablation
        learned = own[~own["method"].isin(UNTRAINED)]
        if learned["trained_on"].nunique() < 2 or cohort not in set(learned["trained_on"]):
            continue
        found = True
        own = own[in_setting(own, base_setting(own))]
        own = own[own["K"].isin(own.loc[own["trained_on"] != cohort, "K"])]
        plain = own[own["method"].isin(UNTRAINED)].assign(trained_on="")
        plain = plain.drop_duplicates([*ROW, "K", "region"])
        trained = own[~own["method"].isin((*UNTRAINED, "retrieval"))]
        yield f"{cohort}, grid {grid}", pd.concat([plain, trained], ignore_index=True)
    if not found:
        raise NothingToShow("no cohort with models trained on it and on another one")


def _look(parts: list[tuple[str, pd.DataFrame]]) -> Look:
    """(trained_on, method, estimate, steps) -> plot keywords: own models solid, foreign ones dashed and open."""
    rows = pd.concat([own for _, own in parts])
    styles, out = looks(rows), {}
    for key, style in styles.items():
        here = rows[(rows[ROW] == list(key)).all(axis=1)]
        for own in sorted(set(here["trained_on"])):
            foreign = bool(own) and not (here.loc[here["trained_on"] == own, "cohort"] == own).any()
            label = f"{style['label']}, trained on {own}" if own else style["label"]
            out[own, *key] = style | dict(label=label) | (_FOREIGN if foreign else {})
    return out


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per cohort PSNR against K in unseen and unseen_masked."""
    parts = list(blocks(metrics))
    look = _look(parts)
    fig, places = page([title for title, _ in parts], [2.3] * len(parts), look)
    for place, (_, own) in zip(places, parts, strict=True):
        for ax, region in zip(place.subplots(1, len(REGIONS)), REGIONS, strict=True):
            _lines(ax, own[own["region"] == region], look)
            k_axis(ax, sorted(own["K"].unique()))
            ax.set_title(f"PSNR in {region} (dB)")
    return fig


def _lines(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    for key, style in look.items():
        own = rows[(rows[["trained_on", *ROW]] == list(key)).all(axis=1)].sort_values("K")
        if len(own):
            ax.errorbar(own["K"], own["mean"], yerr=bars(own), elinewidth=0.7, **style)


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure: at every K the best foreign model, the best interpolation and the mean template of the cohort."""
    parts = list(blocks(metrics))
    rows = pd.concat([own for _, own in parts])
    labels, told = row_labels(rows), []
    for title, own in parts:
        unseen = own[own["region"] == "unseen"]
        for k, here in unseen.groupby("K"):
            foreign = here[(here["trained_on"] != here["cohort"]) & (here["trained_on"] != "")]
            kinds = {"": foreign[~is_reference(foreign)], "interpolation": here[here["trained_on"] == ""]}
            kinds["own mean"] = here[(here["trained_on"] == here["cohort"]) & (here["method"] == "mean_template")]
            told.append(f"{title}, K = {k}: {', '.join(_best(name, of, labels) for name, of in kinds.items() if len(of))}")
    return (
        "Generalisation: means of models trained on another cohort (dashed, open) beside those of models trained on this one "
        "(solid) and interpolation (grey), which learns nothing. A foreign model that does not beat interpolation has brought "
        "nothing; one that does not beat the cohort's own mean template knows less than the average of this anatomy. Bars: 95 % "
        f"bootstrap interval over {span(rows['n'])} test patients. Best foreign model, best interpolation, own mean (dB in "
        f"unseen). {'; '.join(told)}."
    )


def _best(name: str, rows: pd.DataFrame, labels: dict) -> str:
    best = rows.loc[rows["mean"].idxmax()]
    called = name or f"{labels[best['method'], best['estimate'], best['steps']]} (trained on {best['trained_on']})"
    return f"{called} {best['mean']:.2f}"
