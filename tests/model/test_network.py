"""The section network: what it is before training, and the preconditioning round it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Prepared

from xdiff.model.diffusion import loss, make_condition
from xdiff.model.network import SectionNetwork, condition_channels, preconditioning
from xdiff.observation import observe
from xdiff.planes import Plane


def inputs(contrasts: int, h: int, w: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(batch, contrasts, h, w, generator=generator)
    return noisy, torch.randn(batch, condition_channels(contrasts), h, w, generator=generator)


@pytest.mark.parametrize(("h", "w"), [(24, 18), (19, 13), (5, 7)])
def test_untrained_network_is_the_wiener_estimate(h: int, w: int) -> None:
    network = SectionNetwork(2, (8, 16, 16)).eval()
    noisy, condition = inputs(2, h, w)
    t = torch.tensor([0.0, 0.4, 1.0])
    with torch.no_grad():
        out = network(noisy, t, condition)
    skip = torch.tensor([1.0, 0.6 / (0.6**2 + 0.4**2), 0.0])[:, None, None, None]
    assert out.shape == noisy.shape
    torch.testing.assert_close(out, skip * noisy)
    assert not out[2].any()


def test_preconditioning_is_the_best_linear_estimate_of_unit_noise() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 400_000))
    for t in (0.1, 0.5, 0.9):
        state = (1 - t) * clean + t * noise
        skip, out = (float(v) for v in preconditioning(torch.tensor([t])))
        assert skip == pytest.approx(np.mean(clean * state) / np.mean(state**2), abs=0.01)
        assert out == pytest.approx(np.std(clean - skip * state), abs=0.01)


def test_condition_has_the_channels_that_the_network_expects(heads: Prepared) -> None:
    store = heads.store
    volume = store.volume(store.subjects[0])
    observation = observe(volume, [Plane(2, 9), Plane(2, 14)], store.contrasts, (2.0, 2.0, 2.0), store.frame)
    condition = make_condition(observation, volume)
    for axis, (h, w) in enumerate([(28, 22), (24, 22), (24, 28)]):
        sections = condition.sections(axis)
        assert sections.shape == (store.shape[axis], condition_channels(2), h, w)
        assert [float(sections[:, c].unique().item()) for c in (-3, -2, -1)] == [float(axis == a) for a in range(3)]
    maps = condition.sections(2)
    np.testing.assert_array_equal(maps[9, :2], observation.sections[0])  # evidence
    np.testing.assert_array_equal(maps[:, 2:4].movedim(0, -1), volume)  # gaussian
    assert [i for i in range(22) if maps[i, 4].any()] == [9, 14]  # mask
    assert float(maps[12, 5, 0, 0]) == pytest.approx(2 * 2.0 / 40)  # distance
    # position in 100 mm from the middle: right, anterior, superior
    assert maps[0, 6:9, -1, 0].tolist() == pytest.approx([0.23, -0.27, -0.21])


def test_loss_of_a_perfect_answer_is_zero_and_of_none_is_one() -> None:
    """A network that returns the target itself, and the untrained one on residuals of unit variance."""
    residual = torch.randn(64, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    condition = torch.zeros(64, condition_channels(1), 24, 24)

    class Oracle(SectionNetwork):
        def raw(self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            skip, out = preconditioning(t)
            return (residual - skip * noisy) / out

    assert loss(Oracle(1, (8, 16)), residual, condition, torch.Generator().manual_seed(0)).item() < 1e-8
    untrained = loss(SectionNetwork(1, (8, 16)), residual, condition, torch.Generator().manual_seed(0)).item()
    assert untrained == pytest.approx(1.0, abs=0.03)


def test_loss_depends_on_its_generator_alone() -> None:
    residual, condition = inputs(1, 16, 16, batch=8)
    torch.manual_seed(5)
    network = SectionNetwork(1, (8, 16))
    torch.nn.init.normal_(network.unet.out[-1].conv.weight, std=0.1)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(values))  # the global state must not matter
        values.append(loss(network, residual, condition, torch.Generator().manual_seed(seed)).item())
    assert values[0] == values[1] != values[2]


def test_share_of_draws_at_the_end_sees_no_state() -> None:
    """At t = 1 the network is shown zeros; share_mean = 1 makes every draw such a one."""
    residual, condition = inputs(1, 16, 16, batch=8)
    shown = []

    class Spy(SectionNetwork):
        def raw(self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            shown.append((noisy, t))
            return super().raw(noisy, t, condition)

    network = Spy(1, (8, 16))
    value = loss(network, residual, condition, torch.Generator().manual_seed(0), share_mean=1.0)
    noisy, t = shown[0]
    assert (t == 1).all() and not noisy.any()
    torch.testing.assert_close(value, (residual**2).mean())
    loss(network, residual, condition, torch.Generator().manual_seed(0), share_mean=0.0)
    noisy, t = shown[1]
    assert ((t > 0) & (t < 1)).all() and noisy.flatten(1).any(dim=1).all()
