"""A 2D U-Net that regresses one section at a time from the given sections nearest to it: what papers on sparse slices do.

A section of the target sees, pixel by pixel, the given sections before and after it with their signed distances, and what
X-Diffusion's sections see (its place, the estimate, evidence, distance ...). It predicts what the estimate leaves, with a
head that is zero at the start. `base` says what the estimate is: `none`, the mean of the training volumes, is as much as papers
start from; `gaussian` and `core` are the rows that the 3D U-Net starts from. No time and no noise. Sections know nothing of each
other, so that volumes are striped across them; the mean over three axes (`sections: all`) is what can be done about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.unet import padded, residual_unet
from xdiff import team
from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import channels_last, training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draw, Draws, importance, mean_gain, residual
from xdiff.local import Core, Estimate
from xdiff.loop import Scores, TrainingSettings
from xdiff.loop import fit as run
from xdiff.model.diffusion import DISTANCE_UNIT_MM, OUTLIER, make_condition, map_channels, section_maps
from xdiff.model.sampler import PIXELS
from xdiff.model.training import draw_rows
from xdiff.observation import Observation
from xdiff.plain import one_of
from xdiff.planes import AnyPlane, common_axis, project, stack
from xdiff.trained import network_tensors, restored, start_of
from xdiff.view import View

SECTIONS = ("given", "all")


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Parameters of the method entry. channels: widths of the levels, the first at full resolution; sections: which ones are
    drawn, those of the given sections' axis (of all axes where these have no common one), or the mean over all three axes;
    per_volume: sections of each volume in a training step."""

    channels: tuple[int, ...] = (32, 64, 96)
    sections: str = "given"
    per_volume: int = 8
    steps: int = 3000

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("methods.*.params.sections", self.sections, SECTIONS)

    def network(self, contrasts: int) -> SectionUNet:
        torch.manual_seed(self.seed)
        return SectionUNet(contrasts, self.channels)


