"""Schedules of a training, by steps and by the clock, and when it is checked. The clock is one that a test moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lines import SETTINGS, Line, history, on_cpu, same, state  # noqa: F401
from torch import Tensor, nn

from xdiff import loop
from xdiff.budget import OutOfTime, time_budget
from xdiff.errors import InputError
from xdiff.loop import LoopSettings, Scores, Trainer, fit

MINUTE = replace(SETTINGS, steps=100, minutes=1.0, checks=4)  # 60 of its steps, where one takes a second


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The loop's clock; a checkpoint only where a budget is spent."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", math.inf)
    return clock


class Timed(Line):
    """A step takes a second, a check 100 s."""

    def __init__(self, clock: SimpleNamespace, step_s: float = 1.0) -> None:
        super().__init__()
        self.clock, self.step_s = clock, step_s

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: object) -> Tensor:
        self.clock.now += self.step_s
        return super().loss(network, batch, generator)

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        self.clock.now += 100
        return super().validate(network)


def rates_of(problem: Line, settings: LoopSettings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    rates: list[float] = []
    update = Trainer.update

    def noted(self: Trainer, batch: object) -> float | None:
        value = update(self, batch)
        rates.append(self.optimiser.param_groups[0]["lr"])
        return value

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", noted)
        fit(problem, settings, folder)
    return rates


# By the clock -------------------------------------------------------------------------------------------------------


def test_rate_is_a_cosine_of_the_minutes(tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = rates_of(Timed(clock), MINUTE, tmp_path, monkeypatch)
    rise = [min(1, (step + 1) / 10) for step in range(60)]
    assert rates == pytest.approx([0.05 * r * 0.5 * (1 + math.cos(math.pi * s / 60)) for s, r in enumerate(rise)])
    assert state(tmp_path).step == 60 and state(tmp_path).seconds == 60


def test_slow_steps_are_fewer_and_the_rate_falls_as_far(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = rates_of(Timed(clock, step_s=2.0), MINUTE, tmp_path, monkeypatch)
    assert len(rates) == 30 and rates[15] == pytest.approx(0.025) and rates[-1] < 0.01 * 0.05


def test_steps_are_an_upper_bound_at_which_the_rate_has_fallen(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = rates_of(Timed(clock), replace(MINUTE, steps=40), tmp_path, monkeypatch)
    assert len(rates) == 40 and rates[20] == pytest.approx(0.025) and rates[-1] < 0.01 * 0.05
    assert [r["step"] for r in history(tmp_path)] == [10, 20, 30, 40]


def test_checks_do_not_eat_the_minutes_and_their_time_is_told(tmp_path: Path, clock: SimpleNamespace) -> None:
    fit(Timed(clock), MINUTE, tmp_path)
    records = history(tmp_path)
    assert [(r["step"], r["seconds"]) for r in records] == [(15, 15.0), (30, 30.0), (45, 45.0), (60, 60.0)]
    assert [r["check_seconds"] for r in records] == [200.0, 300.0, 400.0, 500.0]  # with that of the untrained network
    assert [r["steps_per_s"] for r in records] == [1.0] * 4


def test_waits_for_data_count(tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = loop.batches

    def late(*arguments: object) -> Iterator[tuple[object, float]]:
        yield from ((batch, 0.5) for batch, _ in batches(*arguments))

    monkeypatch.setattr(loop, "batches", late)
    fit(Timed(clock), MINUTE, tmp_path)
    assert state(tmp_path).step == 40 and history(tmp_path)[0]["steps_per_s"] == pytest.approx(2 / 3, abs=1e-3)


def test_pieces_end_where_one_training_does(tmp_path: Path, clock: SimpleNamespace) -> None:
    whole = fit(Timed(clock), MINUTE, tmp_path / "whole")
    stops = []
    for _ in range(59):
        with pytest.raises(OutOfTime) as stop, time_budget(0):
            fit(Timed(clock), MINUTE, tmp_path / "pieces")
        stops.append(str(stop.value))
    assert stops[0] == "step 1 of 100, minute 0.0 of 1" and stops[-1] == "step 59 of 100, minute 1.0 of 1"
    with time_budget(0):
        assert same(fit(Timed(clock), MINUTE, tmp_path / "pieces"), whole)
    ends = [state(tmp_path / name) for name in ("whole", "pieces")]
    assert same(*(t.network.state_dict() for t in ends)) and ends[1].seconds == 60
    told = [[(r["step"], r["seconds"], r["validation"]) for r in history(tmp_path / name)] for name in ("whole", "pieces")]
    assert told[0] == told[1]


def test_spent_minutes_are_not_trained_further(tmp_path: Path, clock: SimpleNamespace) -> None:
    first = fit(Timed(clock), MINUTE, tmp_path)
    problem = Timed(clock)
    assert same(fit(problem, MINUTE, tmp_path), first)
    assert problem.asked == [] and problem.seen == []


def test_the_last_check_is_not_lost_where_waiting_for_the_device_spends_the_minutes(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget ends at step 50, and what is still queued then takes the ten seconds that were left."""
    left = iter([1.0] * 49 + [0.0])
    monkeypatch.setattr(loop, "time_left_s", lambda: next(left))
    flush = Trainer.flush

    def slow(self: Trainer) -> None:
        flush(self)
        self.seconds += 10.0 * (self.step == 50 and self.seconds < 60)

    monkeypatch.setattr(Trainer, "flush", slow)
    fit(Timed(clock), MINUTE, tmp_path)
    assert [r["step"] for r in history(tmp_path)] == [15, 30, 45, 50]


def test_the_bar_counts_seconds_and_names_the_step(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(Timed(clock), MINUTE, tmp_path)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "| 60/60 " in bar and "step 60, loss" in bar


# Checks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "checks", "expected"),
    [(12, 3, [4, 8, 12]), (10, 4, [3, 5, 8, 10]), (12, 1, [12]), (3, 12, [1, 2, 3]), (100, 100, list(range(1, 101)))],
)
def test_checks_are_at_equal_shares_of_the_steps(
    tmp_path: Path, clock: SimpleNamespace, steps: int, checks: int, expected: list[int]
) -> None:
    fit(Timed(clock), replace(SETTINGS, steps=steps, checks=checks), tmp_path)
    assert [r["step"] for r in history(tmp_path)] == expected


def test_without_shares_checks_are_every_so_many_steps_also_by_the_clock(tmp_path: Path, clock: SimpleNamespace) -> None:
    fit(Timed(clock), replace(MINUTE, checks=0, validate_every=25), tmp_path)
    assert [r["step"] for r in history(tmp_path)] == [25, 50, 60]


@pytest.mark.parametrize("settings", [replace(SETTINGS, steps=0), replace(MINUTE, steps=0)], ids=["steps", "clock"])
def test_no_steps_leave_the_untrained_network(tmp_path: Path, clock: SimpleNamespace, settings: LoopSettings) -> None:
    problem = Timed(clock)
    before = {k: v.clone() for k, v in problem.network.state_dict().items()}
    assert same(fit(problem, settings, tmp_path), before)
    assert same(fit(problem, settings, tmp_path), before) and history(tmp_path) == []


@pytest.mark.parametrize("name", ["minutes", "checks"])
def test_less_than_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"params\.{name}: found -1, expected 0 \(not used\) or more"):
        LoopSettings(**{name: -1})
