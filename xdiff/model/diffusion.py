"""What is diffused, and what the network is shown: residual units, noise, conditioning maps, preconditioning, the loss.

x_0 = L + s r_0 with L the linear-Gaussian estimate with its local correction and s (X, Y, Z) the standard deviation of its error
(both local.py): a residual r_0 that is about as wide everywhere. r_t = (1 - t) r_0 + t noise: t = 1 is pure noise (terminal
signal-to-noise ratio zero, 2305.08891). There the noise says nothing and the network is shown zeros instead: with plain L2
its output there estimates E[section | y]. sigma = t / (1 - t) is the noise level of EDM (2206.00364), whose preconditioning
is used with the residual's own spectrum in place of a white one (spectrum.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from xdiff import team
from xdiff.filters import box_mean
from xdiff.local import Estimate
from xdiff.model.network import Network, double, halve
from xdiff.model.spectrum import wiener
from xdiff.planes import along, stack
from xdiff.view import View

DISTANCE_UNIT_MM = 40.0
POSITION_UNIT_MM = 100.0
FREQUENCIES = (1, 2, 4)
POSITIONS = 3 * (1 + 2 * len(FREQUENCIES))  # maps of position, the last ones
OUTLIER = 10.0  # in background a difference may be any multiple of s
LOG_SIGMA = (-3.0, 4.5)  # of the training draws: from the finest texture to the largest modes, which stand out of strong noise


@dataclass(frozen=True)
class Condition:
    """Everything that depends on the observation alone, computed once per volume: `maps` (maps, X, Y, Z) and `known`
    (C, X, Y, Z) bool of the voxels that are known exactly, both on the device."""

    maps: Tensor
    known: Tensor


def map_channels(contrasts: int) -> int:
    """Seven maps per contrast (see make_condition); distance; position."""
    return 7 * contrasts + 1 + POSITIONS


def make_condition(view: View, known: Estimate, dtype: torch.dtype = torch.float32) -> Condition:
    """Conditioning maps of one observation, from what is known of it before. dtype: float16 where they are what fills the memory
    (at 240 x 240 x 155 voxels of four contrasts 0.9 GiB instead of 1.8); they are a few units at most.

    What the residual depends on is given in units of s, as the residual is: what the training volumes could not explain at
    the given sections, how far the estimate is from linear interpolation, its own detail. In the image's units these are
    small beside it and almost collinear with each other, and training sees nothing of them for a long time.
    """
    maps = torch.empty(map_channels(len(known.std)), *view.shape, device=known.std.device, dtype=dtype)
    filled = 0
    for part in _maps(view, known):  # one at a time: of a large volume all together would be there twice
        maps[filled : filled + len(part)] = part
        filled += len(part)
    return Condition(maps, view.known)


def _maps(view: View, known: Estimate) -> Iterator[Tensor]:
    base, std = known.corrected, known.std
    given = view.given[:, None, None, None]
    yield view.evidence
    yield base
    yield (known.spread / std).clamp(-OUTLIER, OUTLIER)
    yield torch.where(given, (view.interpolated - base) / std, 0.0).clamp(-OUTLIER, OUTLIER)
    yield ((base - box_mean(base, 3)) / std).clamp(-OUTLIER, OUTLIER)
    yield torch.log(std) + 2.5  # about 0 for residuals of 0.08
    yield given & view.mask
    yield view.distance_mm.clamp(max=4 * DISTANCE_UNIT_MM)[None] / DISTANCE_UNIT_MM
    yield from (feature[None] for feature in position(view.shape, view.spacing_mm, base.device))


def position(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], device: torch.device) -> Iterator[Tensor]:
    """Fourier features of the place of every voxel, in 100 mm from the middle: 3 (1 + 2 len(FREQUENCIES)) views (X, Y, Z) of the
    lines that they are."""
    middles = [(np.arange(n) - (n - 1) / 2) * mm / POSITION_UNIT_MM for n, mm in zip(shape, spacing_mm, strict=True)]
    waves = [lambda u, f=f, k=k: f(np.pi * k * u) for k in FREQUENCIES for f in (np.sin, np.cos)]
    for feature in (lambda u: u, *waves):
        for axis, line in enumerate(middles):
            yield torch.from_numpy(along(feature(line), axis).astype(np.float32)).to(device).expand(shape)


def mirror_maps(maps: Tensor) -> Tensor:
    """Conditioning (B, maps, X, Y, Z) of what is given in the mirror, left and right exchanged: all of it is, but for the
    position, which is that of the array. (The training volumes' mirror images are in the estimate, too.)"""
    return torch.cat([maps[:, :-POSITIONS].flip(2), maps[:, -POSITIONS:]], dim=1)


def section_maps(maps: Tensor, axis: int, rows: Tensor) -> Tensor:
    """Conditioning (n, maps + 3, h, w) of sections `rows` along an axis of maps (maps, X, Y, Z): cut, and the axis one-hot."""
    chosen = stack(maps, axis)[rows].float()
    one_hot = torch.zeros(chosen.shape[0], 3, *chosen.shape[2:], device=chosen.device)
    one_hot[:, axis] = 1
    return torch.cat([chosen, one_hot], dim=1)


def slabs(state: Tensor, axis: int, rows: Tensor, half: int) -> Tensor:
    """(n, (2 half + 1) C, h, w): sections `rows` of a state (C, X, Y, Z) with their neighbours, zero outside the array."""
    sections = stack(state, axis)
    parts = []
    for offset in range(-half, half + 1):
        near = rows + offset
        inside = ((near >= 0) & (near < len(sections)))[:, None, None, None]
        parts.append(sections[near.clamp(0, len(sections) - 1)] * inside)
    return torch.cat(parts, dim=1)


def precondition(state: Tensor, t: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the network works on, for states (B, C, X, Y, Z) at times t (B,): the linear estimate of r_0 (spectrum.py), the
    standard deviation (B, C, 1, 1, 1) of its error, which is the unit of the network's output, and the network's input
    (B, 2 C, X, Y, Z): the state with about unit variance, and the linear estimate."""
    linear, error = wiener(state, t, spectrum)
    wide = t[:, None, None, None, None]
    return linear, error[:, :, None, None, None], torch.cat([state / torch.sqrt((1 - wide) ** 2 + wide**2), linear], dim=1)


@dataclass(frozen=True)
class Batch:
    """residual r_0 (V, C, X, Y, Z) and its weight (alike), spectrum (V, C, BINS), maps (V, maps, X, Y, Z), rows (V, n) of
    sections along `axis`."""

    residual: Tensor
    weight: Tensor
    spectrum: Tensor
    maps: Tensor
    axis: int
    rows: Tensor

    def to(self, device: torch.device) -> Batch:
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "axis"}
        return Batch(**tensors, axis=self.axis)


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """(2 count,): every volume once at t = 1, once at a noise level that is uniform in log sigma."""
    low, high = LOG_SIGMA
    sigma = torch.exp(low + (high - low) * team.own_noise(partial(torch.rand, generator=generator), 1, count))
    return torch.cat([torch.ones(count), sigma / (1 + sigma)])


def noised(residual: Tensor, spectrum: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Of residuals r_0 (V, C, X, Y, Z) with spectra (V, C, BINS), each volume at t = 1 with the state zeroed and then each at a
    random noise level: times (2 V,), what the network is shown (2 V, 2 C, X, Y, Z), and the output that is wanted of it
    (2 V, C, X, Y, Z): what is left to the linear estimate, in units of that estimate's error."""
    t = draw_times(len(residual), generator).to(residual.device)
    draw = partial(torch.randn, generator=generator_on(residual.device, generator), device=residual.device)
    noise = team.own_noise(draw, 2, *residual.shape)
    twice, wide = torch.cat([residual] * 2), t[:, None, None, None, None]
    state = torch.where(wide < 1, (1 - wide) * twice + wide * noise, 0.0)
    linear, unit, shown = precondition(state, t, torch.cat([spectrum] * 2))
    return t, shown, (twice - linear) / unit


def loss(network: Network, batch: Batch, generator: torch.Generator) -> Tensor:
    """Weighted mean squared error of what is left to the linear estimate, in units of that estimate's error, of the sections
    and of the trunk's own estimate at half resolution.

    Half of the draws are at t = 1 with the state zeroed: plain L2, the estimate of the mean.
    """
    t, shown, target = noised(batch.residual, batch.spectrum, generator)
    weight, maps, rows = (torch.cat([x] * 2) for x in (batch.weight, batch.maps, batch.rows))
    total, context = torch.zeros((), device=t.device), None
    if network.trunk is not None:
        coarse = network.trunk(shown, t, maps)
        total = total + (halve(weight) * (coarse[:, : network.contrasts] - halve(target)) ** 2).mean()
        context = double(coarse, target.shape[2:])
    tokens = None if network.tokens is None else network.tokens(maps)
    raw = network.section(*_section_inputs(network, shown, t, maps, context, tokens, batch.axis, rows))
    wanted, heavy = (torch.cat([stack(v, batch.axis)[r] for v, r in zip(x, rows, strict=True)]) for x in (target, weight))
    return total + (heavy * (raw - wanted) ** 2).mean()


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on the device: noise drawn on a CPU would be waited for. On a CPU the generator itself."""
    return generator if device.type == "cpu" else torch.Generator(device).manual_seed(generator.initial_seed())


def _section_inputs(
    network: Network,
    shown: Tensor,
    t: Tensor,
    maps: Tensor,
    context: Tensor | None,
    tokens: Tensor | None,
    axis: int,
    rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Arguments of `Network.section` for sections `rows` (V, n) of V volumes."""
    volumes = range(len(rows))
    slab = torch.cat([slabs(shown[v], axis, rows[v], network.slab) for v in volumes])
    cut_maps = torch.cat([section_maps(maps[v], axis, rows[v]) for v in volumes])
    cut_context = None if context is None else torch.cat([stack(context[v], axis)[rows[v]] for v in volumes])
    repeated = None if tokens is None else tokens.repeat_interleave(rows.shape[1], dim=0)
    return slab, t.repeat_interleave(rows.shape[1]), cut_maps, cut_context, repeated
