"""Conditional flow matching (2210.02747) of the whole volume in one 3D network: diffusion without sections.

The residual r_0 of X-Diffusion (xdiff/model/diffusion.py), on the same path r_t = (1 - t) r_0 + t noise, from the same draws and
maps, but one U-Net sees the whole state at once. It is trained to find r_0, in units of the error of the linear estimate that it
starts from; the velocity noise - r_0 = (r_t - r_0) / t follows, and the solver steps along it. Half of the draws are at
t = 1 with the state zeroed: there plain L2, so that `mean` is one call.

Evaluations: one call counts as shape[2] section evaluations, the sections of one axis, because it draws every voxel once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.unet import blocks_to_channels, channels_to_blocks, padded
from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draw, Draws, importance, residual
from xdiff.local import Core, log_distance
from xdiff.loop import TrainingSettings
from xdiff.loop import fit as run
from xdiff.model.diffusion import Condition, make_condition, map_channels, noised, precondition
from xdiff.model.network import unet
from xdiff.model.sampler import moments, solve, times
from xdiff.model.spectrum import Spectra
from xdiff.model.training import Denoising
from xdiff.observation import Observation
from xdiff.planes import project
from xdiff.trained import network_tensors, restored, start_of


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Parameters of the method entry. channels: widths of the levels, the first at half resolution."""

    channels: tuple[int, ...] = (32, 64, 96)
    steps: int = 3000

    def network(self, contrasts: int) -> VolumeNetwork:
        torch.manual_seed(self.seed)
        return VolumeNetwork(contrasts, self.channels)


class VolumeNetwork(nn.Module):
    """MONAI's time-conditioned U-Net in 3D on blocks of 2 x 2 x 2 voxels, as in unet.py; zero at the start."""

    def __init__(self, contrasts: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = 2 ** len(channels)
        self.into = nn.Conv3d(8 * (2 * contrasts + map_channels(contrasts)), channels[0], 1)
        self.body = unet(3, channels[0], 8 * contrasts, channels)

    def forward(self, shown: Tensor, t: Tensor, maps: Tensor) -> Tensor:
        """Output (B, C, X, Y, Z) of the preconditioned denoiser, from the state and its linear estimate (B, 2 C, X, Y, Z), times
        t (B,) and conditioning (B, maps, X, Y, Z)."""
        x, y, z = maps.shape[2:]
        features = self.into(blocks_to_channels(padded(torch.cat([shown, maps], dim=1), self.factor)))
        return channels_to_blocks(self.body(features, timesteps=1000 * t))[:, :, :x, :y, :z]


class Flow(NamedTuple):
    """Everything that the estimates of one volume come from."""

    network: nn.Module
    spectrum: Tensor
    condition: Condition


@torch.inference_mode()
def denoised(flow: Flow, state: Tensor, t: float) -> Tensor:
    """The estimate of r_0 (C, X, Y, Z) from the state at time t, 0 at the voxels that are known exactly. At t = 1 the network is
    shown zeros, as in training."""
    time = torch.full((1,), t, device=state.device)
    linear, unit, shown = precondition((state if t < 1 else torch.zeros_like(state))[None], time, flow.spectrum)
    found = linear + unit * flow.network(shown, time, flow.condition.maps[None]).float()
    return torch.where(flow.condition.known, 0.0, found[0])


def mean_residual(flow: Flow) -> Tensor:
    """One call at t = 1: the estimate of E[r_0 | y], (C, X, Y, Z)."""
    return denoised(flow, torch.zeros(flow.condition.known.shape, device=flow.spectrum.device), 1.0)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class FlowMatching(Denoising):
    """X-Diffusion's training problem, its checks too, with whole volumes in place of sections."""

    def batch_of(self, draws: list[Draw], rng: np.random.Generator) -> Batch:
        """Residuals and their weights (V, C, X, Y, Z), spectra (V, C, BINS), maps (V, maps, X, Y, Z)."""
        cases = [(residual(d), importance(d.known), self.spectrum(d), make_condition(d.view, d.known).maps) for d in draws]
        return tuple(torch.stack(tensors) for tensors in zip(*cases, strict=True))

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Weighted mean squared error of what is left to the linear estimate, in units of that estimate's error."""
        wanted, weight, spectrum, maps = (b.to(next(network.parameters()).device) for b in batch)
        t, shown, target = noised(wanted, spectrum, generator)
        found = network(shown, t, torch.cat([maps] * 2))
        return (torch.cat([weight] * 2) * (found - target) ** 2).mean()

    def mean(self, network: nn.Module, draw: Draw) -> Tensor:
        return mean_residual(Flow(network, self.spectrum(draw), make_condition(draw.view, draw.known)))


def make_problem(store: Store, split: Split, core: Core, settings: Settings, folder: Path) -> FlowMatching:
    """The training problem on a split; folder: where the registration is kept that donors ask for."""
    draws = Draws.of_training(store, split, core, settings.draws, folder)
    checks = Checks(draws, split, settings.validate_k, settings.validate_subjects)
    return FlowMatching(draws, checks, split.side("val")[: settings.validate_subjects], settings)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train on the training side, resuming from `workdir`: network, spectra and core."""
    settings = Settings.of(params)
    split, core = start_of(store, split, settings, workdir.parents[1])
    problem = make_problem(store, split, core, settings, workdir.parents[1])
    network = network_tensors(run(problem, settings, workdir))
    return {**network, **{f"spectra.{k}": v for k, v in problem.spectra._asdict().items()}, **core.tensors()}


def load(weights: Path) -> VolumeFlow:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = restored(settings.network(len(config["contrasts"])), tensors)
    spectra = Spectra(*(tensors[f"spectra.{name}"] for name in Spectra._fields))
    return VolumeFlow(network, Core.of(tensors, settings.base, training_device()), spectra)


class VolumeFlow:
    """A trained flow, ready to reconstruct."""

    def __init__(self, network: nn.Module, core: Core, spectra: Spectra) -> None:
        self.network, self.core, self.spectra = network.to(core.device), core, spectra
        if core.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, standard deviation of the truth given the sections, section
        evaluations (see above).

        mean: one call. sample: one draw with `steps` steps, a call each. Both with the standard deviation of local.py. mean_of_N:
        mean and standard deviation of N draws.
        """
        view, known = self.core.known(observation)
        spectrum = torch.from_numpy(self.spectra.at(log_distance(view, known.gaussian))).to(self.core.device)
        flow = Flow(self.network, spectrum, make_condition(view, known))
        std, calls = known.std, 1
        if estimate == "mean":
            found = mean_residual(flow)
        else:
            count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
            found, spread = moments(partial(draw, flow, steps, generator), count)
            std, calls = std * spread if count > 1 else std, count * steps
        volume = (known.corrected + known.std * found).cpu().numpy()
        volume = project(volume, observation.sections, observation.planes, observation.given)
        return volume, torch.where(view.known, 0.0, std).cpu().numpy(), calls * view.shape[2]


def draw(flow: Flow, steps: int, generator: np.random.Generator) -> Tensor:
    """A draw of r_0 (C, X, Y, Z) by `steps` steps of the flow's ordinary differential equation, from noise at t = 1 to t = 0: by
    DPM-Solver++(2M), which is exact for the linear part of the velocity."""
    known = flow.condition.known
    noise = torch.from_numpy(generator.standard_normal(known.shape, dtype=np.float32)).to(known.device)
    return torch.where(known, 0.0, solve(partial(denoised, flow), noise, times(steps)))
