"""How a volume is drawn from unconditional priors of its sections, given some of them: what score.py and tpdm.py share.

One 3D state x = x_0 + sigma noise in the observation's units. Every step denoises all sections along one axis and takes the
reverse step of the variance-exploding diffusion (2011.13456, appendix F) between EDM's noise levels (2206.00364, eq. 5). The
Langevin corrector that the papers add, at twice the evaluations, is left out. What is given enters in one of two ways:

project: before every step the state is moved, by a share `weight`, to where its sections are the given ones plus noise of its
    size, sigma A z (2111.08005: given pixels of a section are replaced by noised ones).
dps: after every step of the first axis the state is moved by -weight times the gradient of |y - A D(x)| with respect to the noisy
    section, through the denoiser (2209.14687, as 2303.08440 uses it: the other axis' steps know nothing of y). The norm is that
    of a section, so that the result does not depend on how many are denoised together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from xdiff.errors import NotSupported
from xdiff.model.sampler import FACTOR, PIXELS
from xdiff.observation import Observation
from xdiff.planes import AnyPlane, Plane, project, stack
from xdiff.view import View

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.01, 7.0  # noise levels in units of the training intensities' standard deviation
TIE_ORDER = (2, 1, 0)  # of axes along which equally many sections are given: axial, coronal, sagittal


class Prior(Protocol):
    """A denoiser of sections. mean and unit (C,): of intensities; called with noisy sections (n, C, h, w), sigma (n,), their axis
    and their places along it (n,) in -1..1 it returns E[section | noisy section]."""

    mean: Tensor
    unit: Tensor

    def __call__(self, noisy: Tensor, sigma: Tensor, axis: int, place: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Scheme:
    """axes: of the first prior and, where there are two, of the second, which takes every `every`-th step; see above for
    consistency (project or dps) and weight."""

    axes: tuple[int, ...]
    every: int = 2
    consistency: str = "project"
    weight: float = 1.0

    def axis(self, step: int) -> int:
        return self.axes[-1] if step % self.every == self.every - 1 else self.axes[0]

    def guided(self, step: int) -> bool:
        return self.consistency == "dps" and self.axis(step) == self.axes[0]


@dataclass(frozen=True)
class Given:
    """The data on a device. observation: needed where they do not say what voxels are, but averages of them."""

    view: View
    observation: Observation | None = None

    def met(self, volume: Tensor) -> Tensor:
        """The nearest volume (C, X, Y, Z) that agrees with the data: the given values themselves, or V + A^+ (y - A V)."""
        if self.view.exact:
            return torch.where(self.view.known, self.view.evidence, volume)
        given = self.observation
        return torch.from_numpy(project(volume.cpu().numpy(), given.sections, given.planes, given.given)).to(volume.device)

    def met_under(self, noise: Tensor, volume: Tensor) -> Tensor:
        """The nearest one whose sections are the given ones plus those of `noise` (C, X, Y, Z)."""
        return self.met(volume - noise) + noise


def axes_by_given(planes: Sequence[AnyPlane]) -> list[int]:
    """The three axes, those along which fewest sections are given first: their own sections cross the given ones and see rows of
    them. An oblique section counts for the axis nearest to its normal."""
    own = [plane.axis if isinstance(plane, Plane) else plane.nearest_axis for plane in planes]
    return sorted(TIE_ORDER, key=own.count)


def sigmas(steps: int, unit: float) -> list[float]:
    """steps + 1 falling noise levels, in intensities, the last one 0."""
    share = np.linspace(0, 1, steps)
    levels = (SIGMA_MAX ** (1 / RHO) + share * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO
    return [*(unit * levels).tolist(), 0.0]


def denoised(prior: Prior, state: Tensor, sigma: float, axis: int, data: View | None = None) -> tuple[Tensor, Tensor | None]:
    """Denoised state (C, X, Y, Z), all its sections along `axis` by themselves; with `data` also the gradient of the sections'
    misfits |y - A D(x)| with respect to the state."""
    sections, clean = stack(state, axis), torch.empty_like(state)
    gradient = None if data is None else torch.empty_like(state)
    size = FACTOR.get(state.device.type, 1) * PIXELS // sections[0, 0].numel()
    size = max(1, size if data is None else size // 4)  # what a gradient goes through is kept
    places = torch.linspace(-1, 1, len(sections), device=state.device)
    for rows in torch.arange(len(sections), device=state.device).split(size):
        noisy, levels = sections[rows].detach(), torch.full((len(rows),), sigma, device=state.device)
        with torch.set_grad_enabled(data is not None):
            found = prior(noisy.requires_grad_(data is not None), levels, axis, places[rows])
            stack(clean, axis)[rows] = found.detach().float()
            if data is not None:
                known, wanted = (stack(v, axis)[rows] for v in (data.known, data.evidence))
                misfit = torch.linalg.vector_norm(torch.where(known, found - wanted, 0.0), dim=(1, 2, 3))
                stack(gradient, axis)[rows] = torch.autograd.grad(misfit.sum(), noisy)[0]
    return clean, gradient


def draw(prior: Prior, given: Given, scheme: Scheme, steps: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """One volume (C, X, Y, Z) that agrees with the data, and the section evaluations it took: one for every section denoised, and
    one more for the gradient through it, which costs about as much again (the weights have none)."""

    def noise() -> Tensor:
        shape = given.view.evidence.shape
        return torch.randn(shape, generator=generator, device=generator.device)

    grid = sigmas(steps, float(prior.unit.mean()))
    state, evaluations = prior.mean[:, None, None, None] + grid[0] * noise(), 0
    for step, (sigma, following) in enumerate(pairwise(grid)):
        axis, guided = scheme.axis(step), scheme.guided(step)
        if scheme.consistency == "project":
            state = torch.lerp(state, given.met_under(sigma * noise(), state), scheme.weight)
        clean, gradient = denoised(prior, state, sigma, axis, given.view if guided else None)
        kept = (following / sigma) ** 2
        state = clean + kept * (state - clean) + following * math.sqrt(1 - kept) * noise()
        if guided:
            state = state - scheme.weight * gradient
        evaluations += (1 + guided) * state.shape[axis + 1]
    return given.met(state), evaluations


class SliceReconstructor:
    """Slice priors and a way to use them, ready to reconstruct."""

    def __init__(self, prior: Prior, scheme: Callable[[Sequence[AnyPlane]], Scheme]) -> None:
        self.network, self.scheme, self.device = prior, scheme, prior.mean.device
        if self.device.type == "cuda":
            self.device_name = torch.cuda.get_device_name()

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; the standard deviation of the draws, None of a single one;
        section evaluations (see `draw`) of all draws. Raises NotSupported on `mean`, which slice priors have none of but
        the mean of draws, on fewer than two steps, and on dps where no voxel is given but averages."""
        scheme, view = self.scheme(observation.planes), View.of(observation, self.device)
        _check(estimate, steps, scheme, view)
        given, evaluations = Given(view, observation), 0
        mean = squares = torch.zeros_like(view.evidence)
        count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
        for number, (volume, used) in enumerate(self._draws(given, scheme, steps, count, generator), 1):
            off = volume - mean  # Welford 1962
            mean = mean + off / number
            squares, evaluations = squares + off * (volume - mean), evaluations + used
        std = torch.sqrt(squares / (count - 1)).where(~view.known, 0.0).cpu().numpy() if count > 1 else None
        return given.met(mean).cpu().numpy(), std, evaluations

    def _draws(
        self, given: Given, scheme: Scheme, steps: int, count: int, generator: np.random.Generator
    ) -> Iterator[tuple[Tensor, int]]:
        for _ in range(count):
            own = torch.Generator(self.device).manual_seed(int(generator.integers(2**63)))
            yield draw(self.network, given, scheme, steps, own)


def _check(estimate: str, steps: int, scheme: Scheme, view: View) -> None:
    if estimate == "mean":
        raise NotSupported("priors of sections give draws: estimates are sample and mean_of_N")
    if steps < 2:
        raise NotSupported(f"{steps} step from noise that hides the sections, expected at least 2")
    if scheme.consistency == "dps" and not view.exact:
        raise NotSupported("dps is for given voxels; thick and oblique sections are averages of them: consistency project")
