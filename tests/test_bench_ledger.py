"""A bench run leaves what the workflow leaves: benchmarks under the rules' names, tables, figures, a reference to keep."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import PRESETS, REPOSITORY

from xdiff import bench, reference
from xdiff.budget import OutOfTime
from xdiff.config import load_config
from xdiff.report import main, read_ledger

RUN = "run: {cohorts: [gaussian-field], grids: [field16], methods: [linear, gaussian], sweeps: [slices]}\n"
RULES = "generate split preprocess train sample evaluate collect panel tables figures".split()


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The smoke preset with two methods on one embedded cohort."""
    overlay = tmp_path_factory.mktemp("configs") / "two.yaml"
    overlay.write_text(RUN)
    return [REPOSITORY / "config.yaml", PRESETS / "smoke.yaml", overlay]


@pytest.fixture(scope="module")
def finished(configs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`results` of a finished bench run."""
    out = tmp_path_factory.mktemp("bench") / "results"
    assert bench.run(load_config(configs), out, None, 9.0)
    return out


def benchmarks(out: Path) -> dict[str, bytes]:
    folder = out / "benchmarks"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.tsv"))}


def paths_of_rules() -> Iterator[re.Pattern]:
    """The `benchmark:` lines of the rules as patterns of paths below results/benchmarks."""
    text = "\n".join(p.read_text() for p in sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
    for path in re.findall(r'benchmark:\n\s+"results/benchmarks/([^"]+)"', text):
        yield re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))


def test_benchmarks_stand_where_the_rules_write_theirs(finished: Path) -> None:
    patterns = list(paths_of_rules())
    assert len(patterns) >= len(RULES)
    for path in benchmarks(finished):
        assert any(pattern.fullmatch(path) for pattern in patterns), path
    assert {path.split("/")[0] for path in benchmarks(finished)} == set(RULES)


def test_the_ledger_counts_every_task(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = read_ledger(finished / "benchmarks").set_index("rule")["jobs"]
    assert jobs["train"] == jobs["sample"] == jobs["evaluate"] == 2 and jobs["preprocess"] == jobs["tables"] == 1
    main(["--ledger", str(finished / "benchmarks")])
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["total", "13"]


@pytest.mark.slow
def test_the_same_command_again_changes_no_measured_time_and_more_of_a_sweep_adds_to_it(
    configs: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "results"
    assert bench.run(load_config(configs), out, None, 9.0)
    before = benchmarks(out)
    assert bench.run(load_config(configs), out, None, 9.0)
    assert benchmarks(out) == before
    (tmp_path / "more.yaml").write_text("sweeps: {slices: {K: [1, 3, 4]}}\n")
    assert bench.run(load_config([*configs, tmp_path / "more.yaml"]), out, None, 9.0)
    changed = {path for path, content in benchmarks(out).items() if content != before[path]}
    assert {path.split("/")[0] for path in changed} == {"sample", "evaluate", "collect", "tables", "figures"}
    pieces = {path: len(pd.read_csv(out / "benchmarks" / path, sep="\t")) for path in changed}
    assert {path.split("/")[0]: n for path, n in pieces.items()} == dict(sample=2, evaluate=1, collect=1, tables=1, figures=1)


def test_tables_and_figures_are_made_as_the_rules_make_them(finished: Path) -> None:
    assert {p.name for p in (finished / "tables").iterdir()} == {
        *("main.tsv", "main.md", "main.tex", "paired.tsv", "posterior.tsv", "ablation.tsv", "tumours.tsv", "swap.tsv"),
        *("anatomy.tsv", "paper.md", "paper.tex"),
    }
    captions = json.loads((finished / "figures/captions.json").read_text())
    assert "psnr_vs_k" in captions and all((finished / f"figures/{name}.png").is_file() for name in captions)
    assert "## Left out" in (finished / "tables/main.md").read_text()  # linear has no answer to orthogonal sections


def test_without_matplotlib_the_figures_are_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    *_, figures = bench._final_tasks(load_config([REPOSITORY / "config.yaml"]), tmp_path)
    bench._do(figures, tmp_path)
    assert "no figures: matplotlib is not installed here" in capsys.readouterr().out
    assert not (tmp_path / "figures").exists() and not (tmp_path / "benchmarks").exists()


def test_a_reference_can_be_kept_of_a_bench_run_as_it_is(finished: Path, configs: list[Path], tmp_path: Path) -> None:
    arguments = ["--results", finished, "--name", "tiny", "--out", tmp_path, "--command", "python -m xdiff.bench two.yaml"]
    reference.main([*map(str, arguments), "--config", *map(str, configs)])
    found = json.loads((tmp_path / "tiny/provenance.json").read_text())
    assert {row["rule"] for row in found["ledger"]} == set(RULES) and list(found["data"]) == ["gaussian-field/field16"]
    assert sum(row["seconds"] for row in found["ledger"]) > 0.1
    assert (tmp_path / "tiny/figures/psnr_vs_k.png").is_file() and (tmp_path / "tiny/tables/main.md").is_file()


def test_a_training_in_pieces_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: list[Path]) -> None:
    planned = next(
        t for t in bench.tasks(load_config(configs), tmp_path, None) if t.name == "train linear@gaussian-field field16"
    )
    # where a network that methods share is trained: beside the folder of the method
    checkpoint, steps = tmp_path / "models/gaussian-field/field16/network-0c19.checkpoints/last.pt", []

    def training() -> None:
        steps.append("step")
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(" ".join(steps))
        if len(steps) < 3:
            raise OutOfTime(f"step {len(steps)} of 3")

    monkeypatch.setattr(bench, "tasks", lambda *_: iter([planned._replace(call=training)]))
    ends = [bench.run(load_config(configs), tmp_path, None, 9.0) for _ in range(3)]
    assert ends == [False, False, True]
    table = pd.read_csv(tmp_path / "benchmarks/train/gaussian-field/field16/linear.tsv", sep="\t")
    assert len(table) == 3 and read_ledger(tmp_path / "benchmarks")["seconds"].item() == pytest.approx(table["s"].sum())
