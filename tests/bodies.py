"""Bodies made by hand whose spine, volume and fat are known: an ellipse of muscle in a shell of fat, two legs, and a column of
marrow along a given curve, in a water and a fat image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

LENGTH_MM = 720.0  # of the whole body
TRUNK_FROM_MM = 240.0  # height at which the legs end
MARROW_FROM_MM = 250.0  # and the column begins
HALF_WIDTHS_MM = (150.0, 105.0)
FAT_SHELL_MM = 18.0
FIELD_MM = (360.0, 252.0)
Curve = Callable[[np.ndarray], np.ndarray]


class Body(NamedTuple):
    """`water`, `fat` (X, Y, Z); `line` (n, 3) the column's centre in mm from the middle of voxel 0, 0, 0."""

    water: np.ndarray
    fat: np.ndarray
    spacing_mm: tuple[float, float, float]
    line: np.ndarray

    @property
    def images(self) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        return self.water, self.fat, self.spacing_mm


def straight(z: np.ndarray) -> np.ndarray:
    return np.zeros_like(z)


def lateral_arc(degrees: float) -> Curve:
    """One arc in the coronal plane whose end tangents differ by so many degrees: a circle's."""
    half_mm = (LENGTH_MM - MARROW_FROM_MM) / 2
    radius = half_mm / np.sin(np.radians(degrees / 2))

    def offset(z: np.ndarray) -> np.ndarray:
        return np.sqrt(radius**2 - np.clip(z - MARROW_FROM_MM - half_mm, -half_mm, half_mm) ** 2) - radius + 6

    return offset


def sagittal_wave(amplitude_mm: float) -> Curve:
    """Lordosis below, kyphosis above: one period of a sine, forward in its lower half."""
    period = LENGTH_MM - MARROW_FROM_MM
    return lambda z: amplitude_mm * np.sin(2 * np.pi * (z - MARROW_FROM_MM) / period)


def body(
    lateral: Curve = straight, sagittal: Curve = straight, spacing_mm: float | tuple = 6.0, marrow: bool = True, seed: int = 0
) -> Body:
    """Signal 100 in tissue, noise of 2 everywhere; partial volume from blurring half a voxel. With discs every 30 mm."""
    spacing = tuple(np.broadcast_to(spacing_mm, 3).astype(float))
    shape = tuple(int(np.ceil(mm / s)) for mm, s in zip((*FIELD_MM, LENGTH_MM), spacing, strict=True))
    x, y, z = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    x, y = x - FIELD_MM[0] / 2, y - FIELD_MM[1] / 2
    trunk = z >= TRUNK_FROM_MM
    outer = np.where(trunk, _ellipse(x, y, 0.0), (np.abs(np.abs(x) - 75) ** 2 + y**2) ** 0.5 / 70)
    inner = np.where(trunk, _ellipse(x, y, FAT_SHELL_MM), (np.abs(np.abs(x) - 75) ** 2 + y**2) ** 0.5 / (70 - FAT_SHELL_MM))
    fraction = np.where(inner < 1, 0.05, 0.92)
    column = (x - lateral(z)) ** 2 + (y + 35 - sagittal(z)) ** 2 < 20.0**2
    column &= (z >= MARROW_FROM_MM) & marrow
    fraction[column] = np.where((z[column] % 30) < 7, 0.08, 0.4)
    signal = 100.0 * (outer < 1)
    rng = np.random.default_rng(seed)
    water, fat = (_imaged(signal * part, rng) for part in (1 - fraction, fraction))
    heights = np.arange(shape[2]) * spacing[2]
    heights = heights[heights >= MARROW_FROM_MM]
    line = np.stack([lateral(heights) + FIELD_MM[0] / 2, sagittal(heights) - 35 + FIELD_MM[1] / 2, heights], axis=1)
    return Body(water, fat, spacing, line)


def _ellipse(x: np.ndarray, y: np.ndarray, within_mm: float) -> np.ndarray:
    a, b = (half - within_mm for half in HALF_WIDTHS_MM)
    return np.sqrt((x / a) ** 2 + (y / b) ** 2)


def _imaged(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = ndimage.gaussian_filter(image, 0.5)
    return np.abs(blurred + rng.normal(0, 2, image.shape)).astype(np.float32)
