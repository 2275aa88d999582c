"""What jobs ask for: memory that grows with the attempt, in every rule, and a profile whose arrays are of equal jobs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import PRESETS, REPOSITORY, snakemake

RULE_FILES = sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
PROFILE = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/config.yaml").read_text())


def test_every_rule_asks_for_more_memory_when_it_is_tried_again() -> None:
    lines = [line for path in RULE_FILES for line in path.read_text().splitlines() if line.strip().startswith("mem_mb=")]
    assert len(lines) > 20 and [line for line in lines if not line.strip().startswith("mem_mb=per_attempt(")] == []


def test_arrays_are_of_rules_whose_jobs_all_ask_for_the_same() -> None:
    """An array takes the resources of its first job: nothing in them may depend on a wildcard."""
    text = "\n".join(path.read_text() for path in RULE_FILES)
    for name in PROFILE["slurm-array-jobs"].split(","):
        (body,) = re.findall(rf"^rule {name}:\n(.*?)(?=^\S)", text, re.MULTILINE | re.DOTALL)
        resources = body.split("    resources:\n", 1)[1].split("    params:", 1)[0]
        assert "mem_mb" in resources and "wc." not in resources and "wildcards" not in resources
        assert "wc." not in body.split("    threads:", 1)[-1].split("\n", 1)[0]


@pytest.mark.parametrize("attempt", [1, 3])
def test_memory_of_a_method_is_its_entry_times_the_attempt(attempt: int, tmp_path: Path) -> None:
    """The rules' own memory at an attempt, as a job on a node is told it by Snakemake."""
    (tmp_path / "overlay.yaml").write_text("methods: {mean_template: {mem_mb: 700}}\n")
    target = "results/models/gaussian-field/field16/mean_template/weights.safetensors"
    arguments = ["--configfile", PRESETS / "smoke.yaml", tmp_path / "overlay.yaml", "--attempt", str(attempt), "--dry-run"]
    said = snakemake(tmp_path, *arguments, "--", target).stdout
    asked = dict(re.findall(r"^(?:local)?rule (\w+):.*?mem_mb=(\d+)", said, re.MULTILINE | re.DOTALL))
    assert asked == {
        "generate": str(2000 * attempt),
        "split": str(500 * attempt),
        "preprocess": str(2000 * attempt),
        "train": str(700 * attempt),
    }
