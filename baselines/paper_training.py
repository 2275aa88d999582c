"""Training of the paper's estimate: fresh pairs of a given slice and target sections at every step (xdiff/loop.py runs it)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.paper_assembly import VIEWS, SliceAssembly
from baselines.paper_network import PaperSettings, Slice, Trained, cut_turned, draw_turned, pose, predict_noise, to_canvas
from baselines.paper_schedule import TRAINED_STEPS, alpha_bar
from xdiff.checkpoint import Tensors
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.draws import Checks, Draw, Draws, DrawSettings
from xdiff.local import Core
from xdiff.loop import Scores
from xdiff.loop import fit as run
from xdiff.observation import observe
from xdiff.planes import per_section
from xdiff.rotations import CubeRotation
from xdiff.trained import HeldOut, network_tensors

HELD_OUT = 8  # batches
VALIDATION_STEPS = 10  # of DDIM: what a check can afford


class Example(NamedTuple):
    """A given slice, the volume (C, X, Y, Z) it is of, in the slice's units, and the foreground (X, Y, Z)."""

    given: Slice
    truth: np.ndarray
    foreground: np.ndarray


class Batch(NamedTuple):
    """Target sections and the given slice of each (n, C, S, S) in [-1, 1], and poses (n, pose_size)."""

    clean: Tensor
    slices: Tensor
    poses: Tensor


class SliceDraws(Draws):
    """The draws that all methods share, of one given slice, without the linear estimate, which the paper does not know."""

    def case(self, subject: str, volume: Tensor, foreground: Tensor, planes: list, *rest: Any) -> Example:  # type: ignore[override]
        store, given = self.store, rest[0] if rest else None
        array, spacing = volume.cpu().numpy(), self.store.spacing_mm(subject)
        observation = observe(array, planes, store.contrasts, spacing, store.frame, store.norm, given)
        one = Slice(planes[0], observation.sections[0], np.array(observation.given), observation.shape, spacing)
        return Example(one, array / observation.scale[:, None, None, None], foreground.cpu().numpy())


def of_one_slice(settings: DrawSettings) -> DrawSettings:
    """The same draws of one slice of an array axis each: the paper knows no others."""
    return replace(settings, max_k=1, orthogonal=0.0, tilted=0.0)


