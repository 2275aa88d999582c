"""Who is drawn: sex, size, fat, and the curves of the spine of one person of the embedded body cohort.

Anatomy is laid out in a frame of a person of 172 cm: origin between the hip joints, x Right, y Anterior, z Superior, in mm. A
person is this layout with own measures and own spine, scaled to own height and bent (body_drawing.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from xdiff.data.solids import Profile

STANDARD_HEIGHT_MM = 1720.0
# vertebral body centres in the median plane: L5/S1 at z = 98, T12/L1 at 280, C7/T1 at 560
SPINE_Z_MM = (-40, -15, 20, 60, 98, 150, 200, 280, 350, 430, 500, 560, 620, 680, 720)
SPINE_Y_MM = (-52, -70, -84, -74, -46, -31, -29, -43, -58, -66, -59, -45, -34, -31, -30)
L5_S1_MM, T12_L1_MM, C7_T1_MM = 98.0, 280.0, 560.0


class Spine:
    """The centre line of the vertebral bodies, (x, y) as functions of z, and coordinates along and across it."""

    def __init__(self, lateral: np.ndarray, sagittal: np.ndarray) -> None:
        """Curves as rows of (apex z, offset, width) in mm: Gaussian bumps added to a straight and to the standard line."""
        z = np.arange(SPINE_Z_MM[0], SPINE_Z_MM[-1] + 1.0, 5.0)
        x, y = _bumps(z, lateral), CubicSpline(SPINE_Z_MM, SPINE_Y_MM)(z) + _bumps(z, sagittal)
        self.x, self.y = Profile(z, x), Profile(z, y)
        self.x_slope, self.y_slope = Profile(z, np.gradient(x, z)), Profile(z, np.gradient(y, z))

    def across(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Level (z of the nearest point of the line) and offsets (right, anterior) across it, of points near it."""
        level = z
        for _ in range(2):
            sx, sy = self.x_slope(level), self.y_slope(level)
            ahead = (x - self.x(level)) * sx + (y - self.y(level)) * sy + z - level
            level = level + ahead / (1 + sx * sx + sy * sy)
        dx, dy, dz = x - self.x(level), y - self.y(level), z - level
        tilt = np.sqrt(1 + self.y_slope(level) ** 2)
        return level, dx, (dy - dz * self.y_slope(level)) / tilt

    def at(self, level: float, right: float = 0.0, anterior: float = 0.0) -> tuple[float, float, float]:
        """A point beside the line."""
        z = np.float32(level)
        return float(self.x(z)) + right, float(self.y(z)) + anterior, float(level)


def _bumps(z: np.ndarray, curves: np.ndarray) -> np.ndarray:
    return sum((offset * np.exp(-(((z - apex) / width) ** 2)) for apex, offset, width in curves), np.zeros_like(z))


@dataclass(frozen=True)
class Person:
    """Measures of one person; factors are relative to the standard layout, lengths in mm of it unless they say otherwise."""

    female: bool
    height_mm: float  # of the person
    bmi: float  # kg / m^2, what fat is drawn from
    scale: tuple[float, float, float]  # mm of the person per mm of the layout
    shoulders: float
    waist: float
    hips: float
    muscle: float
    subcutaneous_mm: float
    belly_mm: float  # how far visceral fat pushes the abdominal wall
    diaphragm_mm: float
    marrow_fat: float
    liver_fat: float
    bladder: float  # how full: a factor of its diameter
    top_mm: float  # where the upper edge of the field of view lies
    spine: Spine

    @property
    def size(self) -> float:
        """mm of the person per mm of the layout, the mean over directions."""
        return float(np.prod(self.scale) ** (1 / 3))


def draw_person(rng: np.random.Generator) -> Person:
    """Heights and BMI about as in UK Biobank's imaging study (middle-aged, lightly overweight); curves from none to a Cobb angle
    of some 35 degrees."""
    female = bool(rng.random() < 0.52)
    height_mm = rng.normal(1630, 62) if female else rng.normal(1760, 68)
    bmi = float(np.clip(rng.lognormal(np.log(26.3), 0.16), 18.5, 42))
    size = height_mm / STANDARD_HEIGHT_MM
    visceral = np.clip((bmi - 20 - 3 * female) / 16 + rng.normal(0, 0.13), 0, 1.3)
    under_skin = (7.0 + 1.15 * (bmi - 18)) if female else (4.0 + 0.85 * (bmi - 18))
    draw = rng.normal(1, [0.03, 0.04, 0.03, 0.05])
    means = (0.95, 0.93, 1.05, 0.93) if female else (1.04, 1.0, 0.97, 1.05)
    shoulders, waist, hips, muscle = (float(np.clip(a * b, 0.8, 1.2)) for a, b in zip(means, draw, strict=True))
    return Person(
        female=female,
        height_mm=float(height_mm),
        bmi=bmi,
        scale=tuple(size * np.clip(rng.normal(1, [0.025, 0.025, 0.01]), 0.94, 1.06)),
        shoulders=shoulders,
        waist=waist,
        hips=hips,
        muscle=muscle,
        subcutaneous_mm=float(max(4.0, under_skin * rng.lognormal(0, 0.15))),
        belly_mm=float(52 * visceral - 8),
        diaphragm_mm=float(np.clip(rng.normal(0, 10), -20, 20)),
        marrow_fat=float(rng.uniform(0.25, 0.6)),
        liver_fat=float(np.clip(rng.lognormal(np.log(0.02 + 0.06 * visceral), 0.5), 0.005, 0.3)),
        bladder=float(rng.uniform(0.7, 1.25)),
        top_mm=float(620 + np.clip(rng.normal(0, 10), -20, 20)),
        spine=_draw_spine(rng),
    )


def _draw_spine(rng: np.random.Generator) -> Spine:
    """A thoracic and a contrary lumbar curve in the coronal plane; more or less kyphosis and lordosis in the sagittal."""
    main = rng.choice([-1, 1]) * min(rng.exponential(7.0), 30.0)
    thoracic = (rng.normal(430, 25), main, rng.uniform(75, 100))
    lumbar = (rng.normal(190, 20), -main * rng.uniform(0.3, 0.9), rng.uniform(60, 80))
    kyphosis = (rng.normal(430, 20), -np.clip(rng.normal(0, 8), -16, 16), 110)
    lordosis = (rng.normal(180, 15), np.clip(rng.normal(0, 6), -12, 12), 65)
    return Spine(np.array([thoracic, lumbar]), np.array([kyphosis, lordosis]))
