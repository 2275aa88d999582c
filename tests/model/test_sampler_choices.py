"""The sampler's choices: fitted weights of the axes, independent states, a warm start, the solver, where it is projected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from answers import KNOWN, SHAPE, Known, condition_of, denoiser, knows_estimate, noise, noise_of_size, observed, random_network

from xdiff.errors import InputError
from xdiff.model import sampler
from xdiff.model.diffusion import Condition
from xdiff.model.network import Network
from xdiff.model.sampler import CHOICES, Denoiser, Fusion, SamplerSettings
from xdiff.planes import Plane


@pytest.fixture(scope="module")
def condition() -> Condition:
    return condition_of(*observed([Plane(2, 5), Plane(0, 11)]))


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network()


# Weights of the axes ------------------------------------------------------------------------------------------------

WEIGHTS = np.array([[0.9, 0.1], [0.4, 0.2], [0.2, 0.5]])
FUSION = Fusion(np.array([1.0, 0.75, 0.5]), np.zeros(1), WEIGHTS[:, None])


def axis_number(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    return maps[:, -3:-2] + 10 * maps[:, -2:-1] + 100 * maps[:, -1:]


@pytest.mark.parametrize(("axis", "expected"), [(None, 111 / 3), (0, 0.2 + 55), (1, 0.5 + 2 + 50), (2, 5.5 + 20)])
def test_three_axes_count_equally_or_as_they_are_weighted(condition: Condition, axis: int | None, expected: float) -> None:
    """What the network adds; at t = 0.5 FUSION gives the own axis 0.2 and the others 0.5 each."""
    numbers = denoiser(Known(axis_number), condition, axis, sampler.UNIFORM if axis is None else FUSION)
    linear, _ = sampler.axis_estimates(numbers, noise(), 0.5)
    fused = sampler.denoised(numbers, noise(), 0.5)
    assert not fused[condition.known].any()
    weights = [1 / 3] * 3 if axis is None else [0.2 if a == axis else 0.5 for a in range(3)]
    wanted = (1 - sum(weights)) * linear + expected
    torch.testing.assert_close(fused[~condition.known], wanted[~condition.known], atol=1e-3, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_weights_go_from_noise_level_to_noise_level(axis: int) -> None:
    """Own and other axes at the fitted times, and in the middle of the logarithm of two of them; beyond the last, the last's."""

    def own_and_other(t: float) -> list[float]:
        weights = FUSION.at(t, axis)
        others = [weights[a].item() for a in range(3) if a != axis]
        assert others[0] == others[1]
        return [weights[axis].item(), others[0]]

    for t, expected in zip(FUSION.times, WEIGHTS, strict=True):
        assert own_and_other(float(t)) == pytest.approx(expected)
    sigma = np.sqrt(3.0 * 1.0)  # t = 0.75 is sigma 3, t = 0.5 is sigma 1
    assert own_and_other(sigma / (1 + sigma)) == pytest.approx([0.3, 0.35])
    assert own_and_other(0.1) == pytest.approx([0.2, 0.5])
    steps = [own_and_other(t)[0] for t in (0.9999, 0.99, 0.9, 0.8)]
    assert 0.9 > steps[0] > steps[1] > steps[2] > steps[3] > 0.4


def test_weights_go_from_openness_to_openness(network: Network, condition: Condition) -> None:
    """At the fitted levels and in the middle of two of them; beyond, those of the last; and a denoiser asks for its own."""
    fusion = Fusion(np.array([1.0, 0.5]), np.array([1.0, 3.0]), np.stack([WEIGHTS[:2], WEIGHTS[1:]]))
    for openness, own in ((1.0, 0.9), (2.0, 0.65), (3.0, 0.4), (0.0, 0.9), (4.0, 0.4)):
        assert fusion.at(1.0, 1, openness)[1].item() == pytest.approx(own)
    assert fusion.at(0.5, 0, 2.0).tolist() == pytest.approx([0.3, 0.35, 0.35])
    plain = denoiser(network, condition, 2, fusion)
    linear, added = sampler.axis_estimates(plain, noise(), 1.0)
    expected = linear + 0.65 * added[2] + 0.15 * (added[0] + added[1])
    found = sampler.denoised(plain._replace(openness=2.0), noise(), 1.0, project=False)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_sections_of_no_common_axis_get_the_average_weight() -> None:
    assert FUSION.at(0.75, None).tolist() == pytest.approx([0.8 / 3] * 3)
    assert sampler.UNIFORM.at(0.3, 1).tolist() == sampler.UNIFORM.at(1.0, None).tolist() == pytest.approx([1 / 3] * 3)


