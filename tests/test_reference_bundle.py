"""A finished run kept small: what stays, and that tables and figures are the same from what stays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic_metrics import (
    ablation_metrics,
    sweep_metrics,
    synthetic_metrics,
    training_checks,
    write_history,
    write_metrics,
    write_panel,
)
from test_tumour_figures import panel_file
from test_tumours import long, row

from xdiff import ablation, reference, report, step_sweep, training_curves, tumours
from xdiff.errors import InputError
from xdiff.metrics.history import history_rows
from xdiff.posterior_checks import check_numbers
from xdiff.reference import _keep_panels, keep, shorten
from xdiff.stats import LESION_METRICS, read_metrics
from xdiff.tables import main_numbers

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / "config.yaml", ROOT / "workflow" / "presets" / "real-brains-2mm.yaml"]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = write_metrics(synthetic_metrics(patients=4), tmp_path_factory.mktemp("metrics") / "all.tsv")
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_every_point_keeps_its_psnr_in_unseen_masked(metrics: pd.DataFrame) -> None:
    def psnr(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["metric"] == "psnr") & (table["region"] == "unseen_masked") & (table["x_name"] == "")]

    assert len(psnr(shorten(metrics))) == len(psnr(metrics)) > 1000


def test_the_base_point_keeps_the_headline_and_its_curves(metrics: pd.DataFrame) -> None:
    kept = shorten(metrics)
    assert set(kept.loc[kept["region"] == "unseen", "axis"]) == {"axial"}
    assert set(kept.loc[kept["x_name"] == "distance_mm", "K"]) == {"1", "5"}
    assert len(kept) < 0.7 * len(metrics)


def test_a_projection_is_the_base_point_of_its_cohort_and_what_was_not_measured_stays_empty(metrics: pd.DataFrame) -> None:
    given = {"axis": "coronal", "policy": "projection", "contrasts_given": "dxa", "K": "1"}
    projected = metrics[(metrics["axis"] == "axial") & (metrics["policy"] == "uniform") & (metrics["K"] == "1")].assign(**given)
    lost = projected.head(1).assign(metric="spine_cobb_deg", region="body", contrast="all", value="")
    kept = shorten(pd.concat([projected, lost]))
    assert {"unseen", "unseen_masked", "grid"} <= set(kept["region"])
    assert kept.loc[kept["metric"] == "spine_cobb_deg", "value"].tolist() == [""]


def test_kept_numbers_are_those_of_the_whole_table(metrics: pd.DataFrame, tmp_path: Path) -> None:
    whole, kept = (main_numbers(read_metrics(write_metrics(t, tmp_path / "t.tsv"))) for t in (metrics, shorten(metrics)))
    keys = [c for c in whole.columns if c not in ("mean", "lo", "hi", "seconds", "evaluations", "peak_mib", "device")]
    both = kept.merge(whole, on=keys, suffixes=("", "_whole"))
    assert len(both) == len(kept) > 100
    pd.testing.assert_series_equal(both["mean"], both["mean_whole"], check_names=False, rtol=1e-4)


def test_trainings_and_step_sweeps_are_drawn_the_same_from_what_is_kept(tmp_path: Path) -> None:
    trained = history_rows(write_history(tmp_path, training_checks(n=5), cohort="knee"))
    table = pd.concat([synthetic_metrics(patients=2, cohorts=("brats",)), sweep_metrics(patients=3), trained])
    text = pd.read_csv(write_metrics(table, tmp_path / "all.tsv"), sep="\t", dtype=str, keep_default_na=False)
    whole, kept = (read_metrics(write_metrics(t, tmp_path / "t.tsv")) for t in (text, shorten(text)))
    (ours,), (theirs,) = (list(training_curves.trainings(t)) for t in (kept, whole))
    assert (ours.title, ours.kept) == (theirs.title, theirs.kept) and len(ours.gain) == 5
    pd.testing.assert_frame_equal(ours.gain, theirs.gain, atol=0.002)  # dB
    pd.testing.assert_frame_equal(step_sweep.seconds(kept), step_sweep.seconds(whole), rtol=1e-4)
    assert not (kept["metric"] == "band_variance")[kept["estimate"] != "sample"].any()  # of means none is shown
    base = check_numbers(whole).query("axis == 'axial' and policy == 'uniform'").reset_index(drop=True)
    pd.testing.assert_frame_equal(check_numbers(kept), base, rtol=1e-3)  # of PSNR five digits are kept: 1e-4 of an MSE
    pd.testing.assert_frame_equal(step_sweep.numbers(kept), step_sweep.numbers(whole), rtol=1e-4)


@pytest.mark.slow
def test_ablations_are_the_same_from_what_is_kept_and_stay_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_metrics(ablation_metrics(patients=3), tmp_path / "results/metrics/all.tsv")
    write_panel(tmp_path / "results/metrics/panel.npz", panels=1)
    monkeypatch.setattr(reference, "provenance", lambda *_: {})
    keep(tmp_path / "results", tmp_path / "kept", "snakemake", CONFIGS)
    assert {"ablation.tsv", "main.md"} <= {p.name for p in (tmp_path / "kept/tables").iterdir()}
    assert "ablation.png" in {p.name for p in (tmp_path / "kept/figures").iterdir()}
    whole, kept = (ablation.numbers(read_metrics(p)) for p in (path, tmp_path / "kept/metrics.tsv.gz"))
    pd.testing.assert_frame_equal(kept, whole, rtol=1e-3, atol=1e-3)  # of every value five digits are kept


def test_tumours_are_the_same_from_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = {"linear": 0.3, "xdiff": 0.5, "truth": 0.8}
    rows = [row(m, f"sub-{i}", v + 0.01 * i, policy=p) for m, v in dice.items() for i in range(3) for p in ("uniform", "tumour")]
    of_volumes = dict(metric="psnr", region="unseen")
    rows += [row("xdiff", f"sub-{i}", 20.0 - i, policy=p, **of_volumes) for i in range(3) for p in ("uniform", "swap")]
    one = dict(region="lesion_unseen", x_name="lesion", x=1.0)
    rows += [row("xdiff", f"sub-{i}", 0.4, metric=m, **one) for m in LESION_METRICS for i in range(3)]
    path = write_metrics(long(rows), tmp_path / "results/metrics/all.tsv")
    write_panel(tmp_path / "results/metrics/panel.npz", panels=1)
    panel_file(tmp_path / "results/metrics/tumour_panel.npz")
    monkeypatch.setattr(reference, "provenance", lambda *_: {})
    keep(tmp_path / "results", tmp_path / "kept", "snakemake", CONFIGS)
    whole, kept = (read_metrics(p) for p in (path, tmp_path / "kept/metrics.tsv.gz"))
    pd.testing.assert_frame_equal(tumours.numbers(kept), tumours.numbers(whole))
    pd.testing.assert_frame_equal(tumours.swap_numbers(kept), tumours.swap_numbers(whole))
    drawn = {p.stem: p for p in (tmp_path / "kept/figures").glob("*.png")}
    assert {"dice_vs_k", "tumour_0", "panel_0"} <= set(drawn)
    with Image.open(drawn["dice_vs_k"]) as chart, Image.open(drawn["tumour_0"]) as image:
        assert chart.mode == image.mode == "P"


def test_a_run_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"all\.tsv: found no such file"):
        keep(tmp_path, tmp_path / "out", "snakemake", CONFIGS)


def test_committed_references_say_where_they_come_from() -> None:
    for folder in sorted((ROOT / "results" / "reference").glob("*/metrics.tsv.gz")):
        found = json.loads((folder.parent / "provenance.json").read_text())
        assert found["command"].startswith(("snakemake", "python -m xdiff.bench"))
        assert re.fullmatch("[0-9a-f]{40}(-dirty)?", found["commit"]) and found["data"] and found["ledger"]


def test_panels_of_a_grid_whose_name_is_a_number_are_kept(tmp_path: Path) -> None:
    metas = [{"trained_on": "a", "cohort": "a", "grid": 48}, {"trained_on": "b", "cohort": "a", "grid": "48"}]
    arrays = {f"p{i}_meta": np.array(json.dumps(meta)) for i, meta in enumerate(metas)}
    arrays |= {f"p{i}_images": np.full((1, 3, 2, 2), i, np.float16) for i in range(2)}
    np.savez(tmp_path / "panel.npz", **arrays)
    _keep_panels(tmp_path / "panel.npz", tmp_path / "kept.npz")
    with np.load(tmp_path / "kept.npz") as kept:
        assert sorted(kept.files) == ["p0_images", "p0_meta"] and not kept["p0_images"].any()


REFERENCES = sorted(table.parent for table in (ROOT / "results" / "reference").glob("*/metrics.tsv.gz"))  # not `timing`


@pytest.mark.parametrize("folder", REFERENCES, ids=lambda folder: folder.name)
def test_committed_references_make_a_page(folder: Path, tmp_path: Path) -> None:
    """Of the tables as they lie there: a table that later code asks for must be added to them."""
    out = tmp_path / "index.html"
    report.main(["--tables", str(folder / "tables"), "--figures", str(folder / "figures"), "--out", str(out)])
    assert out.read_text().count("<table") >= 3
