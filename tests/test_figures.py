"""The figures: that they draw the numbers of the table, are the same on every run, and are left out without data."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from synthetic_metrics import (
    sweep_metrics,
    synthetic_metrics,
    training_checks,
    write_history,
    write_metrics,
    write_panel,
)

from xdiff import captions
from xdiff.captions import NothingToShow
from xdiff.drawing import MARKS, looks
from xdiff.errors import InputError
from xdiff.figures import axes_policies, error_vs_distance, main, psnr_vs_k
from xdiff.metrics.history import history_rows
from xdiff.panel import GIVEN, panel_figure, read_panels
from xdiff.stats import read_metrics

ALWAYS = ("psnr_vs_k", "psnr_vs_k_paper", "quality_vs_seconds", "timing")  # of the synthetic table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    write_metrics(synthetic_metrics(patients=3), folder / "all.tsv")
    write_panel(folder / "panel.npz")
    return folder


@pytest.fixture(scope="module")
def metrics(folder: Path):
    return read_metrics(folder / "all.tsv")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Path]:
    """Two runs of the command line in processes of different hash seeds; their CPU seconds in the file `seconds`."""
    outs = []
    for seed in ("1", "2"):
        out = folder / f"run{seed}"
        code = "import sys, time; from xdiff.figures import main; main(sys.argv[1:]); print(time.process_time())"
        paths = ["--metrics", str(folder / "all.tsv"), "--panel", str(folder / "panel.npz"), "--out", str(out)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        (out / "seconds").write_text(done.stdout)
        outs.append(out)
    return outs


def test_two_runs_write_identical_files(runs):
    names = sorted(p.name for p in runs[0].iterdir() if p.name != "seconds")
    expected = [f"{n}.{e}" for n in (*ALWAYS, "axes_policies", "error_vs_distance", "panel_0", "panel_1") for e in ("pdf", "png")]
    assert names == sorted([*expected, "captions.json"])
    for name in names:
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


def test_fifty_thousand_rows_take_less_than_thirty_cpu_seconds(runs, metrics):
    assert len(metrics) > 40_000
    assert float((runs[0] / "seconds").read_text()) < 30


def test_every_figure_has_a_caption_with_its_numbers(runs, metrics):
    written = json.loads((runs[0] / "captions.json").read_text())
    assert set(written) == {p.stem for p in runs[0].glob("*.png")}
    summary = captions.psnr(metrics)
    best = summary.query("cohort == 'brats' and region == 'unseen' and policy == 'uniform' and K == 31 and estimate == 'mean'")
    assert f"K = 31: xdiff (mean) {best['mean'].max():.2f} [" in written["psnr_vs_k"]
    assert "over 3 test patients" in written["psnr_vs_k"] and "zeros (at most" in written["psnr_vs_k"]
    assert "K = 2 axial slices (index 40, 55;" in written["panel_1"]


def test_psnr_vs_k_draws_the_summary(metrics):
    fig = psnr_vs_k(metrics)
    assert len(fig.axes) == 3 * 3  # three families, three panels
    own = captions.psnr(metrics).query("cohort == 'brats' and region == 'unseen' and policy == 'uniform' and method == 'unet'")
    line = next(c for c in fig.axes[0].containers if to_hex(c.lines[0].get_color()) == MARKS["unet"][0])
    assert np.allclose(line.lines[0].get_xydata(), own.sort_values("K")[["K", "mean"]])
    segments = np.array(line.lines[2][0].get_segments())
    assert np.allclose(segments[:, :, 1], own.sort_values("K")[["lo", "hi"]])


def test_gain_is_paired_by_patient(metrics):
    wanted = metrics.query("cohort == 'knee' and region == 'unseen' and metric == 'psnr' and K == 1 and frame == 'centred'")
    by_patient = wanted.pivot_table("value", "subject", ["method", "estimate"])
    gain = captions.gains(metrics).query("cohort == 'knee' and K == 1 and frame == 'centred' and method == 'unet'")
    expected = by_patient["unet", "mean"] - by_patient["gaussian", "mean"]
    assert gain["mean"].item() == pytest.approx(expected.mean())
    assert expected.min() - 1e-9 <= gain["lo"].item() <= gain["hi"].item() <= expected.max() + 1e-9


def test_gain_panel_is_left_out_without_the_gaussian_row(metrics):
    assert len(psnr_vs_k(metrics[metrics["method"] != "gaussian"]).axes) == 3 * 2


def test_zeros_and_truth_are_not_drawn(metrics):
    labels = {style["label"] for style in looks(captions.drawable(metrics)).values()}
    assert "zeros" not in labels and "gaussian" in labels


def test_every_row_has_a_look_of_its_own_even_unknown_methods(metrics):
    known = metrics.drop_duplicates(["method", "estimate", "steps"])
    rows = [known, *(known[known["method"] == "unet"].assign(method=f"ablation_{i}") for i in range(4))]
    look = looks(type(metrics)(np.concatenate([r.to_numpy() for r in rows]), columns=metrics.columns))
    assert len(look) == len(known) + 4
    seen = [(s["color"], s["marker"], s["linestyle"], str(s["markerfacecolor"])) for s in look.values()]
    assert len(set(seen)) == len(seen)
    assert look["xdiff", "mean", 1]["color"] == look["xdiff", "sample", 8]["color"]


def test_error_vs_distance_shows_k_1_and_5_and_drops_rare_bins(metrics):
    fig = error_vs_distance(metrics)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["K = 1", "K = 5"]
    far = metrics["x"].max()
    rare = metrics[~((metrics["x"] == far) & ~metrics["subject"].isin(["sub-01"]))]
    assert captions.distance_curves(metrics)["x"].max() == far
    assert captions.distance_curves(rare)["x"].max() < far


def test_axes_policies_has_one_line_per_setting(metrics):
    fig = axes_policies(metrics)
    ticks = {tuple(t.get_text().replace("\n", " ") for t in ax.get_yticklabels()) for ax in fig.axes}
    assert ("axial, uniform, centred", "off_tumour", "tumour") in ticks
    assert ("axial, uniform, centred", "coronal", "sagittal", "centre", "random", "scanner") in ticks


@pytest.mark.parametrize("draw", [psnr_vs_k, error_vs_distance, axes_policies])
def test_texts_are_legible_and_inside_the_page(metrics, draw):
    fig = draw(metrics)
    fig.savefig(io.BytesIO())  # lays the figure out
    *blocks, foot = fig.subfigs
    parts = [*fig.axes, *(block._suptitle for block in blocks), *foot.legends]
    for part in parts:
        box = part.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1, (part, box)
    assert min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text()) >= 6.5


def test_a_figure_without_data_is_left_out_aloud(folder, metrics, capsys, tmp_path):
    scalars = metrics[(metrics["x_name"] == "") & (metrics["policy"] == "uniform") & (metrics["cohort"] == "brats")]
    path = write_metrics(scalars, tmp_path / "all.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path / "out")])
    drawn = {f"{name}.{kind}" for name in ALWAYS for kind in ("png", "pdf")}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*drawn, "captions.json"}
    message = capsys.readouterr().err
    assert "figure error_vs_distance left out: no curve rows" in message
    assert "figure axes_policies left out: one axis, policy" in message
    with pytest.raises(NothingToShow, match="no scalar rows of psnr"):
        psnr_vs_k(metrics[metrics["metric"] == "ssim"])


@pytest.mark.slow
def test_trainings_and_step_sweeps_add_their_figures_and_change_no_other(folder, tmp_path):
    measured = synthetic_metrics(patients=2, cohorts=("brats",))
    trained = history_rows(write_history(tmp_path / "weights", training_checks(), "not_measured", cohort="brats"))
    for name, table in (("bare", measured), ("full", pd.concat([measured, sweep_metrics(patients=2, ks=(1,)), trained]))):
        main(["--metrics", str(write_metrics(table, tmp_path / f"{name}.tsv")), "--out", str(tmp_path / name)])
    bare, full = ({p.name for p in (tmp_path / name).glob("*.p*")} for name in ("bare", "full"))
    assert full - bare == {"steps.png", "steps.pdf", "training_curves.png", "training_curves.pdf"}
    path = write_metrics(pd.concat([measured, trained]), tmp_path / "trained.tsv")
    main(["--metrics", str(path), "--out", str(tmp_path / "trained")])
    for name in bare:
        assert (tmp_path / "trained" / name).read_bytes() == (tmp_path / "bare" / name).read_bytes(), name
    written = [json.loads((tmp_path / n / "captions.json").read_text()) for n in ("bare", "trained", "full")]
    assert {k: written[1][k] for k in written[0]} == written[0] and list(written[2])[-2:] == ["steps", "training_curves"]


# --- panels


def shown(ax, panel, column: int, view: int) -> np.ndarray:
    """What a block shows in one cell."""
    whole, size = ax.images[0].get_array(), panel.images.shape[-1]
    pitch = whole.shape[0] // 3
    return np.ma.filled(whole[view * pitch :, column * pitch :][:size, :size], np.nan)


def test_panel_has_one_error_scale_and_marks_the_given_slices(folder):
    panel = read_panels(folder / "panel.npz")[1]
    images, errors = panel_figure(panel, 7.1).axes[:2]
    assert errors.images[0].get_clim() == (0, panel.error_limit())
    for column in range(len(panel.names)):
        for view in range(3):
            assert np.allclose(shown(images, panel, column, view), panel.images[column, view])
            expected = panel.errors()[column - 1, view] if column else np.full(panel.images.shape[2:], np.nan)
            assert np.allclose(shown(errors, panel, column, view), expected, equal_nan=True)
    size = panel.images.shape[-1]
    rows = {round(line.get_ydata()[0] % (1 + 3 / size) * size - 0.5, 6) for line in images.lines}
    assert rows == {33, 48} and len(images.lines) == 6 * 4
    assert [to_hex(frame.get_edgecolor()) for frame in images.patches] == [GIVEN] * 6  # the axial view, in every column
    assert {frame.get_y() for frame in images.patches} == {0}


def test_vertical_lines_stand_at_their_column(folder):
    panel = dataclasses.replace(read_panels(folder / "panel.npz")[0], lines=[(0, 1, 17)], given_view=None)
    line = panel_figure(panel, 7.1).axes[0].lines[0]
    assert list(line.get_xdata()) == [17.5 / panel.images.shape[-1]] * 2 and list(line.get_ydata()) == [0, 1]


def test_standard_deviations_stand_under_their_methods_on_the_scale_of_errors(folder):
    panel = read_panels(folder / "panel.npz")[0]
    assert "standard deviation" not in captions.panel(panel)
    names = ["xdiff (mean)", "gaussian"]
    known = dataclasses.replace(panel, std=0.1 + 0 * panel.images[:2], std_names=names)
    known.std[1] = 0.2
    spread = panel_figure(known, 7.1).axes[2]
    assert spread.images[0].get_clim() == (0, panel.error_limit())
    levels = {name: shown(spread, known, i, 1).mean() for i, name in enumerate(known.names)}
    assert levels["xdiff (mean)"] == pytest.approx(0.1) and levels["gaussian"] == pytest.approx(0.2)
    assert np.isnan(levels["truth"]) and np.isnan(levels["linear"])
    assert "standard deviation that methods give" in captions.panel(known)


def test_a_black_volume_does_not_stretch_the_error_scale(folder):
    panel = read_panels(folder / "panel.npz")[0]
    black = dataclasses.replace(panel, images=np.concatenate([panel.images, 0 * panel.images[:1]]))
    largest = np.quantile(black.errors()[-1], 0.995)
    assert panel.error_limit() <= black.error_limit() < largest / 2


def test_errors_of_a_perfect_reconstruction_have_a_scale(folder):
    panel = read_panels(folder / "panel.npz")[0]
    assert dataclasses.replace(panel, images=panel.images[[0, 0]]).error_limit() == 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("p0_meta"), "p0_images and p0_meta"),
        (lambda a: a.update(p0_images=a["p0_images"][:, :2]), "found p0_images of shape"),
        (lambda a: a.update(p0_meta=np.asarray("{}")), "found no names, subject"),
        (lambda a: a.update(p0_std=a["p0_images"][:2]), r"found p0_std of shape \(2, 3, 96, 96\), of \[\]"),
    ],
)
def test_a_broken_panel_file_is_an_error(tmp_path, change, message):
    with np.load(write_panel(tmp_path / "panel.npz", panels=1)) as arrays:
        changed = dict(arrays)
    change(changed)
    np.savez(tmp_path / "panel.npz", **changed)
    with pytest.raises(InputError, match=message):
        read_panels(tmp_path / "panel.npz")
