"""The qualitative figure: truth and reconstructions of one subject in three views, and their absolute errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from xdiff.errors import InputError

VIEWS = ("axial", "coronal", "sagittal")
GIVEN = "#56b4e9"  # sky blue of Okabe and Ito: seen on black, on white and on every grey
_LARGEST_CELL_IN = 1.3  # two or three columns need not fill the page: its height would not hold six rows of them
_META = ("names", "subject", "cohort", "grid", "trained_on", "contrast", "K", "axis", "indices", "estimate", "lines")


@dataclass(frozen=True)
class Panel:
    """One subject: `images` (M, 3, S, S) in 0..~1.2, truth first, the views axial, coronal, sagittal, row 0 on top.

    `lines`: (view, 0 for a horizontal and 1 for a vertical line, pixel) of the given slices as they cut a view;
    `given_view`: the view that is itself a given slice, or None.
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
            fields = {key: meta[key] for key in _META}
            panels.append(Panel(images=images, given_view=meta.get("given_view"), **fields))
    return panels


def panel_figure(panel: Panel, width_in: float) -> Figure:
    """Columns: truth and methods; rows: three views, then their absolute errors on one scale with its colour bar."""
    columns, side_in, gap_in = len(panel.images), 0.2, 0.03
    title_in = 0.1 + 0.11 * max(_title(name).count("\n") + 1 for name in panel.names)
    cell_in = min((width_in - side_in) / columns, _LARGEST_CELL_IN)
    width_in = side_in + columns * cell_in
    height_in = title_in + 6 * cell_in + 2 * gap_in
    fig = Figure(figsize=(width_in, height_in))

    def place(row: float, column: float, width: float = 1, height: float = 1) -> Axes:
        """Axes at a place of the grid, in cells from the upper left."""
        left = side_in + column * cell_in
        bottom = height_in - title_in - (row + height) * cell_in - 2 * gap_in * (row >= 3)
        size = (width * cell_in - gap_in, height * cell_in - gap_in)
        return fig.add_axes((left / width_in, bottom / height_in, size[0] / width_in, size[1] / height_in))

    limit, errors = panel.error_limit(), panel.errors()
    for view in range(3):
        for i, name in enumerate(panel.names):
            ax = place(view, i)
            _image(ax, panel.images[i, view], "gray", 1.05)
            _mark_given(ax, panel, view)
            ax.set_title(_title(name) if view == 0 else "", fontsize=7 if columns <= 7 else 5.5, pad=3)
            ax.set_ylabel(VIEWS[view] if i == 0 else "", labelpad=3)
            if i > 0:
                shown = _image(place(view + 3, i), errors[i - 1, view], "inferno", limit)
    # The truth has no error: the bar stands in its place, over the height of the three rows.
    bar = place(3.3, 0.72, 0.16, 2.4)
    fig.colorbar(shown, cax=bar, label="absolute error", ticklocation="left", extend="max")
    bar.grid(False)
    return fig


def _title(name: str) -> str:
    """A method's label broken into lines that fit over a narrow column."""
    return name.replace("_", "\n").replace(" (", "\n(").replace(", ", ",\n")


def _image(ax: Axes, image: np.ndarray, cmap: str, limit: float) -> AxesImage:
    """Show `image` (S, S) from 0 to `limit`, without ticks or frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax.imshow(image, cmap=cmap, vmin=0, vmax=limit, interpolation="nearest")


def _mark_given(ax: Axes, panel: Panel, view: int) -> None:
    """The given slices as lines where they cut the view, or a frame round the view that is one of them."""
    size = panel.images.shape[-1]
    for _, vertical, pixel in [line for line in panel.lines if line[0] == view]:
        ends = ([pixel, pixel], [-0.5, size - 0.5]) if vertical else ([-0.5, size - 0.5], [pixel, pixel])
        ax.plot(*ends, color=GIVEN, linewidth=0.8)
    if view == panel.given_view:
        ax.spines[:].set(visible=True, color=GIVEN, linewidth=1.5)
