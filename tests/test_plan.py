"""Totals of a forecast against small cases worked out by hand, and the command."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PRESETS, Prepared
from plan_costs import CPU, GAUSSIAN, LOCAL, ROWS, configured, lines_of, trained

from xdiff import cli, plan
from xdiff.config import Cohort, Grid, SplitRule
from xdiff.forecast import Forecast, Line
from xdiff.plan import Disk, disk, makespan_s, pieces
from xdiff.plan_text import by_method, duration, groups, remarks, unknown
from xdiff.train import train
from xdiff.unit_costs import Costs, read_costs

# Totals -------------------------------------------------------------------------------------------------------------


def test_lines_run_side_by_side_as_far_as_cores_and_what_they_wait_for_allow() -> None:
    lines = [
        Line("a", "1", seconds=10),
        Line("a", "2", seconds=4),
        Line("b", "", threads=2, seconds=5, after=["a 1"]),
        Line("c", "", seconds=3, after=["a 2"]),
    ]
    assert makespan_s(lines, 1) == 22
    assert makespan_s(lines, 2) == 15
    assert makespan_s(lines, 4) == 15
    with pytest.raises(ValueError, match="wait for lines that are not there"):
        makespan_s([Line("b", "", after=["a"])], 2)


def test_one_gpu_takes_one_line_at_a_time() -> None:
    lines = [Line("a", str(i), seconds=5, asks_gpu=True) for i in range(3)]
    assert makespan_s(lines, 8) == 15
    assert makespan_s(lines, 8, gpus=2) == 10
    assert makespan_s(lines, 2, gpus=8) == 10
    assert makespan_s([replace(line, asks_gpu=False) for line in lines], 8) == 5


def test_thousands_of_lines_take_seconds() -> None:
    """The paper's grid: were every line compared with every other one, it would take minutes."""
    lines = [Line("sample", str(i), seconds=1 + i % 7) for i in range(4000)]
    lines += [Line("evaluate", str(i), seconds=1, after=[f"sample {i}"]) for i in range(4000)]
    start = time.process_time()
    total = sum(line.seconds for line in lines)
    assert total / 64 <= makespan_s(lines, 64) <= total / 64 + 8
    assert time.process_time() - start < 5


def test_who_shares_a_part_waits_for_it_alone() -> None:
    first = Line("train", "x", seconds=10, shared=[("core train x", 4)])
    second = Line("train", "y", seconds=3, after=["core train x"])
    assert makespan_s([first, second], 2) == 10
    assert makespan_s([second, first], 1) == 13


def test_a_training_stops_at_the_end_of_a_piece_and_a_job_goes_on() -> None:
    sample, score = Line("sample", "", seconds=50), Line("evaluate", "", seconds=20)
    assert pieces([Line("train", "", seconds=130)], 60) == (3, 60)
    assert pieces([sample, score, sample], 60) == (2, 70)
    assert pieces([replace(sample, seconds=70), score], 60) == (2, 70)
    assert pieces([Line("train", "", seconds=100), sample], 60) == (2, 90)


def test_disk_by_hand(costs: Costs) -> None:
    forecast = Forecast(configured(GAUSSIAN, {"slices": {"K": [1, 4]}}), costs)
    voxels = 4 * 5 * 12
    store = 10 * (voxels * (4 + 1) + 2 * 128)  # float32 and the foreground
    volumes = 2 * 6 * (352 + 4 * voxels)  # 3 subjects x 2 points, each with its standard deviation
    assert disk(forecast) == Disk(store, 5 * voxels * 4, volumes)


def test_a_preprocessed_store_takes_what_was_said(field: Prepared) -> None:
    cohort = Cohort("gaussian-field", ("field",), norm="none", split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort}, grids={"g": Grid(field.store.shape, 4.0)})
    written = sum(path.stat().st_size for path in (field.store.folder / "volumes").glob("*.npy"))
    assert disk(Forecast(config, Costs([]))).store == written


def test_weights_of_a_training_take_no_more_than_was_said(field: Prepared, tmp_path: Path) -> None:
    entry = configured(trained()).methods["unet"]
    cohort = Cohort("gaussian-field", ("field",), norm="none", split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(trained()), cohorts={"field": cohort}, grids={"g": Grid(field.store.shape, 4.0)})
    config = replace(config, run=replace(config.run, methods=("unet",)))
    small = replace(entry, params={**entry.params, "steps": 1, "validate_every": 1, "volumes": 1})
    train("unet", small, field.store, field.split, tmp_path / "unet")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    most = disk(Forecast(config, Costs([]))).weights
    assert 0.5 * most < written <= most


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.0 s"), (0.04, "< 0.1 s"), (9.96, "10 s"), (59, "59 s"), (59.9, "1.0 min"), (5400, "1.5 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_job_longer_than_its_limit_says_so(table: Callable[..., Path]) -> None:
    rows = [{**r, "median_s": 61} if r["what"] == "fit" else r for r in ROWS]
    config = configured({"gaussian": {**GAUSSIAN["gaussian"], "runtime_min": 1}})
    line = lines_of(config, read_costs([table(rows)]))["train gaussian@field g"]
    assert remarks(line) == "longer than its runtime_min, 1"
    assert remarks(lines_of(config, read_costs([table(ROWS)]))["train gaussian@field g"]) == ""


