"""What a page and a reference say of their making."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import PRESETS, REPOSITORY

from xdiff.config import load_config
from xdiff.provenance import commit, here, selected, sha256_of, versions


def test_only_what_was_run_is_kept_of_a_configuration() -> None:
    config = load_config([REPOSITORY / "config.yaml", PRESETS / "real-brains-2mm.yaml"])
    kept = selected(config)
    assert set(kept) == {"cohorts", "grids", "methods", "sweeps", "run"}
    assert set(kept["methods"]) == set(config.run.methods) and set(kept["sweeps"]) == set(config.run.sweeps)
    assert set(kept["cohorts"]) == {"openneuro-ds002748", "ixi-2mm"}, "the cohort that is trained on alone is kept too"


def test_the_hash_of_a_configuration_is_of_its_content_alone() -> None:
    assert sha256_of({"a": 1, "b": {"c": 2, "d": 3}}) == sha256_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit() == ""
    monkeypatch.setenv("PATH", "")  # nor without git
    assert commit() == ""


def test_versions_are_those_installed_and_nothing_is_made_up() -> None:
    assert versions()["numpy"] == version("numpy") and "" not in versions().values()
    assert "config" not in here() and here({"methods": {}})["config_sha256"] == sha256_of({"methods": {}})
