"""Registration of training volumes to their own mean, once, so that a draw can give one subject another's shape.

Every subject i has a stationary velocity field v_i (millimetres, on a coarse control grid), whose exponential - scaling and
squaring, Arsigny et al. 2006 - takes the template to the subject: V_i(exp(v_i)(x)) looks like the template T(x). Groupwise:
T is the mean of what is registered so far and of its mirror image, the mean velocity is kept at zero, and both are renewed
from coarse to fine. Subject i in the shape of subject j is then V_i(exp(v_i)(exp(-v_j)(y))).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from monai.losses import BendingEnergyLoss, LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import DVF2DDF, Warp
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from xdiff.checkpoint import Tensors, keep_once
from xdiff.cuda import training_device
from xdiff.data.split import patient_of
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.plain import digest

VERSION = 1  # raise when the same settings fit something else
LEVELS = (4, 2, 1)  # times control_mm: coarse to fine
SQUARINGS = 6
BATCH = 8  # subjects registered at a time: bounds the memory
Size = tuple[int, int, int]

# said at every call: that Warp samples with torch, and how MONAI indexes
warnings.filterwarnings("ignore", "monai.networks.blocks.Warp")
warnings.filterwarnings("ignore", "Using a non-tuple sequence", module="monai.losses.deform")


@dataclass(frozen=True)
class WarpSettings:
    """control_mm: distance of the control points of the finest level, which sees images of half that voxel size (or their own);
    steps: of Adam at each level; step_mm: its learning rate; window: voxels of the local correlation; bending: weight of the
    bending energy of the velocity (mm, per control point)."""

    control_mm: float = 8.0
    steps: int = 20
    step_mm: float = 0.5
    window: int = 7
    bending: float = 0.02


@dataclass
class Warps:
    """Velocities (N, 3, g1, g2, g3) in mm of `subjects`, at control points whose outermost ones lie on the outermost voxels of a
    grid of `shape` and `spacing_mm`. What it returns lies on the velocities' device."""

    subjects: tuple[str, ...]
    velocities: Tensor
    shape: Size
    spacing_mm: tuple[float, float, float]

    def to(self, device: torch.device | str) -> Warps:
        return Warps(self.subjects, self.velocities.to(device), self.shape, self.spacing_mm)

    def between(self, i: str, j: str, amount: float = 1.0) -> Tensor:
        """Displacement (3, X, Y, Z) float32 in voxels: subject i's volume, sampled at grid + displacement, is subject i in the
        shape of subject j. amount: the share of the way from i's own velocity (0) to j's (1).

        Raises InputError for a subject that is not registered.
        """
        own, other = (self._velocity(name) for name in (i, j))
        to_template = displacement(-torch.lerp(own, other, amount)[None], self.shape, self.spacing_mm)
        return compose(displacement(own[None], self.shape, self.spacing_mm), to_template)[0]

    def _velocity(self, subject: str) -> Tensor:
        if subject not in self.subjects:
            raise InputError("warps", f"subject {subject!r}", f"one of {len(self.subjects)} registered subjects")
        return self.velocities[self.subjects.index(subject)].float()


