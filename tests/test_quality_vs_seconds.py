"""Quality against seconds: points are the table's, times of two devices never meet, and blurring cannot pass for quality."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from synthetic_metrics import sweep_metrics, synthetic_metrics, write_metrics

from xdiff.captions import NothingToShow
from xdiff.drawing import MARKS
from xdiff.quality_vs_seconds import DEPTH_DB, caption, chosen_ks, figure, quality, scores
from xdiff.reference import shorten
from xdiff.stats import read_metrics

COHORT = "openneuro-ds002748"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """All methods at six K; xdiff as mean, sample and mean of 16, all learned ones but gaussian_local on an H200."""
    table = synthetic_metrics(patients=3, cohorts=(COHORT,))
    return read_metrics(write_metrics(table, tmp_path_factory.mktemp("plain") / "all.tsv"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """xdiff's samples of 1 to 64 steps at K = 1 and 5, timed on an H200; its mean and the gaussian row without times."""
    return read_metrics(write_metrics(sweep_metrics(patients=4), tmp_path_factory.mktemp("swept") / "all.tsv"))


def points(ax, method: str) -> list[np.ndarray]:
    """(points, 2) of every estimate of a method that is drawn in a panel."""
    lines = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    return [line.get_xydata() for line in lines if to_hex(line.get_color()) == MARKS[method][0]]


def at(metrics: pd.DataFrame, method: str, k: int, estimate: str = "mean") -> pd.DataFrame:
    where = f"frame == 'centred' and axis == 'axial' and policy == 'uniform' and x_name == '' and K == {k}"
    return metrics.query(f"{where} and method == '{method}' and estimate == '{estimate}'")


def expected(metrics: pd.DataFrame, method: str, k: int, estimate: str = "mean") -> tuple[float, float]:
    """Median seconds and mean PSNR in unseen, one contrast and no second visits."""
    own = at(metrics, method, k, estimate)
    psnr = own[(own["metric"] == "psnr") & (own["region"] == "unseen")].groupby("subject")["value"].mean()
    return own.loc[own["metric"] == "seconds", "value"].median(), psnr.mean()


def test_points_are_the_median_time_and_the_mean_over_patients(plain: pd.DataFrame) -> None:
    axes = figure(plain).axes
    assert [ax.get_title() for ax in axes] == ["K = 1", "K = 5", "K = 10", "K = 31"]
    for ax, k in zip(axes, (1, 5, 10, 31), strict=True):
        assert np.allclose(points(ax, "unet"), [[expected(plain, "unet", k)]])
        drawn = sorted(tuple(p[0]) for p in points(ax, "xdiff"))
        assert np.allclose(drawn, sorted(expected(plain, "xdiff", k, e) for e in ("mean", "sample", "mean_of_16")))
    assert {ax.get_xscale() for ax in axes} == {"log"} and axes[0].get_ylabel() == "PSNR in unseen (dB)"


def test_bars_are_the_interval_over_patients(plain: pd.DataFrame) -> None:
    rows = quality(plain).blocks[0].rows.query("method == 'unet' and K == 5 and measure == 'psnr'").iloc[0]
    own = at(plain, "unet", 5).query("metric == 'psnr' and region == 'unseen'")["value"]
    assert own.min() <= rows["lo"] < rows["mean"] < rows["hi"] <= own.max() and rows["n"] == 3
    line = next(c for c in figure(plain).axes[1].containers if to_hex(c.lines[0].get_color()) == MARKS["unet"][0])
    assert np.allclose(np.array(line.lines[2][0].get_segments())[0, :, 1], [rows["lo"], rows["hi"]])


def test_estimates_of_a_method_have_markers_of_their_own(plain: pd.DataFrame) -> None:
    lines = [c.lines[0] for c in figure(plain).axes[0].containers]
    fills = {c.get_fillstyle() for c in lines if to_hex(c.get_color()) == MARKS["xdiff"][0]}
    assert fills == {"full", "none", "bottom"}
    assert {c.get_linestyle() for c in lines} == {"None"}  # one number of steps: nothing to join


