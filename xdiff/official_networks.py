"""The official X-Diffusion pipeline's networks with random weights, and one step of its sampler.

The released code (github.com/EmmanuelleB985/X-Diffusion, commit 5a8b7be, scripts/inference.py and
scripts/configs/sd-brats-finetune-c_concat-256.yaml) is the latent diffusion of zero123 on sections of 256 x 256: a
UNet of Stable Diffusion 1 with the latent of the given image beside the noisy one, the VAE KL-f8 and the image encoder
CLIP ViT-L/14. Built from explicit configurations; nothing is downloaded. Needs diffusers and transformers: the extra [official].
Attention is PyTorch's fused kernel, as diffusers calls it, and a step draws no noise: what the released code spends beyond
that is not counted.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from xdiff.errors import InputError

SIZE = 256  # pixels along a side of a section
LATENT = (4, SIZE // 8, SIZE // 8)
WIDTH, POSE = 768, 4  # of the embedding of CLIP; numbers of pose beside it, as in zero123
GUIDANCE, LATENT_SCALE = 3.0, 0.18215  # of the released configuration


class UNet(nn.Module):
    """(B, 8, 32, 32) latents, (B,) time, (B, 1, 768) context -> (B, 4, 32, 32) noise. 859.5 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        diffusers = _imported("diffusers")
        self.library = f"diffusers {diffusers.__version__}"
        self.net = diffusers.UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=2 * LATENT[0],
            out_channels=LATENT[0],
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            attention_head_dim=8,  # the number of heads, by this name for history's sake
            cross_attention_dim=WIDTH,
        )

    def forward(self, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.net(latent, t, context, return_dict=False)[0]


class VAE(nn.Module):
    """KL-f8: (B, 3, 256, 256) images <-> (B, 4, 32, 32) latents. 83.7 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        diffusers = _imported("diffusers")
        self.library = f"diffusers {diffusers.__version__}"
        self.net = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=LATENT[0],
            sample_size=SIZE,
        )

    def encode(self, image: Tensor) -> Tensor:
        return self.net.encode(image, return_dict=False)[0].mode()

    def decode(self, latent: Tensor) -> Tensor:
        return self.net.decode(latent / LATENT_SCALE, return_dict=False)[0]


class CLIP(nn.Module):
    """(B, 3, 256, 256) images, (B, 4) pose -> (B, 1, 768) context. 304 M parameters (ViT-L/14) and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        transformers = _imported("transformers")
        self.library = f"transformers {transformers.__version__}"
        config = transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=14,
            image_size=224,
            projection_dim=WIDTH,
        )
        self.net = transformers.CLIPVisionModelWithProjection(config)
        self.projection = nn.Linear(WIDTH + POSE, WIDTH)

    def forward(self, image: Tensor, pose: Tensor) -> Tensor:
        small = functional.interpolate(image, size=(224, 224), mode="bicubic", antialias=True, align_corners=True)
        return self.projection(torch.cat([self.net(small).image_embeds, pose], dim=1))[:, None]


def build(name: str) -> nn.Module:
    """A network, "unet", "vae" or "clip", with random weights; its `library` says where it is from. InputError where the extra
    [official] is not installed."""
    return {"unet": UNet, "vae": VAE, "clip": CLIP}[name]()


def _imported(name: str) -> ModuleType:
    """diffusers or transformers; they are imported here alone, because nothing else needs them."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        command = "python -m pip install -c constraints.txt -e '.[official]'"
        raise InputError(name, f"no module {error.name}", f"the extra [official]: {command}") from error


def guided_step(
    unet: Callable, latent: Tensor, condition: Tensor, context: Tensor, t: Tensor, alpha: float, alpha_next: float
) -> Tensor:
    """One DDIM step (Song et al. 2021, eq. 12, sigma 0) with classifier-free guidance, as released: one call of the UNet on a
    doubled batch, without condition first.

    latent, condition: (B, 4, 32, 32); context: (B, 1, 768); t: (B,); alpha, alpha_next: the squared part of the clean latent
    now and after the step, in (0, 1]. Returns (B, 4, 32, 32).
    """
    both = torch.cat([torch.cat([latent, latent]), torch.cat([torch.zeros_like(condition), condition])], dim=1)
    without, given = unet(both, torch.cat([t, t]), torch.cat([torch.zeros_like(context), context])).chunk(2)
    noise = without + GUIDANCE * (given - without)
    clean = (latent - math.sqrt(1 - alpha) * noise) / math.sqrt(alpha)
    return math.sqrt(alpha_next) * clean + math.sqrt(1 - alpha_next) * noise


def call_of(what: str, network: nn.Module, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """The call that a row times, on inputs of `batch` sections that are on the device already."""
    image, latent = torch.randn(batch, 3, SIZE, SIZE, device=device), torch.randn(batch, *LATENT, device=device)
    if what == "official_clip":
        return partial(network, image, torch.zeros(batch, POSE, device=device))
    if what == "official_encode":
        return partial(network.encode, image)
    if what == "official_decode":
        return partial(network.decode, latent)
    context, t = torch.randn(batch, 1, WIDTH, device=device), torch.full((batch,), 500, device=device)
    return partial(guided_step, network, latent, torch.randn_like(latent), context, t, 0.28, 0.29)
