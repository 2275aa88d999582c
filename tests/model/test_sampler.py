"""The sampler with networks whose answer is known: axes, projection, counting, and the steps from noise to a draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from xdiff.model import sampler
from xdiff.model.diffusion import Condition, make_condition
from xdiff.model.network import SectionNetwork
from xdiff.observation import observe
from xdiff.planes import Plane

SHAPE = (20, 24, 18)
Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def condition() -> Condition:
    rng = np.random.default_rng(0)
    volume, gaussian = rng.random((2, 1, *SHAPE), dtype=np.float32)
    observation = observe(volume, [Plane(2, 5), Plane(0, 11)], ("field",), (4.0, 4.0, 4.0), "centred", "none")
    return make_condition(observation, gaussian)


@pytest.fixture(scope="module")
def network() -> SectionNetwork:
    """Random weights, the head too, so that its output depends on everything."""
    torch.manual_seed(0)
    network = SectionNetwork(1, (8, 16)).eval()
    torch.nn.init.normal_(network.unet.out[-1].conv.weight, std=0.3)
    return network


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def returns_gaussian(noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    return condition[:, 1:2]


def test_sections_of_all_axes_are_put_back_where_they_were_cut(condition: Condition) -> None:
    estimate, evaluations = sampler.denoise(returns_gaussian, noise(), 0.5, condition)
    torch.testing.assert_close(estimate, torch.where(condition.mask, 0.0, condition.gaussian))
    assert evaluations == sum(SHAPE)


def test_three_axes_count_equally(condition: Condition) -> None:
    def axis_number(noisy: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return c[:, -3:-2] + 10 * c[:, -2:-1] + 100 * c[:, -1:]

    estimate, _ = sampler.denoise(axis_number, noise(), 0.5, condition)
    torch.testing.assert_close(estimate[:, ~condition.mask], torch.full_like(estimate[:, ~condition.mask], 111 / 3))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_network_that_knows_the_answer_gives_it_in_any_number_of_steps(condition: Condition, steps: int) -> None:
    sample, evaluations = sampler.sample_residual(returns_gaussian, condition, noise(), steps)
    torch.testing.assert_close(sample, torch.where(condition.mask, 0.0, condition.gaussian), atol=1e-5, rtol=0)
    assert evaluations == steps * sum(SHAPE)


def test_exact_denoiser_of_white_noise_draws_white_noise(condition: Condition) -> None:
    """The untrained network is the exact denoiser of N(0, 1) voxels; its flow must keep their variance, at many steps."""
    untrained = SectionNetwork(1, (8, 16)).eval()
    deviations = {}
    for steps in (1, 4, 60):
        sample, _ = sampler.sample_residual(untrained, condition, noise(), steps)
        deviations[steps] = sample[:, ~condition.mask].std().item()
        assert not sample[:, condition.mask].any()
    assert deviations[1] == 0  # one step is the mean
    assert deviations[4] < deviations[60] == pytest.approx(1.0, abs=0.06)


def test_mean_and_one_step_agree(network: SectionNetwork, condition: Condition) -> None:
    mean, evaluations = sampler.mean_residual(network, condition)
    one, _ = sampler.sample_residual(network, condition, noise(), 1)
    torch.testing.assert_close(one, mean)
    assert evaluations == sum(SHAPE) and mean.std() > 0.01


def test_state_is_hidden_at_the_start_and_shown_afterwards(condition: Condition) -> None:
    shown: dict[float, bool] = {}

    def spy(noisy: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shown[round(float(t[0]), 6)] = bool(noisy.any())
        return torch.zeros_like(noisy)

    sampler.sample_residual(spy, condition, noise(), 4)
    assert shown == {1.0: False, 0.75: True, 0.5: True, 0.25: True}


def test_result_does_not_depend_on_the_batch(
    network: SectionNetwork, condition: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(noisy: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        sizes.append(len(noisy))
        return network(noisy, t, c)

    results = {}
    for batch in (5, 64):
        monkeypatch.setattr(sampler, "BATCH", batch)
        sizes.clear()
        results[batch], evaluations = sampler.sample_residual(counted, condition, noise(), 2)
        assert max(sizes) == min(batch, max(SHAPE)) and sum(sizes) == evaluations == 2 * sum(SHAPE)
    torch.testing.assert_close(results[5], results[64], atol=1e-5, rtol=0)


def test_noise_decides_the_draw(network: SectionNetwork, condition: Condition) -> None:
    first, same, other = (sampler.sample_residual(network, condition, noise(s), 3)[0] for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert (first - other)[:, ~condition.mask].std() > 0.1
