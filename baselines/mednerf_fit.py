"""Test time of mednerf.py: the field that explains the given pixels, found by descent and stopped on held-out pixels.

First the code and the gain of the given sections' brightness, with their priors; then some of the weights. Without a prior:
all weights of a field that knows nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baselines.mednerf_field import CHUNK, CodePrior, ConditionalField, Pixels, pixels_of
from xdiff.errors import InputError
from xdiff.observation import Observation
from xdiff.plain import one_of

KINDS = ("grids", "layers", "film", "head")  # of weights: the field's children


@dataclass(frozen=True)
class FitSettings:
    """iterations: most steps of Adam for the code; weights_iterations: for the weights; pixels: of one step; held_out: share of
    the given pixels that nothing is fitted to, on which it is checked every check_every steps; patience: checks without a better
    one before it stops, and the best is kept (0: never, and the last is kept). l1: weight of the absolute error beside the
    squared one.

    prior_weight: of the square of a code's distance from its mean in standard deviations, per given pixel with signal, against
    the mean squared error: the error's variance times the number of neighbouring pixels that say the same. weights: which are
    changed after the code (grids, layers, film, head); weights_weight: as prior_weight, of the square of their change. What is
    changed in the grids stays near the given sections: a node reaches as far as its neighbours.
    """

    iterations: int = 150
    learning_rate: float = 0.1
    weights_iterations: int = 60
    weights_learning_rate: float = 2e-3
    pixels: int = 1536
    held_out: float = 0.1
    check_every: int = 5
    patience: int = 6
    l1: float = 0.1
    prior_weight: float = 0.3
    weights: tuple[str, ...] = ("grids", "head")
    weights_weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise InputError("methods.*.params.fit.held_out", self.held_out, "a share between 0 and 1")
        for kind in self.weights:
            one_of("methods.*.params.fit.weights", kind, KINDS)
        for name, least in (("iterations", 0), ("weights_iterations", 0), ("pixels", 1), ("check_every", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise InputError(f"methods.*.params.fit.{name}", getattr(self, name), f"at least {least}")


class Gain(NamedTuple):
    """Logarithm of the factor, per contrast (C,), from volumes in units of their own scale to units of the given sections':
    its mean and standard deviation over training volumes."""

    mean: Tensor
    std: Tensor


class Fitted(NamedTuple):
    """A field fitted to given sections, its code (1, latent) and the factor (C,) of its intensities; steps: of the descent."""

    field: ConditionalField
    code: Tensor
    factor: Tensor
    steps: int

    @torch.no_grad()
    def volume(self) -> np.ndarray:
        """(C, X, Y, Z) float32 in units of the observation's scale."""
        frame, device = self.field.frame, self.code.device
        parts = [self.field(p[None].to(device), self.code)[0] for p in frame.points().split(CHUNK)]
        values = (torch.cat(parts) * self.factor).T.reshape(-1, *frame.shape)
        return np.ascontiguousarray(values.cpu().numpy())


def fit_code(
    field: ConditionalField,
    prior: CodePrior,
    gain: Gain,
    observation: Observation,
    settings: FitSettings,
    generator: np.random.Generator,
) -> Fitted:
    """The likeliest code and gain given the pixels, then the change of the weights that explains what they leave."""
    device = prior.mean.device
    task = Task(observation, settings, generator, device)
    unit = torch.zeros(1, len(prior.mean), device=device, requires_grad=True)
    excess = torch.zeros(len(gain.mean), device=device, requires_grad=True)  # of the gain, in standard deviations

    def factor() -> Tensor:
        return torch.exp(task.given * (gain.mean + gain.std * excess))

    def predict(pixels: Pixels) -> Tensor:
        return at_pixels(field, pixels, prior.code(unit)) * factor()

    def penalty() -> Tensor:
        return settings.prior_weight / task.signal * ((unit**2).sum() + (excess**2).sum())

    steps = task.fit([unit, excess], predict, penalty, settings.iterations, settings.learning_rate)
    return fit_weights(Fitted(field, prior.code(unit).detach(), factor().detach(), steps), task)


