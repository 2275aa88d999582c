"""Anatomy of a cohort of bodies as rows: real ones, a method's, and the mean of the training subjects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bodies import body, lateral_arc
from conftest import Prepared, prepare

from xdiff import anatomy
from xdiff.config import Cohort, Grid, MethodEntry, SplitRule, Sweep
from xdiff.errors import InputError
from xdiff.metrics.__main__ import collect
from xdiff.metrics.__main__ import main as metrics_main
from xdiff.metrics.anatomy import measure
from xdiff.metrics.anatomy_rows import anatomy_of, measure_real, population_mean, read_real, write_real
from xdiff.metrics.evaluate import KEY, evaluate
from xdiff.sample import sample
from xdiff.stats import ANATOMY, ANATOMY_METRICS, FOUND, SPINE_MEASURES, read_metrics
from xdiff.train import train
from xdiff.volumes import read_volume, write_volume

SPACING_MM = 12.0


def write_bodies(root: Path, n: int = 6) -> None:
    """n bodies as a BIDS cohort: the larger the number the more scoliotic, fat on four times the scale of water."""
    for i in range(n):
        one = body(lateral_arc(6.0 + 6 * i), spacing_mm=SPACING_MM, seed=i)
        for contrast, scale in (("water", 5.0), ("fat", 20.0)):
            image = (scale * getattr(one, contrast)).round()
            path = root / f"sub-{i:02d}/anat/sub-{i:02d}_{contrast}.nii.gz"
            write_volume(path, image.astype(np.float32), np.diag([SPACING_MM] * 3 + [1.0]))


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder / "raw")
    cohort = Cohort("bids", ("water", "fat"), foreground="otsu", split=SplitRule(n_val=1, n_test=2))
    return prepare(cohort, Grid((32, 24, 64), SPACING_MM), ("bodies", "12mm"), folder / "raw", folder / "data")


@pytest.fixture(scope="module")
def real(bodies: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "deeper/anatomy.tsv"
    metrics_main(["anatomy", "--data", str(bodies.store.folder), "--split", str(bodies.split_file), "--out", str(out)])
    return out


def manifest_of(bodies: Prepared, kind: str, folder: Path) -> Path:
    entry = MethodEntry("baselines.trivial" if kind == "zeros" else "baselines.interpolation", {"kind": kind}, learns=False)
    train(kind, entry, bodies.store, bodies.split, folder / "weights")
    sample(entry, folder / "weights", bodies.store, bodies.split, Sweep(K=(1, 20)), folder / "out")
    return folder / "out/manifest-1-of-1.tsv"


@pytest.fixture(scope="module")
def tables(bodies: Prepared, real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Metric tables of `zeros` and `nearest` at K = 1 and 20, as the rule evaluate writes them."""
    folder, out = tmp_path_factory.mktemp("run"), {}
    for kind in ("zeros", "nearest"):
        manifest, out[kind] = manifest_of(bodies, kind, folder / kind), folder / f"{kind}.tsv"
        arguments = ["--manifest", manifest, "--real", real, "--training", real, "--out", out[kind]]
        metrics_main(["evaluate", *map(str, arguments)])
    return out


def test_a_real_body_is_measured_in_one_unit_of_both_contrasts(bodies: Prepared, real: Path) -> None:
    """The store keeps each contrast on its own scale, which would change the fraction of fat."""
    store, subject = bodies.store, bodies.split.side("test")[0]
    raw = [read_volume(store.sidecar(subject)["sources"][c]).array for c in ("water", "fat")]
    expected = measure(*raw, (SPACING_MM,) * 3)
    found = read_real(real).loc[subject]
    assert found["fat_fraction"] == pytest.approx(expected["fat_fraction"], rel=0.01)
    assert found["body_volume_l"] == pytest.approx(expected["body_volume_l"], rel=0.01)
    assert anatomy_of(store.volume(subject), store, subject)["spine_cobb_deg"] == pytest.approx(found["spine_cobb_deg"], rel=1e-4)


def test_real_bodies_are_those_of_training_and_test_and_no_others(bodies: Prepared, real: Path) -> None:
    table = read_real(real)
    assert {side: list(own.index) for side, own in table.groupby("side")} == {s: bodies.split.side(s) for s in ("train", "test")}