def warped_volumes(store: Store, warps: Warps, copies: int, seed: int = 0) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Every registered subject a random part of the way to the shapes of `copies` random subjects of other patients: volumes
    (N x copies, C, X, Y, Z) float32 (float16 values, as those of the store, where it is on its own scale), and the two patients
    of each."""
    rng, volumes, patients = np.random.default_rng([seed, 78]), [], []
    grid = np.indices(store.shape, dtype=np.float32)
    for subject in warps.subjects:
        others = [other for other in warps.subjects if patient_of(other) != patient_of(subject)]
        volume = store.volume(subject)
        for donor in rng.choice(others, min(copies, len(others)), replace=False):
            where = grid + warps.between(subject, str(donor), rng.random()).cpu().numpy()
            # cubic, because linear interpolation takes away texture
            warped = np.stack([ndimage.map_coordinates(c, where, order=3, mode="nearest") for c in volume])
            stored = np.float16 if store.norm == "p99.5" else np.float32
            volumes.append(np.maximum(warped, volume.min()).astype(stored).astype(np.float32))
            patients.append((patient_of(subject), patient_of(str(donor))))
    return np.stack(volumes), patients


def fit_warps(
    store: Store,
    subjects: Sequence[str],
    settings: WarpSettings,
    folder: Path | None = None,
    device: torch.device | str | None = None,
) -> Warps:
    """Register `subjects` of a store to their common template, on `device` or where there is one on a GPU. Nothing in it is
    random.

    folder: where the velocities are kept (float16), under a name that tells data, subjects and settings; whoever asks for the
    same again takes them from there. Raises InputError below two subjects.
    """
    device = device or training_device()
    subjects = sorted(subjects)
    if len(subjects) < 2:
        raise InputError(store.folder, f"{len(subjects)} training subjects", "two or more to warp one into another's shape")
    key = digest([VERSION, store.fingerprint, subjects, asdict(settings)])
    if not folder:
        return _fit(store, subjects, settings, device)

    def velocities() -> Tensors:
        found = _fit(store, subjects, settings, device).velocities.cpu().numpy()
        print(f"registration: {len(subjects)} velocity fields, {found.nbytes / 2**20:.1f} MiB")
        return {"velocities": found}

    # methods train side by side: one registers, the others wait for it
    kept = torch.from_numpy(keep_once(folder / f"warps-{key[:16]}", velocities)["velocities"])
    return Warps(tuple(subjects), kept.to(device), store.shape, store.spacing_mm(subjects[0]))


@torch.enable_grad()
def _fit(store: Store, subjects: list[str], settings: WarpSettings, device: torch.device | str) -> Warps:
    """Coarse to fine; at each level from the template of the last."""
    spacing, velocities = store.spacing_mm(subjects[0]), None
    for factor in LEVELS:
        size = _size(store.shape, spacing, factor * settings.control_mm)
        image = _size(store.shape, spacing, factor * settings.control_mm / 2, store.shape)
        if velocities is None:
            velocities = torch.zeros(len(subjects), 3, *size, device=device)
        velocities = functional.interpolate(velocities, size, mode="trilinear", align_corners=True)
        level = _Level(store, subjects, image, spacing)
        template = level.template(velocities)
        for part, volumes in level.parts(device):
            velocities[part] = _register(volumes, template, velocities[part], level.spacing_mm, settings)
        velocities -= _symmetric_mean(velocities)
    return Warps(tuple(subjects), velocities.half(), store.shape, spacing)


def _register(volumes: Tensor, template: Tensor, start: Tensor, spacing_mm: tuple, settings: WarpSettings) -> Tensor:
    """Velocities (B, 3, ...) at which volumes (B, C, X, Y, Z) look most like the template (1, C, X, Y, Z). Adam moves every
    number on its own, so that subjects do not depend on who shares their batch."""
    likeness = LocalNormalizedCrossCorrelationLoss(kernel_size=settings.window)
    bending = BendingEnergyLoss()
    velocities = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([velocities], settings.step_mm)
    target = template.expand_as(volumes)
    for _ in range(settings.steps):
        warped = warp(volumes, displacement(velocities, tuple(volumes.shape[2:]), spacing_mm))
        # the mean correlation of a contrast, summed over contrasts and subjects
        loss = len(volumes) * (volumes.shape[1] * likeness(warped, target) + settings.bending * bending(velocities))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return velocities.detach()


class _Level:
    """Volumes of `subjects` on a grid of `shape` voxels over the same extent, a few at a time."""

    def __init__(self, store: Store, subjects: list[str], shape: Size, spacing_mm: tuple[float, float, float]) -> None:
        self.store, self.subjects, self.shape = store, subjects, shape
        self.spacing_mm = tuple(mm * (n - 1) / (m - 1) for mm, n, m in zip(spacing_mm, store.shape, shape, strict=True))

    def parts(self, device: torch.device | str) -> Iterator[tuple[slice, Tensor]]:
        """Places among the subjects and volumes (B, C, X, Y, Z)."""
        for first in range(0, len(self.subjects), BATCH):
            part = slice(first, first + BATCH)
            volumes = torch.stack([torch.from_numpy(self.store.volume(s)) for s in self.subjects[part]]).to(device)
            yield part, _shrunk(volumes, self.shape)

    def template(self, velocities: Tensor) -> Tensor:
        """Mean (1, C, X, Y, Z) of the volumes in the template's shape, and of its mirror image."""
        total = sum(
            warp(volumes, displacement(velocities[part], self.shape, self.spacing_mm)).sum(dim=0, keepdim=True)
            for part, volumes in self.parts(velocities.device)
        )
        return (total + total.flip(2)) / (2 * len(self.subjects))


