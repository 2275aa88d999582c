"""What all figures share: page width, style, a look per method, and an empty page of titled blocks with one legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from xdiff.layout import TRIVIAL, row_labels

PAGE_IN = 7.1  # width of the text of a two-column page in inches; every panel is at most a column (3.4) wide
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: editable, and what publishers ask for
    "svg.hashsalt": "xdiff",
}
# Okabe and Ito's colour-blind safe colours for what is learned, greys for the trivial rows, black for the floor.
MARKS = {
    "population_mean": ("#000000", "1"),
    "zeros": ("#bbbbbb", "x"),
    "mean_template": ("#a6a6a6", "*"),
    "nearest": ("#a6a6a6", "v"),
    "linear": ("#8c8c8c", "^"),
    "cubic": ("#737373", "<"),
    "retrieval": ("#a6a6a6", "P"),
    "gaussian": ("#000000", "s"),
    "gaussian_posed": ("#262626", "p"),
    "gaussian_local": ("#4d4d4d", "H"),
    "gaussian_local_posed": ("#666666", "h"),
    "unet": ("#0072b2", "D"),
    "unet2d": ("#56b4e9", "d"),
    "mednerf": ("#cc79a7", "p"),
    "tpdm": ("#009e73", ">"),
    "score": ("#e69f00", "X"),
    "flow3d": ("#8f7700", "h"),
    "xdiff_paper": ("#882255", "8"),
    "xdiff": ("#d55e00", "o"),
    "mask_linear": ("#8c8c8c", "+"),
    "truth": ("#000000", "_"),
}
UNKNOWN_MARKS = [("#332288", "H"), ("#44aa99", ">"), ("#117733", "^"), ("#999933", "v"), ("#aa4499", "s")]
# The variants of one method (estimate, steps): line style, and how much of the marker's colour fills it.
VARIANTS = [("-", 1.0), ("--", 0.0), (":", 0.45), ("-.", 0.2)]
Look = dict[tuple, dict]


def looks(metrics: pd.DataFrame) -> Look:
    """(method, estimate, steps) -> plot keywords: a colour and marker per method, a line style and fill per variant."""
    labels = row_labels(metrics)
    unknown = sorted({key[0] for key in labels} - set(MARKS))
    marks = MARKS | {method: UNKNOWN_MARKS[i % len(UNKNOWN_MARKS)] for i, method in enumerate(unknown)}
    out = {}
    for key, label in labels.items():
        colour, marker = marks[key[0]]
        line, tint = VARIANTS[[k for k in labels if k[0] == key[0]].index(key) % len(VARIANTS)]
        fill = tuple(1 - tint * (1 - np.array(to_rgb(colour))))
        out[key] = dict(label=label.replace("_", " "), color=colour, marker=marker, linestyle=line, markerfacecolor=fill)
        if key[0] in TRIVIAL and key[0] != "gaussian":
            out[key] |= dict(linewidth=0.8, markersize=3, linestyle="-")
    return out


def page(titles: Sequence[str], heights_in: Sequence[float], look: Look) -> tuple[Figure, list[SubFigure]]:
    """An empty figure of text width: one titled block per family, top to bottom, and one legend under all."""
    names = [style["label"] for style in look.values()]
    # a legend entry is its line (18 pt), a gap and about 3.5 pt per letter of the longest label: no entry may leave the page
    columns = max(1, min(5, len(names), int(PAGE_IN * 72 / (45 + 3.5 * max(map(len, names))))))
    legend_in = 0.15 + 0.16 * -(-len(names) // columns)
    fig = Figure(figsize=(PAGE_IN, sum(heights_in) + legend_in), layout="constrained")
    *blocks, foot = fig.subfigures(len(titles) + 1, 1, height_ratios=[*heights_in, legend_in], squeeze=False)[:, 0]
    for block, title in zip(blocks, titles, strict=True):
        block.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    handles = [Line2D([], [], **style) for style in look.values()]
    foot.legend(handles, names, loc="center", ncols=columns, handlelength=2.6)
    return fig, blocks


def bars(data: pd.DataFrame) -> np.ndarray:
    """Lengths (2, points) of the error bars; none where there is no interval."""
    return np.nan_to_num(np.stack([data["mean"] - data["lo"], data["hi"] - data["mean"]])).clip(min=0)


def rows_of(data: pd.DataFrame, key: tuple) -> pd.DataFrame:
    """Those of one row of the tables: `key` is (method, estimate, steps)."""
    return data[(data["method"] == key[0]) & (data["estimate"] == key[1]) & (data["steps"] == key[2])]


def lines(ax: Axes, data: pd.DataFrame, x: str, look: Look) -> None:
    """A line with bars for every row of the tables, `mean` against the column `x`."""
    for key, style in look.items():
        own = rows_of(data, key).sort_values(x)
        if len(own):
            ax.errorbar(own[x], own["mean"], yerr=bars(own), elinewidth=0.7, zorder=3 if key[0] == "xdiff" else 2, **style)


def k_axis(ax: Axes, ks: Sequence[int]) -> None:
    """K from 1 to 31 on a logarithmic axis that names the K there are and nothing else."""
    ax.set_xscale("log")
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("given slices K")