def fit_weights(start: Fitted, task: Task) -> Fitted:
    """`start` with weights of the kinds that the settings name changed to explain the pixels better, held near what they were."""
    settings, own = task.settings, copy.deepcopy(start.field)
    changed = [p for name, p in own.named_parameters() if name.split(".")[0] in settings.weights]
    if not changed or not settings.weights_iterations:
        return start
    learned = [p.detach().clone() for p in changed]

    def predict(pixels: Pixels) -> Tensor:
        return at_pixels(own, pixels, start.code) * start.factor

    def penalty() -> Tensor:
        squares = sum(((p - q) ** 2).sum() for p, q in zip(changed, learned, strict=True))
        return settings.weights_weight / task.signal * squares

    steps = task.fit(changed, predict, penalty, settings.weights_iterations, settings.weights_learning_rate)
    return start._replace(field=own, steps=start.steps + steps)


def fit_alone(field: ConditionalField, observation: Observation, settings: FitSettings, generator: np.random.Generator) -> Fitted:
    """All weights, and the one code, of an untrained field fitted to the pixels: what is known without any training."""
    task = Task(observation, settings, generator, field.codes.device)

    def predict(pixels: Pixels) -> Tensor:
        return at_pixels(field, pixels, field.codes)

    def penalty() -> float:
        return 0.0

    steps = task.fit(list(field.parameters()), predict, penalty, settings.weights_iterations, settings.weights_learning_rate)
    return Fitted(field, field.codes.detach(), torch.ones_like(task.given, dtype=torch.float32), steps)


def at_pixels(field: ConditionalField, pixels: Pixels, code: Tensor) -> Tensor:
    """What the field gives for pixels, (P, C)."""
    return pixels.mean(field(pixels.points.reshape(1, -1, 3), code))


class Task:
    """The given pixels of one observation, some of them held out, and the descent on the others."""

    def __init__(
        self, observation: Observation, settings: FitSettings, generator: np.random.Generator, device: torch.device
    ) -> None:
        pixels = pixels_of(observation, device)
        count = len(pixels.values)
        held = max(1, round(settings.held_out * count))
        if held >= count:
            raise InputError("given sections", f"{count} pixels inside the array", "at least two: some to fit, some to stop by")
        order = generator.permutation(count)
        self.fitted, self.held_out = pixels.of(order[held:]), pixels.of(order[:held])
        self.settings, self.generator = settings, generator
        self.given = torch.tensor(observation.given, device=device)
        self.signal = max(1, int((pixels.values != 0).any(dim=1).sum()))

    def fit(
        self,
        parameters: Sequence[Tensor],
        predict: Callable[[Pixels], Tensor],
        penalty: Callable[[], Tensor | float],
        iterations: int,
        learning_rate: float,
    ) -> int:
        """Fit `parameters`, stopped on the held-out pixels; returns the steps made."""

        def loss() -> Tensor:
            pixels = self._draw()
            return self._error(predict(pixels), pixels, self.settings.l1) + penalty()

        def check() -> float:
            return float(self._error(predict(self.held_out), self.held_out))

        return descend(parameters, loss, check, self.settings, iterations, learning_rate)

    def _draw(self) -> Pixels:
        """Fitted pixels for one step; all of them where they are few."""
        count = len(self.fitted.values)
        few = count <= self.settings.pixels
        return self.fitted if few else self.fitted.of(self.generator.integers(count, size=self.settings.pixels))

    def _error(self, found: Tensor, pixels: Pixels, l1: float = 0.0) -> Tensor:
        """Squared, and l1 times the absolute, error of (P, C) in the given contrasts."""
        return distance((found - pixels.values)[:, self.given], l1)


def distance(error: Tensor, l1: float) -> Tensor:
    """Mean square, and l1 times the mean absolute value."""
    return (error**2).mean() + l1 * error.abs().mean()


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    check: Callable[[], float],
    settings: FitSettings,
    iterations: int,
    learning_rate: float,
) -> int:
    """Change `parameters` by Adam to lower `loss`, and leave them as they were at the best check; returns the steps made."""
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    best, kept, since = float("inf"), [p.detach().clone() for p in parameters], 0
    for step in range(iterations + 1):
        if settings.patience and (step % settings.check_every == 0 or step == iterations):
            with torch.no_grad():
                score = check()
            if score < best:
                best, kept, since = score, [p.detach().clone() for p in parameters], 0
            else:
                since += 1
            if since >= settings.patience:
                break
        if step < iterations:
            # of these alone: what is not fitted needs no gradient
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss(), parameters), strict=True):
                parameter.grad = gradient
            optimiser.step()
    if settings.patience:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    return step
