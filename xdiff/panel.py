"""The qualitative figure: truth and reconstructions of one subject in three views, their errors and what they say of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from xdiff.errors import InputError

VIEWS = ("axial", "coronal", "sagittal")
GIVEN = "#56b4e9"  # sky blue of Okabe and Ito: seen on black, on white and on every grey
PARTS = ("images", "std", "meta")  # of one panel in panel.npz; std is not in files written before it was kept
_LARGEST_CELL_IN = 1.3  # two or three columns need not fill the page: its height would not hold nine rows of them
_CROWDED = 12  # columns, above which their names stand upright: side by side they would run into each other
_GAP = 0.03  # between cells, as a share of one
_BLOCK_GAP_IN = 0.06
_META = ("names", "subject", "cohort", "grid", "trained_on", "contrast", "K", "axis", "indices", "estimate", "lines")


@dataclass(frozen=True)
class Panel:
    """One subject: `images` (M, 3, S, S) in 0..~1.2, truth first, the views axial, coronal, sagittal, row 0 on top.

    `std` (N, 3, S, S): standard deviation of the methods `std_names`, which are among `names`; `lines`: (view, 0 for a
    horizontal and 1 for a vertical line, pixel) of the given slices as they cut a view; `given_view`: the view that is itself
    given, or None.
    """

    images: np.ndarray
    names: list[str]
    subject: str
    cohort: str
    grid: str
    trained_on: str
    contrast: str
    K: int
    axis: str
    indices: list[int] | str
    estimate: str
    lines: list[tuple[int, int, int]]
    given_view: int | None
    std: np.ndarray
    std_names: list[str]

    def errors(self) -> np.ndarray:
        """Absolute errors (M - 1, 3, S, S) of everything but the truth."""
        return np.abs(self.images[1:] - self.images[:1])

    def error_limit(self) -> float:
        """Upper end of the one error scale: the median over methods of the 99.5th percentile of each one's errors.

        The median, because a black volume among the methods would stretch the scale until the others look perfect.
        """
        own = [np.quantile(errors[errors > 0.01], 0.995) for errors in self.errors() if (errors > 0.01).any()]
        return float(np.median(own)) if own else 0.01


def read_panels(path: Path | str) -> list[Panel]:
    """Every panel of panel.npz, in order. Raises InputError on a missing key or images of another shape."""
    panels = []
    with np.load(path, allow_pickle=False) as arrays:
        for i in range(sum(name.endswith("_images") for name in arrays.files)):
            if f"p{i}_images" not in arrays.files or f"p{i}_meta" not in arrays.files:
                raise InputError(path, f"keys {arrays.files}", f"p{i}_images and p{i}_meta")
            images = arrays[f"p{i}_images"].astype(np.float32)
            meta = json.loads(str(arrays[f"p{i}_meta"]))
            missing = [key for key in _META if key not in meta]
            if missing:
                raise InputError(path, f"no {', '.join(missing)} in p{i}_meta", f"{', '.join(_META)}")
            if images.ndim != 4 or images.shape[:2] != (len(meta["names"]), 3) or len(images) < 2:
                expected = f"({len(meta['names'])} images of at least 2, 3 views, S, S)"
                raise InputError(path, f"p{i}_images of shape {images.shape}", expected)
            std = arrays[f"p{i}_std"].astype(np.float32) if f"p{i}_std" in arrays.files else images[:0]
            std_names = meta.get("std_names", [])
            if std.shape != (len(std_names), *images.shape[1:]) or not set(std_names) <= set(meta["names"]):
                expected = f"{(len(std_names), *images.shape[1:])}, of methods among {meta['names']}"
                raise InputError(path, f"p{i}_std of shape {std.shape}, of {std_names}", expected)
            fields = {key: meta[key] for key in _META} | {"std": std, "std_names": std_names}
            panels.append(Panel(images=images, given_view=meta.get("given_view"), **fields))
    return panels


def panel_figure(panel: Panel, width_in: float) -> Figure:
    """Columns: truth and methods; blocks of three views: the images, their absolute errors, and the standard deviations that
    methods give, these two on one scale with its colour bar. Every block is one image: an axes per cell takes seconds to draw."""
    columns, side_in = len(panel.images), 0.2
    title_in = _title_height_in(panel.names)
    cell_in = min((width_in - side_in) / columns, _LARGEST_CELL_IN)
    blocks = 3 if len(panel.std) else 2
    block_in = 3 * cell_in + _BLOCK_GAP_IN
    width_in, height_in = side_in + columns * cell_in, title_in + blocks * block_in
    fig = Figure(figsize=(width_in, height_in))
    axes = []
    for block in range(blocks):
        bottom = height_in - title_in - (block + 1) * block_in + _BLOCK_GAP_IN
        axes.append(fig.add_axes((side_in / width_in, bottom / height_in, 1 - side_in / width_in, 3 * cell_in / height_in)))
    _mosaic(axes[0], panel.images, "gray", 1.05)
    _names(axes[0], panel)
    _mark_given(axes[0], panel)
    nothing = np.full_like(panel.images[:1], np.nan)
    shown = _mosaic(axes[1], np.concatenate([nothing, panel.errors()]), "inferno", panel.error_limit())
    if blocks == 3:
        _mosaic(axes[2], _in_columns(panel), "inferno", panel.error_limit())
        _side_label(axes[2], "standard deviation", columns)
    # The truth has no error: the bar stands in its place, over the height of the three rows.
    bar = axes[1].inset_axes((0.72 / columns, 0.1, 0.16 / columns, 0.8))
    fig.colorbar(shown, cax=bar, label="absolute error", ticklocation="left", extend="max")
    bar.grid(False)
    return fig


def _in_columns(panel: Panel) -> np.ndarray:
    """Standard deviations (M, 3, S, S) in the columns of their methods, NaN where there is none."""
    out = np.full_like(panel.images, np.nan)
    out[[panel.names.index(name) for name in panel.std_names]] = panel.std
    return out


def _title_height_in(names: list[str]) -> float:
    if len(names) > _CROWDED:
        return 0.1 + 0.046 * max(len(line) for name in names for line in _upright(name).split("\n"))  # a letter of six points
    return 0.1 + 0.11 * max(_title(name).count("\n") + 1 for name in names)


def _upright(name: str) -> str:
    """A method's label in two lines at most, the setting under the name."""
    return name.replace("_", " ").replace(" (", "\n(")


