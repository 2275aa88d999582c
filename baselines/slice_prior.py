"""An unconditional prior of 2D sections, learned once for score.py and tpdm.py: one denoiser for the sections of all three axes.

A section of a training volume, in the units of sections given of it, is shown with noise of any size; nothing else is known of it
but its axis. Preconditioning of EDM (2206.00364, table 1) about the mean of the training intensities: untrained, it is the best
linear denoiser of single voxels. MONAI's time-conditioned U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.slice_sampling import Given, Scheme, axes_by_given, draw
from xdiff import team
from xdiff.augment import Augmentation
from xdiff.checkpoint import Tensors
from xdiff.cuda import channels_last, training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draw, Draws
from xdiff.errors import InputError
from xdiff.local import Core
from xdiff.local_fit import fit_core
from xdiff.loop import Scores, TrainingSettings
from xdiff.loop import fit as run
from xdiff.model.diffusion import generator_on
from xdiff.model.network import unet
from xdiff.observation import observe
from xdiff.plain import digest
from xdiff.planes import stack
from xdiff.trained import HeldOut, network_tensors, restored, shared_training

VERSION = 1  # raise when the same settings train something else
HELD_OUT = 8  # batches
STATISTICS_DRAWS = 16
LOG_SIGMA_MEAN, LOG_SIGMA_STD = (
    0.0,
    1.8,
)  # of the training noise, in units of the intensities' standard deviation: as 2206.00364, wider


@dataclass(frozen=True)
class PriorSettings(TrainingSettings):
    """Parameters of the prior. channels: widths of the network; sections: of each volume of a training step; placed: whether the
    network is told where along its axis a section lies, which the papers' are not; check_steps: of the draws whose PSNR is told
    at every check (0: none is). `core` is for the gaussian row beside them; `base` has no meaning here."""

    channels: tuple[int, ...] = (16, 32, 64)
    sections: int = 16
    placed: bool = False
    check_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base != "core":
            raise InputError("methods.*.params.base", repr(self.base), "no such key: an unconditional prior has no base")
        if self.check_steps == 1 or self.check_steps < 0:
            raise InputError("methods.*.params.check_steps", self.check_steps, "0 (no draws) or at least 2")

    def network(self, contrasts: int) -> SlicePrior:
        torch.manual_seed(self.seed)
        return SlicePrior(contrasts, self.channels, self.placed)


class SlicePrior(nn.Module):
    """E[section | noisy section]. mean and unit (C,): mean and standard deviation of training intensities."""

    def __init__(self, contrasts: int, channels: tuple[int, ...], placed: bool = False) -> None:
        super().__init__()
        self.placed, self.factor = placed, 2 ** (len(channels) - 1)
        self.unet = unet(2, contrasts + 3 + placed, contrasts, channels)
        self.register_buffer("mean", torch.zeros(contrasts))
        self.register_buffer("unit", torch.ones(contrasts))

    def forward(self, noisy: Tensor, sigma: Tensor, axis: int, place: Tensor) -> Tensor:
        """Denoised (n, C, h, w) from sections along `axis` with noise of standard deviation sigma (n,), in intensities. place
        (n,): along the axis, from -1 at its first section to 1 at its last."""
        skip, out = self.scales(sigma)
        mean = self.mean[:, None, None]
        return mean + skip * (noisy - mean) + out * self.raw(noisy, sigma, axis, place).float()

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out of EDM, (n, C, 1, 1): share of the noisy section in the denoised one, and unit of the network's
        output, which is the error of that share alone."""
        square = sigma[:, None, None, None] ** 2
        power = (self.unit**2)[:, None, None]
        return power / (power + square), torch.sqrt(power * square / (power + square))

    def raw(self, noisy: Tensor, sigma: Tensor, axis: int, place: Tensor) -> Tensor:
        """The network's output (n, C, h, w); arguments as of `forward`."""
        n, _, h, w = noisy.shape
        wide = sigma[:, None, None, None]
        about_one = (noisy - self.mean[:, None, None]) / torch.sqrt(wide**2 + (self.unit**2)[:, None, None])
        told = noisy.new_zeros(n, 3 + self.placed, h, w)
        told[:, axis] = 1
        if self.placed:
            told[:, 3] = place[:, None, None]
        padded = functional.pad(torch.cat([about_one, told], dim=1), (0, -w % self.factor, 0, -h % self.factor))
        padded = padded.contiguous(memory_format=torch.channels_last)
        time = sigma / (sigma + self.unit.mean())  # 0..1, as fine as the noise levels are
        return self.unet(padded, timesteps=1000 * time)[..., :h, :w]


class Scaled(NamedTuple):
    """A training volume (C, X, Y, Z) in units of sections given of it."""

    volume: Tensor


class VolumeDraws(Draws):
    """Draws of volumes, changed and scaled as those of other methods, without an estimate of what is not given."""

    def one(self, rng: np.random.Generator) -> Scaled:  # type: ignore[override]
        chosen, store = self.chosen(rng), self.store
        spacing = store.spacing_mm(chosen.subject)
        shown = chosen.volume.cpu().numpy()
        seen = observe(shown, chosen.planes, store.contrasts, spacing, store.frame, store.norm, chosen.given)
        return Scaled(chosen.volume / torch.from_numpy(seen.scale).to(chosen.volume.device)[:, None, None, None])


class Batch(NamedTuple):
    """sections (V, n, C, h, w) along `axis` and their places (V, n) there, -1..1."""

    sections: Tensor
    place: Tensor
    axis: int


