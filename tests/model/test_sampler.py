"""The sampler with networks whose answer is known: axes, projection, counting, rotations, and the steps from noise to a draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from answers import (
    KNOWN,
    SHAPE,
    SPACING,
    Known,
    condition_of,
    denoiser,
    knows_estimate,
    noise,
    noise_of_size,
    observed,
    random_network,
)

from xdiff.model import sampler
from xdiff.model.diffusion import Condition, map_channels
from xdiff.model.network import Network
from xdiff.observation import Observation
from xdiff.planes import Plane
from xdiff.rotations import CubeRotation, cube_rotations


@pytest.fixture(scope="module")
def condition() -> Condition:
    return condition_of(*observed([Plane(2, 5), Plane(0, 11)]))


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network()


# One estimate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1.0, 0.5])
def test_sections_of_all_axes_are_put_back_where_they_were_cut(condition: Condition, t: float) -> None:
    known, knowing = condition.maps[KNOWN : KNOWN + 1], denoiser(Known(knows_estimate), condition)
    linear, added = sampler.axis_estimates(knowing, noise(), t)
    torch.testing.assert_close(linear + added, known.expand(3, *known.shape), atol=1e-5, rtol=0)
    fused = sampler.denoised(knowing, noise(), t)
    expected = torch.where(condition.known, 0.0, known)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axes", [(0,), (2,), (1, 0)])
def test_estimates_of_some_axes_are_those_of_all(network: Network, condition: Condition, axes: tuple[int, ...]) -> None:
    linear, added = sampler.axis_estimates(denoiser(network, condition), noise(), 0.5)
    again, some = sampler.axis_estimates(denoiser(network, condition), noise(), 0.5, axes)
    assert torch.equal(linear, again)
    torch.testing.assert_close(some, added[list(axes)])


def test_an_untrained_network_estimates_nothing_of_noise_and_the_wiener_estimate_afterwards(condition: Condition) -> None:
    untrained = Network(1, map_channels(1), (8, 16), (8, 16), features=4).eval()
    blank = denoiser(untrained, condition)
    assert not sampler.mean_residual(blank)[0].any()
    expected = torch.where(condition.known, 0.0, 0.6 / (0.6**2 + 0.4**2) * noise())
    torch.testing.assert_close(sampler.denoised(blank, noise(), 0.4), expected)


def test_trunk_has_a_say(network: Network, condition: Condition) -> None:
    with_trunk, _ = sampler.mean_residual(denoiser(network, condition))
    weights = {k: v.clone() for k, v in network.trunk.state_dict().items()}
    try:
        torch.nn.init.zeros_(network.trunk.unet.out[-1].conv.weight)
        without, _ = sampler.mean_residual(denoiser(network, condition))
    finally:
        network.trunk.load_state_dict(weights)
    assert (with_trunk - without).std() > 0.01


# From noise to a draw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 50, 1000])
def test_times_fall_from_one_to_zero(steps: int) -> None:
    grid = sampler.times(steps)
    assert len(grid) == steps + 1 and grid[0] == 1.0 and grid[-1] == 0.0
    assert all(a > b for a, b in zip(grid[:-1], grid[1:], strict=True))
    if steps > 2:
        sigma = [t / (1 - t) for t in grid[1:-1]]
        assert (sigma[0], sigma[-1]) == pytest.approx((80.0, 0.03))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="0 steps, expected at least 1"):
        sampler.times(0)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_network_that_knows_the_answer_gives_it_in_any_number_of_steps(condition: Condition, steps: int) -> None:
    sample, evaluations = sampler.sample_residual(denoiser(Known(knows_estimate), condition), noise(), steps)
    torch.testing.assert_close(sample, torch.where(condition.known, 0.0, condition.maps[KNOWN : KNOWN + 1]), atol=1e-4, rtol=0)
    assert evaluations == steps * sum(SHAPE)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_exact_denoiser_of_white_noise_draws_white_noise(condition: Condition, size: float) -> None:
    """Its flow must end in the variance that the denoiser knows, at many steps; one step is the mean."""
    deviations = {}
    for steps in (1, 4, 80):
        sample, _ = sampler.sample_residual(denoiser(Known(noise_of_size(size)), condition), noise(), steps)
        deviations[steps] = sample[~condition.known].std().item()
        assert not sample[condition.known].any()
    assert deviations[1] == 0
    assert deviations[4] < deviations[80] == pytest.approx(size, rel=0.06)


def test_mean_and_one_step_agree(network: Network, condition: Condition) -> None:
    mean, evaluations = sampler.mean_residual(denoiser(network, condition))
    one, _ = sampler.sample_residual(denoiser(network, condition), noise(), 1)
    torch.testing.assert_close(one, mean)
    assert evaluations == sum(SHAPE) and mean.std() > 0.01


def test_state_is_hidden_at_the_start_and_shown_afterwards(condition: Condition) -> None:
    shown: dict[float, bool] = {}

    def spy(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        shown[round(float(t[0]), 6)] = bool(state.any())
        return torch.zeros_like(state)

    sampler.sample_residual(denoiser(Known(spy), condition), noise(), 4)
    assert shown == {round(t, 6): t < 1 for t in sampler.times(4)[:-1]}


def test_result_does_not_depend_on_the_batch(network: Network, condition: Condition, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, section = [], Network.section

    def counted(self: Network, slabs: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(slabs))
        return section(self, slabs, *rest)

    monkeypatch.setattr(Network, "section", counted)
    results = {}
    for pixels in (5 * 480, 10**6):
        monkeypatch.setattr(sampler, "PIXELS", pixels)
        sizes.clear()
        results[pixels], evaluations = sampler.sample_residual(denoiser(network, condition), noise(), 2)
        areas = [int(np.prod(SHAPE)) // n for n in SHAPE]
        assert max(sizes) == max(min(n, pixels // area) for n, area in zip(SHAPE, areas, strict=True))
        assert sum(sizes) == evaluations == 2 * sum(SHAPE)
    torch.testing.assert_close(results[5 * 480], results[10**6], atol=1e-4, rtol=0)


def test_a_section_larger_than_a_batch_is_a_batch(
    network: Network, condition: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = sampler.mean_residual(denoiser(network, condition))
    monkeypatch.setattr(sampler, "PIXELS", 10)
    torch.testing.assert_close(sampler.mean_residual(denoiser(network, condition))[0], expected, atol=1e-4, rtol=0)


def test_noise_decides_the_draw(network: Network, condition: Condition) -> None:
    first, same, other = (sampler.sample_residual(denoiser(network, condition), noise(s), 3)[0] for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert (first - other)[~condition.known].std() > 0.1


# The 24 orientations ------------------------------------------------------------------------------------------------


def turned(rotation: CubeRotation, observation: Observation) -> Observation:
    """What would have been given of the rotated volume."""
    planes = tuple(rotation.plane(plane, SHAPE) for plane in observation.planes)
    pairs = zip(observation.sections, observation.planes, strict=True)
    sections = tuple(np.ascontiguousarray(rotation.section(section, plane)) for section, plane in pairs)
    shape, spacing = (tuple(values[p] for p in rotation.perm) for values in (SHAPE, SPACING))
    return Observation(planes, sections, observation.contrasts, shape, spacing, observation.scale, observation.frame)


def whole(rotation: CubeRotation, volume: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rotation.volume(volume))


class Pointwise(Known):
    """Equivariant by construction: of every voxel's maps but the position, its state and both neighbours' alike."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(map_channels(1) - 21, generator=generator)

    def section(self, slabs: torch.Tensor, t: torch.Tensor, maps: torch.Tensor, *_: None) -> torch.Tensor:
        seen = (maps[:, : len(self.weights)] * self.weights[:, None, None]).sum(dim=1, keepdim=True)
        return torch.tanh(seen + slabs[:, 2:3]) * torch.cos(slabs[:, :1] + slabs[:, 4:5]) * (1 + t[:, None, None, None])


@pytest.mark.parametrize("rotation", list(cube_rotations()), ids=str)
@pytest.mark.parametrize("planes", [[Plane(2, 5), Plane(2, 12)], [Plane(2, 5), Plane(0, 11)]], ids=["axial", "crossing"])
def test_sampling_commutes_with_the_rotations_of_the_cube(rotation: CubeRotation, planes: list[Plane]) -> None:
    observation, known = observed(planes)
    straight, _ = sampler.sample_residual(denoiser(Pointwise(), condition_of(observation, known)), noise(), 4)
    condition = condition_of(turned(rotation, observation), whole(rotation, known))
    found, _ = sampler.sample_residual(denoiser(Pointwise(), condition), torch.from_numpy(whole(rotation, noise().numpy())), 4)
    # the three axes are added up in another order
    np.testing.assert_allclose(found, whole(rotation, straight.numpy()), atol=1e-4)
    assert straight[~condition_of(observation, known).known].std() > 0.1
