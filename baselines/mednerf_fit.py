"""Test time of mednerf.py: the field that explains the given pixels, found by descent and stopped on held-out pixels.

First the code and the gain of the given sections' brightness, with their priors; then the last layer. Without a prior: all
weights of a field that knows nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines.mednerf_field import CHUNK, CodePrior, ConditionalField, Pixels, pixels_of
from xdiff.errors import InputError
from xdiff.observation import Observation


@dataclass(frozen=True)
class FitSettings:
    """iterations: most steps of Adam, of the code (or of the field without a prior) and of the last layer each; pixels: of one
    step; held_out: share of the given pixels that nothing is fitted to, on which it is checked every check_every steps;
    patience: checks without a better one before it stops (0: never, and the last is kept).

    prior_weight: of the square of a code's distance from its mean, per given pixel with signal, against the mean squared
    error: the error's variance times the number of neighbouring pixels that say the same. head_weight: likewise of the
    change of the last layer. l1: weight of the absolute error beside the squared one.
    """

    iterations: int = 150
    learning_rate: float = 0.1
    weights_learning_rate: float = 2e-3
    pixels: int = 1536
    held_out: float = 0.1
    check_every: int = 5
    patience: int = 6
    prior_weight: float = 0.3
    head_weight: float = 1.0
    l1: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise InputError("methods.*.params.fit.held_out", self.held_out, "a share between 0 and 1")
        for name, least in (("iterations", 0), ("pixels", 1), ("check_every", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise InputError(f"methods.*.params.fit.{name}", getattr(self, name), f"at least {least}")


class Gain(NamedTuple):
    """Logarithm of the factor, per contrast (C,), from volumes in units of their own scale to units of the given sections':
    its mean and standard deviation over training volumes."""

    mean: Tensor
    std: Tensor


class Fitted(NamedTuple):
    """A field fitted to given sections: code (1, latent), factor (C,) of the intensities, last layer; the iterations it took."""

    field: ConditionalField
    code: Tensor
    factor: Tensor
    head: nn.Linear
    iterations: int

    @torch.no_grad()
    def volume(self) -> np.ndarray:
        """(C, X, Y, Z) float32 in units of the observation's scale."""
        frame, device = self.field.frame, self.code.device
        parts = [self.head(self.field.hidden(p[None].to(device), self.code))[0] for p in frame.points().split(CHUNK)]
        values = (torch.cat(parts) * self.factor).T.reshape(-1, *frame.shape)
        return np.ascontiguousarray(values.cpu().numpy())


class Task:
    """The given pixels of one observation, some of them held out, and the distance of a prediction from them."""

    def __init__(
        self, observation: Observation, settings: FitSettings, generator: np.random.Generator, device: torch.device
    ) -> None:
        pixels = pixels_of(observation, device)
        count = len(pixels.values)
        held = max(1, round(settings.held_out * count))
        if count < 2:
            raise InputError("given sections", f"{count} pixels inside the array", "at least two: one to fit, one to stop by")
        order = generator.permutation(count)
        self.fitted, self.held_out = pixels.of(order[held:]), pixels.of(order[:held])
        self.settings, self.generator = settings, generator
        self.given = torch.tensor(observation.given, device=device)
        self.signal = max(1, int((pixels.values != 0).any(dim=1).sum()))

    def draw(self) -> np.ndarray:
        """Rows of the fitted pixels for one step; all of them where they are few."""
        count = len(self.fitted.values)
        if count <= self.settings.pixels:
            return np.arange(count)
        return self.generator.integers(count, size=self.settings.pixels)

    def error(self, found: Tensor, wanted: Tensor, l1: float = 0.0) -> Tensor:
        """Mean squared error, and l1 times the absolute one, of (P, C) in the given contrasts."""
        return distance((found - wanted)[:, self.given], l1)


def distance(error: Tensor, l1: float) -> Tensor:
    return (error**2).mean() + (l1 * error.abs().mean() if l1 else 0.0)


