"""How a volume is made: one 3D state, one 3D noise, all sections of all axes denoised, fused, projected, stepped.

Pure functions of a network, a condition and a noise tensor. The state is the residual r in units of s (diffusion.py), in which
the given voxels are exactly 0, because L already has the given sections in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xdiff.errors import InputError
from xdiff.model.diffusion import Condition, precondition, section_maps, slabs
from xdiff.model.network import Network, double
from xdiff.planes import stack

PIXELS = 2**18  # of one batch of sections: what bounds the memory, whatever their size
FACTOR = {"cuda": 4}  # by device, 1 elsewhere: a GPU waits for the launches of small batches
SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.03, 7.0
WARM_SIGMA = 5.0  # noise that a warm start adds to the mean: the largest modes stand out of it
CHOICES = {
    "fusion": ("fitted", "uniform", "none"),
    "noise": ("shared", "independent"),
    "projection": ("every_step", "end"),
    "start": ("noise", "warm"),
    "solver": ("dpm", "ddim"),
}


@dataclass(frozen=True)
class SamplerSettings:
    """The first of every choice is X-Diffusion, the others are ablations. fusion: weights of the three axes' estimates, fitted on
    validation subjects, equal, or none: the core and the linear denoiser alone, the network is not asked; noise: one state of the
    whole volume, or one for each axis with its own noise; projection: on the given voxels at every step or at the end alone;
    start: from noise, or from the mean with WARM_SIGMA of noise."""

    fusion: str = "fitted"
    noise: str = "shared"
    projection: str = "every_step"
    start: str = "noise"
    solver: str = "dpm"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"methods.*.params.sampler.{name}", repr(getattr(self, name)), f"one of {choices}")


class Fusion(NamedTuple):
    """Weights (T, G, 2) of the network's part of the estimates along the given sections' own axis and along each other axis, at
    falling times (T,) from 1 and rising openness (G,), which is local.log_distance: how much of the subject is left open."""

    times: np.ndarray
    openness: np.ndarray
    weights: np.ndarray

    def at(self, t: float, axis: int | None, openness: float = 0.0) -> Tensor:
        """(3,), interpolated in log noise level and openness; for given sections of no common axis their average."""
        by_time = np.stack([[np.interp(openness, self.openness, w) for w in pairs.T] for pairs in self.weights])
        own, other = (np.interp(-_log_sigma(t), -_log_sigma(self.times), w) for w in by_time.T)
        return torch.tensor([(own + 2 * other) / 3] * 3 if axis is None else [own if a == axis else other for a in range(3)])


def _log_sigma(t: float | np.ndarray) -> float | np.ndarray:
    return np.log(t / np.maximum(1 - np.asarray(t, dtype=float), 1e-6))


UNIFORM = Fusion(np.ones(1), np.zeros(1), np.full((1, 1, 2), 1 / 3))
NONE = Fusion(np.ones(1), np.zeros(1), np.zeros((1, 1, 2)))


class Denoiser(NamedTuple):
    """Everything that the estimates of one volume come from. axis: that the given sections are of, None where several; openness:
    see Fusion."""

    network: Network
    spectrum: Tensor
    condition: Condition
    axis: int | None = None
    fusion: Fusion = UNIFORM
    openness: float = 0.0

    @property
    def shape(self) -> torch.Size:
        return self.condition.known.shape

    @property
    def silent(self) -> bool:
        """Whether nothing that the network says would count: then it is not asked."""
        return not self.fusion.weights.any()

    @property
    def evaluations(self) -> int:
        """Section evaluations of one call: all sections of three axes."""
        return 0 if self.silent else sum(self.shape[1:])

    def tokens(self) -> Tensor | None:
        return None if self.network.tokens is None else self.network.tokens(self.condition.maps[None])


@torch.inference_mode()
def axis_estimates(denoiser: Denoiser, state: Tensor, t: float, axes: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor]:
    """Estimates of r_0 from the state (C, X, Y, Z) at time t: the linear one (C, X, Y, Z), and what the network adds to it along
    every target axis (axes, C, X, Y, Z). At t = 1 the network is shown zeros (see diffusion.py)."""
    network, maps = denoiser.network, denoiser.condition.maps
    time = torch.full((1,), t, device=state.device)
    shown_state = state if t < 1 else torch.zeros_like(state)
    linear, unit, shown = (v[0] for v in precondition(shown_state[None], time, denoiser.spectrum))
    context, tokens = None, denoiser.tokens()
    if network.trunk is not None and axes:
        context = double(network.trunk(shown[None], time, maps[None]), state.shape[1:])[0]
    raw = torch.empty(len(axes), *state.shape, device=state.device)
    for i, axis in enumerate(axes):
        sections = stack(raw[i], axis)
        batch = max(1, FACTOR.get(state.device.type, 1) * PIXELS // sections[0, 0].numel())
        for rows in torch.arange(len(sections), device=state.device).split(batch):
            around = None if context is None else stack(context, axis)[rows]
            slab, cut = slabs(shown, axis, rows, network.slab), section_maps(maps, axis, rows)
            repeated = None if tokens is None else tokens.expand(len(rows), -1, -1)
            sections[rows] = network.section(slab, time.expand(len(rows)), cut, around, repeated).float()
    return linear, unit * raw


def denoised(denoiser: Denoiser, state: Tensor, t: float, project: bool = True) -> Tensor:
    """The fused estimate of r_0 (C, X, Y, Z), 0 at the voxels that are known exactly if `project`. A state (3, C, X, Y, Z) has
    one volume for each target axis."""
    weights = denoiser.fusion.at(t, denoiser.axis, denoiser.openness).to(state)
    asked = () if denoiser.silent else (0, 1, 2)
    if state.ndim == 4:
        linear, added = axis_estimates(denoiser, state, t, asked)
        fused = linear + torch.tensordot(weights[: len(asked)], added, dims=1)
    else:
        parts = [axis_estimates(denoiser, state[axis], t, asked[axis : axis + 1]) for axis in range(3)]
        fused = sum(linear / 3 + (w * added).sum(dim=0) for w, (linear, added) in zip(weights, parts, strict=True))
    return torch.where(denoiser.condition.known, 0.0, fused) if project else fused


def mean_residual(denoiser: Denoiser) -> tuple[Tensor, int]:
    """One call per axis at t = 1: the estimate of E[r_0 | y], (C, X, Y, Z), and the number of section evaluations."""
    nothing = torch.zeros(denoiser.shape, device=denoiser.condition.known.device)
    return denoised(denoiser, nothing, 1.0), denoiser.evaluations


def times(steps: int, sigma_max: float = SIGMA_MAX) -> list[float]:
    """steps + 1 times from 1 to 0: t = 1, then EDM's noise levels (2206.00364, eq. 5) from SIGMA_MAX to SIGMA_MIN, then 0."""
    if steps < 1:
        raise ValueError(f"{steps} steps, expected at least 1")
    share = torch.linspace(0, 1, steps - 1, dtype=torch.float64) if steps > 2 else torch.full((steps - 1,), 0.5).double()
    sigma = (sigma_max ** (1 / RHO) + share * (SIGMA_MIN ** (1 / RHO) - sigma_max ** (1 / RHO))) ** RHO
    return [1.0, *(sigma / (1 + sigma)).tolist(), 0.0]


