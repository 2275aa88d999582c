"""Exported weights: smaller, as good, measured, and never replaced by worse ones unless somebody says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Prepared
from displaced_heads import head
from slices_in_hand import one_contrast

from baselines import posed
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.data.split import make_split
from xdiff.errors import InputError
from xdiff.export import Packing, export, main
from xdiff.observation import observe
from xdiff.planes import Plane
from xdiff.train import train

LOCAL = {"module": "baselines.gaussian_local", "params": {"cases": 12, "voxels": 200, "steps": 20, "width": 8}}
PACKING = Packing(12, 0.01)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return one_contrast(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def weights(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "local_posed"
    train("local_posed", MethodEntry("baselines.posed", {**LOCAL, "poses": 2}), prepared.store, prepared.split, out)
    return out


@pytest.fixture(scope="module")
def exported(prepared: Prepared, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shipped") / "heads-t1"
    arguments = [str(weights), "--name", "heads-t1", "--out", str(out), "--data", str(prepared.store.folder)]
    options = ["--components", "12", "--step", "0.01", "--source", "drawn here (CC0)"]
    main([*arguments, "--split", str(prepared.split_file), *options])
    return out


def test_it_reconstructs_as_the_weights_it_is_made_of(weights: Path, exported: Path) -> None:
    observation = observe(head(90)[:1], [Plane(2, 12), Plane(2, 16)], ("T1w",), (2.0, 2.0, 2.0), "centred")
    before, after = (posed.load(w).reconstruct(observation, 1, "mean", np.random.default_rng(0)) for w in (weights, exported))
    np.testing.assert_array_equal(after[0][..., [12, 16]], before[0][..., [12, 16]])
    assert np.sqrt(np.square(after[0] - before[0]).mean()) < 0.2 * np.sqrt(np.square(before[0] - head(90)[:1]).mean())
    assert np.corrcoef(after[1].ravel(), before[1].ravel())[0, 1] > 0.95


def test_its_config_says_what_it_is_worth(exported: Path) -> None:
    _, config = read_weights(exported)
    assert config["name"] == "heads-t1"
    assert config["subjects"] == {"train": 10, "val": 2, "test": 2}
    rows = config["validation"]["rows"]
    assert [(r["K"], r["place"]) for r in rows] == [(1, "known"), (5, "known"), (1, "unknown"), (5, "unknown")]
    assert all(r["full_db"] is None or abs(r["full_db"] - r["shipped_db"]) < 0.3 for r in rows)
    assert config["validation"]["mean_db"] == pytest.approx((rows[0]["shipped_db"] + rows[1]["shipped_db"]) / 2, abs=1e-3)
    odd = config["out_of_distribution"]
    assert odd["scores"] == sorted(odd["scores"]) and odd["scores"][0] < odd["threshold"] < 1


def test_its_card_names_data_split_licences_and_measures(exported: Path) -> None:
    card, config = (exported / "README.md").read_text(), read_weights(exported)[1]
    assert card.startswith("---\nlicense: apache-2.0\n")
    recovered = f"{config['compression']['recovered_db']['train']:.1f} dB for training subjects"
    shipped = f"{config['validation']['rows'][0]['shipped_db']:.2f}"
    for needed in ("drawn here (CC0)", config["split"], config["sha256"], shipped, "Not a medical device", recovered):
        assert needed in card, needed


def test_no_volume_of_the_test_side_is_read(
    prepared: Prepared, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = type(prepared.store).volume
    monkeypatch.setattr(type(prepared.store), "volume", lambda self, s: read.add(s) or original(self, s))
    export(weights, "a", tmp_path / "a", (prepared.store, prepared.split), PACKING)
    assert set(prepared.split.side("val")) <= read
    assert not read & set(prepared.split.side("test"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]  # nothing half made is left


def test_only_better_weights_replace_others(
    prepared: Prepared, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(mean_db: float, why: str = "") -> dict:
        found = {"subjects": 2, "rows": [], "mean_db": mean_db}
        monkeypatch.setattr("xdiff.export.validation", lambda *_: found)
        return export(weights, "a", tmp_path / "a", (prepared.store, prepared.split), PACKING, replace=why)

    first = again(17.0)
    assert "replaced" not in first
    with pytest.raises(InputError, match="17.000 dB on the validation side, expected more than 17.000, or --replace WHY"):
        again(17.0)
    assert read_weights(tmp_path / "a")[1] == first
    worse = again(16.5, "smaller")
    assert worse["replaced"] == {"sha256": first["sha256"], "why": "smaller"}
    assert "smaller" in (tmp_path / "a" / "README.md").read_text()
    assert again(16.6)["replaced"]["why"] == "16.600 dB on the validation side, up from 16.500"


def test_weights_that_nobody_validated_are_not_replaced(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "a", {}, {"name": "a"})
    with pytest.raises(InputError, match="found weights without a validation"):
        export(weights, "a", tmp_path / "a", (prepared.store, prepared.split), PACKING)


def test_weights_that_cannot_be_shipped_are_refused(prepared: Prepared, weights: Path, exported: Path, tmp_path: Path) -> None:
    data = prepared.store, prepared.split
    tensors, config = read_weights(weights)
    write_weights(tmp_path / "plain", tensors, {**config, "module": "baselines.gaussian_local"})
    linear = {n: a for n, a in tensors.items() if not n.startswith("inner.local.")}
    write_weights(tmp_path / "gaussian", linear, config)
    cases = {
        tmp_path / "plain": "expected baselines.posed",
        tmp_path / "gaussian": "a method with a local core",
        exported: "as `xdiff train` writes them",
    }
    for folder, message in cases.items():
        with pytest.raises(InputError, match=message):
            export(folder, "a", tmp_path / "a", data, PACKING)
    moved = {s: "val" if side == "test" else side for s, _, side in prepared.split.table.itertuples(index=False, name=None)}
    other = make_split([(s, p, moved[s]) for s, p, _ in prepared.split.table.itertuples(index=False, name=None)])
    with pytest.raises(InputError, match="weights of split"):
        export(weights, "a", tmp_path / "a", (prepared.store, other), PACKING)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("wrong", [{"components": 0}, {"step": 0.0}, {"step": 1.5}])
def test_packings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match="--components|--step"):
        replace(PACKING, **wrong)
