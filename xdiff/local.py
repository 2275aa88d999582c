"""The local correction: what a voxel's surroundings say about the error of the linear-Gaussian estimate.

The ridge of gaussian.py combines whole volumes and spreads what it misses straight along the axis. Left over are errors that
look alike everywhere: a boundary that the given sections show to lie further out lies further out between them too, at the
boundary's own place there. A regression and a small network see one voxel at a time, through some seventy features of its
surroundings - the estimate, what was spread, what the nearest given sections show and miss, the training volumes' mean and
spread, at several scales, and scalar products of their gradients - and predict the leave-one-out residual and its standard
deviation (local_fit.py). Random voxels of many cases make batches that a network of whole volumes never gets: a 3D U-Net
trained from the gaussian row alone for 1500 steps on brains at 4 mm learned next to nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xdiff.errors import InputError
from xdiff.filters import curvature, gradient, laplace, smooth
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_device import DeviceGaussian
from xdiff.gaussian_fit import from_tensors, to_tensors
from xdiff.observation import Observation
from xdiff.planes import project
from xdiff.view import Sides, View

SIGMAS = (1, 2, 4)  # voxels: of the Gaussian filters
REACH_MM = 40.0  # distances count up to here
CLIP = 6.0  # features in units of their standard deviation: none may say more
LOG_STD = (-5.0, 3.0)  # of the predicted standard deviation, in units of the mean residual
LEAST_STD = 0.05  # of the root mean square over the volume: background must not outweigh the subject
POWERS = 6
NOTHING = 1e-3  # of the intensity scale
CHUNK = 2**17  # voxels that the network sees at a time


class Estimate(NamedTuple):
    """gaussian: G; spread: its part that kriging added; corrected: G with the local correction; std: standard deviation of
    truth - corrected, positive everywhere. All (C, X, Y, Z) float32, numpy arrays or tensors."""

    gaussian: Any
    spread: Any
    corrected: Any
    std: Any


class LocalNetwork(nn.Module):
    """Residual and logarithm of its standard deviation (N, 2), in units of `unit`, from features (N, features).

    The residual is a linear regression, whose weights depend on distance and openness (the first two features), plus a
    multilayer perceptron. `linear` (features + 1, POWERS) holds the regression; zero if there is none.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(features))
        self.register_buffer("wide", torch.ones(features))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("linear", torch.zeros(features + 1, POWERS))
        self.body = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, columns: Tensor) -> Tensor:
        known = self.standardised(columns)
        return self.body(known) + functional.pad(self.regressed(known)[:, None], (0, 1))

    def standardised(self, columns: Tensor) -> Tensor:
        return ((columns - self.middle) / self.wide).clamp(-CLIP, CLIP)

    def regressed(self, known: Tensor) -> Tensor:
        """The linear part (N,) of standardised features."""
        return ((known @ self.linear[:-1] + self.linear[-1]) * powers(known)).sum(dim=1)


def powers(known: Tensor) -> Tensor:
    """(N, POWERS) of standardised features: 1, distance and its square, each also times openness."""
    distance, open_ = known[:, :1], known[:, 1:2]
    by_distance = torch.cat([torch.ones_like(distance), distance, distance * distance], dim=1)
    return torch.cat([by_distance, open_ * by_distance], dim=1)


BASES = ("core", "gaussian", "none")