def test_fusion_changes_what_is_estimated_at_every_time(network: Network, condition: Condition) -> None:
    for t in (1.0, 0.75, 0.5):
        plain, weighted = denoiser(network, condition, 2), denoiser(network, condition, 2, FUSION)
        linear, added = sampler.axis_estimates(plain, noise(), t)
        own, other = WEIGHTS[FUSION.times.tolist().index(t)]
        expected = linear + own * added[2] + other * (added[0] + added[1])
        found = sampler.denoised(weighted, noise(), t, project=False)
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)
        assert (found - sampler.denoised(plain, noise(), t, project=False)).std() > 1e-3


# What is left out in ablations --------------------------------------------------------------------------------------

EVERY = [SamplerSettings(**{name: choice}) for name, choices in CHOICES.items() for choice in choices[1:]]
EVERY += [SamplerSettings(), SamplerSettings(noise="independent", projection="end", start="warm", solver="ddim")]


def start_of(settings: SamplerSettings, seed: int = 0) -> torch.Tensor:
    return noise(seed, 3) if settings.noise == "independent" else noise(seed)


@pytest.mark.parametrize("name", CHOICES)
def test_another_choice_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"params.sampler.{name}: found 'other', expected one of"):
        SamplerSettings(**{name: "other"})
    assert getattr(SamplerSettings(), name) == CHOICES[name][0]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_every_choice_ends_with_the_given_voxels_exact_and_as_many_evaluations(
    network: Network, condition: Condition, settings: SamplerSettings, steps: int
) -> None:
    drawn, evaluations = sampler.sample_residual(denoiser(network, condition), start_of(settings), steps, settings)
    assert drawn.shape == (1, *SHAPE) and not drawn[condition.known].any()
    assert drawn[~condition.known].std() > 0.01 and evaluations == steps * sum(SHAPE)
    again, _ = sampler.sample_residual(denoiser(network, condition), start_of(settings), steps, settings)
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_a_network_that_knows_the_answer_gives_it_whatever_the_choice(condition: Condition, settings: SamplerSettings) -> None:
    drawn, _ = sampler.sample_residual(denoiser(Known(knows_estimate), condition), start_of(settings), 6, settings)
    torch.testing.assert_close(drawn, torch.where(condition.known, 0.0, condition.maps[KNOWN : KNOWN + 1]), atol=1e-4, rtol=0)


def test_independent_states_that_start_alike_are_one_state(network: Network, condition: Condition) -> None:
    alike, independent = noise().expand(3, -1, -1, -1, -1).contiguous(), SamplerSettings(noise="independent")
    shared, _ = sampler.sample_residual(denoiser(network, condition), noise(), 4)
    found, _ = sampler.sample_residual(denoiser(network, condition), alike, 4, independent)
    torch.testing.assert_close(found, shared, atol=1e-4, rtol=1e-4)


def test_independent_noise_averages_out_and_leaves_less_of_it(condition: Condition) -> None:
    """The exact denoiser of white noise of unit variance: of three states that share nothing a third of each gets through."""
    deviations = {}
    for settings in (SamplerSettings(), SamplerSettings(noise="independent")):
        white = denoiser(Known(noise_of_size(1.0)), condition)
        drawn, _ = sampler.sample_residual(white, start_of(settings), 40, settings)
        deviations[settings.noise] = drawn[~condition.known].std().item()
    assert deviations["independent"] < 0.8 * deviations["shared"]


