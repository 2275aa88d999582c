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
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff import (
    ablation_figure,
    anatomy_figures,
    calibration,
    captions,
    fonts,
    generalisation,
    position_figures,
    printed,
    quality_vs_seconds,
    step_sweep,
    timing_figure,
    training_curves,
    tumour_figures,
    tumour_panel,
)
from xdiff.captions import NothingToShow
from xdiff.drawing import PAGE_IN, PNG_DPI, STYLE, Look, bars, k_axis, lines, looks, page, rows_of
from xdiff.layout import base_setting, chosen_ks, families, in_setting
from xdiff.panel import panel_figure, read_panels
from xdiff.stats import is_history, of_anatomy, of_masks, one_step_count, read_metrics, without_ablations


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
    fig, blocks = page([title for title, _ in parts], [2.25] * len(parts), look)
    for block, (title, own) in zip(blocks, parts, strict=True):
        base = base_setting(own)
        own = own[in_setting(own, base)]
        gain = gains[title][in_setting(gains[title], base)] if title in gains else own.iloc[:0]
        panels = {f"PSNR in {r} (dB)": own[own["region"] == r] for r in ("unseen", "unseen_masked")}
        panels |= {"gain over gaussian, unseen (dB)": gain} if len(gain) else {}
        axes = block.subplots(1, len(panels))
        for ax, (name, data) in zip(axes, panels.items(), strict=True):
            lines(ax, data, "K", look)
            k_axis(ax, sorted(own["K"].unique()))
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
    fig, blocks = page([title for title, _ in parts], [2.1] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        own = own[in_setting(own, base_setting(own))]
        ks = chosen_ks(own)
        axes = block.subplots(1, len(ks), sharey=True, squeeze=False)[0]
        for ax, k in zip(axes, ks, strict=True):
            lines(ax, own[own["K"] == k], "x", look)
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
    room_in = max(0.42, 0.048 * len(look))  # per setting: the markers of its rows must not cover each other
    heights = [0.7 + room_in * own["setting"].nunique() for _, own in parts]
    fig, blocks = page([title for title, _ in parts], heights, look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        names = list(own["setting"].unique())
        ks = chosen_ks(own)
        axes = block.subplots(1, len(ks), sharey=True, squeeze=False)[0]
        for ax, k in zip(axes, ks, strict=True):
            _dots(ax, own[own["K"] == k], names, look)
            ax.set_title(f"K = {k}")
            ax.set_xlabel("PSNR in unseen_masked (dB)")
    return fig


def _dots(ax: Axes, data: pd.DataFrame, names: Sequence[str], look: Look) -> None:
    """One line per setting, the rows of the table side by side within it, with grey bands between settings."""
    present = [key for key in look if len(rows_of(data, key))]
    for i, key in enumerate(present):
        own = rows_of(data, key)
        y = [names.index(s) + 0.76 * ((i + 0.5) / len(present) - 0.5) for s in own["setting"]]
        ax.errorbar(own["mean"], y, xerr=bars(own), elinewidth=0.7, **look[key] | dict(linestyle="none", markersize=3.5))
    for i in range(0, len(names), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")


def _gain_axis(ax: Axes) -> None:
    """Linear where no row is hopeless; else linear between -1 and 1 dB, where methods differ, and logarithmic beyond."""
    low, high = ax.get_ylim()
    low, high = min(low, -0.05), max(high, 0.05)  # the row to beat, at 0, is always there
    if low < -2 or high > 4:
        ax.set_yscale("symlog", linthresh=1, linscale=1)
        ticks = [t for t in (-20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10) if low <= t <= high]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    ax.set_ylim(low, high)
    ax.axhline(0, color="black", linewidth=0.8)


FIGURES: dict[str, tuple[Callable, Callable]] = {
    "psnr_vs_k": (psnr_vs_k, captions.psnr_vs_k),
    "psnr_vs_k_paper": (printed.figure, printed.caption),
    "error_vs_distance": (error_vs_distance, captions.error_vs_distance),
    "axes_policies": (axes_policies, captions.axes_policies),
    "error_vs_depth": (position_figures.error_vs_depth, position_figures.error_vs_depth_caption),
    "slice_position": (position_figures.slice_position, position_figures.slice_position_caption),
    "calibration": (calibration.figure, calibration.caption),
    "generalisation": (generalisation.figure, generalisation.caption),
    "timing": (timing_figure.figure, timing_figure.caption),
    "quality_vs_seconds": (quality_vs_seconds.figure, quality_vs_seconds.caption),
    "steps": (step_sweep.figure, step_sweep.caption),
    "training_curves": (training_curves.figure, training_curves.caption),
    "ablation": (ablation_figure.figure, ablation_figure.caption),
    "dice_vs_k": (tumour_figures.dice_vs_k, tumour_figures.dice_vs_k_caption),
    "lesions": (tumour_figures.lesion_figure, tumour_figures.lesions_caption),
    "anatomy": (anatomy_figures.agreement, anatomy_figures.agreement_caption),
    "anatomy_vs_k": (anatomy_figures.errors_vs_k, anatomy_figures.errors_vs_k_caption),
}


# Without a date or a version, so that equal figures are equal files.
FORMATS = {
    "pdf": dict(metadata={"CreationDate": None, "Creator": None, "Producer": None}, dpi=300),
    "png": dict(metadata={"Software": None}, dpi=PNG_DPI),
}


def save(fig: Figure, out: Path, name: str, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """Write name.pdf and name.png, or those of them that are named; bit-identical on every run."""
    with mpl.rc_context(STYLE):
        if fig.get_layout_engine():
            fig.draw_without_rendering()
            fig.set_layout_engine("none")  # laid out once: again for each file took a third of the time
        for kind in formats:
            fig.savefig(out / f"{name}.{kind}", **FORMATS[kind])


def all_figures(
    metrics: pd.DataFrame, panel: Path | None, only: str = "", tumours: Path | None = None
) -> Iterator[tuple[str, Figure, str]]:
    """(name, figure, caption) of every figure that has data, or of `only` one; the others are named on stderr.

    panel, tumours: panel.npz and tumour_panel.npz, where there are any.
    """
    history, masks = metrics[is_history(metrics)], metrics[of_masks(metrics)]
    bodies = metrics[of_anatomy(metrics)]
    measured = metrics[~is_history(metrics) & ~of_masks(metrics) & ~of_anatomy(metrics)]
    tables = {"steps": measured, "training_curves": without_ablations(history), "ablation": measured}
    tables["quality_vs_seconds"] = without_ablations(measured)  # every number of steps
    tables |= dict.fromkeys(("dice_vs_k", "lesions"), without_ablations(one_step_count(masks)))
    tables |= dict.fromkeys(("anatomy", "anatomy_vs_k"), without_ablations(one_step_count(bodies)))
    compared = without_ablations(one_step_count(measured))
    for name, (draw, describe) in ({only: FIGURES[only]} if only else FIGURES).items():
        table = tables.get(name, compared)
        try:
            yield name, draw(table), describe(table)
        except NothingToShow as reason:
            print(f"figure {name} left out: {reason}", file=sys.stderr)
    for i, one in enumerate(read_panels(panel) if panel else []):
        with mpl.rc_context(STYLE):
            yield f"panel_{i}", panel_figure(one, PAGE_IN), captions.panel(one)
    for i, one in enumerate(tumour_panel.read_tumour_panels(tumours) if tumours else []):
        yield f"tumour_{i}", tumour_panel.figure(one), tumour_panel.caption(one)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the figures and captions.json into the folder `--out`."""
    parser = argparse.ArgumentParser(
        prog="xdiff figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--metrics", type=Path, required=True, help="results/metrics/all.tsv")
    parser.add_argument("--panel", type=Path, help="results/metrics/panel.npz: truth and reconstructions to look at")
    parser.add_argument(
        "--tumours", type=Path, help="results/metrics/tumour_panel.npz: hidden tumours and what was found of them"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--only", choices=[*FIGURES], default="", help="draw this figure alone, and no panel without --panel")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="kinds of files, both unless named")
    args = parser.parse_args(argv)
    fonts.register()
    args.out.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, fig, caption in all_figures(read_metrics(args.metrics), args.panel, args.only, args.tumours):
        save(fig, args.out, name, args.formats)
        written[name] = caption
    (args.out / "captions.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
