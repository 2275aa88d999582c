"""Kriging: what given sections miss of an estimate, predicted away from them, and how much of it they explain.

The best linear prediction of a residual with a Matern 3/2 correlation of length L along the normal of parallel sections, thin,
thick or tilted; predictions from several directions are joined by how much each explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from xdiff.observation import Observation
from xdiff.planes import Plane, along, profiles, project
from xdiff.stacks import Stack, foot_pixels, stacks

NUGGET = 1e-5  # of the variance of a given section's residual


def kriging_variance(observation: Observation, length_mm: float) -> np.ndarray:
    """Share (X, Y, Z) float32 of a residual's variance that the given sections leave open: 0 at thin ones, 1 far away."""
    directions = stacks(observation.planes, observation.spacing_mm)
    told = [_stack_kriging(stack, None, observation, length_mm)[1] for stack in directions]
    left = 1 - told[0] if len(told) == 1 else 1 / (1 + sum(_odds(explained) for explained in told))
    return np.broadcast_to(np.clip(left, 0, 1), observation.shape).astype(np.float32)


def _odds(explained: np.ndarray) -> np.ndarray:
    """s / (1 - s), finite at the sections themselves."""
    return explained / np.maximum(1 - explained, NUGGET)


def spread_residual(volume: np.ndarray, observation: Observation, length_mm: float) -> np.ndarray:
    """Add what is missing at the given sections, fading with distance, and put the given sections in exactly; contrasts that are
    not given stay as they are.

    Parallel sections, of an axis or tilted: kriging along their normal, which predicts p and explains a share s of the
    variance. Several directions: sum of p / (1 - s) over 1 + sum of s / (1 - s), the best linear prediction where what they show
    of a voxel is independent given the voxel, as it is for a correlation that is a product over orthogonal axes.
    """
    given = np.array(observation.given)[:, None, None]
    residual = [np.where(given, s - p.cut(volume), 0) for s, p in zip(observation.sections, observation.planes, strict=True)]
    # a stack is in order, so that the result is the same, to the bit, in whatever order sections of one axis are given
    told = [
        _stack_kriging(stack, [residual[i] for i in stack.members], observation, length_mm)
        for stack in stacks(observation.planes, observation.spacing_mm)
    ]
    if len(told) == 1:
        spread = told[0][0]
    else:
        total = sum(predicted / np.maximum(1 - explained, NUGGET) for predicted, explained in told)
        spread = total / (1 + sum(_odds(explained) for _, explained in told))
    return project(volume + spread.astype(volume.dtype), observation.sections, observation.planes, observation.given)


def _stack_kriging(
    stack: Stack, missing: list[np.ndarray] | None, observation: Observation, length_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """What parallel sections that miss `missing`, K of (C, h, w), predict, (C, X, Y, Z), and the share of the variance that
    they explain, broadcastable to (X, Y, Z). Without `missing` the prediction is empty."""
    if stack.axis is None:
        rows = list(_tilted_kriging(stack, missing, observation, length_mm))
        predicted, explained = np.stack([values for values, _ in rows], axis=1), np.stack([share for _, share in rows])
    else:
        n, spacing = observation.shape[stack.axis], observation.spacing_mm[stack.axis]
        weights, share = axis_kriging(stack.planes, n, length_mm / spacing)
        predicted, explained = np.empty(0), along(share, stack.axis)
        if missing is not None:
            predicted = np.moveaxis(np.tensordot(weights, np.stack(missing), axes=1), 0, stack.axis + 1)
    return predicted, explained


def axis_kriging(planes: Sequence[Plane], length: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (length, K) float32 of sections of one axis, and the share (length,) of the variance that they explain.

    Thick sections are known averages: with their profiles P and the correlation C of all rows, C P^T (P C P^T)^-1.
    """
    rows = np.arange(length)
    if all(p.thin for p in planes):
        indices = np.array([p.index for p in planes])
        weights, cross = kriging_weights(indices, length, scale), matern(rows[:, None] - indices, scale)
    else:
        profile = profiles(planes, length)
        cross = matern(rows[:, None] - rows, scale) @ profile.T
        weights = _solved(profile @ cross, cross.T).T.astype(np.float32)
    return weights, (weights * cross).sum(axis=1)


def _tilted_kriging(
    stack: Stack, missing: list[np.ndarray] | None, observation: Observation, length_mm: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What oblique sections that miss `missing`, K of (C, h, w), predict, (C, Y, Z) float32, and the share (Y, Z) of the variance
    that they explain, for every row of voxels along the first axis: a volume's weights of all planes would not fit memory.

    What a plane misses at a voxel is read at the voxel's foot in it, between pixels by bilinear interpolation; beyond its
    edges it tells nothing.
    """
    offsets = np.array(stack.offsets_mm)
    inverse = _solved(matern(offsets[:, None] - offsets, length_mm), np.eye(len(offsets)))
    across = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in observation.shape[1:]), indexing="ij"), axis=-1)
    voxels = np.concatenate([np.zeros((across[..., 0].size, 1)), across.reshape(-1, 2)], axis=1)
    for x in range(observation.shape[0]):
        voxels[:, 0] = x
        places = (voxels * observation.spacing_mm) @ np.array(stack.normal)
        cross = matern(places[:, None] - offsets, length_mm)
        weights = cross @ inverse
        values, explained = np.zeros((0 if missing is None else len(missing[0]), len(voxels))), np.zeros(len(voxels))
        for k, plane in enumerate(stack.planes):
            pixels = foot_pixels(plane, voxels, observation.spacing_mm)
            last = np.array(plane.size)[:, None] - 1
            within = weights[:, k] * ((pixels >= -0.5) & (pixels <= last + 0.5)).all(axis=0)
            explained += within * cross[:, k]
            for c in range(len(values)):
                values[c] += within * ndimage.map_coordinates(missing[k][c], pixels, order=1, mode="nearest")
        yield values.reshape(len(values), *across.shape[:2]).astype(np.float32), explained.reshape(across.shape[:2])


def kriging_weights(indices: Sequence[int], length: int, scale: float) -> np.ndarray:
    """Weights (length, K) float32 of K known values in the best linear prediction along an axis: C_us C_ss^-1, Matern 3/2.

    scale: correlation length in sections. A smooth kernel, because given sections a few millimetres apart differ smoothly;
    exp(-distance / L) would interpolate almost linearly, and loses to cubic interpolation where sections are dense.
    """
    known = np.asarray(indices)
    return _solved(matern(known[:, None] - known, scale), matern(known[:, None] - np.arange(length), scale)).T.astype(np.float32)


def _solved(own: np.ndarray, right: np.ndarray) -> np.ndarray:
    """C_ss^-1 times `right`. A nugget keeps neighbouring sections solvable; what it leaves at them, the projection takes away."""
    return np.linalg.solve(own + NUGGET * np.eye(len(own)), right)


def matern(distance: np.ndarray, scale: float) -> np.ndarray:
    """Matern correlation with smoothness 3/2: (1 + d) exp(-d), d = sqrt(3) |distance| / scale."""
    d = np.sqrt(3) * np.abs(distance) / scale
    return (1 + d) * np.exp(-d)
