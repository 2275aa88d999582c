"""The section network: a 2D U-Net (MONAI) from the noisy residual of a cross-section and its conditioning to the residual."""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

AXIS_CHANNELS = 3
POSITION_CHANNELS = 3


class SectionNetwork(nn.Module):
    """D(r_t, t, c) -> r_0 of sections along any axis.

    r_t: (B, C, h, w) noisy residual in units of its standard deviation; t: (B,) in [0, 1], 1 is pure noise;
    condition: (B, condition_channels(C), h, w). The head is zero at the start, so that an untrained network returns the
    Wiener estimate of a unit-variance residual: at t = 1 exactly 0, the gaussian row.
    """

    def __init__(self, contrasts: int, channels: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.factor = 2 ** (len(channels) - 1)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=contrasts + condition_channels(contrasts),
            out_channels=contrasts,
            channels=channels,
            attention_levels=(False,) * len(channels),
            num_res_blocks=1,
            norm_num_groups=8,
        )

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        skip, out = preconditioning(t)
        return skip * noisy + out * self.raw(noisy, t, condition)

    def raw(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The network inside the preconditioning; its target has about unit variance at every t."""
        h, w = noisy.shape[-2:]
        # r_t has variance (1-t)^2 + t^2: bring it back to one
        scaled = noisy / torch.sqrt((1 - t) ** 2 + t**2)[:, None, None, None]
        padded = functional.pad(torch.cat([scaled, condition], dim=1), (0, -w % self.factor, 0, -h % self.factor))
        return self.unet(padded, timesteps=1000 * t)[..., :h, :w]


def preconditioning(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out (B, 1, 1, 1) of EDM (2206.00364, table 1) for r_t = (1 - t) r_0 + t noise with unit-variance r_0."""
    variance = (1 - t) ** 2 + t**2
    return ((1 - t) / variance)[:, None, None, None], (t / torch.sqrt(variance))[:, None, None, None]


def condition_channels(contrasts: int) -> int:
    """Evidence and gaussian per contrast; mask; distance; position; axis."""
    return 2 * contrasts + 2 + POSITION_CHANNELS + AXIS_CHANNELS