@pytest.mark.parametrize(
    ("ks", "swept", "shown"),
    [
        ((1, 2, 3, 5, 10, 31), (), [1, 5, 10, 31]),
        ((1, 2, 3, 5, 10, 31), (3,), [1, 3, 10, 31]),
        ((1, 2, 3, 5, 10), (5,), [1, 2, 5, 10]),
        ((1, 2, 3, 5, 10, 31), (1, 2, 3, 5, 10), [1, 3, 5, 10]),
        ((1, 3), (), [1, 3]),
        ((4,), (4,), [4]),
    ],
)
def test_four_k_at_most_those_with_several_steps_first(ks: tuple, swept: tuple, shown: list) -> None:
    assert chosen_ks(ks, swept) == shown


def test_times_are_of_the_device_of_most_learned_rows_and_the_others_are_named(plain: pd.DataFrame) -> None:
    shown = quality(plain)
    assert shown.device == "NVIDIA H200"
    assert set(shown.blocks[0].rows["method"]) == {"unet", "mednerf", "xdiff"}
    trivial = ["mean_template", "nearest", "linear", "cubic", "retrieval", "gaussian", "gaussian_local"]
    assert shown.left_out == {"cpu (2 threads)": trivial}
    text = caption(plain)
    assert "seconds per volume on NVIDIA H200: PSNR" in text
    assert f"never compared: cpu (2 threads): {', '.join(trivial)}." in text and "Dotted: the gaussian row" in text
    dotted = [line.get_ydata()[0] for line in figure(plain).axes[1].lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([expected(plain, "gaussian", 5)[1]])


def test_where_all_rows_are_trivial_their_device_is_shown(plain: pd.DataFrame) -> None:
    trivial = plain[plain["method"].isin(["mean_template", "gaussian"])]
    assert quality(trivial).device == "cpu (2 threads)" and not quality(trivial).left_out
    assert "Dotted" not in caption(trivial) and "Left out" not in caption(trivial)
    assert np.allclose(points(figure(trivial).axes[0], "gaussian"), [[expected(trivial, "gaussian", 1)]])


def test_a_row_timed_on_two_devices_has_the_time_of_one(swept: pd.DataFrame) -> None:
    slow = swept["metric"].eq("seconds") & swept["seed"].eq(1)
    both = swept.assign(device=swept["device"].mask(slow, "z"), value=swept["value"].mask(slow, 50 * swept["value"]))
    fast = both[(both["metric"] == "seconds") & (both["device"] == "NVIDIA H200") & (both["K"] == 1)]
    (line,) = points(figure(both).axes[0], "xdiff")
    assert np.allclose(line[:, 0], fast.groupby("steps")["value"].median())
    assert quality(both).left_out == {}  # no row is missing


def test_a_line_joins_the_samples_of_one_method_from_few_steps_to_many(swept: pd.DataFrame) -> None:
    ax = figure(swept).axes[0]
    own = at(swept, "xdiff", 1, "sample")
    seconds = own[own["metric"] == "seconds"].groupby("steps")["value"].median()
    psnr = own[own["metric"] == "psnr"].groupby("steps")["value"].mean()
    assert np.allclose(points(ax, "xdiff"), [np.column_stack([seconds, psnr])])
    assert [c.lines[0].get_linestyle() for c in ax.containers] == ["-"]
    assert [t.get_text() for t in ax.texts] == ["1", "64"]


def test_crps_stands_below_where_samples_have_several_steps(swept: pd.DataFrame) -> None:
    axes = figure(swept).axes
    assert [ax.get_ylabel() for ax in axes] == ["PSNR in unseen (dB)", "", "CRPS in unseen_masked", ""]
    crps = swept.query("K == 5 and method == 'xdiff' and metric == 'crps'").groupby("steps")["value"].mean()
    assert np.allclose(points(axes[3], "xdiff")[0][:, 1], crps)
    assert [ax.get_xlabel() for ax in axes] == ["", "", "seconds per volume", "seconds per volume"]
    text = caption(swept)
    assert "Few steps raise PSNR by blurring towards the mean" in text
    assert "CRPS {:.4f} to {:.4f}".format(*crps.iloc[[0, -1]]) in text
    single = swept[(swept["steps"] == 8) | (swept["estimate"] == "mean")]
    assert len(figure(single).axes) == 2 and "blurring" not in caption(single)


def test_crps_has_no_panel_at_a_k_without_an_ensemble(swept: pd.DataFrame) -> None:
    some = swept[~((swept["K"] == 1) & (swept["metric"] == "crps") & (swept["method"] == "xdiff"))]
    axes = figure(some).axes
    assert [ax.get_title() for ax in axes] == ["K = 1", "K = 5", ""] and axes[2].get_ylabel() == "CRPS in unseen_masked"


def test_a_mean_is_scored_by_its_standard_deviation_or_else_its_absolute_error(swept: pd.DataFrame) -> None:
    found = scores(swept).query("measure == 'crps' and estimate == 'mean' and K == 1").set_index("method")["mean"]
    means = swept.query("K == 1 and estimate == 'mean' and region == 'unseen_masked'")
    values = means.groupby(["method", "metric"])["value"].mean()
    assert found.to_dict() == pytest.approx({"gaussian": values["gaussian", "crps"], "xdiff": values["xdiff", "mae"]})


def test_what_is_far_below_stands_on_the_lower_edge(plain: pd.DataFrame) -> None:
    best = expected(plain, "xdiff", 1)[1]
    deep = plain.assign(value=plain["value"].mask((plain["method"] == "mednerf") & (plain["metric"] == "psnr"), 3.0))
    ax = figure(deep).axes[0]
    assert ax.get_ylim()[0] == pytest.approx(best - DEPTH_DB)
    on_edge = [line for line in ax.lines if not line.get_clip_on()]
    assert [(to_hex(e.get_color()), e.get_ydata()[0]) for e in on_edge] == [(MARKS["mednerf"][0], pytest.approx(best - DEPTH_DB))]
    assert f"more than {DEPTH_DB} dB below the best" in caption(deep)


def test_a_time_that_rounds_to_nothing_is_drawn_at_ten_microseconds(plain: pd.DataFrame) -> None:
    instant = plain.assign(value=plain["value"].mask((plain["metric"] == "seconds") & (plain["method"] == "unet"), 0.0))
    assert points(figure(instant).axes[0], "unet")[0][0, 0] == 1e-5
    assert "Times below 10 us are drawn at 10 us." in caption(instant) and "10 us" not in caption(plain)


def test_of_rows_that_print_the_same_the_fastest_is_called_the_best(plain: pd.DataFrame) -> None:
    means = plain[plain["method"].isin(["unet", "xdiff"]) & (plain["estimate"] == "mean")]
    level = means.assign(value=means["value"].mask(means["metric"] == "psnr", 20.0))
    assert "K = 1: best unet 20.00 dB in 0.0" in caption(level)
    assert "K = 1: best xdiff (mean)" in caption(plain)


def test_what_a_reference_keeps_draws_the_same(plain: pd.DataFrame, swept: pd.DataFrame, tmp_path: Path) -> None:
    table = pd.concat([plain, swept.assign(cohort="knee", trained_on="knee")])
    text = pd.read_csv(write_metrics(table, tmp_path / "all.tsv"), sep="\t", dtype=str, keep_default_na=False)
    whole, kept = (quality(read_metrics(write_metrics(t, tmp_path / "t.tsv"))) for t in (text, shorten(text)))
    assert kept.device == whole.device and kept.left_out == whole.left_out and len(kept.blocks) == 2
    for ours, theirs in zip(kept.blocks, whole.blocks, strict=True):
        pd.testing.assert_frame_equal(ours.rows, theirs.rows, rtol=1e-3)


def test_without_times_or_psnr_or_with_one_row_there_is_nothing_to_show(plain: pd.DataFrame) -> None:
    with pytest.raises(NothingToShow, match="fewer than two rows with a PSNR in unseen and a time"):
        figure(plain[plain["metric"] != "seconds"])
    with pytest.raises(NothingToShow, match="no scalar rows of psnr in unseen"):
        figure(plain[plain["region"] != "unseen"])
    with pytest.raises(NothingToShow, match="fewer than two rows"):
        figure(at(plain, "unet", 5))


@pytest.mark.parametrize("name", ["plain", "swept"])
def test_texts_are_legible_and_inside_the_page(name: str, request: pytest.FixtureRequest) -> None:
    fig = figure(request.getfixturevalue(name))
    fig.savefig(io.BytesIO())
    for part in [*fig.axes, *(s._suptitle for s in fig.subfigs[:-1]), *fig.subfigs[-1].legends]:
        box = part.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1, (part, box)
    assert min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text()) >= 6.5
