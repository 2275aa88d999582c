"""The rule skull_strip, between whole heads and everything after them."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import snakemake
from strippers import write_head, write_strippers

pytestmark = pytest.mark.slow


def test_whole_heads_become_a_store_by_way_of_results_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{write_strippers(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    for i in range(4):
        write_head(tmp_path / "data/heads", i)
    cohort = {"layout": "bids", "contrasts": ["T1w", "FLAIR"], "skull_strip": "hd-bet", "split": {"n_val": 1, "n_test": 1}}
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(yaml.safe_dump({"cohorts": {"heads": cohort}, "run": {"cohorts": ["heads"], "grids": ["48"]}}))
    target = "results/data/heads/48/dataset.json"
    done = snakemake(tmp_path, "--configfile", overlay, "--config", f"data_root={tmp_path / 'data'}", "--", target)
    assert done.returncode == 0, done.stdout
    assert len((tmp_path / "bin/calls").read_text().splitlines()) == 1
    assert len(pd.read_csv(tmp_path / "results/data/heads/48/index.tsv", sep="\t")) == 4
    assert (tmp_path / "results/raw/heads/sub-00/anat/sub-00_FLAIR.nii.gz").exists()
    assert sorted(p.name for p in (tmp_path / "data/heads").rglob("*") if p.is_file()) == sorted(
        f"sub-{i:02d}_{suffix}.nii.gz" for i in range(4) for suffix in ("T1w", "FLAIR")
    )
