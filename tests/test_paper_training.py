"""Training of the paper's estimate: fresh pairs, targets that are not the given slice, a null condition that is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared
from torch import Tensor, nn

from baselines.paper_assembly import VIEWS, SliceAssembly
from baselines.paper_network import PaperSettings, Slice, pose_size
from baselines.paper_training import Batch, NoisePrediction, limits_of, make_problem, targets
from xdiff.loop import Trainer
from xdiff.planes import Plane

SETTINGS = PaperSettings(channels=(8, 16), sections=4, validate_subjects=1, seed=4)


@pytest.fixture(scope="module")
def problem(heads: Prepared, tmp_path_factory: pytest.TempPathFactory) -> NoisePrediction:
    return make_problem(
        heads.store, heads.split, plain_core(heads.store, heads.split), SETTINGS, tmp_path_factory.mktemp("problem")
    )


class Perfect(nn.Module):
    """Knows the clean sections of a batch, and where it is shown nothing says no noise; counts both."""

    def __init__(self, problem: NoisePrediction, batch: Batch) -> None:
        super().__init__()
        self.problem, self.clean = problem, batch.clean
        self.one, self.nulls = nn.Parameter(torch.ones(())), 0

    def section(self, slabs: Tensor, t: Tensor, maps: Tensor, context: None) -> Tensor:
        state, step = slabs[:, : self.clean.shape[1]], (1000 * t).round().long()
        alpha, sigma = (level[step][:, None, None, None] for level in (self.problem.alpha, self.problem.sigma))
        null = ~maps.flatten(1).any(dim=1)
        assert not slabs[null, self.clean.shape[1] :].any()  # no slice beside a null pose
        self.nulls += int(null.sum())
        return self.one * (state - alpha * self.clean) / sigma


def test_a_batch_is_a_function_of_seed_and_step(problem: NoisePrediction) -> None:
    first = [problem.batch(step) for step in (0, 1)]
    again = [problem.batch(step) for step in (1, 0)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.clean.shape == one.slices.shape == (8, 2, 28, 28) and one.poses.shape == (8, pose_size(2))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(first[0].clean, first[1].clean)


def test_sections_of_a_volume_share_its_slice_and_differ_in_pose(problem: NoisePrediction) -> None:
    batch = problem.batch(3)
    for rows in (slice(0, 4), slice(4, 8)):
        assert torch.equal(batch.slices[rows], batch.slices[rows][:1].expand(4, -1, -1, -1))
        assert len(batch.poses[rows].unique(dim=0)) > 1
    assert batch.clean.min() >= -1.01 and batch.clean.max() > 0  # intensities of 0 to about 1, moved


def test_noise_that_is_known_costs_nothing(problem: NoisePrediction) -> None:
    batch = problem.batch(0)
    network = Perfect(problem, batch)
    assert problem.loss(network, batch, torch.Generator().manual_seed(0)).item() == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        network.one.zero_()
    assert problem.loss(network, batch, torch.Generator().manual_seed(0)).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5])
def test_the_null_condition_is_trained_as_often_as_is_said(
    problem: NoisePrediction, monkeypatch: pytest.MonkeyPatch, drop: float
) -> None:
    monkeypatch.setattr(problem, "settings", replace(SETTINGS, drop=drop))
    batch = problem.batch(0)
    network = Perfect(problem, batch)
    with torch.no_grad():
        for step in range(100):
            problem.loss(network, batch, torch.Generator().manual_seed(step))
    assert network.nulls / 800 == pytest.approx(drop, abs=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_targets_are_all_sections_with_foreground_but_the_given_one(axis: int) -> None:
    shape, foreground = (10, 14, 8), np.zeros((10, 14, 8), bool)
    foreground[2:8, 3:11, 3:7] = True
    inside = {0: range(0, 10), 1: range(1, 13), 2: range(1, 8)}
    given = Slice(Plane(axis, 4), np.zeros((1, 2, 2), np.float32), np.ones(1, bool), shape, (2.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    for turn in VIEWS:
        found, shown = set(targets(given, foreground, turn, 400, rng).tolist()), turn.perm[axis]
        expected = {shape[shown] - 1 - i if turn.flip[axis] else i for i in inside[shown]}
        expected -= {turn.plane(given.plane, shape).index} if shown == axis else set()
        assert found == expected


def test_limits_are_those_of_the_training_volumes(heads: Prepared) -> None:
    subjects = heads.split.side("train")
    values = np.concatenate([heads.store.volume(s).ravel() for s in subjects])
    np.testing.assert_array_equal(limits_of(heads.store, subjects), [values.min(), values.max()])


def test_untrained_network_scores_zero_and_its_draws_are_compared_with_the_gaussian_row(problem: NoisePrediction) -> None:
    score, scores = problem.validate(Trainer(problem, problem.settings).average)
    assert score == pytest.approx(0, abs=1e-3)
    assert set(scores) == {"validation", "training"} and set(scores["validation"]) == {1}
    assert scores["validation"][1]["psnr"] < scores["validation"][1]["gaussian"]


def test_a_better_denoiser_scores_higher(problem: NoisePrediction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem.checks, "cases", [])
    monkeypatch.setattr(problem, "held_out_loss", lambda network: 0.1 * problem.untrained_loss)
    assert problem.validate(problem.network) == (pytest.approx(10), {})


def test_assembly_does_not_decide_about_the_weights() -> None:
    other = replace(SETTINGS, assembly=SliceAssembly(solver="ddpm", views=3, guidance=3.0, merge="mean", paste=False))
    assert other.trained == SETTINGS.trained != replace(SETTINGS, drop=0.2).trained


def test_settings_reach_the_draws_as_slices_of_array_axes(problem: NoisePrediction, tmp_path: Path) -> None:
    for seed in range(30):
        given, truth, foreground = problem.draws.one(np.random.default_rng(seed))
        assert isinstance(given.plane, Plane) and truth.shape[1:] == foreground.shape == given.shape
        if given.plane.thin and given.carried.all():
            np.testing.assert_allclose(given.plane.cut(truth), given.pixels, atol=1e-6)
