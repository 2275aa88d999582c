"""Figures of tumours: what is drawn is what was measured, ceiling and control are told from methods."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from test_tumours import long, row

from xdiff import figures, tumour_figures, tumour_panel
from xdiff.captions import NothingToShow
from xdiff.errors import InputError
from xdiff.stats import read_metrics

METHODS = {"linear": 0.3, "xdiff": 0.5, "mask_linear": 0.6, "truth": 0.8}


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    """Two patients, K = 1 and 5: Dice of a tumour and of a part of it, and two lesions each, one of them seen at K = 5."""
    rows = []
    for method, level in METHODS.items():
        for k in (1, 5):
            for i in range(2):
                rows += [row(method, f"sub-{i}", level + 0.1 * i, K=k, region=r) for r in ("WT", "WT_unseen", "TC", "TC_unseen")]
                for n in (1, 2):
                    region = "lesion_seen" if (k, n) == (5, 1) else "lesion_unseen"
                    of_one = {"found": 1.0, "lesion_dice": level / n, "distance_mm": 10.0 * n / k, "size_ml": n + i / 2}
                    if region == "lesion_seen":
                        of_one["distance_mm"] = 0.0
                    rows += [
                        row(method, f"sub-{i}", v, K=k, region=region, metric=m, x_name="lesion", x=float(n))
                        for m, v in of_one.items()
                    ]
    return long(rows)


def bars_of(ax) -> dict[str, np.ndarray]:
    """Colour and marker -> (x, y) of every series with bars."""
    series = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    return {line.get_marker(): line.get_xydata() for line in series}


def test_dice_of_every_row_stands_at_its_k(metrics: pd.DataFrame) -> None:
    fig = tumour_figures.dice_vs_k(metrics)
    fig.savefig(io.BytesIO())
    axes = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == ["WT, unseen", "WT", "TC, unseen"]
    for marker, level in (("o", 0.55), ("^", 0.35), ("_", 0.85), ("3", 0.65)):
        np.testing.assert_allclose(bars_of(axes[0])[marker], [(1, level), (5, level)])
    assert axes[0].get_ylim() == (0, 1)


def test_the_legend_says_what_ceiling_and_control_are(metrics: pd.DataFrame) -> None:
    fig = tumour_figures.dice_vs_k(metrics)
    names = [text.get_text() for sub in fig.subfigs for legend in sub.legends for text in legend.get_texts()]
    assert names == ["linear", "xdiff", "masks alone: the control", "truth: the ceiling"]


def test_the_caption_tells_the_best_method_and_not_the_ceiling(metrics: pd.DataFrame) -> None:
    caption = tumour_figures.dice_vs_k_caption(metrics)
    assert "K = 1: xdiff 0.55, truth 0.85, masks alone 0.65" in caption and "over 2 test patients" in caption


def test_every_fifth_section_is_no_point_of_the_curve(metrics: pd.DataFrame) -> None:
    dense = metrics[(metrics["K"] == 5) & (metrics["metric"] == "dice")].assign(K=0, policy="every_fifth", value=0.0)
    axes = tumour_figures.dice_vs_k(pd.concat([metrics, dense])).axes
    np.testing.assert_allclose(bars_of(axes[0])["o"][:, 1], [0.55, 0.55])


def test_lesions_are_sorted_by_distance_and_size(metrics: pd.DataFrame) -> None:
    by_distance, by_size = tumour_figures.by_place_and_size(metrics)
    own = by_distance[by_distance["method"] == "xdiff"].set_index(["K", "bin"])["mean"]
    assert own[1, "8-16"] == pytest.approx(0.5) and own[1, "16-32"] == pytest.approx(0.25)  # the first at 10 mm, the other at 20
    assert own[5, "seen"] == pytest.approx(0.5) and own[5, "< 8"] == pytest.approx(0.25)
    sizes = by_size[(by_size["method"] == "xdiff") & (by_size["K"] == 1)].set_index("size")["mean"]
    assert set(sizes.index) == {"small", "middle", "large"} and sizes["small"] == pytest.approx(0.5)
    fig = tumour_figures.lesion_figure(metrics)
    fig.savefig(io.BytesIO())
    assert [ax.get_xlabel() for ax in fig.axes if ax.get_visible()].count("to the nearest given section (mm)") == 2
    assert "Dice of single lesions (4)" in tumour_figures.lesions_caption(metrics)


def test_a_panel_without_data_is_not_drawn(metrics: pd.DataFrame) -> None:
    seen = metrics[~((metrics["K"] == 5) & (metrics["region"] == "lesion_unseen"))]
    visible = [ax.get_visible() for ax in tumour_figures.lesion_figure(seen).axes]
    assert visible == [True, True, True, False]


def test_no_masks_no_figure(metrics: pd.DataFrame) -> None:
    images = metrics.assign(metric="psnr", region="unseen", x_name="", x=np.nan).drop_duplicates(["method", "K", "subject"])
    for draw in (tumour_figures.dice_vs_k, tumour_figures.lesion_figure):
        with pytest.raises(NothingToShow):
            draw(images)


def test_scores_of_masks_stay_out_of_the_figures_of_volumes(metrics: pd.DataFrame, tmp_path: Path) -> None:
    images = [
        row(m, f"sub-{i}", 20.0 + i, K=k, metric="psnr", region=r)
        for m in ("linear", "xdiff")
        for i in range(2)
        for k in (1, 5)
        for r in ("unseen", "unseen_masked")
    ]
    path = tmp_path / "all.tsv"
    pd.concat([metrics, long(images)]).to_csv(path, sep="\t", index=False)
    found = {name: fig for name, fig, _ in figures.all_figures(read_metrics(path), None)}
    assert {"psnr_vs_k", "dice_vs_k", "lesions"} <= set(found)
    names = [text.get_text() for sub in found["psnr_vs_k"].subfigs for legend in sub.legends for text in legend.get_texts()]
    assert names == ["linear", "xdiff"]


# Panels --------------------------------------------------------------------------------------------------------------


def panel_file(path: Path, **change: object) -> Path:
    truth = np.zeros((6, 8), np.uint8)
    truth[2:4, 2:6] = 1
    found = np.stack([np.zeros_like(truth), truth, truth * (np.arange(8) < 4).astype(np.uint8)])
    images = np.stack([np.full(truth.shape, 0.5), np.full(truth.shape, 0.7), np.full(truth.shape, np.nan)]).astype(np.float16)
    meta = dict(subject="sub-0", cohort="tcga-lgg", grid="lgg", trained_on="tcga-lgg", axis="axial", K=5, policy="uniform")
    meta |= dict(section=3, contrast="FLAIR", names=["xdiff", "truth", "mask_linear"])
    arrays = {"t0_images": images, "t0_found": found, "t0_truth": truth, "t0_meta": np.array(json.dumps(meta))}
    np.savez(path, **{k: v for k, v in (arrays | change).items() if v is not None})
    return path


def test_ceiling_and_control_stand_first_with_their_dice(tmp_path: Path) -> None:
    (panel,) = tumour_panel.read_tumour_panels(panel_file(tmp_path / "t.npz"))
    assert panel.names == ["truth", "mask_linear", "xdiff"]
    np.testing.assert_allclose(panel.dice(), [1, 2 * 4 / 12, 0])
    fig = tumour_panel.figure(panel)
    fig.savefig(io.BytesIO())
    assert [ax.get_title().splitlines()[0] for ax in fig.axes] == ["truth (ceiling)", "masks alone (control)", "xdiff"]
    assert "given K = 5 axial sections" in tumour_panel.caption(panel) and "truth 1.00" in tumour_panel.caption(panel)


@pytest.mark.parametrize(
    ("change", "message"), [({"t0_found": None}, "t0_found"), ({"t0_images": np.zeros((2, 6, 8))}, "images")]
)
def test_a_broken_panel_file_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = panel_file(tmp_path / "t.npz", **change)
    with pytest.raises(InputError, match=message) as caught:
        tumour_panel.read_tumour_panels(path)
    assert caught.value.where == str(path)
