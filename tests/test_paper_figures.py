"""Calibration, depth, position, generalisation, times, and the paper's own numbers: what is drawn is what the table holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from paper_metrics import rows, table

from xdiff import calibration, generalisation, position_figures, printed, printed_table, timing_figure
from xdiff.captions import NothingToShow
from xdiff.drawing import MARKS
from xdiff.panel import GIVEN

MASKED = dict(region="unseen_masked")


def drawn(ax, method: str) -> np.ndarray:
    """Points (n, 2) of the one line of a method."""
    (line,) = [c.lines[0] for c in ax.containers if to_hex(c.lines[0].get_color()) == MARKS[method][0]]
    return line.get_xydata()


# Calibration ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated() -> pd.DataFrame:
    levels = {50: 0.46, 90: 0.85, 95: 0.91}
    covered = [rows(v, 0.01, metric=f"coverage_{n}", K=k, **MASKED) for n, v in levels.items() for k in (1, 5)]
    covered += [rows(0.97, 0.0, metric="coverage_90", method="gaussian", K=1, **MASKED)]
    ranks = [rows(v, 0.0, metric="rank_density", x_name="rank", x=x, K=1, **MASKED) for x, v in ((0.25, 1.2), (0.75, 0.8))]
    return table(*covered, *ranks)


def test_coverage_stands_beside_its_nominal_level(calibrated: pd.DataFrame) -> None:
    first, second, histogram, _ = calibration.figure(calibrated).axes
    assert first.get_title() == "K = 1" and second.get_title() == "K = 5"
    dotted = {line.get_xdata()[0] for line in first.lines if line.get_linestyle() == ":"}
    assert dotted == {50, 90, 95}
    ours = [c.lines[0].get_xdata()[0] for c in first.containers if to_hex(c.lines[0].get_color()) == MARKS["xdiff"][0]]
    assert ours == pytest.approx([46, 85, 91])
    assert np.allclose(histogram.lines[-1].get_xydata(), [[0.25, 1.2], [0.75, 0.8]])
    told = calibration.caption(calibrated)
    assert "K = 1: gaussian 97.0; xdiff 85.0" in told and "rank among the draws" in told


def test_calibration_without_ranks_has_coverage_alone_and_without_both_nothing(calibrated: pd.DataFrame) -> None:
    covered = calibrated[calibrated["metric"] != "rank_density"]
    assert len(calibration.figure(covered).axes) == 2 and "rank" not in calibration.caption(covered)
    with pytest.raises(NothingToShow, match="no rows of coverage"):
        calibration.figure(calibrated[calibrated["metric"] == "rank_density"])


# Depth and position -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def placed() -> pd.DataFrame:
    at = dict(x_name="depth_mm", **MASKED)
    curves = [rows(20 - abs(x) / 10, x=x, **at) for x in (-8.0, -4.0, 4.0, 8.0)]
    curves += [rows(22 - abs(x) / 10, x=x, K=5, gap_mm=6.0, **at) for x in (-8.0, 8.0)]
    alone = [
        rows(18 - abs(i - 24) / 10, indices=str(i), policy="random", seed=n, **MASKED) for n, i in enumerate((6, 16, 26, 36))
    ]
    return table(*curves, *alone, rows(19, indices="24", **MASKED))


def test_error_vs_depth_marks_the_given_slices_where_they_lie(placed: pd.DataFrame) -> None:
    one, five = position_figures.error_vs_depth(placed).axes
    assert np.allclose(drawn(one, "xdiff"), [[-8, 19.2], [-4, 19.6], [4, 19.6], [8, 19.2]])
    marked = [[line.get_xdata()[0] for line in ax.lines if to_hex(line.get_color()) == GIVEN] for ax in (one, five)]
    assert marked == [[0], [-12, -6, 0, 6, 12]]
    assert one.get_xlabel() == "mm towards superior"
    assert "19.2 dB at -8 mm to 19.6 dB at -4 mm" in position_figures.error_vs_depth_caption(placed)


def test_slices_that_are_not_evenly_spaced_are_not_marked(placed: pd.DataFrame) -> None:
    (one,) = position_figures.error_vs_depth(placed[placed["K"] == 1].assign(policy="random")).axes
    assert not [line for line in one.lines if to_hex(line.get_color()) == GIVEN]


def test_slice_position_has_one_point_per_place(placed: pd.DataFrame) -> None:
    (ax,) = position_figures.slice_position(placed).axes
    points = drawn(ax, "xdiff")
    assert len(points) == 5 and points[:, 1] == pytest.approx([16.2, 17.2, 19, 17.8, 16.8])
    assert (np.diff(points[:, 0]) > 0).all() and 6 <= points[0, 0] and points[-1, 0] <= 36
    assert "xdiff 19.00 dB at section" in position_figures.slice_position_caption(placed)


def test_few_places_have_no_figure(placed: pd.DataFrame) -> None:
    with pytest.raises(NothingToShow, match="fewer than 4 places"):
        position_figures.slice_position(placed[placed["policy"] != "random"])
    with pytest.raises(NothingToShow, match="depth_mm"):
        position_figures.error_vs_depth(placed[placed["x_name"] == ""])


# Generalisation ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_cohorts() -> pd.DataFrame:
    knee = dict(cohort="knee")
    at = [(k, region) for k in (1, 5) for region in ("unseen", "unseen_masked")]
    own = [rows(20 + k, K=k, region=r, trained_on="knee", **knee) for k, r in at]
    own += [rows(17, K=k, region=r, trained_on="knee", method="mean_template", **knee) for k, r in at]
    foreign = [rows(15 + k / 10, K=k, region=r, **knee) for k, r in at]
    origins = [(r, t) for r in ("unseen", "unseen_masked") for t in ("knee", "openneuro-ds002748")]
    plain = [rows(16, K=5, region=r, trained_on=t, method="linear", **knee) for r, t in origins]
    return table(*own, *foreign, *plain, *[rows(25, K=k, region=r) for k, r in at])


def test_foreign_models_stand_beside_own_ones_and_interpolation_once(two_cohorts: pd.DataFrame) -> None:
    fig = generalisation.figure(two_cohorts)
    assert len(fig.axes) == 2  # of the knees; nothing foreign was asked on brains
    ours = [c.lines[0] for c in fig.axes[0].containers if to_hex(c.lines[0].get_color()) == MARKS["xdiff"][0]]
    levels = {line.get_linestyle(): line.get_ydata().tolist() for line in ours}
    assert levels["-"] == pytest.approx([21, 25]) and levels["--"] == pytest.approx([15.1, 15.5])
    assert drawn(fig.axes[0], "linear")[:, 1] == pytest.approx([16])
    told = generalisation.caption(two_cohorts)
    assert "K = 5: xdiff (trained on openneuro-ds002748) 15.50, interpolation 16.00, own mean 17.00" in told


def test_foreign_models_alone_and_models_of_both_cohorts_are_no_comparison(two_cohorts: pd.DataFrame) -> None:
    foreign = two_cohorts["trained_on"] != "knee"
    joint = two_cohorts.assign(trained_on=two_cohorts["trained_on"].where(~foreign, "knee+openneuro-ds002748"))
    for rows_left in (two_cohorts[foreign], joint):
        with pytest.raises(NothingToShow, match="trained on it and on another"):
            generalisation.figure(rows_left)


# Times ------------------------------------------------------------------------------------------------------------------


def test_times_of_two_devices_have_two_panels_and_quartiles() -> None:
    timed = dict(metric="seconds", region="grid", contrast="all")
    metrics = table(rows(2.0, 0.2, **timed), rows(0.3, 0.02, device="NVIDIA H200", **timed), rows(3.0, 0.2, K=5, **timed))
    cpu, gpu = sorted(timing_figure.figure(metrics).axes, key=lambda ax: ax.get_title(), reverse=True)
    assert (cpu.get_title(), gpu.get_title()) == ("cpu (2 threads)", "NVIDIA H200")
    assert [c.lines[0].get_xdata()[0] for c in cpu.containers] == pytest.approx([2.0, 3.0])
    assert [c.lines[0].get_xdata()[0] for c in gpu.containers] == pytest.approx([0.3])
    assert timing_figure.times(metrics).query("K == 5")[["q25", "q75"]].to_numpy().ravel() == pytest.approx([2.85, 3.15])
    assert "cpu (2 threads): longest xdiff, 3 s at K = 5" in timing_figure.caption(metrics)
    with pytest.raises(NothingToShow, match="no rows of seconds"):
        timing_figure.figure(table(rows(2.0)))


# What the paper printed ------------------------------------------------------------------------------------------------


def test_the_printed_table_is_that_of_the_paper_and_says_that_it_is_not_ours() -> None:
    shown = printed_table.table()
    cells = {label: [cell.text for cell in row] for label, row in shown.rows}
    assert cells["X-Diffusion"][:6] == ["23.10", "25.20", "29.43", "31.25", "33.27", "35.48"]
    assert cells["TPDM"][6:] == ["9.29", "9.99", "11.09", "12.62", "15.88", "21.70"]
    assert "own protocol" in shown.caption and "Not comparable" in shown.caption
    assert not any(cell.best or cell.lo for _, row in shown.rows for cell in row)


def test_the_paper_stands_beside_cohorts_of_its_kind_on_one_scale() -> None:
    metrics = table(rows(18, K=1), rows(21, K=5))
    ours, brats, ukb = printed.figure(metrics).axes
    assert drawn(ours, "xdiff")[:, 1] == pytest.approx([18, 21])
    assert brats.lines[2].get_ydata().tolist() == list(printed_table.PRINTED["BraTS"]["X-Diffusion"])
    assert ours.get_ylim() == brats.get_ylim() == ukb.get_ylim() and "its own protocol" in ukb.get_title()
    told = printed.caption(metrics)
    assert "K = 5: xdiff 21.00 dB" in told and "Not comparable" in told
    for cohort in ("phantom-brain", "gaussian-field", "knee"):
        with pytest.raises(NothingToShow):
            printed.figure(metrics.assign(cohort=cohort, trained_on=cohort))
