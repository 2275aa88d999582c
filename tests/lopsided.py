"""A phantom that tells its sides apart, in a volume whose axes are turned against the world's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.volumes import write_volume

SHAPE = (36, 44, 32)
SPACING_MM = 4.0
# On the right, in front, on top: middle in voxels, radius, intensity. The brighter one of two that share a view is looked for.
BALLS = (((27, 14, 16), 4, 1000.0), ((18, 36, 16), 3, 700.0), ((18, 22, 26), 3, 450.0))


def oblique_affine(tilt_deg: float = 12.0) -> np.ndarray:
    """(4, 4) of RAS axes turned about the patient's left-right and then about the vertical axis; the middle at 0 mm."""
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    turned = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned * SPACING_MM
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def lopsided() -> np.ndarray:
    """(36, 44, 32) float32: a dim ellipsoid with three balls in it."""
    grid = np.indices(SHAPE)
    half = np.array(SHAPE)[:, None, None, None] / 2
    volume = 250.0 * ((((grid - half + 0.5) / (0.92 * half)) ** 2).sum(axis=0) < 1)
    for middle, radius, value in BALLS:
        volume[((grid - np.array(middle)[:, None, None, None]) ** 2).sum(axis=0) < radius**2] = value
    return volume.astype(np.float32)


def write_flipped(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """The same volume stored as LAS: its first axis runs to the left."""
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = array.shape[0] - 1
    write_volume(path, array[::-1], affine @ flip)
