"""Training volumes as tensors: on a GPU the whole cohort stays there, elsewhere each volume is read when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xdiff.data.split import rank
from xdiff.data.store import Store
from xdiff.planes import Plane, adjoint, along, profiles
from xdiff.view import View

RESIDENT_MIB = 8192  # a fixed number, so that draws do not depend on what else is on the device; 50,000 brains do not fit any


class _Kept(NamedTuple):
    levels: Tensor  # (C, X, Y, Z) uint8
    lowest: Tensor  # (C, 1, 1, 1): the value of level 0; 0 where no value is negative, so that background stays 0
    step: Tensor  # (C, 1, 1, 1)
    foreground: Tensor  # (X, Y, Z) bool


def read(store: Store, subject: str, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Volume (C, X, Y, Z) float32 in units of its own scale and foreground (X, Y, Z) bool."""
    return tuple(torch.from_numpy(a).to(device) for a in (store.volume(subject), store.foreground(subject)))


class Volumes:
    """`volumes(subject)` is `read`; resident: kept on the device from the start, at 8 bits, an error of at most 1/510 of the
    range of values (62 brains at 1.5 mm are 130 MB, so that cutting sections out of them never waits for a disk). Of a cohort of
    more than RESIDENT_MIB the lowest ranks are kept, and the others read when they are asked for."""

    def __init__(self, store: Store, subjects: Sequence[str], device: torch.device, resident: bool) -> None:
        self.store, self.device = store, device
        self._kept = self._keep_most(subjects) if resident else {}

    def __call__(self, subject: str) -> tuple[Tensor, Tensor]:
        if subject not in self._kept:
            return read(self.store, subject, self.device)
        kept = self._kept[subject]
        return kept.lowest + kept.levels * kept.step, kept.foreground

    def _keep_most(self, subjects: Sequence[str]) -> dict[str, _Kept]:
        kept, left = {}, RESIDENT_MIB * 2**20
        for subject in sorted(subjects, key=lambda s: rank(0, s)):
            one = self._keep(subject)
            left -= one.levels.nbytes + one.foreground.nbytes
            if left < 0:
                print(
                    f"resident: {len(kept)} of {len(subjects)} volumes kept on the device ({RESIDENT_MIB} MiB), the others read"
                )
                break
            kept[subject] = one
        return kept

    def _keep(self, subject: str) -> _Kept:
        volume, foreground = self.store.volume(subject), self.store.foreground(subject)
        lowest = np.minimum(volume.min(axis=(1, 2, 3), keepdims=True), 0)
        step = np.maximum(volume.max(axis=(1, 2, 3), keepdims=True) - lowest, 1e-6) / 255
        levels = np.rint((volume - lowest) / step).astype(np.uint8)
        arrays = (levels, lowest.astype(np.float32), step.astype(np.float32), foreground)
        return _Kept(*(torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in arrays))


def observe_on(
    volume: Tensor, planes: Sequence[Plane], spacing_mm: Sequence[float], norm: str, given: Tensor
) -> tuple[View, list[Tensor], Tensor]:
    """What observation.observe gives, for sections of the array's axes: a view, the sections (C, h, w) and the scale (C,),
    without the volume (C, X, Y, Z) leaving its device. given (C,) bool."""
    cut = [plane.cut(volume) for plane in planes]
    scale = torch.ones(len(volume), device=volume.device)
    if norm == "p99.5":
        for c in given.nonzero().flatten().tolist():
            values = torch.cat([s[c].flatten() for s in cut])
            scale[c] = torch.quantile(values[values > 0], 0.995)
    sections = [torch.where(given[:, None, None], s / scale[:, None, None], 0.0) for s in cut]
    seen, thin, distance = _along_axes(planes, tuple(volume.shape[1:]), spacing_mm, volume.device)
    mask = seen > 1e-9
    evidence = adjoint(sections, planes, volume) / torch.where(mask, seen, 1.0)
    view = View(tuple(planes), tuple(spacing_mm), evidence, mask, given[:, None, None, None] & thin, distance, given)
    return view, sections, scale


def _along_axes(
    planes: Sequence[Plane], shape: tuple[int, ...], spacing_mm: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """W, voxels of thin planes and distance in mm, (X, Y, Z): of planes of the array's axes they follow from three lines."""
    seen, thin, distance = (torch.zeros(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device), None)
    for axis in range(3):
        own = [p for p in planes if p.axis == axis]
        if not own:
            continue
        lines = (
            profiles(own, shape[axis]).sum(axis=0),
            (profiles([p for p in own if p.exact], shape[axis]) > 0).any(axis=0),
            np.min([p.distance_mm(shape, spacing_mm).ravel() for p in own], axis=0).astype(np.float32),
        )
        weight, exact, away = (torch.from_numpy(along(line, axis)).to(device) for line in lines)
        seen, thin = seen + weight.float(), thin | exact
        distance = away.expand(shape) if distance is None else torch.minimum(distance, away)
    return seen, thin, distance
