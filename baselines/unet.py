"""A 3D U-Net that regresses the volume from the given sections: the strongest thing one would try before diffusion.

It sees what X-Diffusion sees (the linear-Gaussian estimate with its local correction, evidence, interpolation, mask, distance,
position; in training the patient is left out of the estimate) and predicts the estimate's residual, with a head that is zero at
the start. MONAI's residual U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional

from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draws, importance, mean_gain, residual
from xdiff.errors import InputError
from xdiff.local import Core, Estimate
from xdiff.loop import Scores, TrainingSettings
from xdiff.loop import fit as run
from xdiff.model.diffusion import make_condition, map_channels, mirror_maps
from xdiff.observation import Observation
from xdiff.plain import one_of
from xdiff.planes import project
from xdiff.trained import network_tensors, restored, start_of
from xdiff.view import View

LOSSES = ("l2", "charbonnier")
EPSILON = 0.01  # of Charbonnier's loss, in units of the estimate's standard deviation: below it, l2
TTA = ("none", "mirror")


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Parameters of the method entry. channels: widths of the levels, the first at half resolution; res_units: convolutions of a
    level on the way down; dropout: share of the features left out in training; loss: of the residual, squared or nearly
    absolute (Charbonnier et al. 1994), which a few voxels that nothing foretells weigh less in; tta: test-time averaging,
    `mirror` with the answer to the mirror image, left and right exchanged, which takes twice the time."""

    channels: tuple[int, ...] = (32, 64, 96)
    res_units: int = 2
    dropout: float = 0.0
    loss: str = "l2"
    tta: str = "none"
    steps: int = 3000

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("methods.*.params.loss", self.loss, LOSSES)
        one_of("methods.*.params.tta", self.tta, TTA)
        if not 0 <= self.dropout < 1:
            raise InputError("methods.*.params.dropout", self.dropout, "a share, 0 or more and less than 1")

    def network(self, contrasts: int) -> ResidualUNet:
        torch.manual_seed(self.seed)
        return ResidualUNet(contrasts, self.channels, self.res_units, self.dropout)


