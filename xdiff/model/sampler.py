"""How a volume is made: one 3D state, one 3D noise, all sections of all axes denoised, fused, projected, stepped.

Pure functions of a network, a condition and a noise tensor. The state is the residual r in units of s (diffusion.py), in which
the given voxels are exactly 0, because L already has the given sections in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xdiff.model.diffusion import Condition, precondition, section_maps, slabs
from xdiff.model.network import Network, double
from xdiff.planes import stack, unstack

BATCH = 64
SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.03, 7.0


@torch.inference_mode()
def axis_estimates(network: Network, spectrum: Tensor, state: Tensor, t: float, condition: Condition) -> Tensor:
    """Estimates of r_0 from the state (C, X, Y, Z) at time t, one per target axis: (3, C, X, Y, Z).

    At t = 1 the network is shown zeros (see diffusion.py).
    """
    time = torch.full((1,), t, device=state.device)
    shown_state = state if t < 1 else torch.zeros_like(state)
    linear, unit, shown = (v[0] for v in precondition(shown_state[None], time, spectrum))
    context = None
    if network.trunk is not None:
        context = double(network.trunk(shown[None], time, condition.maps[None]), state.shape[1:])[0]
    raw = []
    for axis in range(3):
        parts = []
        for rows in torch.arange(state.shape[axis + 1], device=state.device).split(BATCH):
            around = None if context is None else stack(context, axis)[rows]
            slab, maps = slabs(shown, axis, rows, network.slab), section_maps(condition.maps, axis, rows)
            parts.append(network.section(slab, time.expand(len(rows)), maps, around))
        raw.append(unstack(torch.cat(parts), axis))
    return linear + unit * torch.stack(raw)


def fuse(estimates: Tensor, condition: Condition, weights: Tensor | None = None) -> Tensor:
    """One estimate (C, X, Y, Z) of three (3, C, X, Y, Z): their mean, or weighted (3,), and 0 at the given voxels."""
    fused = estimates.mean(dim=0) if weights is None else torch.tensordot(weights, estimates, dims=1)
    return torch.where(condition.mask, 0.0, fused)


def evaluations(condition: Condition) -> int:
    """Section evaluations of one call: all sections of three axes."""
    return sum(condition.mask.shape)


def mean_residual(network: Network, spectrum: Tensor, condition: Condition, weights: Tensor | None = None) -> tuple[Tensor, int]:
    """One call per axis at t = 1: the estimate of E[r_0 | y], (C, X, Y, Z), and the number of section evaluations."""
    nothing = torch.zeros(network.contrasts, *condition.mask.shape, device=condition.mask.device)
    return fuse(axis_estimates(network, spectrum, nothing, 1.0, condition), condition, weights), evaluations(condition)


def times(steps: int) -> list[float]:
    """steps + 1 times from 1 to 0: t = 1, then EDM's noise levels (2206.00364, eq. 5) from SIGMA_MAX to SIGMA_MIN, then 0."""
    if steps < 1:
        raise ValueError(f"{steps} steps, expected at least 1")
    share = torch.linspace(0, 1, steps - 1, dtype=torch.float64) if steps > 2 else torch.full((steps - 1,), 0.5).double()
    sigma = (SIGMA_MAX ** (1 / RHO) + share * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO
    return [1.0, *(sigma / (1 + sigma)).tolist(), 0.0]


def sample_residual(network: Network, spectrum: Tensor, condition: Condition, noise: Tensor, steps: int) -> tuple[Tensor, int]:
    """A draw of r_0 by `steps` deterministic steps from noise (C, X, Y, Z) at t = 1 to t = 0: DPM-Solver++(2M) (2211.01095,
    algorithm 2) with alpha = 1 - t and sigma = t. Its first and last steps are those of DDIM.

    Every step follows from the fused, projected r_0, so that the state stays one volume.
    """
    state, before, last_h = noise, None, 0.0
    grid = times(steps)
    for t, following in zip(grid[:-1], grid[1:], strict=True):
        clean = fuse(axis_estimates(network, spectrum, state, t, condition), condition)
        # e^-h is the ratio of the noise levels sigma / alpha: infinite before the first step, 0 after the last
        decay = following * (1 - t) / (t * (1 - following)) if t < 1 else 0.0
        h = -math.log(decay) if decay > 0 else 0.0
        ahead = clean if before is None or h == 0 else clean + h / (2 * last_h) * (clean - before)
        state = following / t * state + ((1 - following) - following * (1 - t) / t) * ahead
        before, last_h = (clean, h) if h > 0 else (None, 0.0)
    return state, steps * evaluations(condition)
