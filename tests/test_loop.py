"""The training loop on a problem of five weights: schedule, averaging, early stop, resuming, and what it tells."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from xdiff import loop
from xdiff.budget import OutOfTime, time_budget
from xdiff.loop import LoopSettings, Scores, Trainer, fit

SETTINGS = LoopSettings(steps=12, learning_rate=0.05, weight_decay=0.01, ema=0.9, validate_every=4, patience=0, seed=3)
WANTED = torch.tensor([1.0, -2.0, 0.5, 3.0])
UNTRAINED, GAINS = -1.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.8]


class Line:
    """Four slopes and an offset from noisy points. gains: what the checks find, else the true fit; delay_s: of a batch."""

    def __init__(self, gains: Iterable[float] | None = None, delay_s: float = 0.0) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = nn.Linear(4, 1)
        self.gains = None if gains is None else iter(gains)
        self.delay_s = delay_s
        self.asked: list[int] = []
        self.seen: list[dict[str, Tensor]] = []

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append(step)
        time.sleep(self.delay_s)
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return x, x @ WANTED[:, None]

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        x, y = batch
        device = next(network.parameters()).device
        noise = 0.1 * torch.randn(y.shape, generator=generator)  # so that a wrong generator shows in the weights
        return ((network(x.to(device)) - (y + noise).to(device)) ** 2).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        self.seen.append({k: v.clone() for k, v in network.state_dict().items()})
        gain = -float(((network.weight.detach().cpu() - WANTED) ** 2).sum()) if self.gains is None else next(self.gains)
        scores = {"validation": {k: {"psnr": base + gain, "gaussian": base} for k, base in ((1, 15.0), (5, 17.0))}}
        return np.float64(gain), scores


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a)


def history(folder: Path) -> list[dict]:
    """The records of checks made in training, without that of the untrained network."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [record for record in records if record["step"] > 0]


def state(folder: Path) -> Trainer:
    """What the checkpoint of a folder holds."""
    trainer = Trainer(Line(), SETTINGS)
    trainer.resume(folder / "checkpoint.safetensors")
    return trainer


# The steps ----------------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_then_falls_like_a_cosine() -> None:
    problem = Line()
    trainer = Trainer(problem, replace(SETTINGS, steps=200))
    rates = []
    for step in range(200):
        trainer.update(problem.batch(step))
        rates.append(trainer.optimiser.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.05 / 20) and rates[9] == pytest.approx(0.05 / 2, rel=0.01)
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert rates[50] == pytest.approx(0.05 * (2 + 2**0.5) / 4) and rates[100] == pytest.approx(0.025)  # cosines of 45, 90 degrees
    assert 0 < rates[199] < 1e-5


