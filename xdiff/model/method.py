"""X-Diffusion (Bourigault, Hamdi, Jamaludin, arXiv 2404.19604) as a method: a section network with a 3D trunk, one 3D state.

`train` and `load`, as the harness wants them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import channels_last, training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.local import Core, log_distance
from xdiff.model.diffusion import make_condition
from xdiff.model.network import Network
from xdiff.model.sampler import NONE, UNIFORM, Denoiser, Fusion, mean_residual, moments, sample_residual
from xdiff.model.spectrum import Spectra
from xdiff.model.training import Settings, fit_network, make_problem  # noqa: F401
from xdiff.observation import Observation
from xdiff.planes import common_axis, project
from xdiff.trained import restored


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train the network on the training side, resuming from `workdir`: network, spectra, fusion weights and core."""
    return fit_network(store, split, Settings.of(params), workdir)


def load(weights: Path) -> XDiffusion:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = restored(settings.network(len(config["contrasts"])), tensors)
    return XDiffusion(network, Core.of(tensors, settings.base, training_device()), tensors, settings)


class XDiffusion:
    """A trained X-Diffusion, ready to reconstruct."""

    def __init__(self, network: Network, core: Core, tensors: Tensors, settings: Settings) -> None:
        self.device, self.core = core.device, core
        channels_last(network)
        self.network, self.sampler = network.to(self.device), settings.sampler
        fitted = Fusion(*(tensors[f"fusion.{name}"] for name in Fusion._fields))
        self.fusion = {"fitted": fitted, "uniform": UNIFORM, "none": NONE}[self.sampler.fusion]
        self.spectra = Spectra(tensors["spectra.log_distance"], tensors["spectra.power"])
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, standard deviation of the truth given the sections, section
        evaluations.

        mean: one call per axis. sample: one draw with `steps` steps. Both with the standard deviation of local.py. mean_of_N:
        mean and standard deviation of N draws.
        """
        view, known = self.core.known(observation)
        openness = log_distance(view, known.gaussian)
        spectrum = torch.from_numpy(self.spectra.at(openness)).to(self.device)
        condition = make_condition(view, known, torch.float16)
        denoiser = Denoiser(self.network, spectrum, condition, common_axis(view.planes), self.fusion, openness)
        corrected, within = known.corrected, known.std
        del view, known  # a large volume's other maps would lie there for nothing
        if estimate == "mean":
            std, (residual, evaluations) = within, mean_residual(denoiser)
        else:
            count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
            residual, spread, evaluations = self._draws(denoiser, steps, count, generator)
            std = within * spread if count > 1 else within
        volume = (corrected + within * residual).cpu().numpy()
        volume = project(volume, observation.sections, observation.planes, observation.given)
        return volume, torch.where(denoiser.condition.known, 0.0, std).cpu().numpy(), evaluations

    def _draws(self, denoiser: Denoiser, steps: int, count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        """Mean and standard deviation of `count` draws of r_0, and the section evaluations of all of them."""
        shape = denoiser.shape if self.sampler.noise == "shared" else (3, *denoiser.shape)

        def draw() -> Tensor:
            noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).to(self.device)
            return sample_residual(denoiser, noise, steps, self.sampler)[0]

        return *moments(draw, count), count * steps * denoiser.evaluations
