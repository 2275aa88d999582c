"""From a folder to a model, its table and a volume of a slice, without a configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from displaced_heads import head
from own_folders import write_cohort
from slices_in_hand import AFFINE, write_slices

from xdiff import own
from xdiff.checkpoint import read_weights
from xdiff.cli import main as xdiff
from xdiff.config import MethodEntry, load_config
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.own import LEARNED, LEAST_PATIENTS, Request, method_entry, split_rule
from xdiff.own_evaluate import parse_factors
from xdiff.plain import from_dict
from xdiff.reconstruction import reconstruct
from xdiff.tables import read_main
from xdiff.train import train as train_method

SMALL = {"cases": 12, "voxels": 200, "steps": 10, "width": 8, "warped_rows": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "my heads", 10)


def train(folder: Path, out: Path, *more: str) -> None:
    xdiff(["train", str(folder), "--out", str(out), "--method", "gaussian_local", "--params", json.dumps(SMALL), *more])


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of `xdiff train FOLDER` and, after it, `xdiff evaluate FOLDER --given K=1,5 axis=axial,coronal`."""
    out = tmp_path_factory.mktemp("results") / "own"
    train(folder, out)
    xdiff(["evaluate", str(folder), "--out", str(out), "--given", "K=1,5", "axis=axial,coronal"])
    return out


def weights_of(out: Path, method: str = "gaussian_local") -> Path:
    return out / "models" / "my-heads" / "2mm" / method


# Training -------------------------------------------------------------------------------------------------------------


def test_patients_are_on_one_side_and_every_side_has_some(trained: Path) -> None:
    split = read_split(trained / "data" / "my-heads" / "split.tsv")
    assert {side: len(split.side(side)) for side in ("train", "val", "test")} == {"train": 7, "val": 1, "test": 2}


def test_what_was_chosen_is_a_configuration_of_the_pipeline(trained: Path, folder: Path) -> None:
    config = load_config([trained / own.CONFIG])
    assert Path(config.data_root) / config.cohorts["my-heads"].root == folder
    assert config.grids["2mm"].spacing_mm == 2.0
    assert (np.array(config.grids["2mm"].shape) % 4 == 0).all()
    assert config.run.methods == ("mean_template", "linear", "gaussian", "gaussian_local")


def test_the_same_command_changes_nothing(trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.suffix in (".npy", ".safetensors")}
    train(folder, trained)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*") if p.suffix in (".npy", ".safetensors")} == before
    assert "are there already" in capsys.readouterr().out


def test_a_dry_run_tells_the_time_and_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xdiff(["train", str(folder), "--out", str(tmp_path / "own"), "--minutes", "7", "--dry-run"])
    told = capsys.readouterr().out
    assert "10 visits of 10 patients" in told and "voxels of 2 mm" in told
    (line,) = [line for line in told.splitlines() if line.startswith("train")]
    assert "xdiff" in line and "fit" in line  # 7 minutes by the clock, and what was never measured
    assert "in all >= 7." in told
    assert not (tmp_path / "own").exists()


def test_a_budget_that_ends_gives_the_status_to_go_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(folder, tmp_path, "--budget", "0")
    assert stopped.value.code == 75


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    few = write_cohort(tmp_path / "few", LEAST_PATIENTS - 1)
    with pytest.raises(SystemExit, match="5 usable patient.*at least 6"):
        train(few, tmp_path / "own")


def test_bad_subjects_stop_it_unless_they_are_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    (bad / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"sub-03_T1w.*--leave-out"):
        train(bad, tmp_path / "own", "--dry-run")
    assert "! " in capsys.readouterr().out  # the page of `xdiff check`
    train(bad, tmp_path / "own", "--dry-run", "--leave-out")
    assert "left out: sub-03\n" in capsys.readouterr().out
    train(bad, tmp_path / "own", "--dry-run", "--exclude", "sub-03", "sub-05")
    assert "left out: sub-03, sub-05\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--exclude.*sub-77"):
        train(bad, tmp_path / "own", "--dry-run", "--exclude", "sub-77")


@pytest.mark.parametrize(
    ("request_", "said"),
    [(Request(Path(), "mednerf"), "--method"), (Request(Path(), "xdiff", 0), "--minutes"), (Request(Path(), "unet", -1), "-1")],
)
def test_what_cannot_be_trained_is_refused(request_: Request, said: str) -> None:
    with pytest.raises(InputError, match=said):
        method_entry(request_)


@pytest.mark.parametrize("method", LEARNED)
def test_parameters_are_those_of_the_method(method: str) -> None:
    """An entry that the method's own settings refuse would be found after the preprocessing."""
    from xdiff.forecast import settings_of

    core, settings = settings_of(from_dict(MethodEntry, method_entry(Request(Path(), method, 12))))
    assert core is not None
    assert (settings.minutes if settings else 12) == 12


@pytest.mark.parametrize(("patients", "sides"), [(6, (1, 2)), (12, (1, 2)), (50, (5, 10)), (99, (9, 19))])
def test_small_cohorts_are_split_by_numbers(patients: int, sides: tuple[int, int]) -> None:
    assert split_rule(patients) == {"n_val": sides[0], "n_test": sides[1]}
    assert split_rule(100) == {}


