"""A conditional neural field, after MedNeRF (2202.01020): one network f(position, code) -> intensities for all heads.

MedNeRF renders X-ray images of a radiance field and learns it adversarially; sections of an MRI are samples of the field
itself, so that nothing is rendered here, and the field is learned as an auto-decoder (DeepSDF, 1901.05103): weights and the
code of every training volume by descent on random voxels. From given sections, the code, a gain of their brightness, and then
a change of the weights are found by descent on their pixels (mednerf_fit.py), as MedNeRF does for an unseen patient.

`prior: false` is the ablation: a field of its own for every observation, fitted to the given pixels, nothing learned before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.mednerf_field import CodePrior, ConditionalField, FieldSettings, Frame
from baselines.mednerf_fit import FitSettings, Fitted, Gain, distance, fit_alone, fit_code
from xdiff import gaussian_fit
from xdiff.augment import Augmentation
from xdiff.checkpoint import Tensors, read_weights
from xdiff.cuda import training_device
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.loop import LoopSettings, Scores
from xdiff.loop import fit as run
from xdiff.observation import (
    NotEnoughSections,
    Observation,
    Point,
    choose_planes,
    leaves_enough_unseen,
    observe,
    projection_point,
)
from xdiff.plain import from_dict
from xdiff.planes import AXIS_NAMES, project
from xdiff.trained import network_tensors

OUTSIDE = 0.1  # share of the voxels of a step that are drawn where every training volume is 0
GAIN_K = (1, 2, 5, 10)  # given sections from which the gain's distribution is measured
GAIN_SUBJECTS = 16


@dataclass(frozen=True)
class Settings(LoopSettings):
    """prior: whether anything is learned beforehand. volumes, voxels: of a training step, and of each. copies: deformed ones of
    every training volume, with a code of their own each, as its mirror image has; max_volumes: most training volumes.
    code_weight: of the mean square of the codes beside the error; l1: of the absolute error beside the squared one.
    validate_iterations: most steps of each fit in the checks of a training."""

    steps: int = 3000
    learning_rate: float = 4e-3
    ema: float = 0.99
    validate_every: int = 1000
    prior: bool = True
    volumes: int = 80
    voxels: int = 64
    copies: int = 0
    max_volumes: int = 400
    code_weight: float = 1e-4
    l1: float = 0.1
    validate_k: tuple[int, ...] = (1, 5)
    validate_subjects: int = 3
    validate_iterations: int = 60
    network: FieldSettings = field(default_factory=FieldSettings)
    fit: FitSettings = field(default_factory=FitSettings)
    augment: Augmentation = field(default_factory=lambda: Augmentation(warp=1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("volumes", 1), ("voxels", 1), ("copies", 0)):
            if getattr(self, name) < least:
                raise InputError(f"methods.*.params.{name}", getattr(self, name), f"at least {least}")

    @classmethod
    def of(cls, params: dict) -> Settings:
        return from_dict(cls, params, "methods.*.params")


# Training -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A validation subject seen through K sections: truth (C, X, Y, Z) in units of the observation, foreground (X, Y, Z), and
    what the gaussian row scores."""

    K: int
    observation: Observation
    truth: np.ndarray
    foreground: np.ndarray
    gaussian_db: float


