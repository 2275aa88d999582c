"""The paper's figures from results/metrics/all.tsv and panel.npz, as PDF and PNG, with captions filled in by code.

`python -m xdiff.figures --metrics results/metrics/all.tsv [--panel results/metrics/panel.npz] --out results/figures`
Bit-identical on every run. A figure whose data are missing is left out with a message on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from xdiff import captions
from xdiff.captions import NothingToShow
from xdiff.layout import TRIVIAL, base_setting, families, in_setting, row_labels
from xdiff.panel import panel_figure, read_panels
from xdiff.stats import read_metrics

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
    "zeros": ("#bbbbbb", "x"),
    "mean_template": ("#a6a6a6", "*"),
    "nearest": ("#a6a6a6", "v"),
    "linear": ("#8c8c8c", "^"),
    "cubic": ("#737373", "<"),
    "retrieval": ("#a6a6a6", "P"),
    "gaussian": ("#000000", "s"),
    "unet": ("#0072b2", "D"),
    "unet2d": ("#56b4e9", "d"),
    "mednerf": ("#cc79a7", "p"),
    "tpdm": ("#009e73", ">"),
    "score": ("#e69f00", "X"),
    "flow3d": ("#8f7700", "h"),
    "xdiff_paper": ("#882255", "8"),
    "xdiff": ("#d55e00", "o"),
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


@mpl.rc_context(STYLE)
def psnr_vs_k(metrics: pd.DataFrame) -> Figure:
    """PSNR against the number of given slices: unseen, unseen_masked, and the paired gain over the gaussian row.

    `metrics`: the long table. One row of panels per (trained_on, cohort, grid), at its base setting.
    """
    drawn = captions.drawable(metrics)
    look = looks(drawn)
    summary = captions.psnr(drawn)
    gains = dict(families(captions.gains(drawn)))
    parts = list(families(summary))
    fig, blocks = _page([title for title, _ in parts], [2.25] * len(parts), look)
    for block, (title, own) in zip(blocks, parts, strict=True):
        base = base_setting(own)
        own = own[in_setting(own, base)]
        gain = gains[title][in_setting(gains[title], base)] if title in gains else own.iloc[:0]
        panels = {f"PSNR in {r} (dB)": own[own["region"] == r] for r in ("unseen", "unseen_masked")}
        panels |= {"gain over gaussian, unseen (dB)": gain} if len(gain) else {}
        axes = block.subplots(1, len(panels))
        for ax, (name, data) in zip(axes, panels.items(), strict=True):
            _lines(ax, data, "K", look)
            _k_axis(ax, sorted(own["K"].unique()))
            ax.set_title(name)
        if len(gain):
            _gain_axis(axes[-1])
    return fig


@mpl.rc_context(STYLE)
def error_vs_distance(metrics: pd.DataFrame) -> Figure:
    """PSNR in unseen_masked against the distance to the nearest given slice, one panel per family and K."""
    drawn = captions.drawable(metrics)
    look = looks(drawn)
    curves = captions.distance_curves(drawn)
    parts = list(families(curves))
    fig, blocks = _page([title for title, _ in parts], [2.1] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        own = own[in_setting(own, base_setting(own))]
        ks = captions.chosen_ks(own)
        axes = block.subplots(1, len(ks), sharey=True, squeeze=False)[0]
        for ax, k in zip(axes, ks, strict=True):
            _lines(ax, own[own["K"] == k], "x", look)
            ax.set_title(f"K = {k}")
            ax.set_xlabel("distance to the nearest given slice (mm)")
        axes[0].set_ylabel("PSNR (dB)")
    return fig


@mpl.rc_context(STYLE)
def axes_policies(metrics: pd.DataFrame) -> Figure:
    """Dot plot of PSNR in unseen_masked for every axis, policy, frame and thickness, one panel per family and K."""
    drawn = captions.drawable(metrics)
    look = looks(drawn)
    parts = captions.setting_panels(drawn)
    heights = [0.7 + 0.42 * own["setting"].nunique() for _, own in parts]
    fig, blocks = _page([title for title, _ in parts], heights, look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        names = list(own["setting"].unique())
        ks = captions.chosen_ks(own)
        axes = block.subplots(1, len(ks), sharey=True, squeeze=False)[0]
        for ax, k in zip(axes, ks, strict=True):
            _dots(ax, own[own["K"] == k], names, look)
            ax.set_title(f"K = {k}")
            ax.set_xlabel("PSNR in unseen_masked (dB)")
    return fig


def _page(titles: Sequence[str], heights_in: Sequence[float], look: Look) -> tuple[Figure, list[SubFigure]]:
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


def _rows(data: pd.DataFrame, key: tuple) -> pd.DataFrame:
    return data[(data["method"] == key[0]) & (data["estimate"] == key[1]) & (data["steps"] == key[2])]


def _bars(data: pd.DataFrame) -> np.ndarray:
    """Lengths (2, points) of the error bars; none where there is no interval."""
    return np.nan_to_num(np.stack([data["mean"] - data["lo"], data["hi"] - data["mean"]])).clip(min=0)


def _lines(ax: Axes, data: pd.DataFrame, x: str, look: Look) -> None:
    for key, style in look.items():
        own = _rows(data, key).sort_values(x)
        if len(own):
            ax.errorbar(own[x], own["mean"], yerr=_bars(own), elinewidth=0.7, zorder=3 if key[0] == "xdiff" else 2, **style)


def _dots(ax: Axes, data: pd.DataFrame, names: Sequence[str], look: Look) -> None:
    """One line per setting, the rows of the table side by side within it, with grey bands between settings."""
    present = [key for key in look if len(_rows(data, key))]
    for i, key in enumerate(present):
        own = _rows(data, key)
        y = [names.index(s) + 0.76 * ((i + 0.5) / len(present) - 0.5) for s in own["setting"]]
        ax.errorbar(own["mean"], y, xerr=_bars(own), elinewidth=0.7, **look[key] | dict(linestyle="none", markersize=3.5))
    for i in range(0, len(names), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")


def _k_axis(ax: Axes, ks: Sequence[int]) -> None:
    """K from 1 to 31 on a logarithmic axis that names the K there are and nothing else."""
    ax.set_xscale("log")
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("given slices K")


def _gain_axis(ax: Axes) -> None:
    """Linear between -1 and 1 dB, where methods differ, logarithmic beyond, where some are hopeless."""
    low, high = ax.get_ylim()
    ax.set_yscale("symlog", linthresh=1, linscale=1)
    ticks = [t for t in (-20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10) if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_ylim(low, high)
    ax.axhline(0, color="black", linewidth=0.8)


FIGURES: dict[str, tuple[Callable, Callable]] = {
    "psnr_vs_k": (psnr_vs_k, captions.psnr_vs_k),
    "error_vs_distance": (error_vs_distance, captions.error_vs_distance),
    "axes_policies": (axes_policies, captions.axes_policies),
}


def save(fig: Figure, out: Path, name: str) -> None:
    """Write name.pdf and name.png (150 dpi) without a date or a version, so that equal figures are equal files."""
    with mpl.rc_context(STYLE):
        fig.savefig(out / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        fig.savefig(out / f"{name}.png", dpi=150, metadata={"Software": None})


def all_figures(metrics: pd.DataFrame, panel: Path | None) -> Iterator[tuple[str, Figure, str]]:
    """(name, figure, caption) of every figure that has data; the others are named on stderr."""
    for name, (draw, describe) in FIGURES.items():
        try:
            yield name, draw(metrics), describe(metrics)
        except NothingToShow as reason:
            print(f"figure {name} left out: {reason}", file=sys.stderr)
    for i, one in enumerate(read_panels(panel) if panel else []):
        with mpl.rc_context(STYLE):
            yield f"panel_{i}", panel_figure(one, PAGE_IN), captions.panel(one)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the figures and captions.json into the folder `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", type=Path, required=True, help="results/metrics/all.tsv")
    parser.add_argument("--panel", type=Path, help="results/metrics/panel.npz: truth and reconstructions to look at")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, fig, caption in all_figures(read_metrics(args.metrics), args.panel):
        save(fig, args.out, name)
        written[name] = caption
    (args.out / "captions.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
