"""What is diffused, and what the network is shown: residual units, conditioning maps, the training loss.

x_0 = G + s r_0 with G the linear-Gaussian estimate and s the standard deviation of its leave-one-out residual;
r_t = (1 - t) r_0 + t noise, so that t = 1 is pure noise (terminal signal-to-noise ratio zero, 2305.08891). There the noise
says nothing and the network is shown zeros instead: with plain L2 its output there estimates E[section | condition].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xdiff.model.network import SectionNetwork, preconditioning
from xdiff.observation import Observation
from xdiff.planes import stack

DISTANCE_UNIT_MM = 40.0
POSITION_UNIT_MM = 100.0


@dataclass(frozen=True)
class Condition:
    """Everything that depends on the observation alone, computed once per volume: `maps` (channels, X, Y, Z), `gaussian`
    (C, X, Y, Z) and `mask` (X, Y, Z) bool, all on the device."""

    maps: Tensor
    gaussian: Tensor
    mask: Tensor

    def sections(self, axis: int, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, condition_channels, h, w) for sections `rows` along an axis."""
        chosen = stack(self.maps, axis)[rows]
        one_hot = torch.zeros(chosen.shape[0], 3, *chosen.shape[2:], device=chosen.device)
        one_hot[:, axis] = 1
        return torch.cat([chosen, one_hot], dim=1)


def make_condition(observation: Observation, gaussian: np.ndarray, device: torch.device | str = "cpu") -> Condition:
    """Conditioning maps of one observation: evidence, gaussian, mask, distance, position."""
    mask = observation.mask
    maps = np.concatenate(
        [
            observation.evidence,
            gaussian,
            mask[None].astype(np.float32),
            np.minimum(observation.distance_mm, 4 * DISTANCE_UNIT_MM)[None] / DISTANCE_UNIT_MM,
            position(observation),
        ]
    )
    tensors = (torch.from_numpy(np.ascontiguousarray(a)) for a in (maps.astype(np.float32), gaussian, mask))
    return Condition(*(t.to(device) for t in tensors))


def position(observation: Observation) -> np.ndarray:
    """(3, X, Y, Z) float32: millimetres from the middle of the array, over 100."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * mm / POSITION_UNIT_MM
        for n, mm in zip(observation.shape, observation.spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def loss(
    network: SectionNetwork, residual: Tensor, condition: Tensor, generator: torch.Generator, share_mean: float = 0.3
) -> Tensor:
    """Mean squared error of the preconditioned target over a batch of residual sections (B, C, h, w) in units of s.

    `share_mean` of the draws are at t = 1 with the state zeroed: plain L2, the estimate of the mean.
    """
    batch = residual.shape[0]
    t = 0.01 + 0.98 * torch.rand(batch, generator=generator)
    t = torch.where(torch.rand(batch, generator=generator) < share_mean, torch.ones(batch), t).to(residual.device)
    noise = torch.randn(residual.shape, generator=generator).to(residual.device)
    at_end = (t == 1)[:, None, None, None]
    mixed = (1 - t)[:, None, None, None] * residual + t[:, None, None, None] * noise
    noisy = torch.where(at_end, torch.zeros_like(mixed), mixed)
    skip, out = preconditioning(t)
    target = (residual - skip * noisy) / out
    return ((network.raw(noisy, t, condition) - target) ** 2).mean()
