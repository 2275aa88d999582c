"""The network before training, what it is shown, and the objective round it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Prepared

from xdiff.errors import InputError
from xdiff.local import Estimate
from xdiff.model.diffusion import (
    LOG_SIGMA,
    Batch,
    draw_times,
    loss,
    make_condition,
    map_channels,
    precondition,
    section_maps,
    slabs,
)
from xdiff.model.network import TOKEN_CHANNELS, Network, Tokens, double, halve
from xdiff.model.spectrum import BINS
from xdiff.observation import observe
from xdiff.planes import Plane, stack
from xdiff.view import View

MAPS = map_channels(1)
WHITE = torch.ones(1, BINS)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(trunk: tuple[int, ...] = (8, 16), tokens: int = 0) -> Network:
    """Random numbers in the zero heads too, so that everything has an influence."""
    torch.manual_seed(0)
    network = Network(1, MAPS, (8, 16), trunk, features=4, tokens=tokens).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


# Before training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(24, 18), (19, 13), (5, 7)])
@pytest.mark.parametrize("trunk", [(8, 16), ()], ids=["trunk", "no trunk"])
def test_untrained_network_returns_zero_at_any_size(h: int, w: int, trunk: tuple[int, ...]) -> None:
    network = Network(2, 10, (8, 16, 16), trunk, features=4, slab=1).eval()
    context = torch.cat([torch.zeros(3, 2, h, w), randn(3, 4, h, w)], dim=1) if trunk else None
    with torch.no_grad():
        out = network.section(randn(3, 12, h, w), torch.tensor([0.0, 0.4, 1.0]), randn(3, 13, h, w), context)
    assert out.shape == (3, 2, h, w) and not out.any()


@pytest.mark.parametrize("shape", [(16, 8, 12), (13, 9, 7), (5, 6, 18)], ids=str)
def test_trunk_starts_with_features_and_no_estimate(shape: tuple[int, int, int]) -> None:
    network = Network(2, 10, (8, 16), (8, 16, 16), features=4).eval()
    with torch.no_grad():
        out = network.trunk(randn(1, 4, *shape), torch.tensor([0.5]), randn(1, 10, *shape))
    assert out.shape == (1, 6, *(-(-n // 2) for n in shape))
    assert not out[:, :2].any() and (out[:, 2:].flatten(2).std(dim=2) > 0.01).all()


def test_trunks_own_estimate_is_refined_by_the_sections() -> None:
    network = Network(1, MAPS, (8, 16), (8, 16), features=4).eval()
    context = randn(2, 5, 12, 10)
    with torch.no_grad():
        out = network.section(randn(2, 6, 12, 10), torch.ones(2), randn(2, MAPS + 3, 12, 10), context)
    torch.testing.assert_close(out, context[:, :1])


def test_only_the_trunk_tells_a_section_of_the_state_far_away() -> None:
    """Section 3 with the state changed in sections 9 and beyond: the slab does not reach there."""
    state = randn(1, 2, 16, 12, 10)
    changed = state.clone()
    changed[:, :, 9:] += 1
    maps, rows, t = randn(1, MAPS, 16, 12, 10, seed=1), torch.tensor([3]), torch.tensor([0.5])
    differences = {}
    for trunk in ((8, 16), ()):
        network, found = scrambled(trunk), []
        for one in (state, changed):
            with torch.no_grad():
                context = double(network.trunk(one, t, maps), one.shape[2:])[0] if trunk else None
                around = None if context is None else stack(context, 0)[rows]
                found.append(network.section(slabs(one[0], 0, rows, 1), t, section_maps(maps[0], 0, rows), around))
        differences[bool(trunk)] = (found[0] - found[1]).abs().max().item()
    assert differences[False] == 0 < 1e-4 < differences[True]


# Tokens, an ablation ------------------------------------------------------------------------------------------------


def test_untrained_network_with_tokens_returns_zero_too() -> None:
    network = Network(2, 10, (8, 16), (), tokens=8).eval()
    tokens = network.tokens(randn(3, 10, 12, 14, 9))
    with torch.no_grad():
        out = network.section(randn(3, 12, 14, 9), torch.tensor([0.0, 0.4, 1.0]), randn(3, 13, 14, 9), None, tokens)
    assert out.shape == (3, 2, 14, 9) and not out.any()


def test_tokens_tell_a_section_of_the_conditioning_far_away() -> None:
    """Section 3 with the maps changed in sections 9 and beyond, without a trunk."""
    maps, rows, t = randn(1, MAPS, 16, 12, 10, seed=1), torch.tensor([3]), torch.tensor([0.5])
    changed = maps.clone()
    changed[:, :, 9:] += 1
    slab, differences = slabs(randn(2, 16, 12, 10), 0, rows, 1), {}
    for count in (8, 0):
        network, found = scrambled((), count), []
        for one in (maps, changed):
            with torch.no_grad():
                tokens = network.tokens(one) if count else None
                found.append(network.section(slab, t, section_maps(one[0], 0, rows), None, tokens))
        differences[count] = (found[0] - found[1]).abs().max().item()
    assert differences[0] == 0 < 1e-4 < differences[8]


@pytest.mark.parametrize("count", [1, 8, 27])
def test_tokens_are_projected_means_over_equal_boxes(count: int) -> None:
    torch.manual_seed(0)
    tokens, maps = Tokens(5, count), randn(2, 5, 6, 12, 18)
    side = round(count ** (1 / 3))
    boxes = maps.reshape(2, 5, side, 6 // side, side, 12 // side, side, 18 // side).mean(dim=(3, 5, 7)).flatten(2).transpose(1, 2)
    found = tokens(maps)
    assert found.shape == (2, count, TOKEN_CHANNELS)
    torch.testing.assert_close(found, tokens.projection(boxes))


@pytest.mark.parametrize("count", [2, 9, 26])
def test_a_number_of_tokens_that_is_no_cube_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"params.tokens: found {count}, expected a cube number"):
        Network(1, MAPS, (8, 16), (), tokens=count)


def test_volumes_of_a_batch_keep_their_own_tokens() -> None:
    """A volume whose tokens are computed alone gives the same loss as beside another."""
    network, both = scrambled((), 8), batch(2)
    losses = [loss(network, one, torch.Generator().manual_seed(0)).item() for one in (both, both)]
    assert losses[0] == losses[1]
    twice = Batch(*(torch.cat([x[:1]] * 2) for x in (both.residual, both.weight, both.spectrum, both.maps)), both.axis, both.rows)
    swapped = Batch(*(x.flip(0) for x in (both.residual, both.weight, both.spectrum, both.maps)), both.axis, both.rows)
    assert loss(network, twice, torch.Generator().manual_seed(0)).item() != losses[0]
    assert loss(network, swapped, torch.Generator().manual_seed(0)).item() != losses[0]


# What it is shown ---------------------------------------------------------------------------------------------------


def test_condition_holds_what_the_observation_and_the_estimate_say(heads: Prepared) -> None:
    store, rng = heads.store, np.random.default_rng(0)
    volume = store.volume(store.subjects[0])
    observation = observe(volume, [Plane(2, 9), Plane(2, 14)], store.contrasts, (2.0, 2.0, 2.0), store.frame)
    gaussian, spread, estimate = rng.random((3, *volume.shape), dtype=np.float32)
    wide = (0.2 + rng.random(gaussian.shape)).astype(np.float32)
    wide[:, 0] = 1e-3
    condition = make_condition(View.of(observation), Estimate(*map(torch.from_numpy, (gaussian, spread, estimate, wide))))
    maps = condition.maps.numpy()
    assert maps.shape == (map_channels(2), *store.shape) and maps.dtype == np.float32
    np.testing.assert_array_equal(maps[:2, :, :, 9], observation.sections[0])
    np.testing.assert_array_equal(maps[2:4], estimate)
    np.testing.assert_allclose(maps[4:6], np.minimum(spread / wide, 10), rtol=1e-5)
    middle = (2 * observation.sections[0] + 3 * observation.sections[1]) / 5  # section 12 of 9 and 14
    np.testing.assert_allclose((maps[6:8] * wide + estimate)[:, 1:, :, 12], middle[:, 1:], atol=1e-5)
    inner = estimate[:, 4:7, 4:7, 4:7]
    np.testing.assert_allclose(
        maps[8:10, 5, 5, 5] * wide[:, 5, 5, 5], estimate[:, 5, 5, 5] - inner.mean(axis=(1, 2, 3)), atol=1e-5
    )
    np.testing.assert_allclose(maps[10:12], np.log(wide) + 2.5, rtol=1e-4, atol=1e-5)
    for carried in maps[12:14]:  # mask, of each contrast
        assert np.flatnonzero(carried.any(axis=(0, 1))).tolist() == [9, 14] and set(np.unique(carried)) == {0, 1}
    assert maps[14, 0, 0, 12] == pytest.approx(2 * 2.0 / 40)  # distance
    assert maps[15:18, -1, 0, 0].tolist() == pytest.approx([0.23, -0.27, -0.21])  # 100 mm from the middle: right, back, down
    np.testing.assert_array_equal(condition.known.numpy(), observation.known)


@pytest.mark.parametrize("planes", [[Plane(2, 9), Plane(2, 14)], [Plane(2, 9, 2.5)], [Plane(2, 9), Plane(0, 3)]], ids=str)
def test_a_contrast_that_is_not_given_has_no_evidence_and_no_difference_from_it(heads: Prepared, planes: list[Plane]) -> None:
    store, generator = heads.store, torch.Generator().manual_seed(0)
    known = Estimate(*(0.1 + torch.rand(4, 2, *store.shape, generator=generator)))
    volume, rest = store.volume(store.subjects[0]), (planes, store.contrasts, (2.0,) * 3, store.frame, "none")
    every, one = (make_condition(View.of(observe(volume, *rest, given)), known) for given in (None, ["T2w"]))
    for missing in (0, 6, 12):  # evidence, how far interpolation is from the estimate, mask
        assert not one.maps[missing].any() and every.maps[missing].any()
        assert torch.equal(one.maps[missing + 1], every.maps[missing + 1])
    others = [c for c in range(len(one.maps)) if c not in (0, 6, 12)]
    assert torch.equal(one.maps[others], every.maps[others])
    assert not one.known[0].any() and torch.equal(one.known[1], every.known[1])
    assert every.known.any() == all(p.thin for p in planes)


def test_far_away_distances_are_all_the_same() -> None:
    volume = np.random.default_rng(0).random((1, 8, 8, 60), dtype=np.float32)
    observation = observe(volume, [Plane(2, 0)], ("field",), (4.0, 4.0, 4.0), "centred", "none")
    tensor = torch.from_numpy(volume)
    distance = make_condition(View.of(observation), Estimate(tensor, tensor, tensor, torch.ones_like(tensor))).maps[7, 0, 0]
    assert float(distance[10]) == 1.0 and float(distance[40]) == float(distance[59]) == 4.0


def test_sections_of_the_maps_say_which_axis_they_are_of() -> None:
    maps = randn(5, 6, 7, 8)
    for axis, size in ((0, (7, 8)), (1, (6, 8)), (2, (6, 7))):
        found = section_maps(maps, axis, torch.tensor([3, 0]))
        assert found.shape == (2, 8, *size)
        assert torch.equal(found[0, :5], maps.select(axis + 1, 3)) and torch.equal(found[1, :5], maps.select(axis + 1, 0))
        assert [float(found[:, c].unique().item()) for c in (5, 6, 7)] == [float(axis == a) for a in range(3)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_hold_the_neighbours_and_zero_outside(axis: int) -> None:
    state = randn(2, 6, 7, 8)
    last = state.shape[axis + 1] - 1
    found = slabs(state, axis, torch.tensor([0, 3, last]), 2)
    assert found.shape[:2] == (3, 10)
    for place, row in enumerate((0, 3, last)):
        for part, near in enumerate(range(row - 2, row + 3)):
            expected = state.select(axis + 1, near) if 0 <= near <= last else torch.zeros(())
            assert torch.equal(found[place, 2 * part : 2 * part + 2], expected.expand_as(found[place, :2]))


@pytest.mark.parametrize("shape", [(8, 6, 10), (9, 7, 5)], ids=str)
def test_doubled_voxels_lie_where_halved_ones_came_from(shape: tuple[int, int, int]) -> None:
    ramps = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij"))[None]
    halved = halve(ramps)
    assert halved.shape[2:] == tuple(-(-n // 2) for n in shape)
    assert halved[0, :, 0, 0, 0].tolist() == [0.5, 0.5, 0.5]
    back = double(halved, ramps.shape[2:])
    torch.testing.assert_close(back[..., 1:-2, 1:-2, 1:-2], ramps[..., 1:-2, 1:-2, 1:-2])
    assert back.shape == ramps.shape and (back - ramps).abs().max() <= 0.5


# The objective ------------------------------------------------------------------------------------------------------


def test_preconditioning_of_white_residuals_is_that_of_edm() -> None:
    """2206.00364, table 1: c_skip and c_out for unit variance; the input has unit variance."""
    clean, noise = randn(1, 1, 24, 20, 18), randn(1, 1, 24, 20, 18, seed=1)
    for t in (0.1, 0.5, 0.9):
        state, variance = (1 - t) * clean + t * noise, (1 - t) ** 2 + t**2
        linear, unit, shown = precondition(state, torch.tensor([t]), WHITE)
        torch.testing.assert_close(linear, (1 - t) / variance * state, atol=1e-5, rtol=0)
        assert unit.item() == pytest.approx(t / variance**0.5, rel=1e-4)
        assert (clean - linear).std().item() == pytest.approx(unit.item(), rel=0.03)
        assert shown.shape == (1, 2, 24, 20, 18) and shown[:, :1].std().item() == pytest.approx(1, abs=0.03)
        assert torch.equal(shown[:, 1:], linear)


def test_half_of_the_draws_are_at_the_end_and_the_others_uniform_in_log_sigma() -> None:
    t = draw_times(4000, torch.Generator().manual_seed(0))
    assert t.shape == (8000,) and (t[:4000] == 1).all() and (t[4000:] < 1).all()
    log_sigma = torch.log(t[4000:] / (1 - t[4000:]))
    assert LOG_SIGMA[0] - 1e-3 < log_sigma.min() < LOG_SIGMA[0] + 0.1
    assert LOG_SIGMA[1] - 0.1 < log_sigma.max() < LOG_SIGMA[1] + 1e-3
    assert log_sigma.mean() == pytest.approx(sum(LOG_SIGMA) / 2, abs=0.2)


def batch(volumes: int = 4, axis: int = 1) -> Batch:
    """White residuals of unit variance; the first map is the residual itself, for networks that cheat."""
    residual = randn(volumes, 1, 16, 18, 14)
    maps = torch.cat([residual, randn(volumes, MAPS - 1, 16, 18, 14, seed=1)], dim=1)
    rows = torch.stack([torch.randperm(14, generator=torch.Generator().manual_seed(v))[:6] for v in range(volumes)])
    return Batch(residual, torch.ones_like(residual), WHITE.expand(volumes, 1, BINS), maps, axis, rows)


class Oracle(Network):
    """Answers with the target, which it computes from the first map and the middle of the slab."""

    shown: list[tuple[torch.Tensor, torch.Tensor]]

    def section(self, slabs: torch.Tensor, t: torch.Tensor, maps: torch.Tensor, *_: None) -> torch.Tensor:
        self.shown = [*getattr(self, "shown", []), (slabs, t)]
        unit = (t / torch.sqrt((1 - t) ** 2 + t**2))[:, None, None, None]
        return (maps[:, :1] - slabs[:, 3:4]) / unit


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_loss_of_a_perfect_answer_is_zero(axis: int) -> None:
    """Only where sections, slabs, maps, times and targets of all volumes belong together."""
    oracle = Oracle(1, MAPS, (8, 16), ())
    assert loss(oracle, batch(axis=axis), torch.Generator().manual_seed(0)).item() < 1e-8


def test_loss_of_no_answer_is_one_and_that_of_the_trunk_an_eighth() -> None:
    """White noise of unit variance; the mean of eight voxels has an eighth of it."""
    values = {trunk: [] for trunk in ((), (8, 16))}
    for trunk, found in values.items():
        network = Network(1, MAPS, (8, 16), trunk)
        with torch.no_grad():
            found += [loss(network, batch(), torch.Generator().manual_seed(s)).item() for s in range(4)]
    assert np.mean(values[()]) == pytest.approx(1.0, abs=0.05)
    assert np.mean(np.subtract(values[8, 16], values[()])) == pytest.approx(1 / 8, abs=0.01)


def test_loss_counts_errors_by_their_weight() -> None:
    """Errors of the right half alone, in the sections and in the trunk; twice the weight is twice the loss."""
    network, found = scrambled(), {}
    for left, right in ((1, 1), (0, 1), (1, 0), (2, 2)):
        one = batch()
        one.weight[:, :, :, :, :8], one.weight[:, :, :, :, 8:] = left, right
        found[left, right] = loss(network, one, torch.Generator().manual_seed(0)).item()
    assert found[1, 1] == pytest.approx(found[0, 1] + found[1, 0], rel=1e-4) and 0 < found[0, 1] < found[1, 1]
    assert found[2, 2] == pytest.approx(2 * found[1, 1], rel=1e-4)


def test_loss_depends_on_its_generator_alone() -> None:
    network, values = scrambled(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(values))  # the global state must not matter
        values.append(loss(network, batch(2), torch.Generator().manual_seed(seed)).item())
    assert values[0] == values[1] != values[2]


def test_draws_at_the_end_see_no_state_and_the_others_one_of_unit_variance() -> None:
    oracle = Oracle(1, MAPS, (8, 16), ())
    for seed in range(6):
        loss(oracle, batch(), torch.Generator().manual_seed(seed))
    for state, t in oracle.shown:
        assert (t[:24] == 1).all() and not state[:24].any()
        assert (t[24:] < 1).all() and state[24:, 2].std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("tokens", [0, 8])
def test_gradient_reaches_trunk_sections_and_tokens(tokens: int) -> None:
    network = scrambled(tokens=tokens)
    loss(network, batch(2), torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