def test_what_was_measured_is_not_measured_again_but_after_another_split(
    bodies: Prepared, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xdiff.metrics.anatomy_rows.measure_real", lambda *_: pytest.fail("measured again"))
    write_real(bodies.store, bodies.split, real)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        write_real(bodies.store, bodies.split.with_training(2), real)


def test_of_many_training_subjects_some_are_taken_from_all(bodies: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xdiff.metrics.anatomy_rows.MOST_TRAINING", 2)
    monkeypatch.setattr("xdiff.metrics.anatomy_rows.anatomy_of", lambda *_: dict.fromkeys(ANATOMY, 1.0))
    training = bodies.split.side("train")
    table = measure_real(bodies.store, bodies.split)
    assert table.loc[table["side"] == "train", "subject"].tolist() == training[::2] and len(training) == 3


def test_the_population_mean_is_of_training_subjects_alone(real: Path) -> None:
    table = read_real(real)
    mean = population_mean([table, table])
    assert mean["spine_cobb_deg"] == pytest.approx(table.loc[table["side"] == "train", "spine_cobb_deg"].mean())
    without = table.assign(spine_cobb_deg=table["spine_cobb_deg"].where(np.arange(len(table)) > 0))
    assert population_mean([without])["spine_cobb_deg"] == pytest.approx(without["spine_cobb_deg"].iloc[1:3].mean())


def test_truth_and_control_stand_beside_every_point(tables: dict[str, Path], real: Path, bodies: Prepared) -> None:
    table, known = pd.read_csv(tables["nearest"], sep="\t"), read_real(real)
    body_rows = table[table["region"] == "body"]
    assert body_rows.groupby(["method", "K", "subject"])["metric"].apply(list).tolist() == [ANATOMY_METRICS] * 12
    assert set(body_rows["method"]) == {"nearest", "truth", "population_mean"}
    for metric in ANATOMY:
        rows = body_rows[body_rows["metric"] == metric].set_index(["method", "K", "subject"])["value"]
        for subject in bodies.split.side("test"):
            assert rows["truth", 1, subject] == rows["truth", 20, subject] == pytest.approx(known.loc[subject, metric], rel=1e-4)
            assert rows["population_mean", 1, subject] == pytest.approx(
                known.loc[known["side"] == "train", metric].mean(), rel=1e-4
            )
    assert not table.duplicated(KEY).any()


def test_from_manifests_to_numbers(tables: dict[str, Path], tmp_path: Path) -> None:
    """Truth and control of two methods are kept once; what has no body is counted, and stands in no average."""
    collect(list(tables.values()), tmp_path / "all.tsv")
    metrics = read_metrics(tmp_path / "all.tsv")
    assert len(metrics[(metrics["method"] == "truth") & (metrics["metric"] == "body_found")]) == 4
    found = anatomy.numbers(metrics).set_index(["method", "metric", "K"]).sort_index()
    assert (found.loc["zeros", "missing"] == 2).all() and (found.loc["zeros", "n"] == 0).all()
    assert found.loc["zeros", "bias"].isna().all()
    assert found.loc[("nearest", "body_volume_l", 20), "mae"] < found.loc[("nearest", "body_volume_l", 1), "mae"]
    assert found.loc[("nearest", "spine_cobb_deg", 20), ["n", "missing"]].tolist() == [2, 0]


def test_a_spine_that_is_not_there_is_a_row_without_value_and_a_zero(tables: dict[str, Path]) -> None:
    table = pd.read_csv(tables["zeros"], sep="\t")
    own = table[(table["method"] == "zeros") & (table["K"] == 1) & (table["region"] == "body")]
    values = own.groupby("metric")["value"]
    assert values.count()[list(SPINE_MEASURES)].tolist() == [0] * 5 and values.size()[list(SPINE_MEASURES)].tolist() == [2] * 5
    assert (own[own["metric"].isin(FOUND.values())]["value"] == 0).all()


def test_without_the_real_bodies_nothing_of_anatomy_is_scored(bodies: Prepared, real: Path, tmp_path: Path) -> None:
    manifest = manifest_of(bodies, "zeros", tmp_path)
    assert "body" not in set(evaluate(manifest)["region"])
    with pytest.raises(InputError, match="--training: found no table"):
        evaluate(manifest, real)
    table = pd.read_csv(real, sep="\t")
    table[table["side"] == "train"].to_csv(tmp_path / "train.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"train\.tsv: found no row of sub-.*expected every test subject"):
        evaluate(manifest, tmp_path / "train.tsv", [real])
    with pytest.raises(InputError, match=r"none\.tsv: found no such file"):
        evaluate(manifest, tmp_path / "none.tsv", [real])
    with pytest.raises(InputError, match="found columns"):
        evaluate(manifest, real, [manifest])


def test_a_cohort_of_heads_has_no_anatomy(heads: Prepared) -> None:
    with pytest.raises(InputError, match="contrasts T1w, T2w, expected both of water, fat"):
        measure_real(heads.store, heads.split)
