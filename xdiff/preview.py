"""A picture of one reconstruction: three planes through the given slice and the middle, and the uncertainty there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xdiff.panel import GIVEN, VIEWS
from xdiff.planes import AXES, Plane, upright
from xdiff.whole_file import whole_file

CELL_IN = 2.2
DPI = 120


def write_preview(
    path: Path, volume: np.ndarray, std: np.ndarray | None, planes: Sequence[Plane], spacing_mm: Sequence[float], title: str
) -> None:
    """PNG of (X, Y, Z) arrays: three views, the subject's left or back on the left, and below them their standard deviation where
    there is one. The given sections are lines where they cut a view, and a frame round the view that is one of them."""
    rows = [(volume, "gray", float(np.percentile(volume[volume > 0], 99.5)) if (volume > 0).any() else 1.0, "intensity")]
    if std is not None:
        rows.append((std, "inferno", max(float(np.percentile(std, 99.5)), 1e-6), "standard deviation"))
    fig = Figure(figsize=(3 * CELL_IN + 0.9, len(rows) * CELL_IN + 0.4), facecolor="white")
    axes = fig.subplots(len(rows), 3, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    fig.subplots_adjust(0.04, 0.02, 0.86, 1 - 0.4 / fig.get_figheight())
    for line, (array, colours, limit, label) in zip(axes, rows, strict=True):
        for ax, view in zip(line, VIEWS, strict=True):
            shown = _show(ax, array, view, planes, spacing_mm, colours, limit)
        bar = fig.colorbar(shown, ax=line.tolist(), fraction=0.03, pad=0.01)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    for ax, view in zip(axes[0], VIEWS, strict=True):
        ax.set_title(view, fontsize=8)
    fig.suptitle(title, fontsize=8, x=0.02, y=0.995, ha="left")
    with whole_file(path) as temporary:
        fig.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _show(
    ax: Axes, array: np.ndarray, view: str, planes: Sequence[Plane], spacing_mm: Sequence[float], colours: str, limit: float
) -> object:
    """One view: through the given section nearest to the middle where the view is theirs, else through the middle."""
    axis = AXES[view]
    middle = array.shape[axis] // 2
    index = min((p.index for p in planes), key=lambda i: abs(i - middle)) if planes[0].axis == axis else middle
    across, up = (a for a in range(3) if a != axis)
    picture = upright(array, axis, index)
    aspect = spacing_mm[up] / spacing_mm[across]
    shown = ax.imshow(picture, cmap=colours, vmin=0, vmax=limit, interpolation="nearest", aspect=aspect)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=planes[0].axis == axis, color=GIVEN, linewidth=1.5)
    for plane in planes:
        if plane.axis == across:
            ax.axvline(plane.index, color=GIVEN, linewidth=0.8)
        elif plane.axis == up:
            ax.axhline(array.shape[up] - 1 - plane.index, color=GIVEN, linewidth=0.8)
    return shown