class NoisePrediction(HeldOut):
    """The training problem of the paper, as loop.py wants it."""

    def __init__(self, draws: SliceDraws, checks: Checks, validation: list[str], settings: PaperSettings) -> None:
        self.draws, self.checks, self.settings = draws, checks, settings
        self.network = settings.network(len(draws.store.contrasts))
        self.limits = limits_of(draws.store, draws.subjects)
        left = torch.from_numpy(alpha_bar(settings.schedule)).float()
        self.alpha, self.sigma = torch.sqrt(left), torch.sqrt(1 - left)
        plain = replace(draws.settings, augment=replace(draws.settings.augment, warp=0), donors=0.0)
        others = SliceDraws(draws.store, validation, draws.core, plain, resident=False)
        generators = [np.random.default_rng([settings.seed, i, 2**31]) for i in range(HELD_OUT if validation else 0)]
        self.held_out = [self._batch([others.one(rng) for _ in range(settings.volumes)], rng) for rng in generators]
        self.untrained_loss = self.held_out_loss(self.network)

    def batch(self, step: int) -> Batch:
        examples = self.draws.of_step(self.settings.seed, step, self.settings.volumes)
        return self._batch(examples, np.random.default_rng([self.settings.seed, step, 1]))

    def _batch(self, examples: list[Example], rng: np.random.Generator) -> Batch:
        """Sections of a few volumes, each volume in one of the trained orientations."""
        parts = []
        for given, truth, foreground in examples:
            turn = VIEWS[int(rng.integers(self.settings.orientations))]
            rows = targets(given, foreground, turn, self.settings.sections, rng)
            one = to_canvas(torch.from_numpy(given.pixels)[None], given.side)
            parts.append((cut_turned(truth, given, turn, rows), one.expand(len(rows), -1, -1, -1), pose(given, turn, rows)))
        return Batch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """2006.11239, eq. 14: mean squared error of the noise, at steps drawn uniformly; every now and then without the slice."""
        device, count = next(network.parameters()).device, len(batch.clean)
        t = torch.randint(TRAINED_STEPS, (count,), generator=generator)
        kept = (torch.rand(count, generator=generator) >= self.settings.drop).float().to(device)
        noise = torch.randn(batch.clean.shape, generator=generator).to(device)
        clean, slices, poses = (tensor.to(device) for tensor in batch)
        alpha, sigma = (level[t].to(device)[:, None, None, None] for level in (self.alpha, self.sigma))
        shown = kept[:, None, None, None] * slices, kept[:, None] * poses
        found = predict_noise(network, alpha * clean + sigma * noise, t.to(device), *shown)
        return ((found - noise) ** 2).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the gain of the loss over the untrained network's, in dB: PSNR of draws prefers blur."""
        gain = 10 * np.log10(self.untrained_loss / self.held_out_loss(network)) if self.held_out else 0.0
        return float(gain), self.checks.score(partial(self._drawn, network))

    def _drawn(self, network: nn.Module, case: Draw) -> Tensor:
        """A draw along each given slice's axis, their mean."""
        view, trained = case.view, Trained(network, self.limits, replace(self.settings, assembly=SliceAssembly()))
        evidence, generator = view.evidence.cpu().numpy(), np.random.default_rng(0)
        volumes = []
        for plane in view.planes:
            given = Slice(plane, plane.cut(evidence), view.given.cpu().numpy(), view.shape, view.spacing_mm)
            volumes.append(draw_turned(trained, given, VIEWS[0], VALIDATION_STEPS, generator)[0])
        return torch.from_numpy(np.mean(volumes, axis=0)).to(case.truth.device)


def targets(given: Slice, foreground: np.ndarray, turn: CubeRotation, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) sections of the turned array along the given slice's axis, those that hold foreground and two beyond them, drawn
    from that axis' own length; never the given slice itself, which would teach to copy."""
    axis = given.plane.axis
    filled = np.flatnonzero(per_section(turn.volume(foreground[None])[0], axis))
    near = np.arange(max(0, filled[0] - 2), min(given.shape[turn.perm[axis]], filled[-1] + 3))
    place = turn.plane(given.plane, given.shape)
    if place.axis == axis and place.thin:
        near = near[near != place.index]
    return rng.choice(near, count, replace=len(near) < count)


def limits_of(store: Store, subjects: list[str]) -> np.ndarray:
    """(2,) float32: the least and the largest intensity of some volumes, in units of each one's own scale."""
    volumes = [store.volume(subject) for subject in subjects]
    return np.array([min(v.min() for v in volumes), max(v.max() for v in volumes)], np.float32)


def make_problem(store: Store, split: Split, core: Core, settings: PaperSettings, folder: Path) -> NoisePrediction:
    """The training problem on a split. core: of the rows that checks compare with, nothing else; folder: where the registration
    is kept that donors ask for."""
    draws = SliceDraws.of_training(store, split, core, of_one_slice(settings.draws), folder)
    compared = Draws(store, draws.subjects, core, DrawSettings(), resident=False)
    checks = Checks(compared, split, settings.validate_k, settings.validate_subjects)
    return NoisePrediction(draws, checks, split.side("val")[: settings.validate_subjects], settings)


def fit_paper(store: Store, split: Split, core: Core, settings: PaperSettings, workdir: Path) -> Tensors:
    """Train to the end, or resume from `workdir` and finish; the network's arrays and `limits`."""
    problem = make_problem(store, split, core, settings, workdir.parent)
    best = run(problem, settings, workdir)
    return {"limits": problem.limits, **network_tensors(best)}