def test_the_call_of_the_rules_goes_to_the_harness(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        xdiff(["train", "--method", "x", "--entry", "{}"])
    assert "--data" in capsys.readouterr().err


# Evaluation -----------------------------------------------------------------------------------------------------------


def psnr(out: Path) -> pd.DataFrame:
    table = read_main(out / "tables" / "main.tsv")
    rows = table[(table["metric"] == "psnr") & (table["region"] == "unseen")]
    return rows.set_index(["method", "axis", "K"])["mean"]


def test_the_table_has_the_trivial_rows_beside_the_model(trained: Path) -> None:
    found = psnr(trained)
    assert set(found.index) == {
        (method, axis, k)
        for method in ("mean_template", "linear", "gaussian", "gaussian_local")
        for axis in ("axial", "coronal")
        for k in (1, 5)
        if (method, k) != ("linear", 1)
    }
    for axis in ("axial", "coronal"):
        assert found["gaussian_local", axis, 5] > found["mean_template", axis, 5] + 1


def test_it_is_printed_with_the_number_of_patients(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "own"))
    xdiff(["evaluate", str(folder), "--out", str(out), "--given", "K=1,15"])  # linear has no row at all
    told = capsys.readouterr().out
    assert "left out: axial, uniform, K = 15: sub-" in told
    value = f"{psnr(out)['gaussian_local', 'axial', 1]:.2f} ["
    assert any(line.startswith("gaussian_local") and value in line for line in told.splitlines())
    assert "gain over gaussian" in told and "2 test patients: too few" in told


def test_a_model_of_another_cohort_stands_under_its_name(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_cohort(tmp_path / "others", LEAST_PATIENTS)
    out = tmp_path / "own"
    xdiff(["evaluate", str(other), "--out", str(out), "--given", "K=5", "--model", str(weights_of(trained))])
    assert "gaussian_local@my-heads" in capsys.readouterr().out
    assert not (out / own.CONFIG).exists()  # nothing was trained that a later `evaluate` could take
    assert (out / "data" / "others" / "my-heads-2mm" / "index.tsv").exists()


def test_without_a_model_there_is_nothing_to_evaluate(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"own.yaml.*xdiff train"):
        xdiff(["evaluate", str(folder), "--out", str(tmp_path)])


def test_a_folder_that_has_changed_since_is_evaluated_as_it_was_trained_on(trained: Path, folder: Path, tmp_path: Path) -> None:
    """Another patient would be another split: patients that were trained on could be tested."""
    more = write_cohort(Path(shutil.copytree(folder, tmp_path / "my heads")), 11)
    out = Path(shutil.copytree(trained, tmp_path / "own"))
    kept = (out / own.CONFIG).read_text()
    (out / own.CONFIG).write_text(kept.replace(str(folder.parent), str(more.parent)))
    xdiff(["evaluate", str(more), "--out", str(out), "--given", "K=5"])
    assert psnr(out)["gaussian_local", "axial", 5] == pytest.approx(psnr(trained)["gaussian_local", "axial", 5])


def test_a_model_of_other_contrasts_is_refused(trained: Path, folder: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(weights_of(trained), tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "contrasts": ["T2w"]}))
    with pytest.raises(SystemExit, match="T2w"):
        xdiff(["evaluate", str(folder), "--out", str(trained), "--model", str(wrong)])


@pytest.mark.parametrize("words", [["K"], ["k=1"], ["K=one"], ["steps=8"], ["K=0"]])
def test_what_cannot_be_given_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError):
        parse_factors(words)


# A slice in hand ------------------------------------------------------------------------------------------------------


def test_the_trained_model_makes_a_volume_of_a_slice(trained: Path, tmp_path: Path) -> None:
    truth = 500 * head(40, (1, 0, -2))[0]  # of nobody in the cohort, and nobody says where it lies
    given = write_slices(tmp_path / "slice.nii.gz", truth, 2, [11])
    made = reconstruct(given, weights_of(trained, "gaussian_local_posed"))
    about = made.sidecar["out_of_distribution"]
    assert 0 < about["score"] < about["threshold"] < 1 and not about["forced"]
    offset = np.round((np.linalg.inv(AFFINE) @ made.affine)[:3, 3]).astype(int)
    room = np.pad(truth, 16)
    start = offset + 16
    there = room[tuple(slice(a, a + n) for a, n in zip(start, made.volume.shape, strict=True))]
    inside = there > 0
    assert np.corrcoef(made.volume[inside], there[inside])[0, 1] > 0.7
    assert np.sqrt(np.mean((made.volume - there)[inside] ** 2)) < 0.25 * there[inside].mean()


def test_the_posed_model_is_the_trained_one_not_another(trained: Path, tmp_path: Path) -> None:
    """Its weights are taken as they are, and no other weights in their place."""
    folder, posed = weights_of(trained), weights_of(trained, "gaussian_local_posed")
    tensors, config = read_weights(posed)
    for name, array in read_weights(folder)[0].items():
        np.testing.assert_array_equal(tensors[f"inner.{name}"], array)
    data = trained / "data" / "my-heads"
    entry = MethodEntry(own.POSED, {**config["params"], "weights_sha256": "0" * 64})
    with pytest.raises(InputError, match="weights of sha256"):
        train_method("posed", entry, Store(data / "2mm"), read_split(data / "split.tsv"), tmp_path / "posed")