# The command --------------------------------------------------------------------------------------------------------

CONFIG = """
cohorts:
  field: {layout: gaussian-field, contrasts: [field], foreground: all, norm: none, split: {n_val: 2, n_test: 3},
          generate: {n_subjects: 10, seed: 1, shape: [4, 5, 12], spacing_mm: 4.0}}
grids: {g: {shape: [4, 5, 12], spacing_mm: 4.0}}
methods:
  gaussian: {module: baselines.trivial, params: {kind: gaussian}, mem_mb: 900}
  gaussian_local: {module: baselines.gaussian_local, params: {cases: 24}, mem_mb: 900}
sweeps: {slices: {K: [4]}}
run: {cohorts: [field], grids: [g], methods: [gaussian, gaussian_local], sweeps: [slices]}
"""


def test_the_command_prints_jobs_totals_and_where_costs_are_from(
    table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    path = table([r for r in ROWS if r["module"] != LOCAL])
    cli.main(["plan", "--config", str(tmp_path / "config.yaml"), "--costs", str(path), "--tsv", str(tmp_path / "plan.tsv")])
    out = capsys.readouterr().out
    told = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines() if line}
    found = [" ".join(line.split()) for line in out.splitlines()]
    assert "preprocess 20 s 300 no field g 10 subjects" in found
    assert "train ? 900* no gaussian_local@field g not measured: fit gaussian_local" in found
    assert "sample <= 9.8 s 700 no gaussian@field field g slices 1 points x 3 subjects" in found
    assert told["jobs"] == "jobs 9"
    # 20 preprocess, 7 fit, 9.75 + 1.5, and of gaussian_local 0.75 + 1.5
    assert told["wall time"].endswith("at least 40 s in one process")
    assert told["CPU-hours"] == "CPU-hours at least 0.01 (time x threads)"
    assert told["largest memory"] == "largest memory 900* MiB"
    assert f"costs: {path}: {CPU}, 2026-01-02" in found
    rows = list(csv.DictReader((tmp_path / "plan.tsv").open(), delimiter="\t"))
    assert sum(float(r["seconds"] or 0) for r in rows) == 40.5
    assert [r["missing"] for r in rows if r["complete"] == "False"][:2] == ["generate field", "fit gaussian_local"]


def test_a_summary_has_a_row_per_stage_and_method(
    table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("run: {", "run: {shards: 3, data_shards: 2, "))
    path = table([r for r in ROWS if r["module"] != LOCAL])
    cli.main(["plan", "--config", str(tmp_path / "config.yaml"), "--costs", str(path), "--summary", "--gpus", "2"])
    found = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "preprocess_shard - 2 20 s 10 s no" in found
    assert "sample gaussian 3 <= 9.8 s <= 3.2 s no" in found
    assert "sample gaussian_local 3 >= 0.8 s >= 0.2 s no no cost known: reconstruct" in found
    assert "evaluate - 6 <= 3.0 s <= 0.5 s no" in found
    assert "split - 1 ? ? no no cost known: generate field" in found
    assert "no cost known for all or part of 5 of 19 jobs, so that totals leave it out:" in found
    assert {"generate field 1 job", "fit gaussian_local 1 job", "reconstruct gaussian_local mean 3 jobs"} <= set(found)
    assert any(line.startswith("wall time at least") and "2 cores and 2 GPUs" in line for line in found)


def test_a_summary_tells_what_is_scaled_what_needs_a_gpu_and_counts_ablations_with_their_base(costs: Costs) -> None:
    methods = trained()
    methods["unet-wide"] = {**methods["unet"], "gpu": 1}
    lines = list(lines_of(configured(methods), costs).values())
    rows = {tuple(group[:2]): len(group.lines) for group in groups(lines)}
    assert rows[("train", "unet")] == rows[("sample", "unet")] == 2 and ("train", "unet-wide") not in rows
    assert ("collect", "") not in rows
    told = [" ".join(row.split()) for row in by_method(lines)]
    (unet,) = (row for row in told if row.startswith("train unet "))
    assert unet.endswith("no asks for a GPU, measured on a CPU")
    forecast = Forecast(configured(methods), costs)
    told = plan.text(forecast, plan.Machine(), "", summary=True)
    assert "jobs that ask for a GPU but are counted with what a CPU took, in CPU-hours: 1\n" in told
    assert unknown([Line("collect", "")]) == []


def test_the_command_says_what_would_measure_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "TIMING", tmp_path / "none")
    preset = PRESETS / "smoke.yaml"
    cli.main(["plan", str(preset)])
    out = capsys.readouterr().out
    assert f"python -m xdiff.bench {preset} --timing OUT.tsv" in out
    assert f"costs: none, {tmp_path / 'none'} holds no table" in out


def test_wrong_numbers_end_with_one_message() -> None:
    with pytest.raises(SystemExit, match="--cores, --gpus, --piece: found 0, 1, 10, expected at least one core"):
        cli.main(["plan", "--cores", "0"])
