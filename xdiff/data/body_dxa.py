"""The DXA of a person of the embedded body cohort: X-rays through the body from back to front, on another table than the MRI's.

A DXA image shows what attenuates: bone most, soft tissue less, fat least, lungs hardly. It is no sum of an MRI's signals.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from xdiff.data.body_drawing import draw_body
from xdiff.data.fields import Box

DRAWN_MM = 8.0  # voxels that the rays are followed through, whatever the MRI's spacing
PIXEL_MM = 4.0
WIDE = Box((-328.0, -168.0, -640.0), (656.0, 336.0, 1280.0))  # arms are not cut off, as in a DXA
SEEN = Box((-280.0, 0.0, -592.0), (560.0, PIXEL_MM, 1184.0))
MOST_SHIFT_MM, MOST_TURN_DEG, MOST_MAGNIFICATION = 25.0, 2.0, 0.04
PHOTONS = 4e4  # per pixel, before the body


def scan_dxa(seed: int, patient: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Log attenuation (X, 1, Z) float32 of whole numbers, its affine (4, 4), and how the person lay: point p (x, z in mm) of
    the MRI is seen at (1 + magnification) R(turn) p + shift."""
    body = draw_body(seed, patient, DRAWN_MM, WIDE)
    rays = body.attenuation.sum(axis=1) * DRAWN_MM / 10
    rng = np.random.default_rng([seed, patient, 4])
    shift = rng.uniform(-MOST_SHIFT_MM, MOST_SHIFT_MM, 2) / np.sqrt(2)  # at most that far
    turn_deg, magnification = rng.uniform(-MOST_TURN_DEG, MOST_TURN_DEG), rng.uniform(0, MOST_MAGNIFICATION)
    counts = [int(SEEN.size_mm[i] / PIXEL_MM) for i in (0, 2)]
    x, z = (SEEN.origin_mm[i] + PIXEL_MM * np.arange(n) for i, n in zip((0, 2), counts, strict=True))
    seen = np.stack(np.meshgrid(x - shift[0], z - shift[1], indexing="ij"))
    angle = np.deg2rad(turn_deg)
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / (1 + magnification)
    body_mm = np.einsum("ij,jxz->ixz", back, seen)
    index = (body_mm - np.array([WIDE.origin_mm[0], WIDE.origin_mm[2]]).reshape(2, 1, 1)) / DRAWN_MM
    image = ndimage.map_coordinates(rays, index, order=3, mode="nearest")
    count = rng.poisson(PHOTONS * np.exp(-np.clip(image, 0, None)))
    gain = np.exp(rng.uniform(np.log(150), np.log(400)))
    pixels = np.clip(np.rint(-np.log(np.maximum(count, 1) / PHOTONS) * gain), 0, 32767)
    affine = np.diag([PIXEL_MM, PIXEL_MM, PIXEL_MM, 1.0])
    affine[:3, 3] = SEEN.origin_mm
    placed = {"shift_x_mm": shift[0], "shift_z_mm": shift[1], "turn_deg": turn_deg, "magnification": magnification}
    return pixels[:, None, :].astype(np.float32), affine, {name: round(float(v), 4) for name, v in placed.items()}