class SectionUNet(nn.Module):
    """Residual (n, C, h, w) of the estimate in units of its standard deviation, from maps (n, input_channels, h, w)."""

    def __init__(self, contrasts: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = 2 ** (len(channels) - 1)
        self.into = nn.Conv2d(input_channels(contrasts), channels[0], 1)
        self.body = residual_unet(2, channels)
        self.head = nn.Conv2d(channels[0], contrasts, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, maps: Tensor) -> Tensor:
        h, w = maps.shape[2:]
        features = self.into(padded(maps, self.factor).contiguous(memory_format=torch.channels_last))
        return self.head(functional.silu(features + self.body(features)))[:, :, :h, :w]


def input_channels(contrasts: int) -> int:
    """Maps that a section sees: two per contrast and a distance for each neighbour, conditioning, one-hot axis."""
    return 2 * (2 * contrasts + 1) + map_channels(contrasts) + 3


def neighbours(view: View, known: Estimate) -> Tensor:
    """(2 (2 C + 1), X, Y, Z): of the given section before a voxel and of the one after it, straight along their axis (of several
    axes, that of the nearest section), what it shows there (C), how far that is from the estimate in units of its standard
    deviation (C), and how far away it is in units of 40 mm, negative before. Where there is none: 0, 0, and twice the array's
    length, but no more than four units."""
    parts = []
    for after in (False, True):
        ways = [(s, s.has_after, s.after_away) if after else (s, s.has_before, s.before_away) for s in view.sides]
        shown = view.pick([torch.stack([s.at(channel, after) for channel in view.evidence]) for s, _, _ in ways])
        there = view.pick([has.expand(view.shape) for _, has, _ in ways]) & view.given[:, None, None, None]
        away_mm = view.pick([(away * view.spacing_mm[s.axis]).expand(view.shape) for s, _, away in ways])
        distance = away_mm.clamp(max=4 * DISTANCE_UNIT_MM)[None] / DISTANCE_UNIT_MM
        off = torch.where(there, (shown - known.corrected) / known.std, 0.0).clamp(-OUTLIER, OUTLIER)
        parts += [shown, off, distance if after else -distance]
    return torch.cat(parts)


def inputs(view: View, known: Estimate) -> Tensor:
    """What sections of one observation are shown, before they are cut: (input_channels - 3, X, Y, Z)."""
    return torch.cat([neighbours(view, known), make_condition(view, known).maps])


def axes_of(planes: tuple[AnyPlane, ...], sections: str) -> tuple[int, ...]:
    """The axes along which sections are drawn."""
    axis = common_axis(planes)
    return (0, 1, 2) if sections == "all" or axis is None else (axis,)


class Cut(NamedTuple):
    """Some sections of one volume: maps (n, input_channels, h, w), residual and its weight (n, C, h, w)."""

    maps: Tensor
    wanted: Tensor
    weight: Tensor


class Regression:
    """The training problem, as loop.py wants it."""

    def __init__(self, draws: Draws, checks: Checks, settings: Settings) -> None:
        self.draws, self.checks, self.settings = draws, checks, settings
        self.network = settings.network(len(draws.store.contrasts))

    def batch(self, step: int) -> list[Cut]:
        """Sections of a few volumes, each along an axis of its own: they may differ in size."""
        draws = self.draws.of_step(self.settings.seed, step, self.settings.volumes)
        rng = np.random.default_rng([self.settings.seed, step, 1])
        generators = team.own(rng.spawn(len(draws) * team.size()))  # each place has its own, whoever's it is
        return [self._cut(draw, own) for draw, own in zip(draws, generators, strict=True)]

    def _cut(self, draw: Draw, rng: np.random.Generator) -> Cut:
        axis = int(rng.choice(axes_of(draw.view.planes, self.settings.sections)))
        rows = torch.from_numpy(draw_rows(draw, axis, self.settings.per_volume, rng)).to(draw.truth.device)
        wanted, weight = (stack(volume, axis)[rows] for volume in (residual(draw), importance(draw.known)))
        return Cut(section_maps(inputs(draw.view, draw.known), axis, rows), wanted, weight)

    def loss(self, network: nn.Module, batch: list[Cut], generator: torch.Generator) -> Tensor:
        """Mean squared error of intensities, relative to what the estimate leaves; every volume counts the same."""
        device = next(network.parameters()).device
        cuts = [[part.to(device) for part in cut] for cut in batch]
        return sum((weight * (network(maps) - wanted) ** 2).mean() for maps, wanted, weight in cuts) / len(cuts)

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the mean gain over the gaussian row."""
        scores = self.checks.score(lambda draw: regress(network, draw.view, draw.known, self.settings.sections)[0])
        return mean_gain(scores), scores


@torch.inference_mode()
def regress(network: nn.Module, view: View, known: Estimate, sections: str) -> tuple[Tensor, int]:
    """The mean over the axes of the volumes (C, X, Y, Z) stacked from their sections, in units of the observation and not yet
    projected on the data; and how many sections were evaluated."""
    maps, axes = inputs(view, known), axes_of(view.planes, sections)
    total = torch.zeros_like(known.std)
    for axis in axes:
        target, length = stack(total, axis), view.shape[axis]
        batch = max(1, PIXELS // target[0, 0].numel())
        for rows in torch.arange(length, device=maps.device).split(batch):
            target[rows] += network(section_maps(maps, axis, rows)).float() / len(axes)
    return known.corrected + known.std * total, sum(view.shape[axis] for axis in axes)


def make_problem(store: Store, split: Split, core: Core, settings: Settings, folder: Path) -> Regression:
    """The training problem on a split; folder: where the registration is kept that donors ask for."""
    draws = Draws.of_training(store, split, core, settings.draws, folder)
    return Regression(draws, Checks(draws, split, settings.validate_k, settings.validate_subjects), settings)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train on the training side, resuming from `workdir`: network and core."""
    settings = Settings.of(params)
    split, core = start_of(store, split, settings, workdir.parents[1])
    best = run(make_problem(store, split, core, settings, workdir.parents[1]), settings, workdir)
    return {**network_tensors(best), **core.tensors()}


def load(weights: Path) -> SectionReconstructor:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = restored(settings.network(len(config["contrasts"])), tensors)
    return SectionReconstructor(network, Core.of(tensors, settings.base, training_device()), settings.sections)


class SectionReconstructor:
    """A trained 2D U-Net, ready to reconstruct."""

    def __init__(self, network: SectionUNet, core: Core, sections: str) -> None:
        channels_last(network)
        self.network, self.core, self.sections = network.to(core.device), core, sections
        if core.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; the standard deviation of the estimate that the network starts
        from, which it does not change; section evaluations: the sections of the axes that were drawn."""
        view, known = self.core.known(observation)
        found, evaluations = regress(self.network, view, known, self.sections)
        std = torch.where(view.known, 0.0, known.std).cpu().numpy()
        volume = project(found.cpu().numpy(), observation.sections, observation.planes, observation.given)
        return volume, std, evaluations