def test_average_follows_its_formula() -> None:
    problem = Line()
    trainer = Trainer(problem, SETTINGS)
    expected = problem.network.weight.detach().double().clone()
    for step in range(12):
        trainer.update(problem.batch(step))
        # of the first ten steps a mean, in which no step counts for more than a few; afterwards a decay of 0.9
        decay = min(0.9, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * trainer.network.weight.detach().double()
        torch.testing.assert_close(trainer.average.weight.double(), expected, atol=1e-5, rtol=0)
    assert not torch.equal(trainer.average.weight, trainer.network.weight)


def test_every_step_has_noise_of_its_own(tmp_path: Path) -> None:
    class Noted(Line):
        def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
            seeds.append(generator.initial_seed())
            return super().loss(network, batch, generator)

    runs = []
    for seed in (3, 3, 4):
        seeds: list[int] = []
        fit(Noted(), replace(SETTINGS, seed=seed), tmp_path / str(len(runs)))
        runs.append(seeds)
    assert runs[0] == runs[1] and len(set(runs[0])) == 12 and not set(runs[0]) & set(runs[2])


def test_training_finds_the_line(tmp_path: Path) -> None:
    problem = Line()
    best = fit(problem, replace(SETTINGS, steps=150, validate_every=50), tmp_path)
    torch.testing.assert_close(best["weight"][0].cpu(), WANTED, atol=0.2, rtol=0)
    assert [r["step"] for r in history(tmp_path)] == [50, 100, 150]
    assert history(tmp_path)[-1]["loss"] < 0.1 * history(tmp_path)[0]["loss"]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    class Broken(Line):
        def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
            value = super().loss(network, batch, generator)
            if not self.broken(batch):
                return value
            # the square root of zero is finite and its slope is not
            return value * float("nan") if poison == "loss" else value + (0 * network.weight).abs().sum().sqrt()

        def broken(self, batch: tuple[Tensor, Tensor]) -> bool:
            return torch.equal(batch[0], Line.batch(self, 6)[0])

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    problem = Broken()
    with pytest.raises(FloatingPointError, match="at step 7, expected finite ones; the last checkpoint is kept"):
        fit(problem, SETTINGS, tmp_path)
    kept = state(tmp_path)
    assert kept.step == 6
    assert all(torch.isfinite(v).all() for v in problem.network.state_dict().values())
    assert same(problem.network.state_dict(), kept.network.state_dict())


# Checks and stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gains", "best"),
    [([-1, 0.1, 0.5, 0.3], 2), ([-1, -0.5, -0.9, -0.1], 3), ([0, -0.1, -0.5, -0.4], 0), ([0, 0.2, 0.2, 0.1], 2)],
    ids=["rises and falls", "negative", "only harms", "equal"],
)
def test_weights_of_the_best_check_are_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gains: list[float], best: int
) -> None:
    """Of the untrained network at step 0 and of three checks."""
    problem = Line(gains)
    returned = fit(problem, SETTINGS, tmp_path)
    assert same(returned, problem.seen[best])
    assert not any(same(returned, other) for i, other in enumerate(problem.seen) if i != best)
    assert f"best at step {4 * best}: validation score {gains[best]:+.3f} dB" in capsys.readouterr().out
    assert [r["step"] for r in history(tmp_path)] == [4, 8, 12]
    assert max((r["step"] for r in history(tmp_path) if r["best"]), default=0) == 4 * best


def test_without_a_score_the_last_check_is_kept(tmp_path: Path) -> None:
    problem = Line([0.0, 0.0, 0.0, 0.0])
    assert same(fit(problem, SETTINGS, tmp_path), problem.seen[-1])


def test_a_last_check_is_made_where_the_steps_end_between_two(tmp_path: Path) -> None:
    fit(Line(), replace(SETTINGS, steps=10), tmp_path)
    assert [r["step"] for r in history(tmp_path)] == [4, 8, 10]


def test_patience_stops_after_so_many_checks_without_a_better_one(tmp_path: Path) -> None:
    patient = replace(SETTINGS, steps=24, patience=2)
    problem = Line([UNTRAINED, *GAINS])
    assert same(fit(problem, patient, tmp_path), problem.seen[2])
    assert [r["step"] for r in history(tmp_path)] == [4, 8, 12, 16]
    again = Line([])  # a stopped training is not trained further
    assert same(fit(again, patient, tmp_path), problem.seen[2])
    assert again.seen == [] and state(tmp_path).step == 16


def test_patience_counts_across_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = replace(SETTINGS, steps=24, patience=2)
    with monkeypatch.context() as patch:
        left = iter([1.0] * 12 + [0.0])  # time for the third check, the first without a better one, and one step more
        patch.setattr(loop, "time_left_s", lambda: next(left))
        with pytest.raises(OutOfTime, match="step 13 of 24"):
            fit(Line([UNTRAINED, *GAINS]), patient, tmp_path)
    fit(Line(GAINS[3:]), patient, tmp_path)
    assert [r["step"] for r in history(tmp_path)] == [4, 8, 12, 16]
    assert [r["best"] for r in history(tmp_path)] == [True, True, False, False]


