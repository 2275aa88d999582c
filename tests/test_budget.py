"""Budgets of wall-clock time: the clock, and what `--budget` of train and bench do with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import probe_methods
import pytest
from conftest import REPOSITORY, Prepared

from xdiff import bench, budget
from xdiff.bench import Task
from xdiff.budget import OutOfTime, time_budget, time_left_s
from xdiff.config import load_config
from xdiff.train import UNFINISHED, main


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at 1000 s until a test moves `now`."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(budget, "time", clock)
    return clock


def test_without_a_budget_time_is_endless() -> None:
    assert time_left_s() == math.inf
    with time_budget(math.inf):
        assert time_left_s() == math.inf


def test_minutes_count_down_to_zero_and_no_further(clock: SimpleNamespace) -> None:
    with time_budget(1.5):
        assert time_left_s() == 90.0
        clock.now += 60
        assert time_left_s() == 30.0
        clock.now += 60
        assert time_left_s() == 0.0
    assert time_left_s() == math.inf


@pytest.mark.parametrize(("inner_min", "expected_s"), [(0.5, 30.0), (5.0, 60.0)])
def test_the_sooner_of_two_budgets_counts(clock: SimpleNamespace, inner_min: float, expected_s: float) -> None:
    with time_budget(1.0):
        with time_budget(inner_min):
            assert time_left_s() == expected_s
        assert time_left_s() == 60.0


def test_a_budget_ends_with_its_block_also_when_that_fails() -> None:
    with pytest.raises(OutOfTime), time_budget(1.0):
        raise OutOfTime
    assert time_left_s() == math.inf


def arguments(cohort: Prepared, out: Path, *more: str) -> list[str]:
    entry = json.dumps({"module": "probe_methods", "params": {}})
    named = {"--method": "probe", "--entry": entry, "--data": cohort.store.folder, "--split": cohort.split_file, "--out": out}
    return [str(part) for pair in named.items() for part in pair] + list(more)


def test_a_training_out_of_time_exits_with_75_and_the_same_command_goes_on(
    field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(store: object, split: object, params: dict, workdir: Path) -> dict:
        assert time_left_s() == pytest.approx(30, abs=5)
        (workdir / "began").touch()
        raise OutOfTime("step 3 of 9")

    with monkeypatch.context() as patch:
        patch.setattr(probe_methods, "train", train)
        with pytest.raises(SystemExit) as stopped:
            main(arguments(field, tmp_path / "probe", "--budget", "0.5"))
    assert stopped.value.code == UNFINISHED == 75
    assert capsys.readouterr().out == (
        "probe: budget of 0.5 min spent at step 3 of 9, checkpoint written; the same command goes on\n"
    )
    assert not (tmp_path / "probe").exists()  # no weights folder that a rule would take for finished
    main(arguments(field, tmp_path / "probe", "--budget", "0.5"))
    assert (tmp_path / "probe/weights.safetensors").exists()
    assert list((tmp_path / "probe.checkpoints").glob("*/began"))  # in the folder of the first attempt
    assert "starting clean" not in capsys.readouterr().out


def test_help_says_what_a_spent_budget_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--budget MINUTES" in text and "exit status 75; the same command goes on" in text


def test_bench_hands_its_budget_to_a_training_and_stops_where_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def training() -> None:
        assert time_left_s() == pytest.approx(120, abs=5)
        raise OutOfTime("step 3 of 9")

    plan = [Task("split", lambda: done.append("split")), Task("train u", training), Task("sample", lambda: done.append("x"))]
    monkeypatch.setattr(bench, "tasks", lambda *_: iter(plan))
    assert bench.run(load_config([REPOSITORY / "config.yaml"]), tmp_path, None, 2.0) is False
    assert done == ["split"]
    assert capsys.readouterr().out.endswith(
        "bench: budget of 2 min spent in 'train u' at step 3 of 9; the same command goes on\n"
    )
    assert time_left_s() == math.inf


def test_bench_starts_no_task_after_its_budget(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def long() -> None:
        clock.now += 61
        done.append("long")

    plan = [Task("long", long), Task("next", lambda: done.append("next"))]
    monkeypatch.setattr(bench, "tasks", lambda *_: iter(plan))
    config = load_config([REPOSITORY / "config.yaml"])
    assert bench.run(config, tmp_path, None, 1.0) is False
    assert done == ["long"]
    assert "bench: budget of 1 min spent before 'next'; the same command goes on" in capsys.readouterr().out
    assert bench.run(config, tmp_path, None, 2.0) is True
    assert done == ["long", "long", "next"]