def _title(name: str) -> str:
    """A method's label broken into lines that fit over a narrow column."""
    return name.replace("_", "\n").replace(" (", "\n(").replace(", ", ",\n")


def _mosaic(ax: Axes, images: np.ndarray, cmap: str, limit: float) -> AxesImage:
    """Images (M, 3, S, S) from 0 to `limit` side by side, views below each other; NaN is white. One cell is one unit wide."""
    m, views, size, _ = images.shape
    gap = max(1, round(_GAP * size))
    padded = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    whole = padded.transpose(1, 2, 0, 3).reshape(views * (size + gap), m * (size + gap))
    ax.axis("off")
    extent = (0, m * (1 + gap / size), views * (1 + gap / size), 0)
    return ax.imshow(whole, cmap=cmap, vmin=0, vmax=limit, interpolation="nearest", aspect="auto", extent=extent)


def _corner(size: int, column: int, view: int) -> tuple[float, float]:
    """Left and upper end of a cell in the units of _mosaic."""
    pitch = 1 + max(1, round(_GAP * size)) / size
    return column * pitch, view * pitch


def _names(ax: Axes, panel: Panel) -> None:
    """Methods over the columns, views beside the rows."""
    size, small = panel.images.shape[-1], len(panel.names) > 7
    for column, name in enumerate(panel.names):
        place = (_corner(size, column, 0)[0] + 0.5, 0)
        text, rotation = (_upright(name), 90) if len(panel.names) > _CROWDED else (_title(name), 0)
        fontsize = 6 if small else 7
        ax.annotate(text, place, (0, 3), textcoords="offset points", fontsize=fontsize, ha="center", rotation=rotation)
    for view, name in enumerate(VIEWS):
        place = (0, _corner(size, 0, view)[1] + 0.5)
        fontsize = 5.5 if len(panel.names) > _CROWDED else None
        ax.annotate(name, place, (-3, 0), textcoords="offset points", rotation=90, ha="right", va="center", fontsize=fontsize)


def _side_label(ax: Axes, text: str, columns: int) -> None:
    ax.text(0.9 / columns, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center", fontsize=8)


def _mark_given(ax: Axes, panel: Panel) -> None:
    """The given slices as lines where they cut the view, or a frame round the view that is one of them."""
    size = panel.images.shape[-1]
    for column in range(len(panel.images)):
        for view, vertical, pixel in panel.lines:
            left, top = _corner(size, column, view)
            at = (pixel + 0.5) / size
            ends = ([left + at] * 2, [top, top + 1]) if vertical else ([left, left + 1], [top + at] * 2)
            ax.plot(*ends, color=GIVEN, linewidth=0.8)
        if panel.given_view is not None:
            corner = _corner(size, column, panel.given_view)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=GIVEN, linewidth=1.5))