def sample_residual(
    denoiser: Denoiser,
    noise: Tensor,
    steps: int,
    settings: SamplerSettings = SamplerSettings(),  # noqa: B008
) -> tuple[Tensor, int]:
    """A draw of r_0 by `steps` deterministic steps from noise (C, X, Y, Z) at t = 1 to t = 0, and the number of section
    evaluations: DPM-Solver++(2M) (2211.01095, algorithm 2) with alpha = 1 - t and sigma = t. Its first and last steps are
    those of DDIM. Noise (3, C, X, Y, Z) for independent states of the three axes.

    Every step follows from the fused, projected r_0, so that the state stays one volume. A warm start takes the call that gives
    the mean as its first step.
    """
    # the call at t = 1 gives the mean, whatever the noise: what it is noised to is where the other steps begin
    grid = times(steps, WARM_SIGMA if settings.start == "warm" else SIGMA_MAX)
    every_step = settings.projection == "every_step"
    state = solve(lambda state, t: denoised(denoiser, state, t, every_step), noise, grid, settings.solver == "dpm")
    drawn = state if state.ndim == 4 else state[0]  # at t = 0 the states of the axes are the same
    return torch.where(denoiser.condition.known, 0.0, drawn), steps * denoiser.evaluations


def solve(estimate: Callable[[Tensor, float], Tensor], noise: Tensor, grid: list[float], second_order: bool = True) -> Tensor:
    """The state at the last of the times `grid`, from noise at the first: DPM-Solver++(2M), or DDIM where not of second order.
    estimate(state, t): of r_0."""
    state, before, last_h = noise, None, 0.0
    for t, following in zip(grid[:-1], grid[1:], strict=True):
        clean = estimate(state, t)
        # e^-h is the ratio of the noise levels sigma / alpha: infinite before the first step, 0 after the last
        decay = following * (1 - t) / (t * (1 - following)) if t < 1 else 0.0
        h = -math.log(decay) if decay > 0 else 0.0
        second = second_order and before is not None and h > 0
        ahead = clean + h / (2 * last_h) * (clean - before) if second else clean
        state = following / t * state + ((1 - following) - following * (1 - t) / t) * ahead
        before, last_h = (clean, h) if h > 0 else (None, 0.0)
    return state


def moments(draw: Callable[[], Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `count` draws, the latter 0 of one."""
    mean = squares = 0.0
    for number in range(1, count + 1):
        drawn = draw()
        off = drawn - mean  # Welford 1962: the difference of two sums of squares would lose small variances
        mean = mean + off / number
        squares = squares + off * (drawn - mean)
    return mean, torch.sqrt(squares / max(count - 1, 1))
