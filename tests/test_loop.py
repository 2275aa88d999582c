"""The training loop on a problem of five weights: its steps, its checks, and its data."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lines import GAINS, SETTINGS, UNTRAINED, WANTED, Line, history, on_cpu, same, state  # noqa: F401
from torch import Tensor, nn

from xdiff import loop
from xdiff.budget import OutOfTime
from xdiff.loop import Trainer, fit

# The steps -----------------------------------------------------------------------------------------------------------


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


def test_weights_are_bit_for_bit_those_of_plain_adamw() -> None:
    """The loop again without anything of it: no clock, no queue, no deferred looks."""
    problem, network = Line(), Line().network
    trainer = Trainer(problem, SETTINGS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.01)
    for step in range(12):
        trainer.update(problem.batch(step))
        optimiser.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 12))  # its rise is of one step
        optimiser.zero_grad()
        problem.loss(network, problem.batch(step), torch.Generator().manual_seed(3 * 1_000_003 + step)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        assert same(trainer.network.state_dict(), network.state_dict()), step


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


# Checks and stopping -------------------------------------------------------------------------------------------------


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


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 7, 10, 12])
def test_batches_come_in_order_from_where_training_stopped(first: int) -> None:
    problem = Line()
    batches = [batch for batch, _ in loop.batches(problem, first, 12)]
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
    batches = loop.batches(problem, 0, 12)
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
