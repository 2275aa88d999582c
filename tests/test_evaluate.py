"""Scores of a manifest: what counts as unseen where the sections carry some of the contrasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Prepared

from xdiff.config import MethodEntry, Sweep
from xdiff.errors import InputError
from xdiff.metrics.evaluate import COLUMNS, DEPTH_K, KEY, depth_mm, evaluate, load_prediction
from xdiff.metrics.samples import crps_ensemble
from xdiff.planes import Plane
from xdiff.sample import sample
from xdiff.train import train

GAUSSIAN = MethodEntry("baselines.trivial", {"kind": "gaussian"}, estimates=("mean", "sample"))


@pytest.fixture(scope="module")
def manifest(heads: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gaussian row from three sections, of both contrasts and of T1w alone: a mean and two samples."""
    folder = tmp_path_factory.mktemp("heads-gaussian")
    train("gaussian", GAUSSIAN, heads.store, heads.split, folder / "weights")
    sweep = Sweep(K=(3,), contrasts_given=("all", "T1w"), estimate=("mean", "sample"), seed=(0, 1))
    sample(GAUSSIAN, folder / "weights", heads.store, heads.split, sweep, folder / "out")
    return folder / "out" / "manifest-1-of-1.tsv"


@pytest.fixture(scope="module")
def scores(manifest: Path) -> pd.DataFrame:
    return evaluate(manifest)


def records_of(manifest: Path) -> list[dict]:
    return pd.read_csv(manifest, sep="\t", dtype={"indices": str}, keep_default_na=False).to_dict("records")


def value(scores: pd.DataFrame, record: dict, **wanted: object) -> float:
    keys = {k: record[k] for k in ("subject", "contrasts_given", "estimate", "seed")} | wanted
    found = scores[(scores[list(keys)] == pd.Series(keys)).all(axis=1) & (scores["x_name"] == "")]
    assert len(found) == 1, keys
    return found["value"].iloc[0]


def hidden_of(record: dict, contrast: str, shape: tuple[int, ...]) -> np.ndarray:
    """Everything in a contrast that the sections do not carry, else all but the given axial sections."""
    hidden = np.ones(shape, bool)
    if record["contrasts_given"] == "all" or contrast == record["contrasts_given"]:
        hidden[..., [int(i) for i in record["indices"].split(",")]] = False
    return hidden


def test_the_largest_error_in_given_voxels_is_told_for_what_was_given(manifest: Path, scores: pd.DataFrame) -> None:
    """The gaussian row gives sections back; of a contrast that was not given nothing can come back."""
    found = scores[(scores["region"] == "given") & (scores["metric"] == "max_error")]
    assert set(zip(found["contrasts_given"], found["contrast"], strict=True)) == {("all", "T1w"), ("all", "T2w"), ("T1w", "T1w")}
    assert found["value"].max() < 1e-5


