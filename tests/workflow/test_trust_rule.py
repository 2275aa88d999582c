"""The rule trust_card: cards from the long table alone, and Snakemake's own report shows each with its caption."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import PRESETS, snakemake
from synthetic_metrics import synthetic_metrics, write_metrics

ONLY = ["--configfile", PRESETS / "smoke.yaml", "--allowed-rules", "trust_card"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    table = synthetic_metrics(patients=2, cohorts=("knee",))
    write_metrics(table[table["method"].isin(["gaussian", "mean_template", "xdiff"])], folder / "results/metrics/all.tsv")
    done = snakemake(folder, *ONLY, "--", "trust_card")
    assert done.returncode == 0, done.stdout[-2000:] + (folder / "results/logs/trust_card.log").read_text()
    return folder


def test_there_is_a_card_per_model(run: Path) -> None:
    cards = sorted(str(p.relative_to(run / "results/trust")) for p in run.glob("results/trust/*/*/*.md"))
    assert cards == ["openneuro-ds002748/2mm/gaussian.md", "openneuro-ds002748/2mm/xdiff.md"]


def test_snakemakes_report_has_every_card_under_its_heading(run: Path) -> None:
    done = snakemake(run, *ONLY, "--report", run / "report.zip", "--", "trust_card")
    assert done.returncode == 0, done.stdout[-2000:]
    with zipfile.ZipFile(run / "report.zip") as archive:
        names = archive.namelist()
        text = "".join(archive.read(name).decode() for name in names if name.endswith((".html", ".js")))
    assert "Trust cards" in text and "openneuro-ds002748, grid 2mm" in text and "keeps, what it invents, and when not" in text
    for file in ("gaussian.png", "gaussian.md", "xdiff.png", "xdiff.md"):
        assert sum(name.endswith(f"/{file}") for name in names) == 1, names
