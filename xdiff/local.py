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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import from_tensors, to_tensors
from xdiff.observation import Observation
from xdiff.planes import along, common_axis

SIGMAS = (1, 2, 4)  # voxels: of the Gaussian filters
REACH_MM = 40.0  # distances count up to here
CLIP = 6.0  # features in units of their standard deviation: none may say more
LOG_STD = (-5.0, 3.0)  # of the predicted standard deviation, in units of the mean residual
LEAST_STD = 0.05  # of the root mean square over the volume: background must not outweigh the subject
POWERS = 6
CHUNK = 2**17  # voxels that the network sees at a time


class Estimate(NamedTuple):
    """gaussian: G; spread: its part that kriging added; corrected: G with the local correction; std: standard deviation of
    truth - corrected, positive everywhere. All (C, X, Y, Z) float32."""

    gaussian: np.ndarray
    spread: np.ndarray
    corrected: np.ndarray
    std: np.ndarray


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


@dataclass
class Core:
    """The linear-Gaussian estimate with its local correction."""

    linear: LinearGaussian
    network: LocalNetwork

    def estimate(self, observation: Observation, patient: str | tuple[str, ...] | None = None) -> Estimate:
        """What is known of a volume before anything is diffused. patient: whose training volumes are left out (one or several).

        The correction is for sections of one axis; where given planes have no common axis it is zero, and the standard
        deviation that of the linear-Gaussian model.
        """
        keep = self.linear.without_patient(patient)
        gaussian, spread = self.linear.estimate_parts(observation, keep)
        axis = common_axis(observation.planes)
        if axis is None:
            return Estimate(gaussian, spread, gaussian, _at_least(self.linear.posterior(observation).std()))
        prior = self.prior(gaussian, keep)
        found = np.stack([self._apply(observation, gaussian, spread, prior, c) for c in range(len(gaussian))])
        corrected = gaussian + np.where(observation.mask, 0, found[:, 0])
        return Estimate(gaussian, spread, corrected.astype(np.float32), _at_least(found[:, 1]))

    def prior(self, gaussian: np.ndarray, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (C, X, Y, Z) of the training volumes `keep`, brought to the brightness of the estimate."""
        total, squares, count = *self._sums, self.linear.n_rows
        if keep is not None:
            left_out = self.linear.rows[np.setdiff1d(np.arange(count), keep)].astype(np.float64)
            total, squares, count = total - left_out.sum(axis=0), squares - (left_out**2).sum(axis=0), len(keep)
        mean = (total / count).astype(np.float32)
        std = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)).astype(np.float32)
        brightness = (gaussian * mean).sum(axis=(1, 2, 3)) / ((mean**2).sum(axis=(1, 2, 3)) + 1e-12)
        wide = np.maximum(brightness, 0).astype(np.float32)[:, None, None, None]
        return wide * mean, wide * std

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the training volumes and of their squares, in float64: a patient's are subtracted again without a trace."""
        total, squares = np.zeros((2, *self.linear.rows.shape[1:]))
        for row in self.linear.rows:
            total += row
            squares += np.square(row, dtype=np.float64)
        return total, squares

    @torch.inference_mode()
    def _apply(
        self, observation: Observation, gaussian: np.ndarray, spread: np.ndarray, prior: tuple[np.ndarray, np.ndarray], c: int
    ) -> np.ndarray:
        """Residual and standard deviation of one contrast, (2, X, Y, Z) float32."""
        columns = np.stack([f.ravel() for f in features(observation, gaussian, spread, prior, c)])
        device = self.network.middle.device
        parts = [self.network(torch.from_numpy(part.T).to(device)) for part in np.array_split(columns, _parts(columns), axis=1)]
        residual, log_std = torch.cat(parts).T
        found = self.network.unit * torch.stack([residual, torch.exp(log_std.clamp(*LOG_STD))])
        return found.reshape(2, *observation.shape).cpu().numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        state = {f"local.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        return {**to_tensors(self.linear), **state}

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> Core:
        state = {n.removeprefix("local."): torch.from_numpy(a) for n, a in tensors.items() if n.startswith("local.")}
        width, count = state["body.0.weight"].shape
        network = LocalNetwork(count, width)
        network.load_state_dict(state)
        return Core(from_tensors(tensors), network.eval())


def _at_least(std: np.ndarray) -> np.ndarray:
    """No standard deviation (C, X, Y, Z) below LEAST_STD of the contrast's: residuals are divided by it."""
    return np.maximum(std, LEAST_STD * np.sqrt((std**2).mean(axis=(1, 2, 3), keepdims=True)) + 1e-6).astype(np.float32)


def _parts(columns: np.ndarray) -> int:
    return -(-columns.shape[1] // CHUNK)


def features(
    observation: Observation, gaussian: np.ndarray, spread: np.ndarray, prior: tuple[np.ndarray, np.ndarray], c: int
) -> Iterator[np.ndarray]:
    """Features (X, Y, Z) float32 of contrast `c`, one after the other, for given sections of one axis. None of them knows left
    from right."""
    axis = common_axis(observation.planes)
    g, s, mean, std = gaussian[c], spread[c], prior[0][c], prior[1][c]
    off = observation.interpolated[c] - g
    yield from _places(observation, gaussian)
    yield from (g, s, off, mean, std)
    for sigma in SIGMAS:
        smooth_g, smooth_s, smooth_off = (ndimage.gaussian_filter(image, sigma) for image in (g, s, off))
        yield from (smooth_g, smooth_s, smooth_off)
        slope, slope_s, slope_off = np.gradient(smooth_g), np.gradient(smooth_s), np.gradient(smooth_off)
        yield from (_dot(slope, slope), _dot(slope, slope_s), _dot(slope, slope_off), ndimage.laplace(smooth_g))
        yield from (slope[axis] * slope[axis], slope[axis] * slope_s[axis], slope[axis] * slope_off[axis])
    for sigma in SIGMAS[:2]:
        yield from (ndimage.gaussian_filter(image, sigma) for image in (mean, std))
        for image in (g, s):
            yield ndimage.gaussian_filter1d(image, sigma, axis)
            yield ndimage.gaussian_filter1d(image, sigma, axis, order=2)
    slope = np.gradient(ndimage.gaussian_filter(mean, 1))
    yield np.sqrt(_dot(slope, slope))
    yield from (_dot(slope, np.gradient(ndimage.gaussian_filter(image, 1))) for image in (s, g - mean))
    yield from _nearest(observation, g, s, axis)
    yield from (np.full_like(g, float(c == other)) for other in range(1, len(gaussian)))


def _dot(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _nearest(observation: Observation, g: np.ndarray, s: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """What the nearest given section on either side, straight along the axis, shows and what the training volumes missed
    there, at several scales within the section; zero beyond the outermost ones. And how far away it is."""
    given = np.array(sorted(p.index for p in observation.planes))
    rows, mm = np.arange(observation.shape[axis]), observation.spacing_mm[axis]
    in_plane = [[0 if a == axis else sigma for a in range(3)] for sigma in SIGMAS]
    missed = [s, *(ndimage.gaussian_filter(s, sigma) for sigma in in_plane)]
    shown = [g, *(ndimage.gaussian_filter(g, sigma) for sigma in in_plane[:2])]
    after = np.searchsorted(given, rows)
    for place, there in ((after, after < len(given)), (np.searchsorted(given, rows, side="right") - 1, rows >= given[0])):
        nearest = given[np.clip(place, 0, len(given) - 1)]
        distance = np.where(there, np.minimum(np.abs(nearest - rows) * mm / REACH_MM, 1), 1.5).astype(np.float32)
        yield np.broadcast_to(along(distance, axis), g.shape)
        yield from (np.take(image, nearest, axis) * along(there, axis) for image in (*missed, *shown))


def _places(observation: Observation, gaussian: np.ndarray) -> Iterator[np.ndarray]:
    """Distance to the nearest given section, how much of the subject is left open, and the place in the array."""
    distance = (np.minimum(observation.distance_mm, REACH_MM) / REACH_MM).astype(np.float32)
    yield from (distance, np.full_like(distance, log_distance(observation, gaussian)))
    for axis, n in enumerate(observation.shape):
        place = np.linspace(-1, 1, n, dtype=np.float32)
        yield np.broadcast_to(along(np.abs(place) if axis == 0 else place, axis), observation.shape)


def log_distance(observation: Observation, gaussian: np.ndarray) -> float:
    """Logarithm of the mean distance in mm to the nearest given section (at most REACH_MM), weighted by the brightness of the
    estimate (C, X, Y, Z): how much of the subject is left open.

    The number of sections would not do: ten of them side by side leave as much open as one.
    """
    bright = np.maximum(gaussian, 0).mean(axis=0) + 1e-6
    return float(np.log((np.minimum(observation.distance_mm, REACH_MM) * bright).sum() / bright.sum()))
