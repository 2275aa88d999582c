"""One look per method: told apart by marker everywhere, and by colour between families with any colour vision."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from xdiff.drawing import COLUMN_IN, MARKS, PAGE_IN, STYLE, looks
from xdiff.layout import METHODS

FAMILIES = {
    "grey": ("mean_template", "linear"),
    "linear-Gaussian": ("gaussian", "gaussian_local"),
    "regressor": ("unet", "unet2d"),
    "coordinate": ("mednerf", "coordinate_mlp"),
    "diffusion": ("score", "tpdm", "flow3d"),
    "ours": ("xdiff",),
}
# Linear RGB as a dichromat sees it (Machado, Oliveira and Fernandes 2009, severity 1).
VISIONS = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, vision: str) -> np.ndarray:
    linear = np.asarray(to_rgb(colour)) ** 2.2
    seen = np.clip(np.asarray(VISIONS[vision]) @ linear, 0, 1) ** (1 / 2.2)
    return rgb2lab(seen[None, None])[0, 0]


def table(*methods: str) -> pd.DataFrame:
    return pd.DataFrame({"method": methods, "estimate": "mean", "steps": 1})


def test_every_method_of_the_tables_has_a_marker_of_its_own() -> None:
    plain = [name for name in METHODS if not name.endswith("_posed")]
    assert set(plain) <= set(MARKS)
    assert len({marker for _, marker in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize("vision", VISIONS)
def test_families_are_told_apart_with_any_colour_vision(vision: str) -> None:
    for one, other in combinations(FAMILIES, 2):
        for a in FAMILIES[one]:
            for b in FAMILIES[other]:
                apart = np.linalg.norm(lab(MARKS[a][0], vision) - lab(MARKS[b][0], vision))
                assert apart > 12, f"{a} and {b} are {apart:.1f} apart in CIELAB"


def test_a_posed_method_has_its_own_kind_of_line_and_the_colour_of_the_method() -> None:
    look = looks(table("gaussian", "gaussian_posed", "unet", "unet_posed"))
    for name in ("gaussian", "unet"):
        plain, posed = look[name, "mean", 1], look[f"{name}_posed", "mean", 1]
        assert (plain["color"], plain["marker"]) == (posed["color"], posed["marker"])
        assert plain["linestyle"] != posed["linestyle"]


def test_ours_is_the_boldest_line() -> None:
    look = looks(table(*(m for m in METHODS if m != "truth")))
    widths = {key[0]: style.get("linewidth", STYLE["lines.linewidth"]) for key, style in look.items()}
    assert max(widths, key=widths.get) == "xdiff" and sorted(widths.values())[-2] < widths["xdiff"]


def test_pages_are_as_wide_as_print() -> None:
    assert PAGE_IN * 25.4 == pytest.approx(175) and COLUMN_IN * 25.4 == pytest.approx(85)
