"""What tests of the sampler share: networks whose answer is known, one with random weights, and what they are asked about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from xdiff.local import Estimate
from xdiff.model.diffusion import Condition, make_condition, map_channels
from xdiff.model.network import Network
from xdiff.model.sampler import Denoiser
from xdiff.model.spectrum import BINS
from xdiff.observation import Observation, observe
from xdiff.planes import Plane
from xdiff.view import View

WHITE = torch.ones(1, BINS)
SHAPE = (20, 24, 18)
SPACING = (4.1, 3.0, 5.3)  # no voxel is as far from a section of one axis as from one of another: what is nearest is clear
KNOWN = 1  # the map that holds the estimate without a network, of one contrast
Answer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Known:
    """Stands in for a network without a trunk. answer(state, t, maps): its estimate of r_0 (n, 1, h, w)."""

    trunk, tokens, contrasts, slab = None, None, 1, 1

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def section(self, slabs: torch.Tensor, t: torch.Tensor, maps: torch.Tensor, *_: None) -> torch.Tensor:
        size = torch.sqrt((1 - t) ** 2 + t**2)[:, None, None, None]  # of a state of white noise
        state, linear, unit = slabs[:, 2:3] * size, slabs[:, 3:4], t[:, None, None, None] / size
        return (self.answer(state, t, maps) - linear) / unit


def knows_estimate(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    return maps[:, KNOWN : KNOWN + 1]


def noise_of_size(size: float) -> Answer:
    """The exact denoiser of voxels that are independent and N(0, size^2)."""

    def answer(state: torch.Tensor, t: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        t = t[:, None, None, None]
        return state * (1 - t) * size**2 / ((1 - t) ** 2 * size**2 + t**2)

    return answer


def observed(planes: list[Plane]) -> tuple[Observation, np.ndarray]:
    volume, known = np.random.default_rng(0).random((2, 1, *SHAPE), dtype=np.float32)
    return observe(volume, planes, ("field",), SPACING, "centred", "none"), known


def condition_of(observation: Observation, known: np.ndarray) -> Condition:
    estimate = (torch.from_numpy(a) for a in (0 * known, known**2, known, np.full_like(known, 0.1)))
    return make_condition(View.of(observation), Estimate(*estimate))


def denoiser(network: object, condition: Condition, *rest: object) -> Denoiser:
    return Denoiser(network, WHITE, condition, *rest)  # type: ignore[arg-type]


def random_network(tokens: int = 0) -> Network:
    """Random weights, the heads too, so that its output depends on everything."""
    torch.manual_seed(0)
    network = Network(1, map_channels(1), (8, 16), (8, 16), features=4, tokens=tokens).eval()
    for unet in (network.sections, network.trunk.unet):
        torch.nn.init.normal_(unet.out[-1].conv.weight, std=0.1)
    return network


def noise(seed: int = 0, *independent: int) -> torch.Tensor:
    return torch.randn(*independent, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))
