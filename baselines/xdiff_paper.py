"""X-Diffusion as its paper has it (arXiv 2404.19604): each section drawn on its own, views averaged, slices multiplied.

    methods:
      xdiff_paper: {module: baselines.xdiff_paper, params: {...}, estimates: [sample, mean_of_16], stepped: true}
      xdiff-sections-apart:
        {module: baselines.xdiff_paper, params: {trained_as: xdiff, ...}, estimates: [mean, sample], stepped: true}

trained_as: paper is the paper's own training: noise prediction on 1000 betas from one given slice and the pose of the target
section, by a 2D network in pixel space in place of the 860 M of latent diffusion (paper_network.py, paper_training.py).

trained_as: xdiff takes the very weights of an entry of xdiff.model.method with the same parameters, and only draws the paper's
way: one axis at a time from noise of its own, no fusion of axes, no projection on the given voxels while drawing, `views`
axes averaged at the end. What its network sees of a section's neighbours (trunk, slab, linear estimate) is the stack of that
axis at the same step, as in training; zeros there would be a state that it knows at t = 1 alone. So neighbours still hear of
each other through the estimate. `apart: 2` takes neighbours from stacks of different noise; sections that hear of no other
need the paper's own training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines import paper_training
from baselines.paper_assembly import VIEWS, StackAssembly, average_views, merge_slices
from baselines.paper_network import PARAMS, PaperSettings, Slice, Trained, draw_turned
from baselines.paper_schedule import draw, straight_levels
from baselines.paper_training import fit_paper
from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import channels_last, training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError, NotSupported
from xdiff.local import Core, log_distance
from xdiff.loop import Problem, TrainingSettings
from xdiff.model import training
from xdiff.model.diffusion import make_condition
from xdiff.model.method import XDiffusion
from xdiff.model.network import Network
from xdiff.model.sampler import Denoiser, SamplerSettings, axis_estimates
from xdiff.observation import Observation
from xdiff.plain import digest, one_of
from xdiff.planes import AXES, Plane, common_axis, project, stack, unstack
from xdiff.trained import restored, shared_training, start_of

VERSION = 1  # raise when the same settings train something else
KINDS = ("paper", "xdiff")


@dataclass(frozen=True)
class SharedSettings(training.Settings):
    """Parameters of an entry with X-Diffusion's own network: those of that entry, and how volumes are put together."""

    trained_as: str = "xdiff"
    assembly: StackAssembly = field(default_factory=StackAssembly)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler != SamplerSettings():
            raise InputError(f"{PARAMS}.sampler", self.sampler, "none: `assembly` says how this one draws")

    @property
    def trained(self) -> training.Settings:
        """Of the entry of xdiff.model.method whose training this one shares."""
        return training.Settings(**{f.name: getattr(self, f.name) for f in fields(training.Settings)})


class Settings(TrainingSettings):
    """Whose `of` gives the settings of an entry of either kind: what the harness asks a module for."""

    @classmethod
    def of(cls, params: dict) -> PaperSettings | SharedSettings:
        """Raises InputError on a key that the entry's kind does not have."""
        kind = params.get("trained_as", "paper")
        one_of(f"{PARAMS}.trained_as", kind, KINDS)
        return (PaperSettings if kind == "paper" else SharedSettings).of(params)


def make_problem(store: Store, split: Split, core: Core, settings: PaperSettings | SharedSettings, folder: Path) -> Problem:
    """The training problem of an entry."""
    if isinstance(settings, SharedSettings):
        return training.make_problem(store, split, core, settings.trained, folder)
    return paper_training.make_problem(store, split, core, settings, folder)


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train, or take what another entry has trained already that differs in `assembly` (or, as xdiff, in `sampler`) alone. The
    core stays beside the paper's own network too, for what is compared with it in training; drawing does without."""
    settings = Settings.of(params)
    if isinstance(settings, SharedSettings):
        return training.fit_network(store, split, settings.trained, workdir)
    split, core = start_of(store, split, settings, workdir.parents[1])
    sides = [split.side("train"), split.side("val")]
    name = f"paper-{digest([VERSION, store.fingerprint, *sides, asdict(settings.trained)])}"
    tensors = shared_training(
        name, workdir, lambda checkpoints: fit_paper(store, split, core, settings, checkpoints), together=False
    )
    return {**tensors, **core.tensors()}


def load(weights: Path) -> SliceDiffusion | IndependentSections:
    tensors, config = read_weights(weights)
    settings = Settings.of(config["params"])
    network = restored(settings.network(len(config["contrasts"])), tensors)
    if isinstance(settings, SharedSettings):
        return IndependentSections(network, Core.of(tensors, settings.base, training_device()), tensors, settings)
    channels_last(network)
    return SliceDiffusion(Trained(network.to(training_device()), tensors["limits"], settings))


def draws_of(estimate: str) -> int:
    """How many draws an estimate asks for."""
    return 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))


