"""What all figures share: page width, style, a look per method, and an empty page of titled blocks with one legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from xdiff.fonts import FAMILY, register
from xdiff.layout import TRIVIAL, row_labels

MM_PER_IN = 25.4
PAGE_IN = 175 / MM_PER_IN  # two columns of a printed page; letters are 6.5 to 8.5 pt at that width
PNG_DPI = 150
COLUMN_IN = 85 / MM_PER_IN  # one column
STYLE = {
    "font.family": [FAMILY, "DejaVu Sans"],
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
# A colour family per idea, told apart with any colour vision (tests/test_drawing.py), and in it a marker per method: greys use
# nothing that is learned, blues are the linear-Gaussian rows, greens regressors, purples coordinate networks, warm colours
# diffusion models, of which ours is the one drawn bold.
MARKS = {
    "population_mean": ("#000000", "1"),
    "zeros": ("#bbbbbb", "x"),
    "mean_template": ("#a6a6a6", "*"),
    "nearest": ("#a6a6a6", "v"),
    "linear": ("#8c8c8c", "^"),
    "cubic": ("#737373", "<"),
    "retrieval": ("#a6a6a6", "+"),
    "gaussian": ("#003f6f", "s"),
    "gaussian_local": ("#3d8fd1", "D"),
    "unet": ("#00785a", "p"),
    "unet2d": ("#2fd39b", "d"),
    "mednerf": ("#7b3294", "H"),
    "coordinate_mlp": ("#e3a6d8", "h"),
    "score": ("#e69f00", "X"),
    "tpdm": ("#d08a00", ">"),
    "flow3d": ("#f2cc3d", "8"),
    "xdiff_paper": ("#d4696a", "P"),
    "xdiff": ("#c8321e", "o"),
    "field_posterior": ("#000000", "."),
    "mask_linear": ("#8c8c8c", "3"),
    "truth": ("#000000", "_"),
}
OURS = "xdiff"
POSED = "_posed"  # METHOD_posed has the looks of METHOD, on a line of its own kind
_POSED_LOOK = dict(linestyle=(0, (5, 1, 1, 1, 1, 1)), markeredgecolor="#000000")
UNKNOWN_MARKS = [("#5e4b3c", "H"), ("#8a7a66", ">"), ("#5e4b3c", "^"), ("#8a7a66", "v"), ("#5e4b3c", "s")]
# The variants of one method (estimate, steps): line style, and how much of the marker's colour fills it.
VARIANTS = [("-", 1.0), ("--", 0.0), (":", 0.45), ("-.", 0.2)]
SPREAD = 1.06  # ratio of neighbours that share one x, on a logarithmic axis
Look = dict[tuple, dict]


def looks(metrics: pd.DataFrame) -> Look:
    """(method, estimate, steps) -> plot keywords: a colour and marker per method, a line style and fill per variant."""
    labels = row_labels(metrics)
    unknown = sorted({key[0].removesuffix(POSED) for key in labels} - set(MARKS))
    marks = MARKS | {method: UNKNOWN_MARKS[i % len(UNKNOWN_MARKS)] for i, method in enumerate(unknown)}
    out = {}
    for key, label in labels.items():
        colour, marker = marks[key[0].removesuffix(POSED)]
        line, tint = VARIANTS[[k for k in labels if k[0] == key[0]].index(key) % len(VARIANTS)]
        fill = tuple(1 - tint * (1 - np.array(to_rgb(colour))))
        out[key] = dict(label=label.replace("_", " "), color=colour, marker=marker, linestyle=line, markerfacecolor=fill)
        if key[0] in TRIVIAL and key[0] != "gaussian":
            out[key] |= dict(linewidth=0.8, markersize=3, linestyle="-")
        elif key[0] == OURS:
            out[key] |= dict(linewidth=2.2, markersize=5.5)
        elif key[0].endswith(POSED):
            out[key] |= _POSED_LOOK
    return out


def page(titles: Sequence[str], heights_in: Sequence[float], look: Look) -> tuple[Figure, list[SubFigure]]:
    """An empty figure of text width: one titled block per family, top to bottom, and one legend under all."""
    register()
    names = [style["label"] for style in look.values()]
    # a legend entry is its line (18 pt), a gap and about 3.5 pt per letter of the longest label: no entry may leave the page
    columns = max(1, min(5, len(names), int(PAGE_IN * 72 / (45 + 3.5 * max(map(len, names))))))
    legend_in = 0.15 + 0.16 * -(-len(names) // columns)
    # laid out at the pictures' own resolution: at another, hinted letters are a little wider, and long labels leave the page
    fig = Figure(figsize=(PAGE_IN, sum(heights_in) + legend_in), layout="constrained", dpi=PNG_DPI)
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
    """A line with bars for every row of the tables, `mean` against the column `x`; ours, which is bold, under what equals it."""
    present = [key for key in look if len(rows_of(data, key))]
    for i, key in enumerate(present):
        own, style = rows_of(data, key).sort_values(x), look[key]
        if data[x].nunique() == 1:  # points without a line hide each other: side by side
            own, style = own.assign(**{x: own[x] * SPREAD ** (i - (len(present) - 1) / 2)}), style | dict(linestyle="none")
        ax.errorbar(own[x], own["mean"], yerr=bars(own), elinewidth=0.7, zorder=1.9 if key[0] == OURS else 2, **style)


def k_axis(ax: Axes, ks: Sequence[int]) -> None:
    """K from 1 to 31 on a logarithmic axis that names the K there are and nothing else."""
    ax.set_xscale("log")
    if len(ks) == 1:
        ax.set_xlim(ks[0] / 1.6, ks[0] * 1.6)
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("given slices K")