def _symmetric_mean(velocities: Tensor) -> Tensor:
    """Mean (1, 3, ...) over subjects and their mirror images."""
    mean = velocities.mean(dim=0, keepdim=True)
    return (mean + mirrored(mean)) / 2


def mirrored(field: Tensor) -> Tensor:
    """Left-right mirror image of a displacement or velocity field (..., 3, X, Y, Z)."""
    sign = torch.tensor([-1.0, 1.0, 1.0], device=field.device, dtype=field.dtype)
    return field.flip(-3) * sign[:, None, None, None]


def displacement(velocities: Tensor, shape: Size, spacing_mm: tuple[float, float, float]) -> Tensor:
    """exp(v) - identity, (B, 3, *shape) in voxels, of velocities (B, 3, g1, g2, g3) in mm whose control points span the grid."""
    unit = [(n - 1) / (g - 1) for n, g in zip(shape, velocities.shape[2:], strict=True)]  # voxels per control point
    per_mm = [1 / (u * mm) for u, mm in zip(unit, spacing_mm, strict=True)]
    exponential = DVF2DDF(SQUARINGS, padding_mode="border")
    coarse = exponential(velocities * _along_channels(per_mm, velocities)) * _along_channels(unit, velocities)
    return functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement (B, 3, X, Y, Z) of x -> outer(inner(x)), both in voxels."""
    return inner + warp(outer, inner)


def warp(volumes: Tensor, field: Tensor) -> Tensor:
    """Volumes (B, C, X, Y, Z) sampled (trilinear, border values outside) at grid + field (B, 3, X, Y, Z) in voxels."""
    return Warp(padding_mode="border")(volumes, field)  # made anew: it keeps its last grid, and draws come from several threads


def folded(field: Tensor) -> float:
    """Share of voxels where x + field(x), (3, X, Y, Z) in voxels, has no positive Jacobian determinant."""
    slopes = torch.stack([torch.stack(torch.gradient(component)) for component in field])  # (3, 3, X, Y, Z)
    jacobian = slopes.permute(2, 3, 4, 0, 1) + torch.eye(3, device=field.device)
    return (torch.linalg.det(jacobian) <= 0).float().mean().item()


def _along_channels(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None, None]


def _size(shape: Size, spacing_mm: tuple[float, float, float], distance_mm: float, most: Size | None = None) -> Size:
    """Points about `distance_mm` apart from the first voxel to the last: at least 4, at most `most`."""
    wanted = [max(4, round((n - 1) * mm / distance_mm) + 1) for n, mm in zip(shape, spacing_mm, strict=True)]
    return tuple(min(pair) for pair in zip(wanted, most, strict=True)) if most else tuple(wanted)


def _shrunk(volumes: Tensor, shape: Size) -> Tensor:
    """Volumes (B, C, X, Y, Z) at fewer points over the same extent, averaged over about the distance of these."""
    widths = [2 * (round((n - 1) / (m - 1)) // 2) + 1 for n, m in zip(volumes.shape[2:], shape, strict=True)]
    padding = [w // 2 for w in widths]
    smooth = functional.avg_pool3d(volumes, widths, stride=1, padding=padding, count_include_pad=False)
    return functional.interpolate(smooth, shape, mode="trilinear", align_corners=True)
