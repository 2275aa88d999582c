"""How a volume is made: one 3D state, one 3D noise, all sections of all axes denoised, fused, projected, stepped.

Pure functions of a network, a condition and a noise tensor. The state is the residual r in units of s (diffusion.py), in which
the given voxels are exactly 0, because G already has the given sections in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xdiff.model.diffusion import Condition
from xdiff.model.network import SectionNetwork
from xdiff.planes import stack, unstack

BATCH = 64


@torch.inference_mode()
def denoise(network: SectionNetwork, state: Tensor, t: float, condition: Condition) -> tuple[Tensor, int]:
    """One estimate of r_0 (C, X, Y, Z) from the state at time t: the three axes' estimates averaged, given voxels set to 0.

    Returns it and the number of section evaluations. At t = 1 the network is shown zeros (see diffusion.py).
    """
    shown = state if t < 1 else torch.zeros_like(state)
    total, evaluations = torch.zeros_like(state), 0
    for axis in range(3):
        sections = stack(shown, axis)
        parts = []
        for rows in torch.arange(sections.shape[0], device=state.device).split(BATCH):
            time = torch.full((len(rows),), t, device=state.device)
            parts.append(network(sections[rows], time, condition.sections(axis, rows)))
        total += unstack(torch.cat(parts), axis)
        evaluations += sections.shape[0]
    return torch.where(condition.mask, 0.0, total / 3), evaluations


def mean_residual(network: SectionNetwork, condition: Condition) -> tuple[Tensor, int]:
    """One call per axis at t = 1: the estimate of E[r_0 | y], (C, X, Y, Z)."""
    return denoise(network, torch.zeros_like(condition.gaussian), 1.0, condition)


def sample_residual(network: SectionNetwork, condition: Condition, noise: Tensor, steps: int) -> tuple[Tensor, int]:
    """A draw of r_0 by `steps` deterministic (DDIM / flow) steps from noise (C, X, Y, Z) at t = 1 to t = 0.

    The noise estimate of every step follows from the fused, projected r_0, so that the state stays one volume.
    """
    state, evaluations = noise, 0
    times = torch.linspace(1, 0, steps + 1).tolist()
    for t, following in zip(times[:-1], times[1:], strict=True):
        clean, count = denoise(network, state, t, condition)
        direction = (state - (1 - t) * clean) / t
        state = (1 - following) * clean + following * direction
        evaluations += count
    return state, evaluations
