"""What a preprocessed cohort looks like, for the report: a montage, intensities, the sources' shapes and the split.

`python -m xdiff.data_page --data results/data/C/G --split results/data/C/split.tsv --out results/data_page/C/G` writes
montage.png, histogram.png and summary.json, which xdiff/report.py puts on the page. Figures are of training subjects alone, since
the test set is looked at for the tables only: a cohort without a training side has none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xdiff.data.split import SIDES, Split, rank, read_split
from xdiff.data.store import Store
from xdiff.drawing import PAGE_IN, STYLE
from xdiff.errors import InputError
from xdiff.fonts import register
from xdiff.planes import AXES, per_section, upright

SHOWN = 3  # subjects of the montage
COUNTED = 30  # subjects of the histogram: what it costs does not grow with the cohort
VOXELS = 20_000  # of each of them and contrast
BINS = 60
MOST_SOURCES = 8  # spacings that the table tells apart; the rest is one line
LABEL_COLOURS = ("#d55e00", "#f0e442", "#56b4e9", "#cc79a7", "#009e73")  # of Okabe and Ito: seen on every grey
_LARGEST_CELL_IN = 1.3


def chosen(split: Split, count: int) -> list[str]:
    """`count` training subjects, or all: those of the lowest ranks, so that a growing cohort is not shown by its first names."""
    return sorted(sorted(split.side("train"), key=lambda subject: rank(1, subject))[:count])


def middle(foreground: np.ndarray, labels: np.ndarray | None) -> list[int]:
    """Along every axis the section with most labelled voxels; without labels the middle of the foreground's box."""
    if labels is not None and labels.any():
        return [int(per_section(labels > 0, axis).argmax()) for axis in range(3)]
    voxels = np.argwhere(foreground if foreground.any() else np.ones_like(foreground))  # none where the grid misses the subject
    return ((voxels.min(axis=0) + voxels.max(axis=0)) // 2).tolist()


def montage(store: Store, subjects: Sequence[str]) -> Figure:
    """A row per subject: the axial section of every contrast, then the coronal and the sagittal one of the first."""
    views = [("axial", c) for c in range(len(store.contrasts))] + [("coronal", 0), ("sagittal", 0)]
    cell_in = min(PAGE_IN / len(views), _LARGEST_CELL_IN)
    legend_in = 0.25 if store.info["labels"] else 0.0
    fig = Figure(figsize=(cell_in * len(views), cell_in * len(subjects) + 0.2 + legend_in), layout="constrained")
    axes = fig.subplots(len(subjects), len(views), squeeze=False)
    for row, subject in zip(axes, subjects, strict=True):
        volume, labels, spacing = store.volume(subject), store.labels(subject), store.spacing_mm(subject)
        at = middle(store.foreground(subject), labels)
        for ax, (view, contrast) in zip(row, views, strict=True):
            axis = AXES[view]
            across, up = (a for a in range(3) if a != axis)
            image = upright(volume[contrast], axis, at[axis])
            ax.imshow(image, cmap="gray", **_window(store, volume[contrast]), aspect=spacing[up] / spacing[across])
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if labels is not None:
                _outline(ax, upright(labels, axis, at[axis]), store)
                ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    for ax, (view, contrast) in zip(axes[0], views, strict=True):
        ax.set_title(f"{store.contrasts[contrast]}, {view}", fontsize=7, pad=3)
    if store.info["labels"]:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in _colours(store).values()]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


def _window(store: Store, image: np.ndarray) -> dict[str, float]:
    """Of volumes on their own scale one for all, so that a scale that went wrong is seen; of others, each its own."""
    return {"vmin": 0.0, "vmax": 1.05} if store.norm != "none" else {"vmin": float(image.min()), "vmax": float(image.max())}


def _colours(store: Store) -> dict[int, tuple[str, str]]:
    """Label -> its name and colour."""
    named = enumerate(sorted(store.label_names.items()))
    return {value: (name, LABEL_COLOURS[i % len(LABEL_COLOURS)]) for i, (value, name) in named}


def _outline(ax: Axes, labels: np.ndarray, store: Store) -> None:
    for value, (_, colour) in _colours(store).items():
        inside = labels == value
        if inside.any():
            ax.contour(np.pad(inside.astype(float), 1), [0.5], colors=[colour], linewidths=0.7, extent=_extent(labels.shape))


