"""The figure of steps: what is drawn is the table's, times of several devices stay apart, and the references are right."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from synthetic_metrics import sweep_metrics, synthetic_metrics, write_metrics

from xdiff import step_sweep
from xdiff.captions import NothingToShow
from xdiff.stats import one_step_count, read_metrics

STEPS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return read_metrics(write_metrics(sweep_metrics(patients=4), tmp_path_factory.mktemp("steps") / "all.tsv"))


def curve(ax) -> np.ndarray:
    (line,) = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    return line.lines[0].get_xydata()


def levels(ax) -> dict[str, float]:
    """Line style -> height of the horizontal references."""
    return {line.get_linestyle(): line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1]}


def test_psnr_and_crps_against_steps_and_seconds(metrics: pd.DataFrame) -> None:
    at = metrics.query("K == 1 and method == 'xdiff'")
    samples = at[at["estimate"] == "sample"]
    psnr = samples[samples["metric"] == "psnr"].groupby("steps")["value"].mean()
    crps = samples[samples["metric"] == "crps"].groupby("steps")["value"].mean()
    seconds = samples[samples["metric"] == "seconds"].groupby("steps")["value"].median()
    axes = step_sweep.figure(metrics).axes[:5]  # two scores by steps and by seconds, and the bands
    assert [ax.get_xlabel() for ax in axes] == ["steps", "seconds per volume"] * 2 + ["steps"]
    for ax, values in zip(axes[::2], (psnr, crps), strict=False):
        assert np.allclose(curve(ax), np.column_stack([STEPS, values]))
    assert np.allclose(curve(axes[1]), np.column_stack([seconds, psnr]))
    assert np.allclose(curve(axes[3]), np.column_stack([seconds, crps]))


def test_references_are_the_methods_mean_and_the_gaussian_row(metrics: pd.DataFrame) -> None:
    means = metrics.query("K == 1 and estimate == 'mean'").groupby(["method", "metric"])["value"].mean()
    psnr, crps = step_sweep.figure(metrics).axes[0:4:2]
    assert levels(psnr) == pytest.approx({"--": means["xdiff", "psnr"], ":": means["gaussian", "psnr"]})
    # a mean without a spread is scored by its absolute error, the gaussian row by its own CRPS
    assert levels(crps) == pytest.approx({"--": means["xdiff", "mae"], ":": means["gaussian", "crps"]})


def test_a_mean_with_a_spread_is_scored_by_its_own_crps(metrics: pd.DataFrame) -> None:
    mean = metrics.query("method == 'xdiff' and metric == 'mae'").assign(metric="crps", value=0.055)
    found = step_sweep.numbers(pd.concat([metrics, mean])).query("method == 'xdiff' and estimate == 'mean' and measure == 'crps'")
    assert np.allclose(found["mean"], 0.055)


def test_bands_are_drawn_one_line_each(metrics: pd.DataFrame) -> None:
    expected = metrics.query("K == 1 and metric == 'band_variance'").groupby(["x", "steps"])["value"].mean()
    bands = step_sweep.figure(metrics).axes[4]
    drawn = [c.lines[0].get_ydata() for c in bands.containers if isinstance(c, ErrorbarContainer)]
    assert len(drawn) == 3
    for band, values in enumerate(drawn, 1):
        assert np.allclose(values, expected.loc[float(band)])


def test_times_of_two_devices_are_never_on_one_axis(metrics: pd.DataFrame) -> None:
    slow = metrics["metric"].eq("seconds") & metrics["seed"].eq(1)
    both = metrics.assign(device=metrics["device"].mask(slow, "cpu"), value=metrics["value"].mask(slow, 50 * metrics["value"]))
    axes = step_sweep.figure(both[both["K"] == 1]).axes
    assert [ax.get_xlabel() for ax in axes[:3]] == ["steps", "seconds per volume (a)", "seconds per volume (b)"]
    fast, dear = curve(axes[1])[:, 0], curve(axes[2])[:, 0]
    devices = both.loc[both["metric"] == "seconds", "device"].unique()
    assert sorted(devices)[0] == "NVIDIA H200" and (dear > 20 * fast).all()
    assert "on NVIDIA H200 (a); cpu (b)" in step_sweep.caption(both)


def test_caption_tells_first_and_last_of_every_measure(metrics: pd.DataFrame) -> None:
    at = metrics.query("K == 5 and method == 'xdiff' and estimate == 'sample'")
    ends = {m: at[at["metric"] == m].groupby("steps")["value"].mean().iloc[[0, -1]].to_list() for m in ("psnr", "crps")}
    caption = step_sweep.caption(metrics)
    assert "xdiff, 1 to 64 steps, PSNR {:.2f} to {:.2f}, CRPS {:.4f} to {:.4f}".format(*ends["psnr"], *ends["crps"]) in caption
    assert "CRPS of 4 draws" in caption and "over 4 test patients" in caption and "on NVIDIA H200;" in caption


def test_what_is_missing_has_no_panel(metrics: pd.DataFrame) -> None:
    scored = metrics[~metrics["metric"].isin(["crps", "mae", "band_variance", "seconds"])]
    assert [ax.get_title() for ax in step_sweep.figure(scored).axes] == ["PSNR in unseen (dB)"] * 2  # K = 1 and 5
    with pytest.raises(NothingToShow, match="two numbers of steps"):
        step_sweep.figure(metrics[metrics["steps"] < 2])


def test_one_number_of_steps_is_no_sweep_and_other_estimates_do_not_count() -> None:
    """xdiff has a mean (1 step), samples and a mean of 16 (8 steps) in the synthetic table: nothing to draw."""
    assert not step_sweep.step_rows(synthetic_metrics(patients=1)).any()


@pytest.mark.parametrize(("ks", "shown"), [((1, 2, 5), (1, 5)), ((1, 3), (1, 3)), ((2, 3, 5), (2, 3)), ((5,), (5,))])
def test_two_k_are_shown(ks: tuple[int, ...], shown: tuple[int, ...]) -> None:
    table = sweep_metrics(patients=1, steps=(1, 2), ks=ks).fillna({"x_name": ""})
    assert [part.title for part in step_sweep.blocks(table)] == [f"knee, grid 2mm, K = {k}" for k in shown]


def test_steps_that_crowd_are_thinned_but_the_ends_stay(tmp_path: Path) -> None:
    table = sweep_metrics(patients=2, steps=(1, 2, 4, 8, 16, 32, 50, 64, 199, 1000), ks=(1,))
    ticks = [
        t.get_text() for t in step_sweep.figure(read_metrics(write_metrics(table, tmp_path / "t.tsv"))).axes[0].get_xticklabels()
    ]
    assert ticks[-1] == "1" and ticks[0] == "1000" and "64" in ticks and "50" not in ticks


def test_other_figures_keep_one_number_of_steps(metrics: pd.DataFrame) -> None:
    kept = one_step_count(metrics)
    assert set(kept.loc[kept["estimate"] == "sample", "steps"]) == {64}
    assert len(kept[kept["estimate"] == "mean"]) == len(metrics[metrics["estimate"] == "mean"])
    more = metrics.query("steps == 8 and estimate == 'sample'").assign(K=2)
    assert set(one_step_count(pd.concat([metrics, more])).query("estimate == 'sample'")["steps"]) == {8}
    plain = synthetic_metrics(patients=1)
    assert len(one_step_count(plain)) == len(plain)


def test_texts_are_legible_and_inside_the_page(metrics: pd.DataFrame) -> None:
    fig = step_sweep.figure(metrics)
    fig.savefig(io.BytesIO())
    for part in [*fig.axes, *(s._suptitle for s in fig.subfigs[:-1]), *fig.subfigs[-1].legends]:
        box = part.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1, (part, box)
    assert min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text()) >= 6.5
