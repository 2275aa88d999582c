"""Figures of anatomy: what is drawn is what was measured, and the control is a line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anatomy_metrics import METHODS, SPREAD, anatomy_metrics
from matplotlib.axes import Axes
from test_tumour_figures import bars_of
from test_tumours import long, row

from xdiff import anatomy, anatomy_figures, figures
from xdiff.captions import NothingToShow
from xdiff.stats import read_metrics


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("anatomy") / "all.tsv"
    anatomy_metrics().to_csv(path, sep="\t", index=False)
    return read_metrics(path)


@pytest.fixture(scope="module")
def found(metrics: pd.DataFrame) -> pd.DataFrame:
    return anatomy.numbers(metrics).set_index(["method", "metric", "K"]).sort_index()


def line_of(ax: Axes, **look: str) -> np.ndarray:
    """The points (n, 2) of the one line that looks so."""
    found = [line for line in ax.lines if all(getattr(line, f"get_{name}")() == value for name, value in look.items())]
    return found[0].get_xydata()


def test_every_volume_stands_at_its_truth(metrics: pd.DataFrame) -> None:
    fig = anatomy_figures.agreement(metrics)
    fig.savefig(io.BytesIO())
    by_title = {ax.get_title(): (ax, fig.axes[i + 3]) for i, ax in enumerate(fig.axes) if ax.get_title()}
    assert list(by_title) == ["volume (l)", "fat (%)", "Cobb (deg)", "kyphosis (deg)", "lordosis (deg)", "curvature (1/m)"]
    above, below = by_title["fat (%)"]
    own = anatomy.pairs(metrics)
    own = own[(own["metric"] == "fat_fraction") & (own["method"] == "xdiff") & (own["K"] == 5)].sort_values("truth")
    np.testing.assert_allclose(line_of(above, marker="o"), 100 * own[["truth", "value"]])
    np.testing.assert_allclose(line_of(below, marker="o"), 100 * own[["truth", "difference"]])


def test_the_control_is_one_level_for_everybody(metrics: pd.DataFrame) -> None:
    above, below = (anatomy_figures.agreement(metrics).axes[i] for i in (0, 3))
    mean = SPREAD["body_volume_l"][0] + 0.1 * SPREAD["body_volume_l"][1]
    control = line_of(above, linestyle="--")
    np.testing.assert_allclose(control[:, 1], mean)
    np.testing.assert_allclose(line_of(below, linestyle="--")[:, 1], mean - control[:, 0])


def test_bias_and_limits_stand_at_the_right_of_the_points(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    ax = anatomy_figures.agreement(metrics).axes[3]
    own = found.loc["xdiff", "body_volume_l", 5]
    place = bars_of(ax)["o"][0]
    assert place[1] == pytest.approx(own["bias"]) and place[0] > line_of(ax, marker="o")[:, 0].max()
    bar = next(c for c in ax.containers if c.lines[0].get_marker() == "o").lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [own["limit_lo"], own["limit_hi"]])


def test_of_trivial_methods_the_gaussian_alone_is_scattered(metrics: pd.DataFrame) -> None:
    fig = anatomy_figures.agreement(metrics)
    names = [text.get_text() for sub in fig.subfigs for legend in sub.legends for text in legend.get_texts()]
    assert names == ["population mean: the control", "gaussian", "xdiff"]
    trivial = metrics[metrics["method"].isin(["truth", "population_mean", "linear"])]
    fig = anatomy_figures.agreement(trivial)
    names = [text.get_text() for sub in fig.subfigs for legend in sub.legends for text in legend.get_texts()]
    assert names == ["population mean: the control", "linear"]


def test_errors_stand_at_their_k(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    fig = anatomy_figures.errors_vs_k(metrics)
    fig.savefig(io.BytesIO())
    errors = found["mae"]
    assert [ax.get_title() for ax in fig.axes][:2] == ["volume (l)", "fat (%)"] and len(fig.axes) == len(SPREAD)
    np.testing.assert_allclose(bars_of(fig.axes[1])["o"], [(k, 100 * errors["xdiff", "fat_fraction", k]) for k in (1, 5)])
    assert all(ax.get_ylim()[0] == 0 for ax in fig.axes)


def test_captions_tell_the_control_and_what_a_phantom_is_worth(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    errors = found["mae"]
    caption = anatomy_figures.errors_vs_k_caption(metrics)
    best, control = errors["xdiff", "body_volume_l", 1], errors["population_mean", "body_volume_l", 1]
    assert f"volume (l) xdiff {best:.2f}, control {control:.2f}" in caption and "over 10 to 12 test patients" in caption
    for text in (caption, anatomy_figures.agreement_caption(metrics)):
        assert "On phantoms this tests the code, not the science." in text


def test_anatomy_stays_out_of_the_figures_of_voxels(metrics: pd.DataFrame) -> None:
    images = [
        row(m, f"{i}_2_0", 20.0 + i, K=k, metric="psnr", region=r, cohort="phantom-body", trained_on="phantom-body", grid="body")
        for m in METHODS
        for i in range(2)
        for k in (1, 5)
        for r in ("unseen", "unseen_masked")
    ]
    found = {name: fig for name, fig, _ in figures.all_figures(pd.concat([metrics, long(images)]), None)}
    assert {"psnr_vs_k", "anatomy", "anatomy_vs_k"} <= set(found)
    names = [text.get_text() for sub in found["psnr_vs_k"].subfigs for legend in sub.legends for text in legend.get_texts()]
    assert names == ["mean template", "linear", "gaussian", "xdiff"]


def test_no_bodies_no_figure(metrics: pd.DataFrame, tmp_path: Path) -> None:
    for draw in (anatomy_figures.agreement, anatomy_figures.errors_vs_k):
        with pytest.raises(NothingToShow, match="no bodies"):
            draw(metrics[metrics["method"] != "truth"])