def test_patience_zero_never_stops(tmp_path: Path) -> None:
    fit(Line([UNTRAINED, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), replace(SETTINGS, steps=24), tmp_path)
    assert len(history(tmp_path)) == 6


# Going on -----------------------------------------------------------------------------------------------------------


def test_a_killed_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step; the eighth one is never written."""
    whole = fit(Line(), SETTINGS, tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    save = Trainer.save

    def killed(self: Trainer, path: Path) -> None:
        if self.step == 8:
            raise KeyboardInterrupt
        save(self, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", killed)
        fit(Line(), SETTINGS, tmp_path / "killed")
    problem = Line()
    assert same(fit(problem, SETTINGS, tmp_path / "killed"), whole)
    assert problem.asked == list(range(7, 12))
    ends = [state(tmp_path / name) for name in ("whole", "killed")]
    assert [t.step for t in ends] == [12, 12]
    # not only the best weights: network, average and the optimiser's moments at the end are the same too
    for part in ("network", "average"):
        assert same(*(getattr(t, part).state_dict() for t in ends))
    moments = [t.optimiser.state_dict()["state"] for t in ends]
    assert set(moments[0]) == {0, 1} and all(same(moments[0][i], moments[1][i]) for i in (0, 1))
    assert (ends[0].best_step, ends[0].best_score) == (ends[1].best_step, ends[1].best_score)


def test_a_finished_training_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    first = fit(Line(), SETTINGS, tmp_path)
    problem = Line()
    assert same(fit(problem, SETTINGS, tmp_path), first)
    assert problem.asked == [] and problem.seen == []


def test_many_small_budgets_end_where_one_training_does(tmp_path: Path) -> None:
    """A spent budget still allows one step, so that any budget gets on."""
    whole = fit(Line(), SETTINGS, tmp_path / "whole")
    stops = []
    for _ in range(11):
        with pytest.raises(OutOfTime) as stop, time_budget(0):
            fit(Line(), SETTINGS, tmp_path / "pieces")
        stops.append(str(stop.value))
        assert state(tmp_path / "pieces").step == len(stops)
    assert stops[0] == "step 1 of 12" and stops[-1] == "step 11 of 12"
    with time_budget(0):
        assert same(fit(Line(), SETTINGS, tmp_path / "pieces"), whole)
    assert state(tmp_path / "pieces").step == 12
    whole_checks, checks = history(tmp_path / "whole"), history(tmp_path / "pieces")
    assert [(r["step"], r["validation"]) for r in checks] == [(r["step"], r["validation"]) for r in whole_checks]


def test_seconds_add_up_over_resumptions(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(OutOfTime), time_budget(0):
            fit(Line(), SETTINGS, tmp_path)
    before = state(tmp_path).seconds
    fit(Line(), SETTINGS, tmp_path)
    assert 0 < before < state(tmp_path).seconds


def test_a_checkpoint_that_could_not_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    problem = Line()
    trainer = Trainer(problem, SETTINGS)
    trainer.update(problem.batch(0))
    trainer.save(path)
    before = path.read_bytes()
    trainer.update(problem.batch(1))

    def disk_full(tensors: dict, file: Path, metadata: dict) -> None:
        Path(file).write_bytes(before[: len(before) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(loop, "save_file", disk_full)
        trainer.save(path)
    assert path.read_bytes() == before and state(tmp_path).step == 1
    trainer.save(path)
    assert state(tmp_path).step == 2 and [p.name for p in tmp_path.iterdir()] == [path.name]


# Data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 7, 10, 12])
def test_batches_come_in_order_from_where_training_stopped(first: int) -> None:
    problem = Line()
    batches = [batch for batch, _ in loop._batches(problem, first, 12)]
    assert problem.asked == list(range(first, 12)) and len(batches) == 12 - first
    for step, (x, _) in zip(range(first, 12), batches, strict=True):
        assert torch.equal(x, problem.batch(step)[0])


def test_batches_are_prepared_ahead_in_another_thread() -> None:
    threads = set()

    class Noted(Line):
        def batch(self, step: int) -> tuple[Tensor, Tensor]:
            threads.add(threading.current_thread())
            return super().batch(step)

    problem = Noted()
    batches = loop._batches(problem, 0, 12)
    next(batches)
    deadline = time.monotonic() + 10
    while len(problem.asked) < 1 + loop.AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert problem.asked == list(range(1 + loop.AHEAD))  # and not further: memory is finite
    assert threading.main_thread() not in threads
    batches.close()


def test_an_error_while_a_batch_is_made_ends_the_training(tmp_path: Path) -> None:
    class Broken(Line):
        def batch(self, step: int) -> tuple[Tensor, Tensor]:
            if step == 5:
                raise ValueError("volume of sub-05 is empty")
            return super().batch(step)

    with pytest.raises(ValueError, match="sub-05 is empty"):
        fit(Broken(), SETTINGS, tmp_path)


def test_share_of_waiting_is_measured(tmp_path: Path) -> None:
    fit(Line(delay_s=0.02), replace(SETTINGS, validate_every=12), tmp_path / "slow data")

    class SlowNetwork(Line):
        def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
            time.sleep(0.03)
            return super().loss(network, batch, generator)

    fit(SlowNetwork(), replace(SETTINGS, validate_every=12), tmp_path / "slow network")
    assert history(tmp_path / "slow data")[0]["waiting"] > 0.6
    assert history(tmp_path / "slow network")[0]["waiting"] < 0.2


# What it tells ------------------------------------------------------------------------------------------------------


def test_history_has_one_record_per_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Line([UNTRAINED, *GAINS]), SETTINGS, tmp_path)
    records = history(tmp_path)
    assert all(set(r) == {"step", "seconds", "learning_rate", "score", "best", "validation", "loss", "waiting"} for r in records)
    assert [r["score"] for r in records] == GAINS[:3]
    assert [r["step"] for r in records] == [4, 8, 12] and [r["best"] for r in records] == [True, True, False]
    assert records[1]["validation"] == {"1": {"psnr": 15.5, "gaussian": 15.0}, "5": {"psnr": 17.5, "gaussian": 17.0}}
    assert all(r["loss"] > 0 and 0 <= r["waiting"] <= 1 for r in records)
    seconds = [r["seconds"] for r in records]
    assert seconds == sorted(seconds)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines[1:] == records  # in the log as well
    assert lines[0]["step"] == 0 and lines[0]["score"] == UNTRAINED and lines[0]["loss"] > 0


def test_loss_of_a_record_is_the_mean_since_the_check_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: (losses.append(update(self, batch)), losses[-1])[1])
    fit(Line(), SETTINGS, tmp_path)
    assert [r["loss"] for r in history(tmp_path)] == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)], abs=1e-5)


def test_event_files_are_readable_and_hold_no_step_twice_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Trainer.update

    def killed(self: Trainer, batch: object) -> float:
        if self.step == 7:
            raise KeyboardInterrupt
        return update(self, batch)

    save = Trainer.save
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", killed)
        patch.setattr(Trainer, "save", lambda self, path: save(self, path) if self.step <= 5 else None)
        fit(Line([UNTRAINED, *GAINS]), SETTINGS, tmp_path)
    assert state(tmp_path).step == 5  # steps 6 and 7 are lost, their losses were written
    fit(Line(GAINS[1:]), SETTINGS, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "gain_db/validation/K1", "gain_db/validation/K5"}
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
    gains = [(event.step, round(event.value, 4)) for event in events.Scalars("gain_db/validation/K5")]
    assert gains == [(0, -1.0), (4, 0.1), (8, 0.5), (12, 0.4)]


def test_training_goes_on_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(Line(), SETTINGS, tmp_path)
    assert "no TensorBoard event files" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()


def test_progress_bar_tells_rate_time_left_loss_and_waiting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = r"\[\d\d:\d\d<\d\d:\d\d, +[\d.]+(step/s|s/step), loss \d+\.\d{3}, waiting for data \d+\.\d%\]"
    with pytest.raises(OutOfTime), time_budget(0):
        fit(Line(), SETTINGS, tmp_path)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"8%\|.*\| 1/12 " + left, bar), bar
    fit(Line(), SETTINGS, tmp_path)
    bars = capsys.readouterr().err.split("\r")
    assert "| 1/12 " in bars[1]  # goes on where it stopped
    assert re.search(r"100%\|.*\| 12/12 " + left, bars[-1]), bars[-1]
