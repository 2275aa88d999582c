"""An embedded cohort: knees made of implicit shapes, no two alike, in proton density with and without fat suppression.

What is learned here tests the code and not the science. A subject is a function of (seed, patient, spacing); lengths in mm,
so that one patient is the same at every spacing. Order: a person's measures (knee_bones.Knee), a smooth random diffeomorphism,
the parts at every voxel (knee_anatomy.layers), then the scan: signal equations, coil, Rician noise, gain.

Arrays are RAS+ (x Right, y Anterior, z Superior) over a box round the joint; the background is noise, as in raw magnitude images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xdiff.data import fields
from xdiff.data.knee_anatomy import PARTS, layers
from xdiff.data.knee_bones import Knee, draw_knee
from xdiff.data.workers import write_subjects
from xdiff.errors import InputError
from xdiff.volumes import write_volume

CONTRASTS = ("pd", "pdfs")
BOX = fields.Box((-75.0, -86.0, -75.0), (150.0, 150.0, 150.0))
WORK_MM = 3.0  # the deformation is computed on this grid, whatever the output spacing
SLAB_VOXELS = 60_000  # drawn at a time, so that shapes stay in the processor's cache

# Intermediate-weighted turbo spin echo of the Osteoarthritis Initiative (Peterfy 2008, Osteoarthritis Cartilage): TR, TE in ms
TR_MS, TE_MS = 3200.0, 30.0
# T1 ms, T2 ms, density, part of it fat, at 3 T. Muscle, cartilage, fluid and fat: Gold 2004 (AJR); collagen-rich tissue has T2 of
# a few ms (Henkelman 1994, Magn Reson Med), and vessels lose their signal to flow, the artery more of it than the vein.
TISSUES = {
    "marrow": (1000.0, 45.0, 0.90, 0.86),
    "cortex": (300.0, 0.6, 0.20, 0.00),
    "cartilage": (1240.0, 38.0, 0.85, 0.00),
    "meniscus": (900.0, 11.0, 0.75, 0.00),
    "acl": (1000.0, 20.0, 0.70, 0.05),
    "tendon": (700.0, 6.0, 0.65, 0.00),
    "fat": (1000.0, 40.0, 0.95, 0.92),
    "fat_pad": (1000.0, 38.0, 0.93, 0.85),
    "fluid": (3620.0, 767.0, 1.00, 0.00),
    "muscle": (1420.0, 34.0, 0.80, 0.03),
    "artery": (1900.0, 140.0, 0.12, 0.00),
    "vein": (1900.0, 120.0, 0.55, 0.00),
    "skin": (1200.0, 28.0, 0.75, 0.05),
    "air": (1000.0, 1.0, 0.0, 0.0),
}
FAT_T1_MS, FAT_T2_MS = 371.0, 133.0


def write_phantom_knee(
    out: Path, n_patients: int, seed: int, spacing_mm: float = 1.5, slice_mm: float = 0.0, workers: int = 1
) -> list[str]:
    """Write patients 0 .. n_patients - 1 as OUT/ID/ID_{pd,pdfs,parts}.nii.gz and return the subject IDs.

    `slice_mm`: thickness of sagittal slices, a multiple of `spacing_mm`; 0 for cubes. A subject depends on (seed, patient,
    spacing, thickness) alone, not on the number of `workers` (processes); one whose three files exist is left untouched.
    """
    if n_patients < 1:
        raise InputError("phantom-knee", f"n_patients={n_patients}", "at least 1")
    folders = [Path(out) / name for name in phantom_knee_names(n_patients)]
    work = [(folder, seed, patient, spacing_mm, slice_mm) for patient, folder in enumerate(folders)]
    return write_subjects(_write_subject, work, workers)


def phantom_knee_names(n_patients: int) -> list[str]:
    """The subjects that `write_phantom_knee` writes."""
    return [f"knee-{patient:05d}" for patient in range(n_patients)]


def _write_subject(folder: Path, seed: int, patient: int, spacing_mm: float, slice_mm: float) -> None:
    paths = {name: folder / f"{folder.name}_{name}.nii.gz" for name in (*CONTRASTS, "parts")}
    if all(path.exists() for path in paths.values()):
        return
    images, parts, affine = knee_subject(seed, patient, spacing_mm, slice_mm)
    for name in CONTRASTS:
        write_volume(paths[name], images[name].astype(np.int16), affine)
    write_volume(paths["parts"], parts, affine)


def knee_subject(
    seed: int, patient: int, spacing_mm: float, slice_mm: float = 0.0
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """One knee: contrast -> float32 (X, Y, Z), uint8 parts (X, Y, Z) with label i + 1 for PARTS[i], affine (4, 4).

    Intensities are whole numbers from 0 to about 3000, on another scale for every scan. Raises InputError for a spacing outside
    0.5 to 8 mm and for slices that are not made of whole voxels.
    """
    fold = _fold(spacing_mm, slice_mm)
    signals, parts = _draw(seed, patient, spacing_mm, fold)
    scan = np.random.default_rng([seed, patient, 2])
    images = {name: _receive(signal, scan) for name, signal in signals.items()}
    affine = np.diag([fold * spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = BOX.origin_mm
    affine[0, 3] += (fold - 1) * spacing_mm / 2
    return images, parts, affine


def _fold(spacing_mm: float, slice_mm: float) -> int:
    """Voxels in the thickness of a slice."""
    if not 0.5 <= spacing_mm <= 8:
        raise InputError("phantom-knee", f"spacing_mm={spacing_mm}", "0.5 to 8")
    fold = slice_mm / spacing_mm if slice_mm else 1.0
    if not (np.isclose(fold, round(fold)) and 1 <= fold and slice_mm <= 12):
        raise InputError("phantom-knee", f"slice_mm={slice_mm}", f"0 or a multiple of spacing_mm={spacing_mm} up to 12")
    return round(fold)


# ---------------------------------------------------------------- anatomy


def person(seed: int, patient: int) -> tuple[Knee, np.ndarray]:
    """The measures of one patient, and the displacement (3, X, Y, Z) in mm on the work grid that makes the shapes irregular."""
    rng = np.random.default_rng([seed, patient, 0])
    knee = draw_knee(rng)
    velocity = sum(
        rms_mm * np.stack([fields.noise(BOX, rng, knot_mm, WORK_MM) for _ in range(3)])
        for knot_mm, rms_mm in ((45, 1.6), (18, 0.7))
    )
    return knee, fields.exp(BOX, velocity, WORK_MM)


def _draw(seed: int, patient: int, spacing_mm: float, fold: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Signals at the coil without noise, contrast -> (X, Y, Z), and the parts; slices are means over `fold` sagittal planes."""
    knee, displacement = person(seed, patient)
    rng = np.random.default_rng([seed, patient, 1])
    relaxation = {name: np.array(values) * rng.lognormal(0, [0.05, 0.05, 0.02, 0]) for name, values in TISSUES.items()}
    levels = {name: {tissue: _signal(name, *values) for tissue, values in relaxation.items()} for name in CONTRASTS}
    coil = Coil(rng)
    texture = 1 + 0.03 * fields.noise(BOX, rng, 4, spacing_mm)
    patchy = fields.noise(BOX, rng, 9, spacing_mm)  # red marrow, streaks of fat in muscle
    grid = fields.grid_mm(BOX, spacing_mm)
    signals, parts = {name: [] for name in CONTRASTS}, []
    for slab in _slabs(grid.shape[1:], fold):
        at_mm = grid[:, slab]
        bent = at_mm + fields.sample(BOX, displacement, at_mm, WORK_MM)
        weight = {name: np.exp(s * patchy[slab]) for name, s in (("marrow", 0.05), ("muscle", 0.07), ("fat", 0.04))}
        gain = texture[slab] * coil.sensitivity(at_mm)
        images, labels = _compose(bent, knee, spacing_mm, fold, levels, weight, gain)
        parts.append(labels)
        for name in CONTRASTS:
            signals[name].append(images[name])
    return {name: np.concatenate(slabs) for name, slabs in signals.items()}, np.concatenate(parts)