class AutoDecoding:
    """The training problem, as loop.py wants it. volumes (N, C, X, Y, Z): training volumes, mirror images and copies."""

    def __init__(self, volumes: Tensor, frame: Frame, gain: Gain, cases: list[Case], settings: Settings) -> None:
        self.gain, self.cases, self.settings = gain, cases, settings
        device = gain.mean.device
        self.values = volumes.flatten(2).transpose(1, 2).contiguous().to(device)  # (N, voxels, C)
        self.points = frame.points().to(device)
        seen = (volumes != 0).flatten(2).any(dim=1).any(dim=0)
        self.inside, self.outside = (torch.nonzero(part).flatten().to(device) for part in (seen, ~seen))
        torch.manual_seed(settings.seed)
        grids = settings.network.grid_sizes(frame)
        self.network = ConditionalField(volumes.shape[1], frame, grids, len(volumes), settings.network)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of volumes (B,), points (B, P, 3) in voxel coordinates and values (B, P, C)."""
        settings, rng = self.settings, np.random.default_rng((self.settings.seed, step))
        chosen = torch.from_numpy(rng.permutation(len(self.values))[: settings.volumes]).to(self.values.device)
        outside = round(OUTSIDE * settings.voxels) if len(self.outside) else 0
        counts = ((self.inside, settings.voxels - outside), (self.outside, outside))
        drawn = [
            where[torch.from_numpy(rng.integers(len(where), size=(len(chosen), count))).to(where.device)]
            for where, count in counts
            if count
        ]
        voxels = torch.cat(drawn, dim=1)
        return chosen, self.points[voxels], self.values[chosen[:, None], voxels].float()

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Squared and absolute error of the voxels, and the codes' distance from 0."""
        chosen, points, values = batch
        codes = network.codes[chosen]
        error = distance(network(points, codes) - values, self.settings.l1)
        return error + self.settings.code_weight * (codes**2).sum(dim=1).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        """Scored by the mean gain over the gaussian row of short fits to the validation subjects' sections."""
        most, own = self.settings.validate_iterations, self.settings.fit
        settings = replace(own, iterations=min(own.iterations, most), weights_iterations=min(own.weights_iterations, most))
        prior, by_k = CodePrior.of(network.codes), {}
        for case in self.cases:
            fitted = fit_code(network, prior, self.gain, case.observation, settings, np.random.default_rng(self.settings.seed))
            by_k.setdefault(case.K, []).append((unseen_db(_volume(fitted, case.observation), case), case.gaussian_db))
        if not by_k:
            return 0.0, {}
        means = {k: dict(zip(("psnr", "gaussian"), np.mean(v, axis=0).round(4).tolist(), strict=True)) for k, v in by_k.items()}
        return float(np.mean([m["psnr"] - m["gaussian"] for m in means.values()])), {"validation": means}


def unseen_db(volume: np.ndarray, case: Case) -> float:
    """Squared error over all non-given voxels per non-given foreground voxel, in dB of the observation's scale."""
    hidden = ~(case.observation.mask & np.array(case.observation.given)[:, None, None, None])
    return float(-10 * np.log10(((volume - case.truth)[hidden] ** 2).sum() / (hidden & case.foreground).sum()))


def training_volumes(store: Store, split: Split, settings: Settings) -> Tensor:
    """(N, C, X, Y, Z) float16: training volumes, their mirror images, and `copies` deformed ones of each."""
    rows, subjects = gaussian_fit.training_rows(store, split.side("train"), settings.max_volumes)
    volumes, rng = [torch.from_numpy(rows)], np.random.default_rng([settings.seed, 1])
    for subject in subjects * settings.copies:
        volume, foreground = (torch.from_numpy(a) for a in (store.volume(subject), store.foreground(subject)))
        if rng.random() < 0.5:
            volume, foreground = volume.flip(1), foreground.flip(0)
        volumes.append(settings.augment(volume, foreground, store.spacing_mm(subject), rng)[0][None].half())
    return torch.cat(volumes)


def observations(store: Store, subject: str, ks: tuple[int, ...], axes: tuple[str, ...]) -> Iterator[tuple[int, Observation]]:
    """(K, observation) of a subject from every number of sections that it has room for, along every axis; of a cohort with a
    projection, that."""
    volume, foreground, projection = store.volume(subject), store.foreground(subject), store.projection
    points = [Point(k, axis, "uniform", 0.0, 1, "mean", 0) for k in ks for axis in axes]
    for point in [projection_point(projection)] if projection else points:
        spacing_mm = store.spacing_mm(subject)
        try:
            planes = choose_planes(point, foreground, None, spacing_mm, subject)
        except NotEnoughSections:
            continue
        if leaves_enough_unseen(planes, foreground):
            given = [projection.contrast] if projection else None
            yield point.K, observe(volume, planes, store.contrasts, spacing_mm, store.frame, store.norm, given)


def measured_gain(store: Store, subjects: list[str], device: torch.device) -> Gain:
    """Of training volumes through sections of all axes; 0 where intensities are raw ones."""
    seen = [o for subject in subjects[:GAIN_SUBJECTS] for _, o in observations(store, subject, GAIN_K, AXIS_NAMES)]
    logs = -np.log(np.stack([o.scale for o in seen])) if seen else np.zeros((1, len(store.contrasts)))
    mean, std = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (logs.mean(axis=0), logs.std(axis=0)))
    return Gain(mean, std)


