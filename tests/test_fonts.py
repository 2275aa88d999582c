"""The font of the figures is found, in both weights, and draws what DejaVu Sans draws."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from xdiff.fonts import FAMILY, register

TEXT = "PSNR (dB) \u2212 95 % Ångström, K = 10: AV To fi"


def drawn(family: str, weight: str) -> np.ndarray:
    fig = Figure(figsize=(4, 0.5))
    fig.text(0.02, 0.3, TEXT, family=family, weight=weight)
    file = io.BytesIO()
    fig.savefig(file, format="rgba")
    return np.frombuffer(file.getvalue(), np.uint8)


def test_both_weights_are_found_and_small() -> None:
    register()
    asked = (FontProperties(family=FAMILY, weight=weight) for weight in ("normal", "bold"))
    found = [font_manager.findfont(one, fallback_to_default=False) for one in asked]
    assert found[0].endswith("DejaVuSans.ttf") and found[1].endswith("DejaVuSans-Bold.ttf")


def test_letters_are_those_of_dejavu_sans_in_their_places() -> None:
    register()
    for weight in ("normal", "bold"):
        ours = drawn(FAMILY, weight)
        assert (ours == drawn("DejaVu Sans", weight)).all() and (ours < 128).any()