def test_every_axis_sees_its_own_state(condition: Condition) -> None:
    """The states hold 1, 2 and 3: each reaches the sections of its own axis alone."""
    seen: dict[int, set[float]] = {}

    def spy(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        axis = int(maps[0, -3:, 0, 0].argmax())
        seen.setdefault(axis, set()).update(state.mul(10).round().div(10).unique().tolist())
        return torch.zeros_like(state)

    states = torch.arange(1.0, 4).reshape(3, 1, 1, 1, 1).expand(3, 1, *SHAPE)
    sampler.denoised(denoiser(Known(spy), condition), states, 0.5)
    assert seen == {0: {1.0}, 1: {2.0}, 2: {3.0}}


def spied(
    condition: Condition, settings: SamplerSettings, steps: int, project_to: float = 0.5
) -> list[tuple[float, torch.Tensor]]:
    """Times and states that the calls of a sampling see; the network answers with `project_to` everywhere."""
    seen: list[tuple[float, torch.Tensor]] = []
    estimate = sampler.denoised

    def spy(one: Denoiser, state: torch.Tensor, t: float, project: bool = True) -> torch.Tensor:
        seen.append((t, state.clone()))
        return estimate(one, state, t, project)

    def constant(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        return torch.full_like(state, 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "denoised", spy)
        sampler.sample_residual(denoiser(Known(constant), condition), start_of(settings), steps, settings)
    return seen


def test_a_warm_start_goes_on_from_the_mean_with_its_noise(condition: Condition) -> None:
    (first, start), (second, state), *rest = spied(condition, SamplerSettings(start="warm"), 5)
    assert first == 1.0 and torch.equal(start, noise())
    assert second / (1 - second) == pytest.approx(sampler.WARM_SIGMA) and len(rest) == 3
    mean = torch.where(condition.known, 0.0, torch.tensor(0.5))
    torch.testing.assert_close(state, second * noise() + (1 - second) * mean, atol=1e-5, rtol=0)
    assert rest[-1][0] / (1 - rest[-1][0]) == pytest.approx(sampler.SIGMA_MIN)
    cold = spied(condition, SamplerSettings(), 5)
    assert cold[1][0] / (1 - cold[1][0]) == pytest.approx(sampler.SIGMA_MAX)


def test_projection_at_the_end_leaves_the_given_voxels_to_the_network_until_then(condition: Condition) -> None:
    """Of the last state a share t is noise and the rest what was answered: 0 at the given voxels, or the network's 0.5."""
    for projection, level in (("every_step", 0.0), ("end", 0.5)):
        t, state = spied(condition, SamplerSettings(projection=projection), 12)[-1]
        answered = (state - t * noise()) / (1 - t)
        torch.testing.assert_close(answered, torch.where(condition.known, level, torch.tensor(0.5)), atol=1e-3, rtol=0)


def test_ddim_goes_straight_to_what_is_estimated(condition: Condition) -> None:
    """Against the formula: x_s = s / t x + ((1 - s) - s (1 - t) / t) D(x, t), and not so with the second-order solver."""
    white, settings = denoiser(Known(noise_of_size(0.7)), condition), SamplerSettings(solver="ddim")
    grid, state = sampler.times(6), noise()
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        clean = torch.zeros_like(state) if t == 1 else state * (1 - t) * 0.49 / ((1 - t) ** 2 * 0.49 + t**2)
        clean = torch.where(condition.known, 0.0, clean)
        state = s / t * state + ((1 - s) - s * (1 - t) / t) * clean
    found, _ = sampler.sample_residual(white, noise(), 6, settings)
    torch.testing.assert_close(found, state, atol=1e-4, rtol=0)
    other, _ = sampler.sample_residual(white, noise(), 6)
    assert (other - found).std() > 1e-2


@pytest.mark.parametrize("steps", [8, 16])
def test_the_second_order_solver_is_nearer_to_the_exact_flow_than_ddim(condition: Condition, steps: int) -> None:
    """Voxels that are independent and N(0, size^2): the flow ends in size times the noise."""
    exact, errors = torch.where(condition.known, 0.0, 0.7 * noise()), {}
    for solver in ("dpm", "ddim"):
        settings = SamplerSettings(solver=solver)
        drawn, _ = sampler.sample_residual(denoiser(Known(noise_of_size(0.7)), condition), noise(), steps, settings)
        errors[solver] = (drawn - exact).std().item()
    assert errors["dpm"] < 0.6 * errors["ddim"]
