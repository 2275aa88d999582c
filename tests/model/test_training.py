"""Training: draws that depend on (seed, step) alone, leave-one-out conditioning, resuming, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Prepared, prepare

from xdiff.config import Cohort, Grid, SplitRule
from xdiff.data.gaussian_field import write_gaussian_field
from xdiff.errors import InputError
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import fit, leave_one_out
from xdiff.model import training
from xdiff.model.training import Draws, Settings, Trainer, fit_network
from xdiff.observation import observe
from xdiff.planes import Plane

TINY = Settings(channels=(8, 16), steps=12, batch=4, validate_every=5, validate_k=(1, 3), validate_subjects=1, seed=2)


@pytest.fixture(scope="module")
def gaussian(field: Prepared) -> LinearGaussian:
    return fit(field.store, field.split)


@pytest.fixture
def quick_fit(gaussian: LinearGaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gaussian core fitted once for the file; what is tested here starts after it."""
    monkeypatch.setattr(training, "fit", lambda store, split, max_volumes: gaussian)


def equal(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batch_is_a_function_of_seed_and_step(field: Prepared, gaussian: LinearGaussian) -> None:
    scale = np.ones(1)
    draws = Draws(field.store, gaussian, TINY)
    first = [draws.batch(step, scale) for step in (0, 1, 2)]
    again = Draws(field.store, gaussian, TINY)  # another object, another order
    assert all(equal(again.batch(step, scale), first[step]) for step in (2, 0, 1))
    assert first[0][0].shape[0] == first[0][1].shape[0] == 4
    others = [draws.batch(1, scale), Draws(field.store, gaussian, replace(TINY, seed=3)).batch(0, scale)]
    assert not any(x[0].shape == first[0][0].shape and torch.equal(x[0], first[0][0]) for x in others)


def test_batches_start_where_training_stopped(field: Prepared, gaussian: LinearGaussian) -> None:
    draws, scale = Draws(field.store, gaussian, TINY), np.ones(1)
    whole = list(draws.batches(0, scale))
    assert len(whole) == TINY.steps
    assert all(equal(a, b) for a, b in zip(draws.batches(7, scale), whole[7:], strict=True))
    assert list(draws.batches(TINY.steps, scale)) == []


def test_leave_one_out_gaussian_does_not_know_its_subject(field: Prepared, gaussian: LinearGaussian) -> None:
    """Overwriting the subject's volume and its mirror image changes nothing; overwriting another's does."""
    half = gaussian.n_rows // 2
    for row in (2, half + 2):
        observation = observe(gaussian.rows[row], [Plane(2, 6), Plane(2, 12)], ("field",), (4.0, 4.0, 4.0), "centred", "none")
        kept = leave_one_out(gaussian, row, observation)
        weights = gaussian.weights(gaussian.gram(observation.planes), gaussian.inner(observation), 0.1, gaussian.without(row))
        assert weights[2] == weights[half + 2] == 0 and np.count_nonzero(weights) == gaussian.n_rows - 2
        for overwritten, same in ((2, True), (3, False)):
            rows = gaussian.rows.copy()
            rows[[overwritten, half + overwritten]] = np.random.default_rng(0).random(rows[:2].shape, dtype=np.float32)
            other = LinearGaussian(rows, gaussian.lambdas, gaussian.lengths_mm, gaussian.inflation)
            assert np.allclose(leave_one_out(other, row, observation), kept, atol=1e-5) == same


def test_training_shows_the_leave_one_out_gaussian_of_the_right_row(
    field: Prepared, gaussian: LinearGaussian, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spy(model: LinearGaussian, row: int, observation: object) -> np.ndarray:
        asked.append(row)
        return np.full(model.rows.shape[1:], row, dtype=np.float32)

    monkeypatch.setattr(training, "leave_one_out", spy)
    draws, rng = Draws(field.store, gaussian, TINY), np.random.default_rng(0)
    for _ in range(12):
        truth, shown, observation = draws.one(rng)
        np.testing.assert_array_equal(truth * observation.scale[:, None, None, None], gaussian.rows[asked[-1]])
        assert (shown == asked[-1]).all()
    half = gaussian.n_rows // 2
    assert {row >= half for row in asked} == {True, False} and len(set(asked)) > 5


def test_residual_is_truth_minus_gaussian_in_units_of_the_scale(field: Prepared, gaussian: LinearGaussian) -> None:
    draws = Draws(field.store, gaussian, TINY)
    scale = draws.residual_scale()
    assert scale.shape == (1,) and 0.03 < scale[0] < 0.2  # the field's own standard deviation is 0.12
    residual = np.concatenate([draws.batch(step, scale)[0].numpy().ravel() for step in range(60)])
    assert np.sqrt(np.mean(residual**2)) == pytest.approx(1.0, abs=0.25)
    halved = draws.batch(3, scale / 2)[0]
    torch.testing.assert_close(halved, 2 * draws.batch(3, scale)[0])


def test_training_lowers_the_loss_and_beats_the_gaussian_row(tmp_path: Path) -> None:
    """38 fields to learn from: a stationary field's local structure is what 38 volumes do not span."""
    write_gaussian_field(tmp_path / "raw", n_subjects=44, seed=3, shape=(16, 12, 20), spacing_mm=4.0)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none", split=SplitRule(n_val=4, n_test=2))
    many = prepare(cohort, Grid((16, 12, 20), 4.0), ("gaussian-field", "many"), tmp_path / "raw", tmp_path / "data")
    settings = Settings((8, 16), 240, batch=8, learning_rate=4e-3, ema=0.98, validate_every=60, validate_k=(2, 4))
    tensors = fit_network(many.store, many.split, settings, make(tmp_path / "work"))
    history = [json.loads(line) for line in (tmp_path / "work/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [60, 120, 180, 240]
    assert min(r["loss"] for r in history[1:]) < 0.92 * history[0]["loss"]
    assert all(set(r["gain_db"]) == {"2", "4"} and r["seconds_per_step"] > 0 for r in history)
    assert max(np.mean(list(r["gain_db"].values())) for r in history) > 0.03  # 0.105 dB when this was written
    untrained = Trainer(many.store, settings).network.state_dict()
    moved = {k for k, v in untrained.items() if not np.array_equal(tensors[f"network.{k}"], v.numpy())}
    assert moved == set(untrained)  # what is kept was trained, in every layer
    assert {"rows", "lambdas", "lengths_mm", "inflation", "residual_scale"} <= set(tensors)


@pytest.mark.usefixtures("quick_fit")
def test_killed_training_resumed_gives_the_same_weights(field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step; the eighth one is never written."""
    whole = fit_network(field.store, field.split, TINY, make(tmp_path / "whole"))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    save = Trainer.save

    def killed(self: Trainer, path: Path) -> None:
        if self.step == 8:
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Trainer, "save", killed)
    folder = make(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        fit_network(field.store, field.split, TINY, folder)
    monkeypatch.setattr(Trainer, "save", save)
    steps: list[int] = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, r, c: (steps.append(self.step), update(self, r, c))[1])
    resumed = fit_network(field.store, field.split, TINY, folder)
    assert steps == list(range(7, 12))
    assert_same(resumed, whole)
    steps.clear()
    assert_same(fit_network(field.store, field.split, TINY, folder), whole)
    assert steps == []  # a finished training is read from its checkpoint
    # not only the best weights: the state at the end is the same too
    ends = [Trainer(field.store, TINY) for _ in range(2)]
    for trainer, name in zip(ends, ("whole", "killed"), strict=True):
        trainer.resume(tmp_path / name / "checkpoint.safetensors")
    assert [t.step for t in ends] == [12, 12]
    for part in ("network", "average"):
        states = [getattr(t, part).state_dict() for t in ends]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


@pytest.mark.usefixtures("quick_fit")
def test_training_that_never_helps_keeps_its_best_check_and_says_so(
    field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks, seen = iter([-0.1, -0.5, -0.4, -0.6, -0.7]), []

    def validate(trainer: Trainer, *_: object) -> dict[int, float]:
        seen.append({k: v.clone().numpy() for k, v in trainer.average.state_dict().items()})
        return {1: next(checks)}

    monkeypatch.setattr(training, "validate", validate)
    tensors = fit_network(field.store, field.split, replace(TINY, validate_every=TINY.steps // 3), tmp_path)
    assert len(seen) >= 3
    assert "best validation gain over the gaussian row -0.100 dB" in capsys.readouterr().out
    for name, value in seen[0].items():
        np.testing.assert_array_equal(tensors[f"network.{name}"], value)
    assert any(not np.array_equal(tensors[f"network.{k}"], v) for k, v in seen[-1].items())


def test_validation_of_the_untrained_network_is_zero(field: Prepared, gaussian: LinearGaussian) -> None:
    gains = training.validate(Trainer(field.store, TINY), field.store, field.split, gaussian, np.ones(1))
    assert gains == pytest.approx({1: 0.0, 3: 0.0}, abs=1e-5)


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(InputError, match="methods.*.params: found unknown key 'chanels'"):
        Settings.of({"chanels": [8, 16]})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sections_that_only_graze_the_head_are_not_given_in_training(axis: int) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(21) - 10] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) <= 100
    area = ball.sum(axis=tuple(a for a in range(3) if a != axis))
    kept = training._well_filled(ball, axis).any(axis=tuple(a for a in range(3) if a != axis))
    assert not kept[0] and not kept[-1] and kept[10]
    np.testing.assert_array_equal(kept, area >= 0.2 * area.max())
