"""Cohorts of bodies, and these alone, have their real bodies measured once per grid, before anything is scored; also in bench."""

from __future__ import annotations

from pathlib import Path

import pytest
from bodies import body
from conftest import REPOSITORY, job_counts, snakemake

from xdiff import bench
from xdiff.config import load_config
from xdiff.forecast import Forecast
from xdiff.unit_costs import Costs
from xdiff.volumes import write_volume

OVERLAY = """
data_root: {root}
cohorts:
  bodies: {{layout: bids, root: bodies, contrasts: [water, fat], foreground: otsu, split: {{n_val: 1, n_test: 2}}}}
  heads: {{layout: bids, root: bodies, contrasts: [water], foreground: otsu, split: {{n_val: 1, n_test: 2}}}}
grids:
  "12mm": {{shape: [32, 24, 64], spacing_mm: 12.0}}
sweeps:
  slices: {{K: [1]}}
run: {{cohorts: [bodies, heads], grids: ["12mm"], methods: [nearest, mean_template], sweeps: [slices], segmented: []}}
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six bodies whose water is a cohort of its own; their files are never read."""
    root = tmp_path_factory.mktemp("data")
    one = body(spacing_mm=24.0)
    for name in (f"sub-{i:02d}" for i in range(6)):
        for contrast in ("water", "fat"):
            path = root / f"bodies/{name}/anat/{name}_{contrast}.nii.gz"
            write_volume(path, getattr(one, contrast), [[24.0, 0, 0, 0], [0, 24.0, 0, 0], [0, 0, 24.0, 0], [0, 0, 0, 1.0]])
    (root / "overlay.yaml").write_text(OVERLAY.format(root=root))
    return root / "overlay.yaml"


def test_real_bodies_are_measured_once_and_given_to_what_scores(overlay: Path, tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--configfile", overlay, "--dry-run", "--printshellcmds", "--", "tables", "figures")
    assert done.returncode == 0, done.stdout[-3000:]
    counts = job_counts(done.stdout)
    assert counts["anatomy"] == 1 and counts["evaluate"] == 4
    scored = [line for line in done.stdout.splitlines() if "xdiff.metrics evaluate" in line]
    table = "results/metrics/bodies/12mm/anatomy.tsv"
    for line in scored:
        assert (f"--real {table} --training {table}" in line) == ("results/samples/bodies/" in line)


def test_bench_measures_them_too_under_the_rules_name(overlay: Path, tmp_path: Path) -> None:
    config = load_config([REPOSITORY / "config.yaml", overlay])
    tasks = {task.name: task for task in bench.tasks(config, tmp_path, None)}
    assert [name for name in tasks if name.startswith("anatomy")] == ["anatomy bodies 12mm"]
    task = tasks["anatomy bodies 12mm"]
    assert task.benchmark == "anatomy/bodies/12mm" and task.makes == (tmp_path / "metrics/bodies/12mm/anatomy.tsv",)
    names = list(tasks)
    assert names.index("preprocess bodies 12mm") < names.index(task.name) < names.index("train nearest@bodies 12mm")


def test_a_forecast_says_that_their_time_was_never_measured(overlay: Path) -> None:
    lines = Forecast(load_config([REPOSITORY / "config.yaml", overlay]), Costs([])).lines
    told = {line.at[0]: line.missing for line in lines if line.stage == "evaluate"}
    assert {cohort: "anatomy" in missing for cohort, missing in told.items()} == {"bodies": True, "heads": False}
