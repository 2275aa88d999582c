"""The figures `dice_vs_k` and `lesions`: how much of the tumour is found, and which lesions, seen by a given section or not."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff import tumours
from xdiff.captions import NothingToShow
from xdiff.drawing import STYLE, Look, bars, k_axis, lines, looks, page, rows_of
from xdiff.layout import base_setting, chosen_ks, families, in_setting, row_labels, span
from xdiff.stats import POINT, ROW, of_masks, summarise

_NAMES = {"truth": "truth: the ceiling", "mask_linear": "masks alone: the control"}
SEEN = "seen"
EDGES_MM = (8.0, 16.0, 32.0)
_BINS = (SEEN, "< 8", "8-16", "16-32", "> 32")
_SIZES = ("small", "middle", "large")


def dice(metrics: pd.DataFrame) -> pd.DataFrame:
    """Dice by point, row and region. Raises NothingToShow where nothing was segmented."""
    wanted = metrics[of_masks(metrics) & (metrics["metric"] == "dice")]
    if wanted.empty:
        raise NothingToShow("no scalar rows of dice")
    return summarise(wanted, [*POINT, *ROW, "region"])


def _looks(metrics: pd.DataFrame) -> Look:
    """With the ceiling and the control by what they are, and with lines that are taken for no method's."""
    look = looks(metrics)
    for key, style in look.items():
        style["label"] = _NAMES.get(key[0], style["label"])
        if key[0] in _NAMES:
            style |= dict(linestyle="--", linewidth=1.0)
    return look


def _shown_regions(own: pd.DataFrame) -> list[str]:
    """Hidden voxels of every region, and all of the first."""
    names = tumours.regions_in(own.assign(metric="dice"))
    wanted = [names[0] + tumours.UNSEEN, names[0], *(name + tumours.UNSEEN for name in names[1:])]
    return [name for name in wanted if (own["region"] == name).any()]


@mpl.rc_context(STYLE)
def dice_vs_k(metrics: pd.DataFrame) -> Figure:
    """Dice against the number of given sections, one panel per region, at the base setting; with ceiling and control."""
    summary = dice(metrics)
    summary = summary[summary["K"] > 0]
    look = _looks(summary)
    parts = list(families(summary))
    fig, blocks = page([title for title, _ in parts], [2.2] * len(parts), look)
    for block, (_, own) in zip(blocks, parts, strict=True):
        own = own[in_setting(own, base_setting(own))]
        regions = _shown_regions(own)
        axes = block.subplots(1, len(regions), sharey=True, squeeze=False)[0]
        for ax, region in zip(axes, regions, strict=True):
            lines(ax, own[own["region"] == region], "K", look)
            k_axis(ax, sorted(own["K"].unique()))
            ax.set_title(region.replace("_", ", "))
        axes[0].set_ylabel("Dice")
        axes[0].set_ylim(0, 1)
    return fig


def dice_vs_k_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure of that name."""
    summary = dice(metrics)
    summary = summary[summary["K"] > 0]
    labels = row_labels(summary)
    parts = []
    for title, own in families(summary):
        base = base_setting(own)
        region = _shown_regions(own)[0]
        own = own[in_setting(own, base) & (own["region"] == region)]
        told = [_best_and_ceiling(own[own["K"] == k], k, labels) for k in sorted({own["K"].min(), own["K"].max()})]
        parts.append(f"{title} ({base}), {region.replace('_', ' ')}: {'; '.join(told)}")
    return (
        "Dice of what nnU-Net, trained on real volumes of the training patients, finds in every method's volumes, against the "
        "number K of given slices; unseen: where nothing was given. Truth: in the real volumes. Masks alone: the given slices' "
        f"true masks, interpolated. Bars: 95 % bootstrap interval over {span(summary['n'])} test patients. {'. '.join(parts)}."
    )


def _best_and_ceiling(rows: pd.DataFrame, k: int, labels: dict) -> str:
    methods = rows[~rows["method"].isin(_NAMES)]
    beside = {name: rows[rows["method"] == name]["mean"] for name in _NAMES}
    told = [f"{what.split(':')[0]} {beside[name].iloc[0]:.2f}" for name, what in _NAMES.items() if len(beside[name])]
    if len(methods):
        best = methods.loc[methods["mean"].idxmax()]
        told.insert(0, f"{labels[best['method'], best['estimate'], best['steps']]} {best['mean']:.2f}")
    return f"K = {k}: {', '.join(told)}"


# Lesions ------------------------------------------------------------------------------------------------------------------


def lesions(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per lesion, point, row of the table and seed: found (0 or 1), lesion_dice, distance_mm, size_ml, and the region
    that says whether a given section crosses it. Raises NothingToShow where there are none."""
    single = metrics[metrics["x_name"] == "lesion"]
    if single.empty:
        raise NothingToShow("no rows of single lesions (x_name lesion)")
    keys = [*POINT, *ROW, "seed", "train_seed", "subject", "contrast", "region", "indices", "x"]
    wide = single.pivot(index=keys, columns="metric", values="value").reset_index()
    return wide[~wide["policy"].isin([tumours.DENSE, tumours.SWAP])]


