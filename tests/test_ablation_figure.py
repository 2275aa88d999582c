"""The figure of ablations: what is drawn is the table's, beside the right ideals, legible, and absent where there is nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from synthetic_metrics import ABLATIONS, ablation_metrics, sweep_metrics, training_checks, write_history, write_metrics

from xdiff import ablation, ablation_figure, figures
from xdiff.captions import NothingToShow
from xdiff.metrics.history import history_rows
from xdiff.stats import read_metrics

OWN = "openneuro-ds002748"
LINES = [
    "gaussian",
    "+ ixi-2mm",
    "xdiff",
    "10 subjects",
    "ddim",
    "independent noise",
    "no gaussian",
    "no trunk",
    "uniform fusion",
]
LINES += ["+ ixi-2mm"]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return read_metrics(write_metrics(ablation_metrics(patients=4), tmp_path_factory.mktemp("ablation") / "all.tsv"))


@pytest.fixture(scope="module")
def drawn(metrics: pd.DataFrame) -> list:
    fig = ablation_figure.figure(metrics)
    fig.savefig(io.BytesIO())
    return fig.axes


def points(ax) -> list[np.ndarray]:
    """(x, y) of every series with bars."""
    return [c.lines[0].get_xydata() for c in ax.containers if isinstance(c, ErrorbarContainer)]


def values(found: pd.DataFrame, measure: str, estimate: str, k: int) -> pd.DataFrame:
    rows = found[(found["measure"] == measure) & (found["estimate"] == estimate) & (found["K"] == k)]
    return rows[rows["steps"] == (1 if estimate == "mean" else 8)]


def test_one_line_per_ablation_under_its_base_which_is_bold(drawn: list) -> None:
    ticks = drawn[0].get_yticklabels()
    assert [t.get_text() for t in ticks] == LINES
    assert [t.get_text() for t in ticks if t.get_fontweight() == "bold"] == ["gaussian", "xdiff"]


def test_differences_are_the_tables_by_k(metrics: pd.DataFrame, drawn: list) -> None:
    found = ablation.numbers(metrics)
    for series, k in zip(points(drawn[0]), (1, 5, 10), strict=True):
        expected = values(found, "psnr_difference", "mean", k)
        np.testing.assert_allclose(series[:, 0], expected["mean"])
        assert [LINES[round(y)] for y in series[:, 1]] == [line for line in LINES if line not in ("gaussian", "xdiff")]


def test_checks_of_samples_stand_beside_their_ideals(metrics: pd.DataFrame, drawn: list) -> None:
    found = ablation.numbers(metrics)
    bands, ratio = drawn[1:]
    for series, band in zip(points(bands), ("band_1", "band_2", "band_3"), strict=True):
        np.testing.assert_allclose(series[:, 0], values(found, band, "sample", 5)["mean"])
    (series,) = points(ratio)
    np.testing.assert_allclose(series[:, 0], values(found, "sample_to_mean", "sample", 5)["mean"])
    assert [LINES[round(y)] for y in series[:, 1]] == LINES[2:]  # the base too: it is not an ideal
    for ax, ideal in ((bands, 1.0), (ratio, 2.0)):
        assert [line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1]] == [ideal]
        assert ax.get_xlabel() == "K = 5, 8 steps"


def test_no_tick_is_there_twice_and_none_is_off_the_axis(drawn: list) -> None:
    for ax in drawn:
        low, high = ax.get_xlim()
        ticks = [t for t in ax.get_xticks() if low <= t <= high]
        assert len({round(t, 9) for t in ticks}) == len(ticks) >= 3
    assert [t.get_text() for t in drawn[0].get_xticklabels()] == ["-10", "-3", "-1", "-0.3", "-0.1", "0", "0.1", "0.3"]


def test_small_differences_are_on_a_linear_axis(metrics: pd.DataFrame) -> None:
    small = metrics[metrics["method"].isin(["xdiff", "xdiff-no-trunk"])]
    assert ablation_figure.figure(small).axes[0].get_xscale() == "linear"
    assert "logarithmic" not in ablation_figure.caption(small) and "logarithmic" in ablation_figure.caption(metrics)


def test_without_samples_there_is_one_panel(metrics: pd.DataFrame) -> None:
    means = metrics[metrics["estimate"] == "mean"]
    (ax,) = ablation_figure.figure(means).axes
    assert ax.get_title() == "PSNR in unseen minus the base's (dB)" and "ideal" not in ablation_figure.caption(means)


def test_two_cohorts_are_two_blocks(metrics: pd.DataFrame) -> None:
    both = pd.concat([metrics, metrics.assign(cohort="ixi-2mm")])
    titles = [part.title for part in ablation_figure.blocks(both)]
    assert titles == [f"{OWN}, grid 48", f"ixi-2mm, grid 48, trained on {OWN}"] and len(ablation_figure.figure(both).axes) == 6


def test_caption_tells_the_largest_differences(metrics: pd.DataFrame) -> None:
    rows = values(ablation.numbers(metrics), "psnr_difference", "mean", 1)
    row = rows[rows["method"] == "xdiff-no-gaussian"].iloc[0]
    caption = ablation_figure.caption(metrics)
    assert (
        f"largest at K = 1: xdiff-no-gaussian {row['mean']:+.2f} [{row['lo']:+.2f}, {row['hi']:+.2f}]; xdiff-10-subjects"
        in caption
    )
    assert "over 4 test patients" in caption and "ideal 2, grey 1.7 to 2.3" in caption


def test_nothing_ablated_is_nothing_to_show() -> None:
    with pytest.raises(NothingToShow, match="BASE-WHAT"):
        ablation_figure.figure(sweep_metrics(patients=1))


def test_texts_are_legible_inside_the_page_and_apart(metrics: pd.DataFrame) -> None:
    fig = ablation_figure.figure(metrics)
    fig.savefig(io.BytesIO())
    for part in [*fig.axes, *(s._suptitle for s in fig.subfigs[:-1]), *fig.subfigs[-1].legends]:
        box = part.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1, (part, box)
    assert min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text()) >= 6.5
    titles = [ax.title.get_window_extent() for ax in fig.axes]
    assert all(left.x1 < right.x0 for left, right in zip(titles, titles[1:], strict=False))


# --- in its place among the figures


def test_other_figures_leave_the_ablations_out(metrics: pd.DataFrame, tmp_path: Path) -> None:
    trained = [history_rows(write_history(tmp_path / m, training_checks(n=4), m, OWN, "48")) for m in ("xdiff", "xdiff-no-trunk")]
    table = pd.concat([ablation_metrics(patients=2), *trained])
    found = {
        name: caption for name, _, caption in figures.all_figures(read_metrics(write_metrics(table, tmp_path / "a.tsv")), None)
    }
    assert list(found) == ["psnr_vs_k", "psnr_vs_k_paper", "timing", "quality_vs_seconds", "steps", "training_curves", "ablation"]
    assert not any("xdiff-" in found[name] for name in ("psnr_vs_k", "quality_vs_seconds", "training_curves"))
    assert "xdiff-ddim, 1 to 32 steps" in found["steps"]  # a solver is compared over steps
    labels = {text.get_text() for text in legend_of_psnr(metrics)}
    assert "xdiff (mean)" in labels and not any(m in labels for m in ABLATIONS if m.startswith("xdiff-"))


def legend_of_psnr(metrics: pd.DataFrame) -> list[Text]:
    fig = next(fig for name, fig, _ in figures.all_figures(metrics, None) if name == "psnr_vs_k")
    return fig.subfigs[-1].legends[0].get_texts()


def test_one_figure_can_be_drawn_alone_and_is_the_same(tmp_path: Path) -> None:
    path = str(write_metrics(ablation_metrics(patients=2), tmp_path / "all.tsv"))
    figures.main(["--metrics", path, "--out", str(tmp_path / "all")])
    figures.main(["--metrics", path, "--out", str(tmp_path / "one"), "--only", "ablation"])
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"ablation.png", "ablation.pdf", "captions.json"}
    for name in ("ablation.png", "ablation.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    assert list(json.loads((tmp_path / "one/captions.json").read_text())) == ["ablation"]