def _slabs(shape: tuple[int, int, int], fold: int) -> Iterator[slice]:
    """Ranges of sagittal planes that hold whole slices; planes left over at the end make no slice."""
    planes = max(1, SLAB_VOXELS // (shape[1] * shape[2] * fold)) * fold
    last = shape[0] // fold * fold
    yield from (slice(start, min(start + planes, last)) for start in range(0, last, planes))


def _compose(
    points_mm: np.ndarray,
    knee: Knee,
    spacing_mm: float,
    fold: int,
    levels: dict[str, dict[str, float]],
    weight: dict[str, np.ndarray],
    gain: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Signals and parts of one slab, layer by layer; a voxel is of the part that has most of it."""
    left = np.ones(points_mm.shape[1:], np.float32)
    signals = {name: np.zeros_like(left) for name in CONTRASTS}
    amounts: dict[str, np.ndarray] = {}
    for group in layers(points_mm, knee, spacing_mm):
        taken = np.zeros_like(left)
        for part, tissue, fraction in group:
            if not fraction.any():
                continue
            share = left * fraction
            taken += fraction
            amounts[part] = amounts.get(part, 0) + share
            shining = share * weight.get(tissue, 1)
            for name in CONTRASTS:
                signals[name] += shining * np.float32(levels[name][tissue])
        left *= np.clip(1 - taken, 0, 1)
    most, labels = np.zeros_like(_thick(left, fold)), np.zeros(_thick(left, fold).shape, np.uint8)
    for part, amount in amounts.items():
        mean = _thick(amount, fold)
        labels[mean > most] = PARTS.index(part) + 1 if part else 0
        most = np.maximum(most, mean)
    return {name: _thick(signal * gain, fold) for name, signal in signals.items()}, labels


def _thick(values: np.ndarray, fold: int) -> np.ndarray:
    """Means over `fold` sagittal planes."""
    return values if fold == 1 else values.reshape(-1, fold, *values.shape[1:]).mean(1)


# ---------------------------------------------------------------- scan


def _signal(name: str, t1: float, t2: float, density: float, fat: float) -> float:
    """Relative signal of a spin echo; fat suppression leaves a twentieth of the lipids' signal."""
    water = (1 - np.exp(-TR_MS / t1)) * np.exp(-TE_MS / t2)
    lipid = (1 - np.exp(-TR_MS / FAT_T1_MS)) * np.exp(-TE_MS / FAT_T2_MS)
    return float(density * ((1 - fat) * water + fat * lipid * (0.05 if name == "pdfs" else 1)))


class Coil:
    """Eight loops round the knee, combined as root of sum of squares: bright near the surface, dark at the ends of the box."""

    def __init__(self, rng: np.random.Generator) -> None:
        angles = np.arange(8) * np.pi / 4 + rng.uniform(0, np.pi / 4)
        self.loops_mm = np.stack([98 * np.cos(angles), 98 * np.sin(angles) - 8, rng.normal(0, 6, 8)], 1).astype(np.float32)
        self.strength = rng.normal(1, 0.06, 8).astype(np.float32)
        self.radius_mm = np.float32(rng.uniform(75, 90))

    def sensitivity(self, at_mm: np.ndarray) -> np.ndarray:
        """Relative sensitivity (...) at points (3, ...) in mm: fields of loops on their axes, (1 + (r / radius)^2)^-1.5 each."""
        total = np.zeros(at_mm.shape[1:], np.float32)
        for loop, strength in zip(self.loops_mm, self.strength, strict=True):
            r2 = sum(np.square(axis - c) for axis, c in zip(at_mm, loop, strict=True))
            total += strength / (1 + r2 / self.radius_mm**2) ** 3
        return np.sqrt(total)


def _receive(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers (X, Y, Z) float32: Rician noise of 0.8 to 2 % of the brightest signal, on a scanner's own scale."""
    top = np.percentile(signal, 99.5)
    sigma = rng.uniform(0.008, 0.02) * top
    gain = np.exp(rng.uniform(np.log(300), np.log(1300))) / top
    real, imaginary = sigma * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    return np.clip(np.rint(np.hypot(signal + real, imaginary) * gain), 0, 32767).astype(np.float32)
