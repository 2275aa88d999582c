"""Training of X-Diffusion: fresh draws of volume, given planes, noise and target sections at every step (loop.py runs it)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xdiff import team
from xdiff.augment import Augmentation
from xdiff.checkpoint import Tensors
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draw, Draws, importance, mean_gain, residual
from xdiff.local import Core, log_distance
from xdiff.loop import Scores, TrainingSettings
from xdiff.loop import fit as run
from xdiff.model import diffusion
from xdiff.model.network import Network
from xdiff.model.sampler import Denoiser, Fusion, SamplerSettings, axis_estimates, mean_residual
from xdiff.model.spectrum import Spectra, fit_spectra
from xdiff.plain import digest
from xdiff.planes import common_axis, per_section
from xdiff.trained import HeldOut, network_tensors, shared_training, start_of

VERSION = 3  # raise when the same settings train something else
HELD_OUT = 8  # batches
SPECTRUM_DRAWS = 48
FUSION_SIGMA = (20.0, 3.0, 0.6, 0.1)  # noise levels between which the fusion weights are interpolated
FUSION_CASES = 4


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Parameters of the method entry. channels: widths of the section network; trunk_channels: of the 3D trunk, empty for
    none; slab: neighbours on each side; sections: per volume of a training step; tokens: see network.py; sampler: what a
    trained network is used with, which does not train another one."""

    channels: tuple[int, ...] = (16, 32, 64)
    trunk_channels: tuple[int, ...] = (16, 32, 64)
    features: int = 8
    slab: int = 1
    sections: int = 8
    tokens: int = 0
    sampler: SamplerSettings = field(default_factory=SamplerSettings)

    def network(self, contrasts: int) -> Network:
        torch.manual_seed(self.seed)
        maps = diffusion.map_channels(contrasts)
        return Network(contrasts, maps, self.channels, self.trunk_channels, self.features, self.slab, self.tokens)


