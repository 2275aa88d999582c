"""The smoke preset with its volumes segmented: every rule of nnU-Net on tiny volumes, from files to the page; and again."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import PRESETS, job_counts, snakemake

from xdiff.stats import MASK_METRICS

pytestmark = pytest.mark.slow  # two minutes: nnU-Net plans and trains

OVERLAY = """
segment: {epochs: 2, iterations: 20}
sweeps:
  slices: {policy: [uniform]}
run:
  cohorts: [phantom-brain]
  grids: ["24"]
  methods: [nearest, linear, gaussian]
  sweeps: [slices, swap, dense]
  segmented: [slices, swap, dense]
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: pip install -c constraints.txt -e '.[segment]'")
    folder = tmp_path_factory.mktemp("segmented")
    (folder / "segmented.yaml").write_text(OVERLAY)
    return folder, ["--configfile", PRESETS / "smoke.yaml", folder / "segmented.yaml"]


@pytest.fixture(scope="module")
def finished(arguments: tuple[Path, list]) -> Path:
    folder, configured = arguments
    done = snakemake(folder, *configured, "--", "all")
    logs = "\n".join(p.read_text()[-800:] for p in (folder / "results/logs").rglob("*.log") if "rror" in p.read_text())
    assert done.returncode == 0, done.stdout[-3000:] + logs
    return folder / "results"


def test_every_method_the_ceiling_and_the_control_are_scored(finished: Path) -> None:
    table = pd.read_csv(finished / "metrics/all.tsv", sep="\t", dtype={"indices": str})
    masks = table[table["metric"].isin(MASK_METRICS)]
    assert set(masks["method"]) == {"nearest", "linear", "gaussian", "truth", "mask_linear"}
    assert {"WT", "TC", "ET", "WT_unseen"} <= set(masks["region"]) and set(masks["cohort"]) == {"phantom-brain"}
    points = masks[["method", "policy", "K"]].drop_duplicates()
    assert ("gaussian", "swap", 1) in set(points.itertuples(index=False, name=None))
    dense = points[(points["policy"] == "every_fifth") & (points["K"] == 0)]
    assert set(dense["method"]) == {"linear", "gaussian", "truth", "mask_linear"}
    control = masks[(masks["method"] == "mask_linear") & (masks["metric"] == "dice") & (masks["region"] == "WT")]
    assert control.groupby("K")["value"].mean().loc[4] > control.groupby("K")["value"].mean().loc[1]


def test_tables_figures_and_page_tell_of_the_tumour(finished: Path) -> None:
    text = (finished / "tables/main.md").read_text()
    assert "Dice of WT\\_unseen" in text and "How much comes from the patient's own sections" in text
    assert {"dice_vs_k", "tumour_0"} <= set(json.loads((finished / "figures/captions.json").read_text()))
    assert "Dice of WT_unseen" in (finished / "report/index.html").read_text()


def test_nnunets_own_folders_stay_for_its_own_tools(finished: Path) -> None:
    folder = finished / "models/phantom-brain/24/nnunet"
    assert len(list(folder.glob("nnUNet_raw/Dataset501_*/imagesTr/*_0003.nii.gz"))) >= 5
    assert list(folder.glob("nnUNet_results/*/nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth"))


def test_the_same_command_again_has_nothing_to_do(finished: Path, arguments: tuple[Path, list]) -> None:
    folder, configured = arguments
    again = snakemake(folder, *configured, "--dry-run", "--", "all")
    assert again.returncode == 0 and job_counts(again.stdout) == {}, again.stdout[-2000:]