class ResidualUNet(nn.Module):
    """Residual of the estimate (B, C, X, Y, Z) in units of its standard deviation, from conditioning maps (B, maps, X, Y, Z).

    Blocks of 2 x 2 x 2 voxels become channels on the way in and voxels again on the way out: all of the detail at an eighth of
    the positions, which is what makes it trainable on a CPU.
    """

    def __init__(self, contrasts: int, channels: tuple[int, ...], res_units: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.factor = 2 ** len(channels)
        self.into = nn.Conv3d(8 * map_channels(contrasts), channels[0], 1)
        self.body = residual_unet(3, channels, res_units, dropout)
        self.head = nn.Conv3d(channels[0], 8 * contrasts, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Tensor) -> Tensor:
        x, y, z = maps.shape[2:]
        features = self.into(blocks_to_channels(padded(maps, self.factor)))
        return channels_to_blocks(self.head(functional.silu(features + self.body(features))))[:, :, :x, :y, :z]


def residual_unet(dimensions: int, channels: tuple[int, ...], res_units: int = 2, dropout: float = 0.0) -> UNet:
    """MONAI's residual U-Net from channels[0] features to as many."""
    return UNet(
        spatial_dims=dimensions,
        in_channels=channels[0],
        out_channels=channels[0],
        channels=(channels[0], *channels),
        strides=(1,) + (2,) * (len(channels) - 1),
        num_res_units=res_units,
        # not MONAI's instance norm, which takes the brightness out of what is to be regressed
        norm=("GROUP", {"num_groups": 8, "affine": True}),
        dropout=dropout,
    )


def padded(images: Tensor, factor: int) -> Tensor:
    """Images (B, C, ...) with zeros at the far end of every axis, up to a multiple of `factor`."""
    return functional.pad(images, [p for n in reversed(images.shape[2:]) for p in (0, -n % factor)])


def blocks_to_channels(volume: Tensor) -> Tensor:
    """(B, C, 2X, 2Y, 2Z) to (B, 8C, X, Y, Z)."""
    b, c, x, y, z = volume.shape
    split = volume.reshape(b, c, x // 2, 2, y // 2, 2, z // 2, 2)
    return split.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, x // 2, y // 2, z // 2)


def channels_to_blocks(volume: Tensor) -> Tensor:
    """Inverse of blocks_to_channels."""
    b, c, x, y, z = volume.shape
    split = volume.reshape(b, c // 8, 2, 2, 2, x, y, z)
    return split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * x, 2 * y, 2 * z)


class Regression:
    """The training problem of the U-Net, as loop.py wants it."""

    def __init__(self, draws: Draws, checks: Checks, settings: Settings) -> None:
        self.draws, self.checks, self.settings = draws, checks, settings
        self.network = settings.network(len(draws.store.contrasts))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Conditioning maps (V, maps, X, Y, Z), residuals and their weights (V, C, X, Y, Z) of a few volumes."""
        cases = []
        for draw in self.draws.of_step(self.settings.seed, step, self.settings.volumes):
            cases.append((make_condition(draw.view, draw.known).maps, residual(draw), importance(draw.known)))
        return tuple(torch.stack(tensors) for tensors in zip(*cases, strict=True))

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Mean squared error of intensities, relative to what the estimate leaves; or Charbonnier's loss of the same."""
        device = next(network.parameters()).device
        maps, wanted, weight = (b.to(device) for b in batch)
        if self.settings.dropout:
            torch.manual_seed(generator.initial_seed())  # which features are left out is a function of the step, too
        squares = weight * (network(maps) - wanted) ** 2
        return (torch.sqrt(squares + EPSILON**2) if self.settings.loss == "charbonnier" else squares).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the mean gain over the gaussian row."""
        scores = self.checks.score(lambda draw: regress(network, draw.view, draw.known, self.settings.tta))
        return mean_gain(scores), scores


@torch.inference_mode()
def regress(network: nn.Module, view: View, known: Estimate, tta: str = "none") -> Tensor:
    """The network's volume (C, X, Y, Z) in units of the observation, not yet projected on the data."""
    maps = make_condition(view, known).maps[None]
    found = network(maps)
    if tta == "mirror":
        found = (found + network(mirror_maps(maps)).flip(2)) / 2
    return known.corrected + known.std * found[0]


def make_problem(store: Store, split: Split, core: Core, settings: Settings, folder: Path) -> Regression:
    """The training problem on a split; folder: where the registration is kept that donors ask for."""
    draws = Draws.of_training(store, split, core, settings.draws, folder)
    return Regression(draws, Checks(draws, split, settings.validate_k, settings.validate_subjects), settings)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train on the training side, resuming from `workdir`: network and core."""
    settings = Settings.of(params)
    split, core = start_of(store, split, settings, workdir.parents[1])
    problem = make_problem(store, split, core, settings, workdir.parents[1])
    best = run(problem, settings, workdir)
    return {**network_tensors(best), **core.tensors()}


def load(weights: Path) -> UNetReconstructor:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = restored(settings.network(len(config["contrasts"])), tensors)
    return UNetReconstructor(network, Core.of(tensors, settings.base, training_device()), settings.tta)


class UNetReconstructor:
    """A trained U-Net, ready to reconstruct."""

    def __init__(self, network: ResidualUNet, core: Core, tta: str = "none") -> None:
        self.network, self.core, self.tta = network.to(core.device), core, tta
        if core.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; the standard deviation of the estimate that the network starts
        from, which it does not change; no section evaluation."""
        view, known = self.core.known(observation)
        volume = regress(self.network, view, known, self.tta).cpu().numpy()
        std = torch.where(view.known, 0.0, known.std).cpu().numpy()
        return project(volume, observation.sections, observation.planes, observation.given), std, 0