def fit_code(
    field: ConditionalField,
    prior: CodePrior,
    gain: Gain,
    observation: Observation,
    settings: FitSettings,
    generator: np.random.Generator,
) -> Fitted:
    """The likeliest code and gain given the pixels, then the last layer that explains what they leave."""
    device = prior.mean.device
    task = Task(observation, settings, generator, device)
    unit = torch.zeros(1, len(prior.mean), device=device, requires_grad=True)
    excess = torch.zeros(len(gain.mean), device=device, requires_grad=True)  # of the gain, in standard deviations

    def factor() -> Tensor:
        return torch.exp(task.given * (gain.mean + gain.std * excess))

    def predict(pixels: Pixels) -> Tensor:
        return pixels.mean(field(pixels.points.reshape(1, -1, 3), prior.code(unit))) * factor()

    def loss() -> Tensor:
        pixels = task.fitted.of(task.draw())
        penalty = (unit**2).sum() + (excess**2).sum()
        return task.error(predict(pixels), pixels.values, settings.l1) + settings.prior_weight / task.signal * penalty

    def check() -> float:
        return float(task.error(predict(task.held_out), task.held_out.values))

    used = descend([unit, excess], loss, check, settings, settings.learning_rate)
    code, scale = prior.code(unit).detach(), factor().detach()
    head, more = fit_head(field, code, scale, task)
    return Fitted(field, code, scale, head, used + more)


def fit_head(field: ConditionalField, code: Tensor, factor: Tensor, task: Task) -> tuple[nn.Linear, int]:
    """The last layer changed to explain the pixels better, held near what was learned; and the iterations."""
    settings = task.settings
    head = copy.deepcopy(field.head).requires_grad_(True)
    learned = [p.detach().clone() for p in head.parameters()]
    with torch.no_grad():  # code and layers below are fixed now, so that features are made once; averaging them is linear
        fitted, held_out = (pixels.mean(_hidden(field, code, pixels.points)) for pixels in (task.fitted, task.held_out))

    def loss() -> Tensor:
        rows = torch.from_numpy(task.draw()).to(code.device)
        change = sum(((p - q) ** 2).sum() for p, q in zip(head.parameters(), learned, strict=True))
        error = task.error(head(fitted[rows]) * factor, task.fitted.values[rows], settings.l1)
        return error + settings.head_weight / task.signal * change

    def check() -> float:
        return float(task.error(head(held_out) * factor, task.held_out.values))

    used = descend(list(head.parameters()), loss, check, settings, settings.weights_learning_rate)
    return head.requires_grad_(False), used


def _hidden(field: ConditionalField, code: Tensor, points: Tensor) -> Tensor:
    """What the last layer sees (1, N, width) at points (..., 3)."""
    return torch.cat([field.hidden(part, code) for part in points.reshape(1, -1, 3).split(CHUNK, dim=1)], dim=1)


def fit_weights(
    field: ConditionalField, observation: Observation, settings: FitSettings, generator: np.random.Generator
) -> Fitted:
    """All weights of a field fitted to the pixels alone: what is known without any training."""
    task = Task(observation, settings, generator, field.codes.device)

    def predict(pixels: Pixels) -> Tensor:
        return pixels.mean(field(pixels.points.reshape(1, -1, 3), field.codes))

    def loss() -> Tensor:
        pixels = task.fitted.of(task.draw())
        return task.error(predict(pixels), pixels.values, settings.l1)

    def check() -> float:
        return float(task.error(predict(task.held_out), task.held_out.values))

    used = descend(list(field.parameters()), loss, check, settings, settings.weights_learning_rate)
    return Fitted(field, field.codes.detach(), torch.ones(len(task.given), device=field.codes.device), field.head, used)


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    check: Callable[[], float],
    settings: FitSettings,
    learning_rate: float,
) -> int:
    """Change `parameters` by Adam to lower `loss`, and leave them as they were at the best check; returns the steps made."""
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    best, kept, since, step = float("inf"), [p.detach().clone() for p in parameters], 0, 0
    for step in range(settings.iterations + 1):
        if settings.patience and (step % settings.check_every == 0 or step == settings.iterations):
            with torch.no_grad():
                score = check()
            if score < best:
                best, kept, since = score, [p.detach().clone() for p in parameters], 0
            else:
                since += 1
            if since >= settings.patience:
                break
        if step < settings.iterations:
            # of these alone: what is not fitted needs no gradient
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss(), parameters), strict=True):
                parameter.grad = gradient
            optimiser.step()
    if settings.patience:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    return step