def mean_of(make: Callable[[], tuple[np.ndarray, int]], count: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Mean of `count` draws, their standard deviation (None of one), and the evaluations of all."""
    volumes, evaluations = zip(*(make() for _ in range(count)), strict=True)
    std = np.std(volumes, axis=0, ddof=1) if count > 1 else None
    return np.mean(volumes, axis=0, dtype=np.float32), std, sum(evaluations)


class SliceDiffusion:
    """The paper's own training, ready to reconstruct."""

    def __init__(self, trained: Trained) -> None:
        self.trained, self.assembly = trained, trained.settings.assembly
        if trained.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, standard deviation of the draws of a mean_of_N (None of a
        sample), section evaluations of all slices, views and guidance. Raises NotSupported on what the paper cannot do."""
        if estimate == "mean":
            raise NotSupported("noise prediction from pure noise has no estimate of the mean in one call")
        if not all(isinstance(plane, Plane) for plane in observation.planes):
            raise NotSupported("the condition is a slice of one of the array's axes")
        several = len(observation.planes) > 1 and self.assembly.merge == "multiplicative"
        if several and min(section.min() for section in observation.sections) < 0:
            raise NotSupported("merge multiplicative of intensities below 0: it needs a scale of 0 to 1")
        volume, std, evaluations = mean_of(lambda: self._draw(observation, steps, generator), draws_of(estimate))
        if std is not None and self.assembly.paste:
            std = np.where(observation.known, 0, std)
        return volume, std, evaluations

    def _draw(self, observation: Observation, steps: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """A volume for each given slice, merged."""
        o, made = observation, []
        for plane, section in zip(o.planes, o.sections, strict=True):
            given = Slice(plane, section, np.array(o.given), o.shape, o.spacing_mm)
            turned = partial(draw_turned, self.trained, given, steps=steps, generator=generator)
            made.append(average_views(turned, self.assembly.views))
        volumes, evaluations = zip(*made, strict=True)
        merged = merge_slices(volumes, self.assembly.merge)
        return (project(merged, o.sections, o.planes, o.given) if self.assembly.paste else merged), sum(evaluations)


class IndependentSections(XDiffusion):
    """X-Diffusion's network, its sections drawn the paper's way."""

    def __init__(self, network: Network, core: Core, tensors: Tensors, settings: SharedSettings) -> None:
        super().__init__(network, core, tensors, settings)
        self.assembly = settings.assembly

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """As of XDiffusion. mean: one call at t = 1 along each of the `views` axes, of which the given sections' own is the first
        (where they have none, the axial)."""
        view, known = self.core.known(observation)
        spectrum = torch.from_numpy(self.spectra.at(log_distance(view, known.gaussian))).to(self.device)
        denoiser = Denoiser(self.network, spectrum, make_condition(view, known, torch.float16), common_axis(view.planes))
        corrected, within = (tensor.cpu().numpy() for tensor in (known.corrected, known.std))
        if estimate == "mean":  # one step from t = 1, whatever the noise
            residual, spread, evaluations = mean_of(lambda: self._average(denoiser, 1, 1, generator), 1)
        else:
            draw_one = partial(self._average, denoiser, steps, self.assembly.apart, generator)
            residual, spread, evaluations = mean_of(draw_one, draws_of(estimate))
        volume, std = corrected + within * residual, within if spread is None else within * spread
        if self.assembly.paste:
            volume = project(volume, observation.sections, observation.planes, observation.given)
            std = np.where(observation.known, 0, std)
        return volume, std, evaluations

    def _average(self, denoiser: Denoiser, steps: int, apart: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """Mean of one draw of r_0 (C, X, Y, Z) along each axis, and their section evaluations."""
        first = AXES["axial"] if denoiser.axis is None else denoiser.axis
        total, evaluations = torch.zeros(denoiser.shape, device=self.device), 0
        for turn in VIEWS[: self.assembly.views]:
            axis = turn.perm[first]
            stacks = [stack(self._along(denoiser, axis, steps, generator), axis) for _ in range(apart)]
            chosen = torch.stack([stacks[row % apart][row] for row in range(denoiser.shape[axis + 1])])
            total += unstack(chosen, axis)
            evaluations += apart * steps * len(chosen)
        return (total / self.assembly.views).cpu().numpy(), evaluations

    def _along(self, denoiser: Denoiser, axis: int, steps: int, generator: np.random.Generator) -> Tensor:
        """A draw of r_0 (C, X, Y, Z) along one axis."""
        levels = straight_levels(steps)

        def fresh() -> Tensor:
            return torch.from_numpy(generator.standard_normal(denoiser.shape, dtype=np.float32)).to(self.device)

        def clean(state: Tensor, step: int) -> Tensor:
            linear, added = axis_estimates(denoiser, state, float(levels.sigma[step]), (axis,))
            return linear + added[0]

        return draw(clean, fresh(), levels, self.assembly.solver, fresh)