def validation_cases(store: Store, split: Split, settings: Settings) -> list[Case]:
    """From axial sections; the gaussian row is fitted for them, as the one that is scored."""
    subjects = split.side("val")[: settings.validate_subjects]
    linear = gaussian_fit.fit(store, split, settings.max_volumes) if subjects else None
    cases = []
    for subject in subjects:
        for k, observation in observations(store, subject, settings.validate_k, ("axial",)):
            truth = store.volume(subject) / observation.scale[:, None, None, None]
            case = Case(k, observation, truth, store.foreground(subject), 0.0)
            cases.append(case._replace(gaussian_db=unseen_db(linear.posterior(observation).mean, case)))
    return cases


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train on the training side, resuming from `workdir`: field with codes, and gain; nothing without a prior."""
    settings = Settings.of(params)
    if not settings.prior:
        return {}
    frame = Frame(store.shape, spacing_of(store.info))
    gain = measured_gain(store, split.side("train"), training_device())
    cases = validation_cases(store, split, settings)
    problem = AutoDecoding(training_volumes(store, split, settings), frame, gain, cases, settings)
    best = run(problem, settings, workdir)
    return {**network_tensors(best), "gain_mean": gain.mean.cpu().numpy(), "gain_std": gain.std.cpu().numpy()}


def spacing_of(info: dict) -> tuple[float, float, float]:
    """Of the array, in mm, as dataset.json and config.json have it: one number, or three."""
    return tuple(float(mm) for mm in np.broadcast_to(info["spacing_mm"], 3))


# Reconstruction -----------------------------------------------------------------------------------------------------


def load(weights: Path) -> FieldReconstructor:
    tensors, config = read_weights(weights)
    settings, device = Settings.of(config["params"]), training_device()
    if not settings.prior:
        return FieldReconstructor(settings, device)
    frame = Frame(tuple(config["shape"]), spacing_of(config))
    state = {n.removeprefix("network."): torch.from_numpy(a) for n, a in tensors.items() if n.startswith("network.")}
    grids = [state[f"grids.{i}"].shape[2:] for i in range(len(settings.network.grid_mm))]
    network = ConditionalField(len(config["contrasts"]), frame, grids, len(state["codes"]), settings.network)
    network.load_state_dict(state)
    gain = Gain(*(torch.from_numpy(tensors[f"gain_{part}"]).to(device) for part in Gain._fields))
    return FieldReconstructor(settings, device, network.to(device).eval(), gain)


class FieldReconstructor:
    """A field, trained where there is a prior, ready to be fitted to given sections."""

    def __init__(
        self, settings: Settings, device: torch.device, network: ConditionalField | None = None, gain: Gain | None = None
    ) -> None:
        self.settings, self.device, self.network, self.gain = settings, device, network, gain
        self.prior = None if network is None else CodePrior.of(network.codes)
        if device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, no standard deviation, no section evaluation. What is random,
        the pixels of every step and those held out, comes from `generator`."""
        if estimate != "mean":
            raise ValueError(f"a field is fitted to one volume: estimate is {estimate!r}, expected 'mean'")
        return _volume(self.fit(observation, generator), observation), None, 0

    def fit(self, observation: Observation, generator: np.random.Generator) -> Fitted:
        """The field that explains the given sections."""
        if self.network is not None:
            return fit_code(self.network, self.prior, self.gain, observation, self.settings.fit, generator)
        frame, settings = Frame(observation.shape, tuple(observation.spacing_mm)), self.settings.network
        with torch.random.fork_rng():
            torch.manual_seed(int(generator.integers(2**31)))
            fresh = ConditionalField(len(observation.contrasts), frame, settings.grid_sizes(frame), 1, settings)
        return fit_alone(fresh.to(self.device), observation, self.settings.fit, generator)


def _volume(fitted: Fitted, observation: Observation) -> np.ndarray:
    return project(fitted.volume(), observation.sections, observation.planes, observation.given)