class SliceDenoising(HeldOut):
    """The training problem of the prior, as loop.py wants it."""

    def __init__(self, draws: VolumeDraws, checks: Checks, validation: Sequence[str], settings: PriorSettings) -> None:
        self.draws, self.checks, self.settings = draws, checks, settings
        self.network = settings.network(len(draws.store.contrasts))
        unchanged = replace(settings.draws, augment=Augmentation(warp=0), donors=0.0)
        self._measure(VolumeDraws(draws.store, draws.subjects, draws.core, unchanged))
        others = VolumeDraws(draws.store, validation, draws.core, unchanged)
        count = HELD_OUT if validation and team.is_first() else 0
        generators = [np.random.default_rng([settings.seed, i, 2**31]) for i in range(count)]
        with team.alone():
            self.held_out = [
                self._batch([others.one(rng) for _ in range(settings.volumes)], i % 3, rng) for i, rng in enumerate(generators)
            ]
            self.untrained_loss = self.held_out_loss(self.network.to(draws.core.device))

    def _measure(self, draws: VolumeDraws) -> None:
        """Mean and standard deviation of intensities, over draws of training subjects."""
        rng = np.random.default_rng([self.settings.seed, 2**30])
        values = torch.stack([draws.one(rng).volume.cpu() for _ in range(STATISTICS_DRAWS)])
        self.network.mean.copy_(values.mean(dim=(0, 2, 3, 4)))
        self.network.unit.copy_(values.std(dim=(0, 2, 3, 4)))

    def batch(self, step: int) -> Batch:
        draws = self.draws.of_step(self.settings.seed, step, self.settings.volumes)
        rng = np.random.default_rng([self.settings.seed, step, 1])
        return self._batch(draws, int(rng.integers(3)), rng)

    def _batch(self, draws: list[Scaled], axis: int, rng: np.random.Generator) -> Batch:
        """Any sections of a few volumes along one axis, empty ones too: the prior has to know where the head ends."""
        generators = team.own(rng.spawn(len(draws) * team.size()))  # each place has its own, whoever's it is
        length, count = self.draws.store.shape[axis], self.settings.sections
        rows = np.stack([place.choice(length, count, replace=count > length) for place in generators])
        sections = torch.stack([stack(d.volume, axis)[torch.from_numpy(r)] for d, r in zip(draws, rows, strict=True)])
        place = torch.from_numpy((2 * rows / (length - 1) - 1).astype(np.float32))
        return Batch(sections, place.to(sections.device), axis)

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean squared error of the denoised sections in units of c_out (EDM, eq. 8 with its weight): every noise level counts
        alike, and untrained it is about 1."""
        device = next(network.parameters()).device
        sections, place = batch.sections.to(device), batch.place.to(device)
        drawn = team.own_noise(partial(torch.randn, generator=generator), 1, *place.shape).to(device)
        sigma = network.unit.mean() * torch.exp(LOG_SIGMA_MEAN + LOG_SIGMA_STD * drawn).flatten()
        draw_noise = partial(torch.randn, generator=generator_on(device, generator), device=device)
        noise = team.own_noise(draw_noise, 1, *sections.shape).flatten(0, 1)
        clean, mean = sections.flatten(0, 1), network.mean[:, None, None]
        noisy = clean + sigma[:, None, None, None] * noise
        skip, out = network.scales(sigma)
        wanted = (clean - mean - skip * (noisy - mean)) / out
        return ((network.raw(noisy, sigma, batch.axis, place.flatten()).float() - wanted) ** 2).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the gain of the denoising loss over the untrained network's, dB: the PSNR of draws, told beside it, says
        little about a prior. The draws are score.py's, with few steps."""
        score = 10 * np.log10(self.untrained_loss / self.held_out_loss(network)) if self.held_out else 0.0

        def one(case: Draw) -> Tensor:
            scheme = Scheme(tuple(axes_by_given(case.view.planes)[:1]))
            generator = torch.Generator(case.truth.device).manual_seed(self.settings.seed)
            return draw(network, Given(case.view), scheme, self.settings.check_steps, generator)[0]

        return float(score), self.checks.score(one) if self.settings.check_steps else {}


def fit_prior(store: Store, split: Split, settings: PriorSettings, workdir: Path) -> Tensors:
    """Train the prior to the end (or resume and finish), its arrays; entries that differ in how it is used alone share one
    training, beside their weights: whoever comes first trains, the others take what is there, its history too."""
    settings = PriorSettings(**{f.name: getattr(settings, f.name) for f in fields(PriorSettings)})
    split, folder = split.with_training(settings.patients), workdir.parents[1]
    key = [VERSION, store.fingerprint, split.side("train"), split.side("val"), asdict(settings)]
    name = f"slice-prior-{digest(key)}"

    def make(checkpoints: Path) -> Tensors:
        core = fit_core(store, split, settings.core, folder)
        return network_tensors(run(make_problem(store, split, core, settings, folder), settings, checkpoints))

    return shared_training(name, workdir, make)


def make_problem(store: Store, split: Split, core: Core, settings: PriorSettings, folder: Path) -> SliceDenoising:
    """The training problem on a split; folder: where the registration is kept that donors ask for."""
    draws = VolumeDraws.of_training(store, split, core, settings.draws, folder)
    checks = Checks(draws, split, settings.validate_k, settings.validate_subjects if settings.check_steps else 0)
    return SliceDenoising(draws, checks, split.side("val")[: settings.validate_subjects], settings)


def load_prior(tensors: Tensors, contrasts: int, settings: PriorSettings) -> SlicePrior:
    """The trained prior on the device, its weights fixed: a gradient goes through it, none to them."""
    network = restored(settings.network(contrasts), tensors)
    channels_last(network)
    return network.requires_grad_(False).to(training_device())