def _extent(shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Of an image padded by one pixel: labels at its edge have a closed outline."""
    rows, columns = shape
    return -1, columns, -1, rows


def histogram(store: Store, subjects: Sequence[str]) -> Figure:
    """A panel per contrast: how often an intensity occurs in the foreground, of every subject (grey) and of all (blue)."""
    values = [_foreground_values(store, subject) for subject in subjects]
    together = np.concatenate(values, axis=1)
    low, high = np.quantile(together, [0.0005, 0.9995])
    edges = np.linspace(min(low, 0.0) if store.norm != "none" else low, high, BINS + 1)
    columns = min(len(store.contrasts), 4)
    rows = -(-len(store.contrasts) // columns)
    fig = Figure(figsize=(PAGE_IN if columns > 1 else PAGE_IN / 2, 1.6 * rows), layout="constrained")
    for ax, contrast in zip(fig.subplots(rows, columns, squeeze=False).flat, range(rows * columns), strict=True):
        if contrast >= len(store.contrasts):
            ax.set_axis_off()
            continue
        for own in values:
            ax.stairs(np.histogram(own[contrast], edges, density=True)[0], edges, color="#a6a6a6", linewidth=0.4, alpha=0.6)
        ax.stairs(np.histogram(together[contrast], edges, density=True)[0], edges, color="#0072b2", linewidth=1.4)
        ax.set(title=store.contrasts[contrast], yticks=[], xlim=(edges[0], edges[-1]))
    fig.supxlabel("intensity, raw" if store.norm == "none" else "intensity / its 99.5th percentile", fontsize=8)
    return fig


def _foreground_values(store: Store, subject: str) -> np.ndarray:
    """About VOXELS of the foreground, evenly spread: (C, n)."""
    voxels = np.flatnonzero(store.foreground(subject))
    return store.volume(subject).reshape(len(store.contrasts), -1)[:, voxels[:: 1 + len(voxels) // VOXELS]]


def sources(store: Store) -> list[dict]:
    """Spacings (mm, to two digits; right, front, up) of the source volumes, with how many subjects have each and the smallest and
    largest size of their volumes along each axis; the most frequent first, below MOST_SOURCES lines one of all others."""
    shapes: dict[tuple, list] = {}
    for subject in store.subjects:
        sidecar = store.sidecar(subject)
        if "source_shape" not in sidecar:
            raise InputError(store.folder, f"no source_shape of {subject}", "a store of this version: run preprocess again")
        shapes.setdefault(tuple(round(mm, 2) for mm in sidecar["source_spacing_mm"]), []).append(sidecar["source_shape"])
    ordered = sorted(shapes.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [_sizes(list(mm), own) for mm, own in ordered[:MOST_SOURCES]]
    others = [shape for _, own in ordered[MOST_SOURCES:] for shape in own]
    return [*lines, _sizes([], others)] if others else lines


def _sizes(spacing_mm: list[float], shapes: list) -> dict:
    smallest, largest = (ends(shapes, axis=0).tolist() for ends in (np.min, np.max))
    return {"spacing_mm": spacing_mm, "smallest": smallest, "largest": largest, "subjects": len(shapes)}


def summary(store: Store, split: Split) -> dict:
    """The numbers of the section: the store's own description, the split, the sources, and captions of the figures there are."""
    outside = store.index["cropped"]
    tables = {side: split.table[split.table["side"] == side] for side in SIDES}
    kept = ("cohort", "grid", "contrasts", "shape", "spacing_mm", "native_axis", "frame", "norm", "source", "fingerprint")
    return {
        **{key: store.info[key] for key in kept},
        "split": split.sha,
        "sides": {side: {"patients": own["patient"].nunique(), "subjects": len(own)} for side, own in tables.items()},
        "sources": sources(store),
        "cropped": {"largest": float(outside.max()), "subjects": int((outside > 0.01).sum())},
        "captions": captions(store, split),
    }


def captions(store: Store, split: Split) -> dict[str, str]:
    """Name -> caption of the figures; none without a training side."""
    shown, counted = len(chosen(split, SHOWN)), len(chosen(split, COUNTED))
    if not shown:
        return {}
    where = "where most is labelled, outlined by label" if store.info["labels"] else "in the middle of the foreground"
    montage = (
        f"Training subjects ({shown}) after preprocessing: sections {where}; anterior or superior is up, the subject's left "
    )
    histogram = f"Intensities in the foreground of training subjects ({counted}) after preprocessing: of each (grey), of all "
    return {"montage": f"{montage}or back is on the left.", "histogram": f"{histogram}together (blue)."}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff data_page", description="Montage, intensities, sources and split of a cohort.")
    parser.add_argument("--data", type=Path, required=True, help="preprocessed cohort, results/data/COHORT/GRID")
    parser.add_argument("--split", type=Path, required=True, help="its split TSV")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    store, split = Store(args.data), read_split(args.split)
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "montage": partial(montage, store, chosen(split, SHOWN)),
        "histogram": partial(histogram, store, chosen(split, COUNTED)),
    }
    for name in captions(store, split):
        register()
        with mpl.rc_context(STYLE):
            figures[name]().savefig(args.out / f"{name}.png", dpi=150, metadata={"Software": None})
    text = json.dumps(summary(store, split), indent=1, ensure_ascii=False)
    (args.out / "summary.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