@dataclass
class Core:
    """The linear-Gaussian estimate with its local correction. `network` decides on which device it works.

    base: what methods start from, `core`; in ablations `gaussian` leaves the correction out, and `none` starts from the mean of
    the training volumes with the given sections put in, and their standard deviation.
    """

    linear: LinearGaussian
    network: LocalNetwork
    base: str = "core"

    def __post_init__(self) -> None:
        if self.base not in BASES:
            raise InputError("methods.*.params.base", repr(self.base), f"one of {BASES}")

    @property
    def device(self) -> torch.device:
        return self.network.middle.device

    def estimate(self, observation: Observation, patient: str | tuple[str, ...] | None = None) -> Estimate:
        """`known` without the view, as numpy arrays."""
        return Estimate(*(t.cpu().numpy() for t in self.known(observation, patient)[1]))

    def known(self, observation: Observation, patient: str | tuple[str, ...] | None = None) -> tuple[View, Estimate]:
        """An observation on the core's device and what is known of the volume before anything is diffused. patient: whose
        training volumes are left out, one name or several."""
        keep = self.linear.without_patient(patient)
        view = View.of(observation, self.device)
        parts = (torch.from_numpy(a).to(self.device) for a in self.linear.estimate_parts(observation, keep))
        known = self.refine(view, *parts, keep)
        if view.exact:
            return view, known
        # of thick and oblique sections only averages are given: the correction moves what makes them up
        met = project(known.corrected.cpu().numpy(), observation.sections, observation.planes, observation.given)
        return view, known._replace(corrected=torch.from_numpy(met).to(self.device))

    def known_on_device(self, view: View, sections: Sequence[Tensor], patient: str | tuple[str, ...] | None = None) -> Estimate:
        """As `known`, from sections (C, h, w) on the core's device, where everything stays; of planes that
        gaussian_device.supports."""
        keep = self.linear.without_patient(patient)
        known = self.refine(view, *self._on_device.estimate_parts(view, sections, keep), keep)
        if view.exact:
            return known
        return known._replace(corrected=project(known.corrected, sections, view.planes, view.given.tolist()))

    @cached_property
    def _on_device(self) -> DeviceGaussian:
        return DeviceGaussian(self.linear, self.device)

    @torch.inference_mode()
    def refine(self, view: View, gaussian: Tensor, spread: Tensor, keep: np.ndarray | None) -> Estimate:
        """The local correction of G and of its spread part (C, X, Y, Z), training volumes `keep` alone being known."""
        prior = self.prior(gaussian, keep)
        if self.base == "none":
            mean = torch.where(view.known, view.evidence, prior[0])
            return Estimate(gaussian, torch.zeros_like(spread), mean, _at_least(prior[1]))
        found = torch.stack([self._apply(view, gaussian, spread, prior, c) for c in range(len(gaussian))])
        if self.base == "gaussian":
            found[:, 0] = 0
        corrected = gaussian + torch.where(view.known, 0.0, found[:, 0])
        return Estimate(gaussian, spread, corrected, _at_least(found[:, 1]))

    def prior(self, gaussian: Tensor, keep: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, X, Y, Z) of the training volumes `keep`, brought to the brightness of the estimate."""
        total, squares, count = *self._sums, self.linear.n_rows
        if keep is not None:
            rows = self._rows(np.setdiff1d(np.arange(count), keep)).double()
            total, squares, count = total - rows.sum(dim=0), squares - (rows**2).sum(dim=0), len(keep)
        mean = total / count
        std = torch.sqrt((squares / count - mean**2).clamp(min=0)).float()
        mean = mean.float()
        brightness = (gaussian * mean).sum(dim=(1, 2, 3)) / ((mean**2).sum(dim=(1, 2, 3)) + 1e-12)
        wide = brightness.clamp(min=0)[:, None, None, None]
        return wide * mean, wide * std

    def prepare(self) -> None:
        """Make what is made once, before threads ask for it."""
        for axis in range(3):
            self.linear.section_grams(axis)
        self.prior(torch.zeros(self.linear.rows.shape[1:], device=self.device), self.linear.without(0))

    def _rows(self, which: np.ndarray) -> Tensor:
        """Training volumes (n, C, X, Y, Z), from the device where they are there anyway."""
        if self.device.type == "cuda":
            return self._on_device.rows[torch.from_numpy(which).to(self.device)]
        return torch.from_numpy(self.linear.rows[which])

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """Of the training volumes and of their squares, in float64: a patient's are subtracted again without a trace."""
        total, squares = np.zeros((2, *self.linear.rows.shape[1:]))
        for row in self.linear.rows:
            total += row
            squares += np.square(row, dtype=np.float64)
        return torch.from_numpy(total).to(self.device), torch.from_numpy(squares).to(self.device)

    def _apply(self, view: View, gaussian: Tensor, spread: Tensor, prior: tuple[Tensor, Tensor], c: int) -> Tensor:
        """Residual and standard deviation of one contrast, (2, X, Y, Z), 0 where nothing was ever seen."""
        network, found = self.network, []
        where = seen_something(gaussian, prior).flatten().nonzero()[:, 0]
        # in half precision, as in training: at 240 x 240 x 155 voxels the features are what takes the memory
        columns = gaussian.new_empty((len(network.middle), len(where)), dtype=torch.float16)
        for i, feature in enumerate(features(view, gaussian, spread, prior, c)):
            chosen = feature.expand(view.shape).flatten()[where]
            columns[i] = ((chosen - network.middle[i]) / network.wide[i]).clamp(-CLIP, CLIP)
        for part in columns.split(CHUNK, dim=1):
            known = part.T.float()
            found.append(network.body(known) + functional.pad(network.regressed(known)[:, None], (0, 1)))
        residual, log_std = torch.cat(found).T
        result = gaussian.new_zeros((2, view.mask.numel()))
        result[:, where] = network.unit * torch.stack([residual, torch.exp(log_std.clamp(*LOG_STD))])
        return result.reshape(2, *view.shape)

    def tensors(self) -> dict[str, np.ndarray]:
        state = {f"local.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        return {**to_tensors(self.linear), **state}

    @staticmethod
    def of(tensors: dict[str, np.ndarray], base: str = "core", device: torch.device | str = "cpu") -> Core:
        state = {n.removeprefix("local."): torch.from_numpy(a) for n, a in tensors.items() if n.startswith("local.")}
        width, count = state["body.0.weight"].shape
        network = LocalNetwork(count, width)
        network.load_state_dict(state)
        return Core(from_tensors(tensors), network.eval().to(device), base)


def _at_least(std: Tensor) -> Tensor:
    """No standard deviation (C, X, Y, Z) below LEAST_STD of the contrast's: residuals are divided by it."""
    return torch.maximum(std, LEAST_STD * torch.sqrt((std**2).mean(dim=(1, 2, 3), keepdim=True)) + 1e-6)


def seen_something(gaussian: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
    """Voxels (X, Y, Z) bool in which the estimate or the training volumes are not just 0. The others, most of the array round a
    skull-stripped head, are nothing to correct."""
    return (gaussian.abs() + prior[1]).amax(dim=0) > NOTHING


def features(view: View, gaussian: Tensor, spread: Tensor, prior: tuple[Tensor, Tensor], c: int) -> Iterator[Tensor]:
    """Features, broadcastable to (X, Y, Z), of contrast `c`, one after the other. None of them knows left from right. Those
    that have a direction take that of the nearest given section."""
    g, s, mean, std = gaussian[c], spread[c], prior[0][c], prior[1][c]
    off = torch.where(view.given[c], view.interpolated[c] - g, 0.0)
    yield from _places(view, gaussian)
    yield view.given[c].float().reshape(1, 1, 1)
    yield from (g, s, off, mean, std)
    for sigma in SIGMAS:
        smooth_g, smooth_s, smooth_off = (smooth(image, sigma) for image in (g, s, off))
        yield from (smooth_g, smooth_s, smooth_off)
        slope, slope_s, slope_off = gradient(smooth_g), gradient(smooth_s), gradient(smooth_off)
        yield from (_dot(slope, slope), _dot(slope, slope_s), _dot(slope, slope_off), laplace(smooth_g))
        for other in (slope, slope_s, slope_off):
            yield view.pick([slope[side.axis] * other[side.axis] for side in view.sides])
    for sigma in SIGMAS[:2]:
        yield from (smooth(image, sigma) for image in (mean, std))
        for image in (g, s):
            yield view.pick([smooth(image, sigma, (side.axis,)) for side in view.sides])
            yield view.pick([curvature(image, sigma, side.axis) for side in view.sides])
    slope = gradient(smooth(mean, 1))
    yield torch.sqrt(_dot(slope, slope))
    yield from (_dot(slope, gradient(smooth(image, 1))) for image in (s, g - mean))
    by_side = (_nearest(view, side, g, s) for side in view.sides)
    yield from (view.pick(images) for images in zip(*by_side, strict=True))
    yield from (g.new_full((1, 1, 1), float(c == other)) for other in range(1, len(gaussian)))


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _nearest(view: View, side: Sides, g: Tensor, s: Tensor) -> Iterator[Tensor]:
    """What the nearest given section on either side, straight along the axis, shows and what the training volumes missed
    there, at several scales within the section; zero beyond the outermost ones. And how far away it is."""
    in_plane = [a for a in range(3) if a != side.axis]
    missed = [s, *(smooth(s, sigma, in_plane) for sigma in SIGMAS)]
    shown = [g, *(smooth(g, sigma, in_plane) for sigma in SIGMAS[:2])]
    for after, away, there in ((True, side.after_away, side.has_after), (False, side.before_away, side.has_before)):
        distance = torch.where(there, (away * view.spacing_mm[side.axis] / REACH_MM).clamp(max=1), 1.5)
        yield distance.expand(view.shape)
        yield from (side.at(image, after) for image in (*missed, *shown))


def _places(view: View, gaussian: Tensor) -> Iterator[Tensor]:
    """Distance to the nearest given section, how much of the subject is left open, and the place in the array."""
    yield view.distance_mm.clamp(max=REACH_MM) / REACH_MM
    yield gaussian.new_full((1, 1, 1), log_distance(view, gaussian))
    for axis, n in enumerate(view.shape):
        place = torch.linspace(-1, 1, n, device=gaussian.device).reshape([-1 if a == axis else 1 for a in range(3)])
        yield place.abs() if axis == 0 else place


def log_distance(view: View, gaussian: Tensor) -> float:
    """Logarithm of the mean distance in mm to the nearest given section (at most REACH_MM), weighted by the brightness of the
    estimate (C, X, Y, Z): how much of the subject is left open.

    The number of sections would not do: ten of them side by side leave as much open as one.
    """
    bright = gaussian.clamp(min=0).mean(dim=0) + 1e-6
    return float(torch.log((view.distance_mm.clamp(max=REACH_MM) * bright).sum() / bright.sum()))
