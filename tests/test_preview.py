"""The preview shows three planes, marks the given slices where they lie, and the uncertainty where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from xdiff.panel import GIVEN
from xdiff.planes import Plane
from xdiff.preview import write_preview

SHAPE = (20, 24, 22)


def marks(path: Path, planes: list[Plane], std: bool = False) -> np.ndarray:
    """(rows, columns) bool: pixels of the given slices' colour."""
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    write_preview(path, volume, volume if std else None, planes, (2.0, 2.0, 2.0), "synthetic")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.abs(pixels - np.round(255 * np.array(to_rgb(GIVEN)))).max(axis=-1) < 12


def longest_row(marked: np.ndarray) -> int:
    return int(np.argmax(marked.sum(axis=1)))


def test_a_higher_slice_is_drawn_higher_up(tmp_path: Path) -> None:
    # of a slice's own view there is a frame alone, as high in both pictures
    high, low = (marks(tmp_path / "a.png", [Plane(2, index)]) for index in (17, 4))
    size = high.shape[1] // 3
    assert longest_row(high[:, size:]) < longest_row(low[:, size:]) - 20
    assert high.sum() > 300


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_more_slices_are_more_lines_and_one_frame(axis: int, tmp_path: Path) -> None:
    one, three = (marks(tmp_path / "a.png", [Plane(axis, i) for i in rows]).sum() for rows in ((9,), (5, 9, 13)))
    assert one < three < 3 * one


def test_uncertainty_is_a_second_row_and_the_bytes_are_the_same_again(tmp_path: Path) -> None:
    one = marks(tmp_path / "a.png", [Plane(2, 9)])
    both = marks(tmp_path / "b.png", [Plane(2, 9)], std=True)
    assert both.shape[0] > 1.6 * one.shape[0] and both.shape[1] == one.shape[1]
    marks(tmp_path / "c.png", [Plane(2, 9)], std=True)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
