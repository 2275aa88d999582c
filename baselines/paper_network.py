"""The paper's estimate: the noise in one section, seen beside one given slice and the pose of that section.

Intensities are in units of the observation's scale, moved from [0, 1] to [-1, 1]; no estimate of another kind goes in, and
nothing of the volume around the section. Every section, of whatever axis, lies in the middle of a square canvas as wide as
the array's longest side: nothing is stretched, and the given slice needs no place of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.paper_assembly import VIEWS, SliceAssembly
from baselines.paper_schedule import BETAS, TRAINED_STEPS, draw, timesteps, trained_levels
from xdiff.errors import InputError
from xdiff.loop import TrainingSettings
from xdiff.model.diffusion import FREQUENCIES, POSITION_UNIT_MM
from xdiff.model.network import Network
from xdiff.model.sampler import FACTOR, PIXELS
from xdiff.plain import one_of
from xdiff.planes import Plane, stack, unstack
from xdiff.rotations import CubeRotation

PARAMS = "methods.*.params"
AIR = -1.0  # what the canvas holds outside a section


@dataclass(frozen=True)
class PaperSettings(TrainingSettings):
    """Parameters of the paper's own training. channels: widths of the network; sections: targets per volume of a step;
    orientations: the first so many of VIEWS are trained, and can be averaged; drop: share of the pairs without the given slice,
    which guidance needs; schedule: of the betas; assembly: what a trained network is used with, which does not train another
    one. base is none: nothing is started from. validate_k: of draws with VALIDATION_STEPS."""

    trained_as: str = "paper"
    base: str = "none"
    channels: tuple[int, ...] = (16, 32, 64)
    sections: int = 8
    orientations: int = 3
    drop: float = 0.1
    schedule: str = "scaled_linear"
    validate_k: tuple[int, ...] = (1,)
    assembly: SliceAssembly = field(default_factory=SliceAssembly)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(f"{PARAMS}.base", self.base, ("none",))
        one_of(f"{PARAMS}.schedule", self.schedule, tuple(BETAS))
        if not 1 <= self.orientations <= len(VIEWS):
            raise InputError(f"{PARAMS}.orientations", self.orientations, f"1 to {len(VIEWS)} rotations of the cube")
        if self.assembly.views > self.orientations:
            raise InputError(f"{PARAMS}.assembly.views", self.assembly.views, f"at most the {self.orientations} orientations")
        if not 0 <= self.drop < 1:
            raise InputError(f"{PARAMS}.drop", self.drop, "a share in 0..1, below 1")
        if self.assembly.guidance != 1 and not self.drop:
            raise InputError(f"{PARAMS}.assembly.guidance", self.assembly.guidance, "1 with drop 0: no null condition is trained")

    @property
    def trained(self) -> PaperSettings:
        """What decides about the weights."""
        return replace(self, assembly=SliceAssembly())

    def network(self, contrasts: int) -> Network:
        """X-Diffusion's section network without trunk and neighbours. The state and the given slice are its 2 C images, the pose
        its maps, of which it counts three apart."""
        torch.manual_seed(self.seed)
        return Network(contrasts, pose_size(contrasts) - 3, self.channels, (), slab=0)


class Slice(NamedTuple):
    """One given slice: plane, pixels (C, h, w) in units of the observation's scale, carried (C,) bool: the contrasts that it
    shows; and the array (X, Y, Z) that it is of."""

    plane: Plane
    pixels: np.ndarray
    carried: np.ndarray
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def side(self) -> int:
        """Of the canvas."""
        return max(self.shape)


# Conditioning -------------------------------------------------------------------------------------------------------


def pose_size(contrasts: int) -> int:
    """See `pose`: 1 + C + 3 + 9 + two depths of 1 + 2 len(FREQUENCIES) each."""
    return 13 + contrasts + 2 * (1 + 2 * len(FREQUENCIES))


def pose(given: Slice, turn: CubeRotation, rows: np.ndarray) -> Tensor:
    """(n, pose_size) of sections `rows`, along the given slice's axis, of the array turned by `turn`.

    A one (0 in the null condition); the contrasts given; the given slice's axis; the rotation matrix; the section's depth from
    the middle and relative to the given slice's, in units of 100 mm, each also as waves. Depths are in mm along the axis that
    the sections are of: of an array of unequal sides no other side comes in.
    """
    axis = given.plane.axis
    target = depth_mm(rows, turn.perm[axis], given)
    relative = target - depth_mm(np.array(given.plane.index), axis, given)
    fixed = [np.ones(1), given.carried, np.eye(3)[axis], matrix(turn).ravel()]
    parts = [np.tile(np.concatenate(fixed), (len(rows), 1)), _waves(target), _waves(relative)]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def depth_mm(rows: np.ndarray, axis: int, given: Slice) -> np.ndarray:
    """Of sections `rows` along an array axis, from the middle of the array."""
    return (rows - (given.shape[axis] - 1) / 2) * given.spacing_mm[axis]


def matrix(turn: CubeRotation) -> np.ndarray:
    """(3, 3): old directions to new ones."""
    return np.eye(3)[list(turn.perm)] * np.where(turn.flip, -1, 1)[:, None]


def _waves(depth: np.ndarray) -> np.ndarray:
    unit = depth / POSITION_UNIT_MM
    return np.stack([unit, *(f(np.pi * k * unit) for k in FREQUENCIES for f in (np.sin, np.cos))], axis=1)


def to_canvas(images: Tensor, side: int) -> Tensor:
    """(n, C, side, side) from images (n, C, h, w) with intensities in [0, 1], moved to [-1, 1], in the middle of air."""
    h, w = images.shape[-2:]
    top, left = (side - h) // 2, (side - w) // 2
    return functional.pad(2 * images - 1, (left, side - w - left, top, side - h - top), value=AIR)


def from_canvas(canvas: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `to_canvas`, for images of `size` (h, w)."""
    (h, w), side = size, canvas.shape[-1]
    top, left = (side - h) // 2, (side - w) // 2
    return (canvas[..., top : top + h, left : left + w] + 1) / 2


