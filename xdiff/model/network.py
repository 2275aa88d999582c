"""The network: a 3D trunk at half resolution that sees the whole state, and a 2D U-Net that draws sections (both MONAI).

The trunk gives every voxel features and a first estimate; the section network refines that estimate section by section at
full resolution, with a slab of the noisy state around it. Without the trunk a section knows nothing of the state around it.
"""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from xdiff.errors import InputError

TOKEN_CHANNELS = 32


class Network(nn.Module):
    """Raw output of the preconditioned denoiser (diffusion.py), per section of any axis.

    contrasts C; maps: channels of the conditioning volumes; features: channels that the trunk hands to the sections; tokens: how
    many summaries of the conditioning the sections attend to (an ablation; a cube number, 0 for none). Both heads are zero at
    the start, so that an untrained network returns 0.
    """

    def __init__(
        self,
        contrasts: int,
        maps: int,
        channels: tuple[int, ...] = (16, 32, 64),
        trunk_channels: tuple[int, ...] = (16, 32, 64),
        features: int = 8,
        slab: int = 1,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        self.contrasts, self.slab = contrasts, slab
        self.trunk = Trunk(contrasts, maps, trunk_channels, features) if trunk_channels else None
        context = features + contrasts if trunk_channels else 0
        self.factor = 2 ** (len(channels) - 1)
        self.tokens = Tokens(maps, tokens) if tokens else None
        inputs = (2 * slab + 1) * 2 * contrasts + maps + 3 + context
        self.sections = unet(2, inputs, contrasts, channels, TOKEN_CHANNELS if tokens else 0)

    def section(self, slabs: Tensor, t: Tensor, maps: Tensor, context: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        """(n, C, h, w) from slabs (n, (2 slab + 1) 2 C, h, w) of the state and its linear estimate, times t (n,), conditioning
        maps (n, maps + 3, h, w), the trunk's context (n, C + features, h, w), whose first C channels are its own estimate, and
        tokens (n, tokens, TOKEN_CHANNELS) of the whole volume."""
        h, w = slabs.shape[-2:]
        inputs = [slabs, maps] if context is None else [slabs, maps, context]
        padded = functional.pad(torch.cat(inputs, dim=1), (0, -w % self.factor, 0, -h % self.factor))
        padded = padded.contiguous(memory_format=torch.channels_last)  # a sixth to a third faster on a CPU
        refined = self.sections(padded, timesteps=1000 * t, context=tokens)[..., :h, :w]
        return refined if context is None else refined + context[:, : self.contrasts]


class Tokens(nn.Module):
    """Summaries of the conditioning, (B, count, TOKEN_CHANNELS): its means over count equal boxes of the volume, projected.
    Several, because attention over the single token of the official code is constant."""

    def __init__(self, maps: int, count: int) -> None:
        super().__init__()
        self.side = round(count ** (1 / 3))
        if self.side**3 != count:
            raise InputError("methods.*.params.tokens", count, "a cube number: 8, 27, 64 ...")
        self.projection = nn.Linear(maps, TOKEN_CHANNELS)

    def forward(self, maps: Tensor) -> Tensor:
        return self.projection(functional.adaptive_avg_pool3d(maps.float(), self.side).flatten(2).transpose(1, 2))


class Trunk(nn.Module):
    """A 3D U-Net on the state and the conditioning, both pooled by two."""

    def __init__(self, contrasts: int, maps: int, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.contrasts, self.factor = contrasts, 2 ** (len(channels) - 1)
        self.unet = unet(3, 2 * contrasts + maps, features + contrasts, channels)
        # the sections may use the features from the start, while the estimate begins at zero
        nn.init.normal_(self.unet.out[-1].conv.weight[contrasts:], std=0.05)

    def forward(self, shown: Tensor, t: Tensor, maps: Tensor) -> Tensor:
        """(B, C + features, X/2, Y/2, Z/2), halves rounded up, from the state and its linear estimate (B, 2 C, X, Y, Z), t (B,)
        and conditioning (B, maps, X, Y, Z). The first C channels are an estimate of the pooled target."""
        parts = (halve(part.float()) for part in maps.split(8, dim=1))  # a few at a time: they may be in half precision
        pooled = torch.cat([halve(shown), *parts], dim=1)
        sizes = pooled.shape[2:]
        padding = [p for n in reversed(sizes) for p in (0, -n % self.factor)]
        out = self.unet(functional.pad(pooled, padding), timesteps=1000 * t)
        return out[:, :, : sizes[0], : sizes[1], : sizes[2]]


def halve(volume: Tensor) -> Tensor:
    """Average pooling by two of (B, C, X, Y, Z); what is left over at an odd end is averaged over what there is."""
    return functional.avg_pool3d(volume, 2, ceil_mode=True, count_include_pad=False)


def double(volume: Tensor, shape: torch.Size) -> Tensor:
    """Trilinear interpolation of (B, C, ...) by two, cut to `shape` (X, Y, Z): back on the voxels that `halve` pooled."""
    large = functional.interpolate(volume, scale_factor=2, mode="trilinear", align_corners=False)
    return large[:, :, : shape[0], : shape[1], : shape[2]]


def unet(
    dimensions: int, in_channels: int, out_channels: int, channels: tuple[int, ...], token_channels: int = 0
) -> DiffusionModelUNet:
    """MONAI's time-conditioned U-Net. Without attention but in the middle block (and for tokens, at the coarsest level):
    convolutions are fast on a CPU."""
    return DiffusionModelUNet(
        spatial_dims=dimensions,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        attention_levels=(*(False,) * (len(channels) - 1), bool(token_channels)),
        num_head_channels=channels[-1] // 2,
        with_conditioning=bool(token_channels),
        cross_attention_dim=token_channels or None,
        num_res_blocks=1,
        # of MONAI's middle block, which always has attention: without it, a matrix of all pairs of voxels of the coarsest level
        use_flash_attention=True,
        norm_num_groups=4 if channels[0] % 8 else 8,
    )
