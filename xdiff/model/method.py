"""X-Diffusion as a method: `train` and `load`, as the harness wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.local import Core, log_distance
from xdiff.model.diffusion import make_condition
from xdiff.model.network import Network
from xdiff.model.sampler import mean_residual, sample_residual
from xdiff.model.spectrum import Spectra
from xdiff.model.training import Settings, fit_network
from xdiff.observation import Observation
from xdiff.planes import common_axis, project


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train the network on the training side, resuming from `workdir`: network, spectra, fusion weights and core."""
    return fit_network(store, split, Settings.of(params), workdir)


def load(weights: Path) -> XDiffusion:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = settings.network(len(config["contrasts"]))
    state = {name.removeprefix("network."): torch.from_numpy(a) for name, a in tensors.items() if name.startswith("network.")}
    network.load_state_dict(state)
    return XDiffusion(network.eval(), tensors)


class XDiffusion:
    """A trained X-Diffusion, ready to reconstruct."""

    def __init__(self, network: Network, tensors: Tensors) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        self.core = Core.of(tensors)
        self.fusion = tensors["fusion"]
        self.spectra = Spectra(tensors["spectra.log_distance"], tensors["spectra.power"])
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, standard deviation, section evaluations.

        mean: one call per axis; the standard deviation is that of local.py. sample: one draw with `steps` steps, without.
        mean_of_N: mean and standard deviation of N draws.
        """
        known = self.core.estimate(observation)
        condition = make_condition(observation, known, self.device)
        spectrum = torch.from_numpy(self.spectra.at(log_distance(observation, known.gaussian))).to(self.device)
        if estimate == "mean":
            residual, evaluations = mean_residual(self.network, spectrum, condition, self._weights(observation))
            std = known.std
        else:
            count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
            residual, squares = torch.zeros((2, *known.corrected.shape), device=self.device)
            evaluations = 0
            for _ in range(count):
                noise = torch.from_numpy(generator.standard_normal(known.corrected.shape, dtype=np.float32)).to(self.device)
                draw, used = sample_residual(self.network, spectrum, condition, noise, steps)
                residual, squares, evaluations = residual + draw / count, squares + draw**2 / count, evaluations + used
            spread = torch.sqrt((squares - residual**2).clamp(min=0) * count / max(count - 1, 1))
            std = known.std * spread.cpu().numpy() if count > 1 else None
        volume = known.corrected + known.std * residual.cpu().numpy()
        volume = project(volume.astype(np.float32), observation.sections, observation.planes, observation.given)
        return volume, None if std is None else np.where(observation.known, 0, std).astype(np.float32), evaluations

    def _weights(self, observation: Observation) -> Tensor:
        """Of the three axes' estimates in `mean`, (3,): fitted for sections of one axis, their average for any other."""
        own, other = (float(w) for w in self.fusion)
        axis = common_axis(observation.planes)
        weights = [(own + 2 * other) / 3] * 3 if axis is None else [own if a == axis else other for a in range(3)]
        return torch.tensor(weights, device=self.device)