class Denoising(HeldOut):
    """The training problem of X-Diffusion, as loop.py wants it."""

    def __init__(self, draws: Draws, checks: Checks, validation: list[str], settings: Settings) -> None:
        self.draws, self.checks, self.settings = draws, checks, settings
        self.network = settings.network(len(draws.store.contrasts))
        unchanged = replace(settings.draws, augment=Augmentation(warp=0), donors=0.0)
        self.spectra = self._spectra(Draws(draws.store, draws.subjects, draws.core, unchanged))
        others = Draws(draws.store, validation, draws.core, unchanged)
        count = HELD_OUT if validation and team.is_first() else 0
        generators = [np.random.default_rng([settings.seed, i, 2**31]) for i in range(count)]
        with team.alone():
            self.held_out = [self.batch_of([others.one(rng) for _ in range(settings.volumes)], rng) for rng in generators]
            self.untrained_loss = self.held_out_loss(self.network)

    def _spectra(self, draws: Draws) -> Spectra:
        """Power spectra of r_0 where it matters, over draws of training subjects."""
        rng = np.random.default_rng([self.settings.seed, 2**30])
        cases = (draws.one(rng) for _ in range(SPECTRUM_DRAWS))
        return fit_spectra((openness(d), (residual(d) * torch.sqrt(importance(d.known))).cpu().numpy()) for d in cases)

    def spectrum(self, draw: Draw) -> Tensor:
        return torch.from_numpy(self.spectra.at(openness(draw))).to(draw.truth.device)

    def denoiser(self, network: nn.Module, draw: Draw) -> Denoiser:
        condition = diffusion.make_condition(draw.view, draw.known)
        return Denoiser(network, self.spectrum(draw), condition, common_axis(draw.view.planes))

    def batch(self, step: int) -> diffusion.Batch:
        draws = self.draws.of_step(self.settings.seed, step, self.settings.volumes)
        return self.batch_of(draws, np.random.default_rng([self.settings.seed, step, 1]))

    def batch_of(self, draws: list[Draw], rng: np.random.Generator) -> diffusion.Batch:
        """A few volumes and, along one axis (sections of different axes differ in size), some of their sections."""
        axis = int(rng.integers(3))
        generators = team.own(rng.spawn(len(draws) * team.size()))  # each place has its own, whoever's it is
        residuals, weights, spectra, maps, rows = [], [], [], [], []
        for draw, place in zip(draws, generators, strict=True):
            residuals.append(residual(draw))
            weights.append(importance(draw.known))
            spectra.append(self.spectrum(draw))
            maps.append(diffusion.make_condition(draw.view, draw.known).maps)
            rows.append(torch.from_numpy(draw_rows(draw, axis, self.settings.sections, place)).to(draw.truth.device))
        stacked = [torch.stack(tensors) for tensors in (residuals, weights, spectra, maps)]
        return diffusion.Batch(*stacked, axis, torch.stack(rows))

    def loss(self, network: nn.Module, batch: diffusion.Batch, generator: torch.Generator) -> Tensor:
        return diffusion.loss(network, batch.to(next(network.parameters()).device), generator)

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the gain of `mean` over the gaussian row plus the gain of the denoising loss over the untrained network's:
        `mean` alone would keep weights of the first minutes, whose samples are noise."""
        scores = self.checks.score(lambda draw: draw.known.corrected + draw.known.std * self.mean(network, draw))
        denoising = 10 * np.log10(self.untrained_loss / self.held_out_loss(network)) if self.held_out else 0.0
        return mean_gain(scores) + float(denoising), scores

    def mean(self, network: nn.Module, draw: Draw) -> Tensor:
        """The estimate of E[r_0 | y], (C, X, Y, Z)."""
        return mean_residual(self.denoiser(network, draw))[0]

    def fit_fusion(self, network: nn.Module) -> Fusion:
        """Weights of what the network adds along the given sections' own axis and along each other axis, by least squares on the
        validation subjects; one third each where there are none.

        The axes see different things, and a network that learned little should say little: weights add up to less than one
        where its estimates are too large. At t = 1 all checks serve, each K by itself: a network that gains from many sections
        may harm where one is given. At the noise levels of FUSION_SIGMA a few serve, whatever K: a call each costs more there
        than it tells.
        """
        cases = [c for c in self.checks.cases if c[0] == "validation" and common_axis(c[2].view.planes) is not None]
        by_k = [[draw for _, k, draw, _ in cases if k == wanted] for wanted in sorted({k for _, k, _, _ in cases})]
        levels = [(float(np.mean([openness(d) for d in draws])), draws) for draws in by_k]
        groups = sorted(levels, key=lambda pair: pair[0]) or [(0.0, [])]
        rows = [[self._axis_weights(network, draws, 1.0) for _, draws in groups]]
        few = [draw for _, _, draw, _ in cases][:: max(1, len(cases) // FUSION_CASES)][:FUSION_CASES]
        times = [1.0, *(sigma / (1 + sigma) for sigma in FUSION_SIGMA)]
        rows += [[self._axis_weights(network, few, t)] * len(groups) for t in times[1:]]
        return Fusion(*(np.array(a, np.float32) for a in (times, [level for level, _ in groups], rows)))

    def _axis_weights(self, network: nn.Module, cases: list[Draw], t: float) -> np.ndarray:
        """(2,): own axis and each other one, at one noise level, over `cases`."""
        left, right = np.zeros((2, 2)), np.zeros(2)
        for number, draw in enumerate(cases):
            wanted = residual(draw)
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(wanted.shape, generator=generator).to(wanted.device)
            axis = common_axis(draw.view.planes)
            linear, added = axis_estimates(self.denoiser(network, draw), (1 - t) * wanted + t * noise, t)
            pair = torch.stack([added[axis], added.sum(dim=0) - added[axis]]) * draw.known.std
            hidden = ~draw.view.mask
            pair = pair[:, :, hidden].flatten(1).double()
            missing = ((wanted - linear) * draw.known.std)[:, hidden].flatten().double()
            left += (pair @ pair.T).cpu().numpy()
            right += (pair @ missing).cpu().numpy()
        if not left.any():
            return np.full(2, 1 / 3)
        return np.clip(np.linalg.solve(left + 1e-3 * np.trace(left) * np.eye(2), right), 0, 1)


def openness(draw: Draw) -> float:
    return log_distance(draw.view, draw.known.gaussian)


def draw_rows(draw: Draw, axis: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) sections, those that hold foreground and two beyond them; again and again where there are too few."""
    inside = np.flatnonzero(per_section(draw.foreground.cpu().numpy(), axis))
    length = draw.foreground.shape[axis]
    near = np.arange(max(0, inside[0] - 2), min(length, inside[-1] + 3))
    return rng.choice(near, count, replace=len(near) < count)


def fit_network(store: Store, split: Split, settings: Settings, workdir: Path) -> Tensors:
    """Train to the end (or resume and finish); network, spectra, fusion weights and core as arrays.

    Entries that differ in `sampler` alone share one training, beside their weights: whoever comes first trains, the others take
    what is there, its history too.
    """
    split, core = start_of(store, split, settings, workdir.parents[1])
    trained = asdict(replace(settings, sampler=SamplerSettings()))
    name = f"network-{digest([VERSION, store.fingerprint, split.side('train'), split.side('val'), trained])}"
    tensors = shared_training(name, workdir, lambda checkpoints: _train(store, split, core, settings, checkpoints))
    return {**tensors, **core.tensors()}


def make_problem(store: Store, split: Split, core: Core, settings: Settings, folder: Path) -> Denoising:
    """The training problem on a split; folder: where the registration is kept that donors ask for."""
    draws = Draws.of_training(store, split, core, settings.draws, folder)
    checks = Checks(draws, split, settings.validate_k, settings.validate_subjects)
    return Denoising(draws, checks, split.side("val")[: settings.validate_subjects], settings)


def _train(store: Store, split: Split, core: Core, settings: Settings, workdir: Path) -> Tensors:
    problem = make_problem(store, split, core, settings, workdir.parent)
    best = run(problem, settings, workdir)
    problem.network.load_state_dict(best)
    fusion = problem.fit_fusion(problem.network.eval())
    spectra = {f"spectra.{k}": v for k, v in problem.spectra._asdict().items()}
    return {**network_tensors(best), **spectra, **{f"fusion.{k}": v for k, v in fusion._asdict().items()}}
