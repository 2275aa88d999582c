"""One's own folder with a network trained by the clock, and with several contrasts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from displaced_heads import head
from own_folders import AFFINE, write_cohort

from xdiff import own
from xdiff.checkpoint import read_weights
from xdiff.cli import main as xdiff
from xdiff.own import LEAST_PATIENTS
from xdiff.tables import read_main
from xdiff.volumes import write_volume

CORE = {"cases": 12, "voxels": 200, "steps": 10, "width": 8, "warped_rows": 1}
NETWORK = {"core": CORE, "channels": [8, 16], "trunk_channels": [8, 16], "sections": 4, "volumes": 1, "checks": 1}

pytestmark = pytest.mark.slow


def test_a_network_is_trained_by_the_clock_on_the_fewest_patients(tmp_path: Path) -> None:
    folder, out = write_cohort(tmp_path / "few", LEAST_PATIENTS), tmp_path / "own"
    xdiff(["train", str(folder), "--out", str(out), "--minutes", "0.05", "--params", json.dumps(NETWORK)])
    weights = out / "models" / "few" / "2mm"
    history = [json.loads(line) for line in (weights / "xdiff" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["step"] > 0
    assert read_weights(weights / "xdiff_posed")[1]["out_of_distribution"]["threshold"] > 0
    xdiff(["evaluate", str(folder), "--out", str(out), "--given", "K=3"])
    table = read_main(out / "tables" / "main.tsv")
    assert set(table["method"]) == {"mean_template", "linear", "gaussian", "xdiff"}


def test_several_contrasts_have_no_posed_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, out = write_cohort(tmp_path / "two", LEAST_PATIENTS), tmp_path / "own"
    for i in range(LEAST_PATIENTS):
        write_volume(two / f"sub-{i:02d}" / "anat" / f"sub-{i:02d}_T2w.nii.gz", 300 * head(i)[1], AFFINE)
    xdiff(["train", str(two), "--out", str(out), "--method", "gaussian_local", "--params", json.dumps(CORE)])
    assert yaml.safe_load((out / own.CONFIG).read_text())["cohorts"]["two"]["contrasts"] == ["T1w", "T2w"]
    assert "--contrasts NAME trains one" in capsys.readouterr().out
    assert not (out / "models" / "two" / "2mm" / "gaussian_local_posed").exists()
