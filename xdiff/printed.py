"""The figure `psnr_vs_k_paper`: what the paper printed, beside what was measured here and marked as not comparable."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.captions import NothingToShow, drawable, psnr
from xdiff.drawing import MARKS, STYLE, k_axis, lines, looks, page
from xdiff.layout import base_setting, families, in_setting, row_labels, span
from xdiff.printed_table import CAVEAT, KS, PRINTED

# How cohorts are called that are of the paper's kind; beside phantoms and knees its numbers say nothing.
_OF_ITS_KIND = ("brats", "msd-brats", "ukb", "openneuro", "ixi", "tcga", "upenn")
_LOOKS = {"ScoreMRI": "score", "TPDM": "tpdm", "X-Diffusion": "xdiff_paper"}


def _measured(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, PSNR in unseen at the base setting) of every family of real volumes trained on itself, asked at several K."""
    own = psnr(drawable(metrics))
    own = own[(own["region"] == "unseen") & (own["trained_on"] == own["cohort"]) & own["cohort"].str.startswith(_OF_ITS_KIND)]
    parts = [(title, rows[in_setting(rows, base_setting(rows))]) for title, rows in families(own)]
    parts = [(title, rows) for title, rows in parts if rows["K"].nunique() > 1]
    if not parts:
        raise NothingToShow("no cohort of the paper's kind, trained on itself, with a PSNR in unseen at two K")
    return parts


@mpl.rc_context(STYLE)
def figure(metrics: pd.DataFrame) -> Figure:
    """Per family: what was measured here, and on the same scale of dB what the paper printed for its two data sets."""
    parts = _measured(metrics)
    look = looks(pd.concat([rows for _, rows in parts]))
    shown = look | {(name,): _look(name) for name in _LOOKS}
    fig, blocks = page([title for title, _ in parts], [2.25] * len(parts), shown)
    for block, (_, rows) in zip(blocks, parts, strict=True):
        axes = block.subplots(1, 1 + len(PRINTED), sharey=True)
        lines(axes[0], rows, "K", look)
        axes[0].set(title="measured here, unseen", ylabel="PSNR (dB)")
        k_axis(axes[0], sorted(rows["K"].unique()))
        for ax, name in zip(axes[1:], PRINTED, strict=True):
            _printed(ax, name)
    return fig


def _look(name: str) -> dict:
    colour, marker = MARKS[_LOOKS[name]]
    return dict(label=f"{name}, as printed", color=colour, marker=marker, linestyle=(0, (4, 2)), markerfacecolor="white")


def _printed(ax: Axes, data: str) -> None:
    """The paper's lines, on grey, so that nobody takes them for measurements of the same thing."""
    ax.set_facecolor("#f1f1f1")
    for name, values in PRINTED[data].items():
        ax.plot(KS, values, **_look(name))
    ax.set_title(f"paper, {data}: its own protocol")
    k_axis(ax, KS)


def caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure: our best row at the ends of K beside the paper's."""
    parts, told = _measured(metrics), []
    labels = row_labels(pd.concat([rows for _, rows in parts]))
    for title, rows in parts:
        best = [rows.loc[rows[rows["K"] == k]["mean"].idxmax()] for k in sorted({rows["K"].min(), rows["K"].max()})]
        named = "; ".join(f"K = {r['K']}: {labels[r['method'], r['estimate'], r['steps']]} {r['mean']:.2f} dB" for r in best)
        told.append(f"{title}, best row: {named}.")
    theirs = "; ".join(
        f"{name} {own['X-Diffusion'][0]:.2f} (K = 1) to {own['X-Diffusion'][-1]:.2f}" for name, own in PRINTED.items()
    )
    patients = span(pd.concat([rows["n"] for _, rows in parts]))
    return (
        f"Left: PSNR in unseen as measured here, with 95 % bootstrap intervals over {patients} test patients. Grey panels: "
        f"{CAVEAT[0].lower()}{CAVEAT[1:]} {' '.join(told)} Printed for X-Diffusion (dB): {theirs}."
    )
