"""The linear-Gaussian estimate on a device, for draws made there: what LinearGaussian.estimate_parts gives, to rounding.

Sums over voxels are done on the device; what has as many numbers as there are training volumes or given sections (Gram
matrices, weights, kriging) stays in float64 on the CPU, with the functions of gaussian.py. Sections of the array's axes only:
oblique ones are sparse matrices, and few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xdiff.gaussian import LinearGaussian
from xdiff.kriging import NUGGET, axis_kriging
from xdiff.planes import Plane, common_axis, project, unstack
from xdiff.stacks import stacks
from xdiff.view import View

COLUMNS = 2**16  # voxels whose products are summed in float64 at a time


class DeviceGaussian:
    """The training volumes of `linear`, mirror images included, on a device; as float16 on a GPU."""

    def __init__(self, linear: LinearGaussian, device: torch.device) -> None:
        self.linear = linear
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.rows = torch.from_numpy(linear.rows).to(device, dtype)

    def estimate_parts(self, view: View, sections: Sequence[Tensor], keep: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """G and its part that was spread, (C, X, Y, Z), from sections (C, h, w) in units of the observation."""
        ridge, length_mm, _ = self.linear.hyper(view.planes)
        gram, inner = self._products(view, sections)
        weights = torch.from_numpy(self.linear.weights(gram, inner, ridge, keep)).to(self.rows.device, torch.float32)
        combined = torch.zeros(self.rows.shape[1:], device=self.rows.device)
        for weight, row in zip(weights.split(32), self.rows.split(32), strict=True):
            combined += torch.tensordot(weight, row.float(), dims=1)
        gaussian = spread_residual(combined, view, sections, length_mm)
        return gaussian, gaussian - combined

    def _products(self, view: View, sections: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """P (M, M) and X_s y (M,) in float64; crossings of thin planes count once."""
        shown, data = self._shown(view, sections)
        given = view.given.tolist()
        if view.exact and common_axis(view.planes) is not None:
            gram = self.linear.gram(view.planes, given)  # sums of Gram matrices of single sections
        else:
            gram = sum(part.double() @ part.double().T for part in shown.split(COLUMNS, dim=1)).cpu().numpy()
        inner = sum(p.double() @ d.double() for p, d in zip(shown.split(COLUMNS, dim=1), data.split(COLUMNS), strict=True))
        return gram, inner.cpu().numpy()

    def _shown(self, view: View, sections: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Training volumes (M, n) and data (n,) at what the planes show, in the contrasts that are given."""
        whole = bool(view.given.all())
        rows, evidence = (self.rows, view.evidence) if whole else (self.rows[:, view.given], view.evidence[view.given])
        axis = common_axis(view.planes)
        if view.exact and axis is not None:
            chosen = torch.tensor(sorted({p.index for p in view.planes}), device=rows.device)
            return rows.index_select(axis + 2, chosen).flatten(1), evidence.index_select(axis + 1, chosen).flatten()
        if view.exact:
            return rows[:, :, view.mask].flatten(1), evidence[:, view.mask].flatten()
        flat = rows.flatten(0, 1)  # a plane cuts along spatial axes, whatever the channels
        parts = [plane.cut(flat).reshape(len(rows), -1) for plane in view.planes]
        return torch.cat(parts, dim=1), torch.cat([s[view.given].flatten() for s in sections])


def spread_residual(volume: Tensor, view: View, sections: Sequence[Tensor], length_mm: float) -> Tensor:
    """As kriging.spread_residual."""
    missing = [torch.where(view.given[:, None, None], s - p.cut(volume), 0.0) for s, p in zip(sections, view.planes, strict=True)]
    told = []
    for stack in stacks(view.planes, view.spacing_mm):
        scale = length_mm / view.spacing_mm[stack.axis]
        weights, explained = axis_kriging(stack.planes, view.shape[stack.axis], scale)
        residual = torch.stack([missing[i] for i in stack.members])
        predicted = torch.tensordot(volume.new_tensor(weights), residual, dims=1)
        shape = [-1 if a == stack.axis else 1 for a in range(3)]
        told.append((unstack(predicted, stack.axis), volume.new_tensor(explained).reshape(shape)))
    if len(told) == 1:
        spread = told[0][0]
    else:
        trust = [1 / (1 - explained).clamp(min=NUGGET) for _, explained in told]
        total = sum(predicted * t for (predicted, _), t in zip(told, trust, strict=True))
        spread = total / (1 + sum(explained * t for (_, explained), t in zip(told, trust, strict=True)))
    return project(volume + spread, sections, view.planes, view.given.tolist())


def supports(planes: Sequence[Plane]) -> bool:
    """Whether the estimate of these sections can be made on a device."""
    return all(isinstance(p, Plane) for p in planes) and (all(p.thin for p in planes) or common_axis(planes) is not None)