# Estimates ----------------------------------------------------------------------------------------------------------


def predict_noise(network: nn.Module, state: Tensor, t: Tensor, slices: Tensor, poses: Tensor) -> Tensor:
    """Noise (n, C, S, S) in states alike at trained steps t (n,), beside given slices (n, C, S, S) and poses (n, pose_size). Zero
    slices and poses are the null condition."""
    maps = poses[:, :, None, None].expand(-1, -1, *state.shape[2:])
    return network.section(torch.cat([state, slices], dim=1), t / TRAINED_STEPS, maps, None).float()


class Trained(NamedTuple):
    """A network, in training or ready, what it is used with, and the least and the largest intensity (2,) of the volumes that it
    was trained on. Estimates are kept between these, as DDPM's code does: at the noisiest levels 1 / alpha is 14."""

    network: nn.Module
    limits: np.ndarray
    settings: PaperSettings

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


class SectionEstimates:
    """Estimates of x_0 of all sections along the given slice's axis of a turned volume, each from its own state alone, at the
    levels of a draw. Counts its evaluations."""

    def __init__(self, trained: Trained, given: Slice, turn: CubeRotation, steps: int) -> None:
        settings = trained.settings
        self.network, self.guidance, self.device = trained.network, settings.assembly.guidance, trained.device
        self.low, self.high = (2 * trained.limits - 1).tolist()
        self.levels, self.timesteps = trained_levels(steps, settings.schedule), timesteps(steps)
        count = given.shape[turn.perm[given.plane.axis]]
        self.poses = pose(given, turn, np.arange(count)).to(self.device)
        self.slice = to_canvas(torch.from_numpy(given.pixels)[None], given.side).to(self.device)
        self.shape = (count, *self.slice.shape[1:])
        self.evaluations = 0

    def __call__(self, state: Tensor, step: int) -> Tensor:
        """x_0 (n, C, S, S) of all sections' states alike."""
        batch = max(1, FACTOR.get(self.device.type, 1) * PIXELS // state[0, 0].numel())
        pieces = zip(state.split(batch), self.poses.split(batch), strict=True)
        noise = torch.cat([self._noise(part, float(self.timesteps[step]), poses) for part, poses in pieces])
        return ((state - self.levels.sigma[step] * noise) / self.levels.alpha[step]).clamp(self.low, self.high)

    def _noise(self, state: Tensor, t: float, poses: Tensor) -> Tensor:
        """Guided noise, 2207.12598, eq. 6: null + weight (conditional - null)."""
        when, slices = torch.full((len(state),), t, device=self.device), self.slice.expand(len(state), -1, -1, -1)
        self.evaluations += len(state)
        found = predict_noise(self.network, state, when, slices, poses)
        if self.guidance == 1:
            return found
        self.evaluations += len(state)
        null = predict_noise(self.network, state, when, torch.zeros_like(slices), torch.zeros_like(poses))
        return null + self.guidance * (found - null)


@torch.inference_mode()
def draw_turned(
    trained: Trained, given: Slice, turn: CubeRotation, steps: int, generator: np.random.Generator
) -> tuple[np.ndarray, int]:
    """One draw of the volume turned by `turn`, (C, turned X, Y, Z), section by section from noise of its own; evaluations."""
    estimates = SectionEstimates(trained, given, turn, steps)

    def fresh() -> Tensor:
        return torch.from_numpy(generator.standard_normal(estimates.shape, dtype=np.float32)).to(estimates.device)

    sections = draw(estimates, fresh(), estimates.levels, trained.settings.assembly.solver, fresh)
    axis = given.plane.axis
    turned_shape = [given.shape[p] for p in turn.perm]
    size = tuple(n for a, n in enumerate(turned_shape) if a != axis)
    return unstack(from_canvas(sections, size), axis).cpu().numpy(), estimates.evaluations


def cut_turned(volume: np.ndarray, given: Slice, turn: CubeRotation, rows: np.ndarray) -> Tensor:
    """Canvases (n, C, S, S) of sections `rows` of a volume (C, X, Y, Z), as `draw_turned` draws them."""
    sections = stack(turn.volume(volume), given.plane.axis)[rows]
    return to_canvas(torch.from_numpy(np.ascontiguousarray(sections)), given.side)
