"""The qualitative figure of tumours: one section, hidden from every method, with the true tumour outlined and the found one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xdiff.config import BESIDE
from xdiff.drawing import PAGE_IN, STYLE
from xdiff.errors import InputError
from xdiff.layout import method_rank

TRUE, FOUND = "#56b4e9", "#e69f00"  # sky blue and orange of Okabe and Ito: apart on every grey
_META = ("subject", "cohort", "grid", "trained_on", "axis", "K", "policy", "section", "contrast", "names")
_MOST_COLUMNS = 7


@dataclass(frozen=True)
class TumourPanel:
    """One section: `images` (M, h, w), NaN where there is none, `found` (M, h, w) and `truth` (h, w) bool; row 0 on top."""

    images: np.ndarray
    found: np.ndarray
    truth: np.ndarray
    names: list[str]
    subject: str
    cohort: str
    grid: str
    trained_on: str
    axis: str
    K: int
    policy: str
    section: int
    contrast: str

    @property
    def given(self) -> str:
        """What was given, in words."""
        if self.policy == "every_fifth":
            return f"every fifth {self.axis} section"
        return f"K = {self.K} {self.axis} section{'s' * (self.K != 1)}"

    def dice(self) -> list[float]:
        """Of every mask with the truth in this section; 1 where both are empty."""
        both = [2 * (mask & self.truth).sum() / max(1, mask.sum() + self.truth.sum()) for mask in self.found]
        return [1.0 if not (mask.any() or self.truth.any()) else float(d) for mask, d in zip(self.found, both, strict=True)]


def read_tumour_panels(path: Path | str) -> list[TumourPanel]:
    """Every panel of tumour_panel.npz, in order, its columns in that of the tables. Raises InputError on what is missing."""
    panels = []
    with np.load(path, allow_pickle=False) as arrays:
        for i in range(sum(name.endswith("_meta") for name in arrays.files)):
            wanted = [f"t{i}_{name}" for name in ("images", "found", "truth", "meta")]
            if not set(wanted) <= set(arrays.files):
                raise InputError(path, f"keys {arrays.files}", ", ".join(wanted))
            images, found, truth = (arrays[name] for name in wanted[:3])
            meta = json.loads(str(arrays[wanted[3]]))
            missing = [key for key in _META if key not in meta]
            if missing or images.shape != found.shape or len(images) != len(meta["names"]):
                raise InputError(path, f"no {missing} in {wanted[3]}, images {images.shape}, found {found.shape}", f"{_META}")
            order = sorted(range(len(images)), key=lambda m: _rank(meta["names"][m]))
            fields = {key: meta[key] for key in _META} | {"names": [meta["names"][m] for m in order]}
            panels.append(TumourPanel(images[order].astype(np.float32), found[order] > 0, truth > 0, **fields))
    return panels


def _rank(name: str) -> tuple:
    """Ceiling and control first, then as in the tables."""
    method = name.split(" (")[0]
    return (method not in BESIDE, -method_rank(method) if method == "truth" else method_rank(method), name)


@mpl.rc_context(STYLE)
def figure(panel: TumourPanel) -> Figure:
    """All columns side by side, over several lines where they are many, with one legend."""
    count = len(panel.names)
    lines = -(-count // _MOST_COLUMNS)
    columns = -(-count // lines)
    height, width = panel.truth.shape
    cell_in = min(PAGE_IN / columns, 1.6)
    title_in, legend_in = 0.36, 0.25
    line_in = cell_in * height / width + title_in
    fig = Figure(figsize=(cell_in * columns, lines * line_in + legend_in))
    whole_in = fig.get_size_inches()[1]
    for m, (name, dice) in enumerate(zip(panel.names, panel.dice(), strict=True)):
        row, column = divmod(m, columns)
        bottom = (whole_in - (row + 1) * line_in) / whole_in
        ax = fig.add_axes((column / columns + 0.005, bottom, 1 / columns - 0.01, (line_in - title_in) / whole_in))
        _section(ax, panel.images[m], panel.truth, panel.found[m])
        ax.set_title(f"{_title(name)}\nDice {dice:.2f}", fontsize=6.5, pad=2)
    handles = [Line2D([], [], color=colour, linewidth=1.2) for colour in (TRUE, FOUND)]
    fig.legend(handles, ["true tumour", "found by nnU-Net"], loc="lower center", ncols=2, borderaxespad=0.1)
    return fig


def _title(name: str) -> str:
    named = {"truth": "truth (ceiling)", "mask_linear": "masks alone (control)"}
    return named.get(name, name).replace("_", " ")


def _section(ax: Axes, image: np.ndarray, truth: np.ndarray, found: np.ndarray) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_facecolor("#d9d9d9")  # where a method has no image
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.imshow(image, cmap="gray", vmin=0, vmax=1.05, interpolation="nearest")
    for mask, colour in ((truth, TRUE), (found, FOUND)):
        if mask.any():
            ax.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)


def caption(panel: TumourPanel) -> str:
    """Caption of the figure."""
    told = "; ".join(f"{name.replace('_', ' ')} {dice:.2f}" for name, dice in zip(panel.names, panel.dice(), strict=True))
    trained = "" if panel.trained_on == panel.cohort else f", trained on {panel.trained_on}"
    return (
        f"{panel.subject} of {panel.cohort} (grid {panel.grid}, {panel.contrast}{trained}), given {panel.given}: the hidden "
        f"section ({panel.axis} {panel.section}) with most tumour, and in it the outlines of the true whole tumour and of what "
        f"nnU-Net finds in each method's volume. Dice in this section: {told}."
    )