def _binned(found: pd.DataFrame) -> pd.DataFrame:
    """With a column `bin`: seen, or how far from the nearest given section; and `size`, a third of the lesions each."""
    inside = np.digitize(found["distance_mm"], EDGES_MM)
    names = np.array(_BINS[1:])[inside]
    thirds = found.drop_duplicates(["cohort", "grid", "subject", "x"])["size_ml"].quantile([1 / 3, 2 / 3]).to_numpy()
    sizes = np.array(_SIZES)[np.digitize(found["size_ml"], thirds)]
    return found.assign(bin=np.where(found["region"] == "lesion_seen", SEEN, names), size=sizes, value=found["lesion_dice"])


def by_place_and_size(metrics: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dice of single lesions at K as chosen_ks says, whatever the policy: by distance (column `bin`), and of those that no given
    section crosses by size (column `size`); each with mean, lo, hi, n. Not the share that is found: whoever sees tumours
    everywhere finds all."""
    single = _binned(lesions(metrics))
    single = single[single["K"].isin(chosen_ks(single))]
    family = ["trained_on", "cohort", "grid", "frame"]
    keys = [*family, "K", *ROW]
    hidden = single[single["region"] == "lesion_unseen"]
    by_distance = summarise(single, [*keys, "bin"])
    return by_distance, summarise(hidden, [*keys, "size"]) if len(hidden) else by_distance.iloc[:0].assign(size="")


@mpl.rc_context(STYLE)
def lesion_figure(metrics: pd.DataFrame) -> Figure:
    """Dice of lesions by distance to the nearest given section and, of unseen ones, by size; a column of panels per K."""
    by_distance, by_size = by_place_and_size(metrics)
    look = _looks(by_distance)
    parts, sizes = list(families(by_distance)), dict(families(by_size)) if len(by_size) else {}
    fig, blocks = page([title for title, _ in parts], [2.0 + 1.8 * (title in sizes) for title, _ in parts], look)
    for block, (title, own) in zip(blocks, parts, strict=True):
        ks = sorted(own["K"].unique())
        rows = [(own, "bin", _BINS, "to the nearest given section (mm)")]
        rows += [(sizes[title], "size", _SIZES, "size of lesions that no section crosses")] if title in sizes else []
        axes = block.subplots(len(rows), len(ks), sharey=True, squeeze=False)
        for line, (data, column, order, what) in zip(axes, rows, strict=True):
            for ax, k in zip(line, ks, strict=True):
                if not (data["K"] == k).any():
                    ax.set_visible(False)
                    continue
                _dots(ax, data[data["K"] == k], column, order, look)
                ax.set(title=f"K = {k}", xlabel=what, ylim=(-0.05, 1.05))
            line[0].set_ylabel("lesion Dice")
    return fig


def _dots(ax: Axes, data: pd.DataFrame, column: str, order: tuple[str, ...], look: Look) -> None:
    """Rows of the table side by side within every bin."""
    present = [key for key in look if len(rows_of(data, key))]
    names = [name for name in order if (data[column] == name).any()]
    for i, key in enumerate(present):
        own = rows_of(data, key)
        x = [names.index(name) + 0.8 * ((i + 0.5) / len(present) - 0.5) for name in own[column]]
        ax.errorbar(x, own["mean"], yerr=bars(own), elinewidth=0.7, **look[key] | dict(linestyle="none", markersize=3.5))
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    for i in range(0, len(names), 2):
        ax.axvspan(i - 0.5, i + 0.5, color="#f4f4f4", zorder=0)
    ax.grid(False, axis="x")


def lesions_caption(metrics: pd.DataFrame) -> str:
    """Caption of the figure `lesions`."""
    by_distance, _ = by_place_and_size(metrics)
    labels = row_labels(by_distance)
    single = _binned(lesions(metrics))
    parts = []
    for title, own in families(by_distance):
        k = int(own["K"].min())
        for name in ("xdiff", "truth"):
            rows = own[(own["method"] == name) & (own["estimate"] == "mean") & (own["K"] == k)]
            told = ", ".join(f"{r['bin']} {r['mean']:.2f}" for b in _BINS for _, r in rows[rows["bin"] == b].iterrows())
            parts += [f"{title}, K = {k}, {labels[name, 'mean', rows['steps'].iloc[0]]}: {told}"] if len(rows) else []
    count = len(single.drop_duplicates(["cohort", "grid", "subject", "x"]))
    return (
        f"Dice of single lesions ({count}) that nnU-Net finds in every method's volumes: those that a given section "
        "crosses (seen), and the others by their distance in mm to the nearest given section; below, those that none crosses by "
        "size (thirds). All policies together. Bars: 95 % bootstrap interval over patients; groups hold different patients. "
        f"{'. '.join(parts)}."
    )
