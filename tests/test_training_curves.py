"""The training curves: that they draw the history, mark the step that was kept, and say where a training overfitted."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic_metrics import synthetic_metrics, training_checks, write_history, write_metrics

from xdiff import training_curves
from xdiff.captions import NothingToShow
from xdiff.metrics.history import history_rows
from xdiff.stats import read_metrics

CHECKS = {"unet": training_checks(n=20), "xdiff": training_checks(n=60, every=50, ks=(1, 2, 5, 10), overfits=False)}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("curves")
    tables = [history_rows(write_history(folder / name, checks, name)) for name, checks in CHECKS.items()]
    return read_metrics(write_metrics(pd.concat(tables), folder / "all.tsv"))


def gain(check: dict, side: str, k: str) -> float:
    return check[side][k]["psnr"] - check[side][k]["gaussian"]


def test_lines_are_the_loss_and_the_gain_of_both_sides(metrics: pd.DataFrame) -> None:
    fig = training_curves.figure(metrics)
    assert len(fig.axes) == 2 * 2
    loss = fig.axes[0].lines[0].get_xydata()
    assert np.allclose(loss, [(c["step"], c["loss"]) for c in CHECKS["unet"]])
    drawn = {line.get_linestyle(): line.get_ydata() for line in fig.axes[1].lines if len(line.get_xdata()) == 20}
    last = {"-": "validation", "--": "training"}  # K = 5 is drawn after K = 1
    for style, side in last.items():
        assert np.allclose(drawn[style], [gain(c, side, "5") for c in CHECKS["unet"]])


def test_the_kept_step_is_marked_on_every_panel(metrics: pd.DataFrame) -> None:
    kept = max(c["step"] for c in CHECKS["unet"] if c["best"])
    left, right = training_curves.figure(metrics).axes[:2]
    for ax in (left, right):
        assert any(list(line.get_xdata()) == [kept, kept] for line in ax.lines)
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert len(dots) == 2 and all(line.get_xdata()[0] == kept for line in dots)


def test_caption_tells_the_kept_step_its_gains_and_overfitting(metrics: pd.DataFrame) -> None:
    told = {
        name: text
        for name, text in re.findall(r"(unet|xdiff) on knee, grid 2mm: (.*?)\.(?= |$)(?! \d)", training_curves.caption(metrics))
    }
    kept = [c for c in CHECKS["unet"] if c["best"]][-1]
    assert f"step {kept['step']:,} of 6,000 kept" in told["unet"]
    assert f"validation {gain(kept, 'validation', '1'):+.2f} dB at K = 1" in told["unet"]
    last = CHECKS["unet"][-1]
    after = {s: np.mean([gain(last, s, k) - gain(kept, s, k) for k in ("1", "5")]) for s in ("training", "validation")}
    assert f"after it training {after['training']:+.2f} dB, validation {after['validation']:+.2f} dB: overfitting" in told["unet"]
    assert "overfitting" not in told["xdiff"] or "no overfitting" in told["xdiff"]


@pytest.mark.parametrize("rising", [True, False])
def test_a_training_cut_short_is_told_from_one_that_has_settled(tmp_path: Path, rising: bool) -> None:
    checks = training_checks(n=8, ks=(1,), overfits=False)
    for i, check in enumerate(checks):
        check["best"] = True
        check["validation"]["1"]["psnr"] = 15.25 + (0.1 * i if rising else 0.5)
    caption = training_curves.caption(history_rows(write_history(tmp_path, checks)))
    assert "step 2,400 of 2,400 kept" in caption
    assert ("still rising at the end" in caption) is rising


def test_a_training_without_validation_shows_its_loss_alone(tmp_path: Path) -> None:
    bare = [{k: c[k] for k in ("step", "loss", "best")} for c in training_checks(n=5)]
    rows = history_rows(write_history(tmp_path, bare))
    left, right = training_curves.figure(rows).axes
    assert len(left.lines[0].get_xdata()) == 5 and not [line for line in right.lines if len(line.get_xdata()) == 5]
    assert "without validation" in training_curves.caption(rows)


def test_hopeless_first_checks_do_not_press_the_rest_together(tmp_path: Path) -> None:
    checks = training_checks(n=20)
    checks[0]["validation"]["1"]["psnr"] = -30.0
    low, high = training_curves.figure(history_rows(write_history(tmp_path, checks))).axes[1].get_ylim()
    assert -3 < low < 0 < high < 3


def test_a_table_without_trainings_has_nothing_to_show() -> None:
    with pytest.raises(NothingToShow, match="no rows of a training"):
        training_curves.figure(synthetic_metrics(patients=1, cohorts=("knee",)))


def test_texts_are_legible_and_inside_the_page(metrics: pd.DataFrame) -> None:
    fig = training_curves.figure(metrics)
    fig.savefig(io.BytesIO())
    for part in [*fig.axes, *(s._suptitle for s in fig.subfigs[:-1]), *fig.subfigs[-1].legends]:
        box = part.get_tightbbox()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1, (part, box)
    assert min(t.get_fontsize() for t in fig.findobj(Text) if t.get_text()) >= 6.5
