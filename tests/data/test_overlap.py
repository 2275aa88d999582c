"""Which public collections share patients, and the warning where a configuration trains on one and tests on another."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import PRESETS, REPOSITORY, overlays, snakemake

from xdiff.config import Cohort, Config, load_config
from xdiff.data.overlap import ANY_YEAR, FASTMRI, MSD, TCGA, UPENN, collection_of, overlap_warnings, shared, warn_of_overlaps
from xdiff.plain import from_dict


@pytest.mark.parametrize(
    ("name", "layout", "source", "collection"),
    [
        ("brats", "brats", "", ANY_YEAR),
        ("brats", "brats", "BraTS 2023 GLI, https://www.synapse.org", "BraTS 2023"),
        ("brats", "brats", "synapse syn51514132", "BraTS 2023"),
        ("brats", "brats", "https://www.synapse.org/#!Synapse:syn51156910 (on registration)", "BraTS 2023"),
        ("msd-brats", "msd", "http://medicaldecathlon.com (CC BY-SA 4.0, 7.1 GB)", MSD),
        ("brats2021", "brats", "", "BraTS 2021"),
        ("glioma", "bids", "https://www.med.upenn.edu/cbica/brats2020/data.html", "BraTS 2020"),
        ("brats_19", "brats", "", "BraTS 2019"),
        ("BraTS-18", "brats", "", "BraTS 2018"),
        ("open", "msd", "", MSD),
        ("open", "bids", "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task01_BrainTumour.tar", MSD),
        ("upenn_gbm", "bids", "", UPENN),
        ("tcga-lgg", "bids", "", TCGA),
        ("knee-pdfs", "fastmri", "https://fastmri.med.nyu.edu", FASTMRI),
        ("fast-mri", "fastmri", "", FASTMRI),
        ("brats-men", "brats", "", None),
        ("meningioma", "brats", "BraTS 2023", None),
        ("openneuro-ds002748", "bids", "https://openneuro.org", None),
        ("mine", "bids", "", None),
    ],
)
def test_a_cohort_is_recognised_by_what_its_entry_says(name: str, layout: str, source: str, collection: str | None) -> None:
    series = {"t1n": "t1"} if layout == "fastmri" else {}
    assert collection_of(name, Cohort(layout, ("t1n",), source=source, series=series)) == collection


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (MSD, "BraTS 2016", "BraTS 2016 and 2017"),
        (MSD, "BraTS 2023", "which later years kept"),
        ("BraTS 2018", "BraTS 2020", "kept cases of earlier"),
        ("BraTS 2021", "BraTS 2023", "kept cases of earlier"),
        (UPENN, "BraTS 2021", "since 2021"),
        (TCGA, MSD, "TCGA"),
        (MSD, MSD, "both are"),
        (ANY_YEAR, UPENN, "since 2021"),
        (ANY_YEAR, MSD, "BraTS 2016"),
        (ANY_YEAR, "BraTS 2020", "kept cases"),
    ],
)
def test_known_overlaps_hold_both_ways(one: str, other: str, why: str) -> None:
    assert why in shared(one, other)
    assert shared(one, other) == shared(other, one)


@pytest.mark.parametrize(("one", "other"), [(UPENN, MSD), (UPENN, "BraTS 2020"), (UPENN, TCGA)])
def test_what_is_not_known_is_not_said(one: str, other: str) -> None:
    assert shared(one, other) is None and shared(other, one) is None


def config(*trained_on: str, cohorts: tuple[str, ...] = ("brats2021",)) -> Config:
    entries = {
        "brats2021": {"layout": "brats", "contrasts": ["t1n"]},
        "open": {"layout": "msd", "contrasts": ["t1n"]},
        "upenn": {"layout": "bids", "contrasts": ["t1n"], "source": "TCIA UPENN-GBM"},
        "mine": {"layout": "bids", "contrasts": ["t1n"]},
    }
    run = {"cohorts": cohorts, "grids": ["g"], "methods": ["m"], "sweeps": ["s"], "trained_on": trained_on}
    rest = {"grids": {"g": {"shape": [8, 8, 8], "spacing_mm": 4.0}}, "methods": {"m": {"module": "x"}}, "sweeps": {"s": {}}}
    return from_dict(Config, {"cohorts": entries, **rest, "run": run})


def test_training_on_both_and_testing_across_are_told_apart() -> None:
    assert overlap_warnings(config("self", "mine", cohorts=("brats2021", "open"))) == []
    (across,) = overlap_warnings(config("open"))
    assert across.startswith("cohorts open and brats2021 are trained on and tested on, and share patients (MSD Task01 is made of")
    assert overlap_warnings(config("upenn+open+mine", cohorts=("mine",))) == []  # UPENN-GBM and MSD: nothing is known


def test_a_joined_training_set_is_named_pair_by_pair() -> None:
    told = overlap_warnings(config("self", "brats2021+upenn+mine"))
    assert len(told) == 2
    assert told[0].startswith("cohorts brats2021 and upenn are trained on together")
    assert told[1].startswith("cohorts upenn and brats2021 are trained on and tested on")


def test_it_is_said_on_stderr(capsys: pytest.CaptureFixture) -> None:
    warn_of_overlaps(config("open"))
    assert capsys.readouterr().err.startswith("warning: cohorts open and brats2021 are trained on and tested on")


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_preset_trains_on_patients_that_it_tests_on(preset: Path) -> None:
    assert overlap_warnings(load_config([REPOSITORY / "config.yaml", *overlays(preset)])) == []


def test_snakemake_says_it_before_anything_runs(tmp_path: Path) -> None:
    cohorts = {"tcga-lgg": {"layout": "bids", "contrasts": ["t1n"]}, "msd": {"layout": "msd", "contrasts": ["t1n"]}}
    overlay = {
        "cohorts": cohorts,
        "run": {"cohorts": ["msd"], "grids": ["48"], "methods": ["gaussian"], "trained_on": ["tcga-lgg"]},
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    told = snakemake(tmp_path, "--configfile", tmp_path / "overlay.yaml", "--dry-run", "--", "data")
    assert (
        "warning: cohorts tcga-lgg and msd are trained on and tested on, and share patients (TCGA-GBM and TCGA-LGG" in told.stdout
    )