def test_a_given_voxel_that_did_not_come_back_is_found(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = next(r for r in records_of(manifest) if r["contrasts_given"] == "all" and r["estimate"] == "mean")
    prediction = load_prediction(record)
    prediction[1, 5, 5, int(record["indices"].split(",")[0])] += 0.25
    monkeypatch.setattr("xdiff.metrics.evaluate.load_prediction", lambda r, column="prediction": prediction)
    pd.DataFrame([record | {"std": ""}]).to_csv(tmp_path / "manifest.tsv", sep="\t", index=False)
    found = evaluate(tmp_path / "manifest.tsv").query("region == 'given'").set_index("contrast")["value"]
    assert found["T1w"] < 1e-5 and found["T2w"] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
@pytest.mark.parametrize("given", ["all", "T1w"])
def test_nothing_of_a_contrast_that_is_not_given_is_seen(
    manifest: Path, scores: pd.DataFrame, heads: Prepared, given: str, contrast: str
) -> None:
    store, c = heads.store, heads.store.contrasts.index(contrast)
    records = [r for r in records_of(manifest) if r["contrasts_given"] == given and r["estimate"] == "mean"]
    assert len(records) == 2
    for record in records:
        truth, foreground = store.volume(record["subject"])[c], store.foreground(record["subject"])
        square = (load_prediction(record)[c].astype(np.float64) - truth) ** 2
        hidden = hidden_of(record, contrast, store.shape)
        size = (hidden & foreground).sum()
        for region, total in (("unseen", square[hidden].sum()), ("unseen_masked", square[hidden & foreground].sum())):
            expected = -10 * np.log10(total / size)
            assert value(scores, record, contrast=contrast, region=region, metric="psnr") == pytest.approx(expected, rel=1e-5)
        std, z = load_prediction(record, "std")[c], 1.6448536
        inside = (np.abs(load_prediction(record)[c] - truth) <= z * std)[hidden & foreground].mean()
        found = value(scores, record, contrast=contrast, region="unseen_masked", metric="coverage_90")
        assert found == pytest.approx(inside, abs=2e-3)


def test_a_draw_has_a_standard_deviation_beside_it_which_is_not_scored_as_its_error(manifest: Path, scores: pd.DataFrame) -> None:
    records = [r for r in records_of(manifest) if r["estimate"] == "sample"]
    assert records and all(load_prediction(r, "std").max() > 0 for r in records)
    drawn = scores[(scores["estimate"] == "sample") & (scores["seed"] >= 0)]
    assert len(drawn) and not set(drawn["metric"]) & {"crps", "coverage_90", "rank_density"}


def test_ensembles_are_of_one_choice_of_contrasts(manifest: Path, scores: pd.DataFrame, heads: Prepared) -> None:
    store = heads.store
    ensembles = scores[(scores["metric"] == "crps") & (scores["seed"] == -2)]
    assert ensembles.groupby(["contrasts_given", "contrast"]).size().tolist() == [2] * 4
    drawn = [r for r in records_of(manifest) if r["estimate"] == "sample" and r["contrasts_given"] == "T1w"]
    for subject in heads.split.side("test"):
        own = [r for r in drawn if r["subject"] == subject]
        for c, contrast in enumerate(store.contrasts):
            hidden = hidden_of(own[0], contrast, store.shape) & store.foreground(subject)
            expected = crps_ensemble(store.volume(subject)[c][hidden], [load_prediction(r)[c][hidden] for r in own]).mean()
            found = value(scores, own[0] | {"seed": -2}, contrast=contrast, region="unseen_masked", metric="crps")
            assert found == pytest.approx(expected, rel=1e-5)


def test_rows_say_which_contrasts_were_given_and_are_told_apart_by_it(scores: pd.DataFrame) -> None:
    assert list(scores.columns) == COLUMNS and "contrasts_given" in KEY
    assert set(scores["contrasts_given"]) == {"all", "T1w"}
    assert not scores.duplicated(KEY).any()
    assert scores.duplicated([k for k in KEY if k != "contrasts_given"]).sum() >= len(scores) / 2 - 20


def test_a_manifest_that_names_another_contrast_is_refused(manifest: Path, tmp_path: Path) -> None:
    table = pd.read_csv(manifest, sep="\t", dtype=str, keep_default_na=False).assign(contrasts_given="t2f")
    table.to_csv(tmp_path / "manifest.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"column `contrasts_given`: found 't2f', expected all, or some of \['T1w', 'T2w'\]"):
        evaluate(tmp_path / "manifest.tsv")


def test_means_and_ensembles_have_a_rank_histogram(scores: pd.DataFrame) -> None:
    ranks = scores[scores["x_name"] == "rank"]
    assert set(ranks["estimate"]) == {"mean", "sample"} and set(ranks.loc[ranks["estimate"] == "sample", "seed"]) == {-2}
    for (*_, estimate), own in ranks.groupby(["subject", "contrast", "contrasts_given", "seed", "estimate"]):
        assert own["value"].mean() == pytest.approx(1, abs=1e-5) and len(own) == {"mean": 10, "sample": 3}[estimate]


def test_the_error_by_depth_is_there_where_sections_of_one_axis_are_given(scores: pd.DataFrame) -> None:
    depths = scores[scores["x_name"] == "depth_mm"]
    assert len(depths) and depths["x"].min() < 0 < depths["x"].max()
    middle = depth_mm([Plane(2, 3), Plane(2, 9)], (4, 4, 12), (1.0, 1.0, 2.0))
    assert middle.shape == (1, 1, 12) and middle[0, 0, [3, 6, 9]].tolist() == [-6, 0, 6]
    assert depth_mm([Plane(2, 3), Plane(1, 9)], (4, 4, 12), (1.0, 1.0, 2.0)) is None
    assert depth_mm([Plane(2, i) for i in range(DEPTH_K + 1)], (4, 4, 12), (1.0, 1.0, 2.0)) is None
