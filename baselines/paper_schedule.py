"""The samplers of X-Diffusion as its paper names them: DDPM (2006.11239) and DDIM (2010.02502, eta = 0).

Noise levels are pairs (alpha, sigma) of x_t = alpha x_0 + sigma noise, so that one loop serves the paper's schedule of 1000
betas and the straight path of xdiff/model (alpha = 1 - t, sigma = t). Every element of the state goes its own way: nothing
here knows what is a section and what is a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from xdiff.errors import NotSupported
from xdiff.model.sampler import times

TRAINED_STEPS = 1000
# First and last beta: of DDPM, and of latent diffusion, where square roots are equidistant (the official code's)
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
SOLVERS = ("ddim", "ddpm")


class Levels(NamedTuple):
    """Noise levels of a draw, (steps + 1,) float64 each: the last is (1, 0), where nothing is left of the noise."""

    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.alpha) - 1


def alpha_bar(schedule: str) -> np.ndarray:
    """Products of 1 - beta, (1000,) float64: the share of the signal's variance that is left at every trained step."""
    first, last = BETAS[schedule]
    if schedule == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, TRAINED_STEPS) ** 2
    else:
        betas = np.linspace(first, last, TRAINED_STEPS)
    return np.cumprod(1 - betas)


def timesteps(steps: int) -> np.ndarray:
    """(steps,) of the trained steps, falling from the noisiest, 999, in equal strides. Raises NotSupported outside 1..1000."""
    if not 1 <= steps <= TRAINED_STEPS:
        raise NotSupported(f"{steps} steps of a schedule of {TRAINED_STEPS}")
    return np.round(TRAINED_STEPS - np.arange(steps) * TRAINED_STEPS / steps).astype(int) - 1


def trained_levels(steps: int, schedule: str) -> Levels:
    """Levels of `timesteps`. The first is not pure noise, though a draw starts from pure noise there: the terminal
    signal-to-noise ratio is not zero (2305.08891), in the paper as here."""
    left = np.append(alpha_bar(schedule)[timesteps(steps)], 1.0)
    return Levels(np.sqrt(left), np.sqrt(1 - left))


def straight_levels(steps: int) -> Levels:
    """The levels of X-Diffusion's own sampler."""
    t = np.array(times(steps))
    return Levels(1 - t, t)


def draw(
    clean_of: Callable[[Tensor, int], Tensor], noise: Tensor, levels: Levels, solver: str, fresh: Callable[[], Tensor]
) -> Tensor:
    """x_0 (any shape) from noise alike. clean_of(state, step): estimate of x_0 at a level; fresh(): new unit noise, for DDPM."""
    state, pairs = noise, list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
    for step, (now, later) in enumerate(zip(pairs[:-1], pairs[1:], strict=True)):
        clean = clean_of(state, step)
        if solver == "ddim":
            state = ddim_step(state, clean, now, later)
        else:
            mean, std = posterior(state, clean, now, later)
            state = mean + std * fresh() if std > 0 else mean
    return state


def ddim_step(state: Tensor, clean: Tensor, now: tuple[float, float], later: tuple[float, float]) -> Tensor:
    """2010.02502, eq. 12 with eta = 0, between levels (alpha, sigma): the same noise in the same direction, less of it."""
    return later[0] * clean + later[1] / now[1] * (state - now[0] * clean)


def posterior(state: Tensor, clean: Tensor, now: tuple[float, float], later: tuple[float, float]) -> tuple[Tensor, float]:
    """Mean and standard deviation of q(x_later | x_now, x_0): 2006.11239, eq. 7, with the variance `beta tilde`."""
    ratio = now[0] / later[0]
    added = now[1] ** 2 - ratio**2 * later[1] ** 2  # variance of the noise between the two levels
    mean = ratio * later[1] ** 2 / now[1] ** 2 * state + later[0] * added / now[1] ** 2 * clean
    return mean, max(added, 0.0) ** 0.5 * later[1] / now[1]
