"""An embedded cohort: MNI152 brains, bent into individuals, with a glioma grown in each, written as BraTS 2023 files.

Every brain is the average MNI152 anatomy seen through a random diffeomorphism, so what is learned here tests the code
and not the science. All random fields live on grids in millimetres: one patient is the same at every spacing. Order:

  anatomy     affine + exp(random velocity); the same for all visits of a patient
  growth      Fisher-KPP reaction-diffusion (Swanson et al., Cell Prolif 2000), fast along white matter, none in CSF
  mass effect incompressible flow out of the tumour core into the CSF: narrow ventricles, shifted midline, flat sulci
  scan        T1, T1ce, T2 and FLAIR from the signal equations, T1/T2/density at 3 T; gain, bias field, Rician noise

Arrays are RAS+ (x Right, y Anterior, z Superior) over the box of the MNI152 template. Lengths in mm, times in ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from nilearn import datasets
from scipy import fft, ndimage

from xdiff.data import fields
from xdiff.data.conventions import ED, ET, NCR
from xdiff.data.workers import write_subjects
from xdiff.volumes import write_volume

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

BOX = fields.Box((-98.0, -134.0, -72.0), (197.0, 233.0, 189.0))  # of nilearn's 1 mm MNI152 template
WM_DIFFUSION = 1 / 7  # of tumour cells, in voxels^2 a step; 1/6 is the limit of stability
WORK_MM = 3.0  # deformation and growth are computed on this grid, whatever the output spacing

# T1 ms, T2 ms, proton density (CSF = 1) at 3 T. Healthy: between Wansapura 1999 and Stanisz 2005; lesions: mid-range of
# the glioma relaxometry literature, where the spread between patients is wide.
TISSUES = {
    "wm": (850.0, 75.0, 0.70),
    "gm": (1400.0, 96.0, 0.82),
    "csf": (4000.0, 1500.0, 1.00),
    "ncr": (2700.0, 240.0, 0.95),
    "ed": (1500.0, 165.0, 0.85),
    "et": (1450.0, 115.0, 0.85),
}
GD_RELAXIVITY = 4.5e-3  # 1 / (ms mM), gadobutrol-like agents at 3 T


@dataclass(frozen=True)
class Tumour:
    """A tumour in the undeformed brain: `score` on the work grid rises inwards; label k is score > threshold."""

    score: np.ndarray
    whole: float
    core: float
    necrosis: float


def write_phantom_brain(
    out: Path, n_patients: int, seed: int, spacing_mm: float = 3.0, followups: float = 0.2, workers: int = 1
) -> list[str]:
    """Write patients 0 .. n_patients - 1 as OUT/ID/ID-{t1n,t1c,t2w,t2f,seg}.nii.gz and return the subject IDs.

    `followups` (0 to 1) is the fraction of patients with a second visit, -001, where the same tumour has grown. A
    subject depends on (seed, patient, visit, spacing) alone, not on the number of `workers` (processes); one whose five
    files exist is left untouched.
    """
    if n_patients < 1 or not 0 <= followups <= 1:
        raise ValueError(f"phantom-brain: found n_patients={n_patients}, followups={followups}, expected >= 1 and 0 to 1")
    scans = _scans(n_patients, followups)
    folders = [Path(out) / name for name in phantom_names(n_patients, followups)]
    work = [(folder, seed, *scan, spacing_mm) for folder, scan in zip(folders, scans, strict=True)]
    return write_subjects(_write_subject, work, workers)


def phantom_names(n_patients: int, followups: float = 0.2) -> list[str]:
    """The subjects that `write_phantom_brain` writes."""
    return [f"BraTS-GLI-{patient:05d}-{visit:03d}" for patient, visit in _scans(n_patients, followups)]


def _scans(n_patients: int, followups: float) -> list[tuple[int, int]]:
    """(patient, visit): every 1/followups-th patient has two, counted without regard to n_patients, so that a larger cohort
    extends a smaller."""
    twice = [int((patient + 1) * followups) > int(patient * followups) for patient in range(n_patients)]
    return [(patient, visit) for patient in range(n_patients) for visit in range(1 + twice[patient])]


def _write_subject(folder: Path, seed: int, patient: int, visit: int, spacing_mm: float) -> None:
    paths = {name: folder / f"{folder.name}-{name}.nii.gz" for name in (*CONTRASTS, "seg")}
    if all(path.exists() for path in paths.values()):
        return
    images, labels, affine = phantom_subject(seed, patient, visit, spacing_mm)
    for name in CONTRASTS:
        write_volume(paths[name], images[name].astype(np.int16), affine)
    write_volume(paths["seg"], labels, affine)


def phantom_subject(
    seed: int, patient: int, visit: int, spacing_mm: float, tumour: bool = True
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """One scan of one patient: contrast -> float32 (X, Y, Z), uint8 labels (X, Y, Z) of {0, 1, 2, 3}, affine (4, 4).

    Intensities are whole numbers, 0 outside the brain and 1 to about 3000 inside, on another scale for every scan.
    `tumour=False` gives the same person, scanner and noise before the disease. Raises ValueError outside 1 to 8 mm.
    """
    if not 1 <= spacing_mm <= 8:
        raise ValueError(f"phantom-brain: found spacing_mm={spacing_mm}, expected 1 to 8")
    rng = np.random.default_rng([seed, patient, 0])
    anatomy = _anatomy(rng)
    relaxation = {name: np.array(values) * rng.lognormal(0, [0.04, 0.04, 0.01]) for name, values in TISSUES.items()}
    csf_gain = rng.lognormal(0.3, 0.5)  # wide or narrow sulci
    at_work = _tissue_at(anatomy, WORK_MM)
    lesion = _grow(anatomy, at_work, visit, np.random.default_rng([seed, patient, 1]))
    shift_mm = _mass_effect(lesion, at_work) if tumour else np.zeros_like(anatomy)

    before_mm = _resample_grid(shift_mm, spacing_mm) + _grid_mm(spacing_mm)  # where each voxel was before the tumour
    tissue = _tissue_at(_sample(anatomy, before_mm), spacing_mm, csf_gain)
    brain = tissue.sum(0) > 0.5
    score = _sample(lesion.score[None], before_mm)[0] if tumour else np.full(brain.shape, -np.inf, np.float32)
    labels = _label(score, lesion) * brain
    fractions = _mix(tissue, brain, score, labels, lesion)
    scan = np.random.default_rng([seed, patient, 2, visit])
    images = {name: _scan(name, fractions, brain, relaxation, spacing_mm, scan) for name in CONTRASTS}
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = BOX.origin_mm
    return images, labels.astype(np.uint8), affine


# ---------------------------------------------------------------- grids and fields


def _grid_mm(spacing_mm: float) -> np.ndarray:
    """World coordinates (3, X, Y, Z) in mm of the voxels that cover the template's box."""
    return fields.grid_mm(BOX, spacing_mm)


def _sample(values: np.ndarray, at_mm: np.ndarray, spacing_mm: float = WORK_MM) -> np.ndarray:
    """Trilinear values (C, ...) of C fields, held on the box's grid of `spacing_mm`, at world points (3, ...)."""
    return fields.sample(BOX, values, at_mm, spacing_mm)


def _resample_grid(values: np.ndarray, spacing_mm: float) -> np.ndarray:
    return values if spacing_mm == WORK_MM else _sample(values, _grid_mm(spacing_mm))


def _noise(rng: np.random.Generator, knot_mm: float, spacing_mm: float = WORK_MM) -> np.ndarray:
    """A smooth Gaussian field (X, Y, Z) of position in mm, mean 0, variance 1, features about 2 `knot_mm` wide."""
    return fields.noise(BOX, rng, knot_mm, spacing_mm)


def _exp(velocity_mm: np.ndarray) -> np.ndarray:
    """Displacement (3, X, Y, Z) in mm of the flow along a stationary velocity for unit time."""
    return fields.exp(BOX, velocity_mm, WORK_MM)


def _slip(velocity: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The velocity (3, X, Y, Z) without what would move the surface of `brain` in or out, within about 10 mm of it."""
    depth_mm = (ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)) * WORK_MM
    normal = np.stack(np.gradient(ndimage.gaussian_filter(depth_mm, 1.5)))
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-3)
    return velocity - normal * (normal * velocity).sum(0) * np.exp(-((np.clip(depth_mm, 0, None) / 10) ** 2))


# ---------------------------------------------------------------- anatomy


@cache
def _template(spacing_mm: float) -> np.ndarray:
    """MNI152 white matter, grey matter and CSF fractions (3, 197, 233, 189) at 1 mm, anti-aliased for `spacing_mm`."""
    loaders = (datasets.load_mni152_wm_template, datasets.load_mni152_gm_template, datasets.load_mni152_template)
    wm, gm, t1 = (np.asarray(load(resolution=1).dataobj, dtype=np.float32) for load in loaders)
    # The packaged brain mask cuts at the cortex; skull-stripped scans keep a film of CSF.
    head = ndimage.gaussian_filter((t1 > 0).astype(np.float32), 2.0) > 0.25
    maps = np.stack([wm, gm, np.clip(1 - wm - gm, 0, 1)]) ** 1.5  # sharpen the average of many brains
    maps *= head / np.maximum(maps.sum(0), 1e-6)
    sigma = 0.42 * np.sqrt(max(spacing_mm**2 - 1, 0))
    return np.stack([ndimage.gaussian_filter(m, sigma) for m in maps]) if sigma else maps


@cache
def _template_brain() -> np.ndarray:
    return _tissue_at(_grid_mm(WORK_MM), WORK_MM).sum(0) > 0.5


def _anatomy(rng: np.random.Generator) -> np.ndarray:
    """Template position (3, X, Y, Z) in mm of every work-grid point of a new person: affine after a diffeomorphism."""
    skull, folds, detail = (
        rms_mm * np.stack([_noise(rng, knot_mm) for _ in range(3)]) for knot_mm, rms_mm in ((60, 3.5), (28, 3), (13, 1.8))
    )
    bent = _grid_mm(WORK_MM) + _exp(skull + _slip(folds + detail, _template_brain()))
    scale = 0.93 * rng.normal(1, 0.03) * rng.normal(1, 0.02, 3)  # head size and shape; MNI152 is larger than people
    pitch, roll, yaw = np.deg2rad(rng.normal(0, 3, 3))
    turn = np.eye(3)
    for angle, (i, j) in ((pitch, (1, 2)), (roll, (0, 2)), (yaw, (0, 1))):
        step = np.eye(3)
        step[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = turn @ step
    pivot = np.array([0.0, -18.0, 8.0])  # middle of the brain
    matrix = turn / scale
    offset = pivot - matrix @ pivot + rng.normal(0, 2, 3)
    return (np.einsum("ij,jxyz->ixyz", matrix, bent) + offset.reshape(3, 1, 1, 1)).astype(np.float32)


def _tissue_at(template_mm: np.ndarray, spacing_mm: float, csf_gain: float = 1.0) -> np.ndarray:
    """White matter, grey matter and CSF fractions (3, X, Y, Z) at template positions (3, X, Y, Z)."""
    tissue = _sample(_template(spacing_mm), template_mm, spacing_mm=1.0)
    total = tissue.sum(0)
    tissue[2] *= csf_gain
    return tissue * (total / np.maximum(tissue.sum(0), 1e-6))


# ---------------------------------------------------------------- tumour


def _grow(anatomy: np.ndarray, tissue: np.ndarray, visit: int, rng: np.random.Generator) -> Tumour:
    """Grow a glioma from a point of cerebral white matter to the volume this visit asks for."""
    wm, gm, _ = tissue
    x, y, z = anatomy
    above, temporal = (z > 2) & (z < 60), (z > -28) & (y > -30) & (np.abs(x) > 24)
    cerebrum = (np.abs(x) > 14) & (above | temporal)
    seeds = np.argwhere((wm > 0.6) & cerebrum)
    centre = seeds[rng.integers(len(seeds))]
    whole_ml = np.exp(rng.uniform(np.log(7), np.log(42))) * 1.35**visit
    core_part, necrotic_part = rng.uniform(0.18, 0.5), rng.uniform(0.12, 0.45)
    diffusion = (wm + rng.uniform(0.04, 0.16) * gm) * np.exp(0.8 * _noise(rng, 12))
    rate = rng.uniform(0.02, 0.08)
    density = _fisher_kpp(diffusion, rate * np.exp(0.3 * _noise(rng, 14)), centre, whole_ml)
    # the log-odds fall by about sqrt(r / D) a voxel on the way out: this noise moves the borders by a voxel
    ragged = np.sqrt(rate / WM_DIFFUSION) * (0.9 * _noise(rng, 7) + 0.4 * _noise(rng, 4))
    score = np.log(density + 1e-12) - np.log(1 - density + 1e-12) + ragged
    score[density < 1e-3] = -28  # as far out as the log-odds go
    count = whole_ml * 1000 / WORK_MM**3
    ranked = np.sort(score, axis=None)[::-1]
    cuts = [ranked[int(count * part)] for part in (1, core_part, core_part * necrotic_part)]
    return Tumour(score.astype(np.float32), *map(float, cuts))


def _fisher_kpp(diffusion: np.ndarray, rate: np.ndarray, centre: np.ndarray, volume_ml: float) -> np.ndarray:
    """Cell density (X, Y, Z) in 0..1 when the part above 0.05 first exceeds `volume_ml`.

    dc/dt = div(D grad c) + r c (1 - c), explicit Euler, D relative to white matter; lengths in voxels, time in steps.
    """
    reach = int(75 / WORK_MM)
    box = tuple(slice(max(int(i) - reach, 0), int(i) + reach + 1) for i in centre)
    # float64, or 1 - c vanishes in the oldest part and the necrosis loses its place
    d, r = np.clip(diffusion[box], 0, 1).astype(np.float64) * WM_DIFFUSION, rate[box]
    inside = d > 0.004
    faces = [np.sqrt(a * b) for a, b in ((np.delete(d, 0, k), np.delete(d, -1, k)) for k in range(3))]
    c = np.zeros_like(d)
    c[tuple(int(i) - s.start for i, s in zip(centre, box, strict=True))] = 0.5
    wanted = volume_ml * 1000 / WORK_MM**3
    for _ in range(1000):
        growth = r * c * (1 - c) * inside
        for axis, face in enumerate(faces):
            flow = face * np.diff(c, axis=axis)
            before = [slice(None)] * 3
            after = list(before)
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            growth[tuple(before)] += flow
            growth[tuple(after)] -= flow
        c += growth
        if np.count_nonzero(c > 0.05) > wanted:
            density = np.zeros(diffusion.shape)
            density[box] = np.clip(c, 0, 1)
            return density
    raise RuntimeError(f"phantom-brain: a tumour at voxel {centre} did not reach {volume_ml:.0f} ml in 1000 steps")


def _mass_effect(lesion: Tumour, tissue: np.ndarray) -> np.ndarray:
    """Pull-back displacement (3, X, Y, Z) in mm: tissue flows out of the tumour and the CSF gives way.

    Velocity = grad p with laplace p = source in core and oedema - sink in CSF, so that no other tissue is squeezed.
    """
    source = 1.3 * (lesion.score > lesion.core) + 0.3 * (lesion.score > lesion.whole)
    centre_mm = (_grid_mm(WORK_MM) * source).sum((1, 2, 3)) / source.sum()
    distance2 = ((_grid_mm(WORK_MM) - centre_mm.reshape(3, 1, 1, 1)) ** 2).sum(0)
    sink = tissue[2] * np.exp(-distance2 / (2 * 45.0**2))
    rhs = ndimage.gaussian_filter(source - sink * (source.sum() / sink.sum()), 1.0)
    k2 = sum(np.ix_(*[2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in rhs.shape]))
    k2[0, 0, 0] = 1.0  # the mean of p is free
    potential = fft.idctn(fft.dctn(rhs, type=2) / -k2, type=2)
    velocity = np.stack(np.gradient(potential)) * WORK_MM
    return _exp(_slip(-velocity, tissue.sum(0) > 0.5))  # the skull does not move


def _label(score: np.ndarray, lesion: Tumour) -> np.ndarray:
    return np.select([score > lesion.necrosis, score > lesion.core, score > lesion.whole], [NCR, ET, ED], 0)


# ---------------------------------------------------------------- scan


def _mix(tissue: np.ndarray, brain: np.ndarray, score: np.ndarray, labels: np.ndarray, lesion: Tumour) -> dict[str, np.ndarray]:
    """Fraction (X, Y, Z) of each of TISSUES in every voxel; lesion borders are blurred and oedema fades outwards."""
    fade = np.clip(0.65 + 0.35 * (score - lesion.whole) / (lesion.core - lesion.whole), 0.65, 1)
    parts = {"ncr": labels == NCR, "ed": (labels == ED) * fade, "et": labels == ET}
    parts = {name: ndimage.gaussian_filter(part.astype(np.float32), 0.5) for name, part in parts.items()}
    healthy = tissue * (np.clip(1 - sum(parts.values()), 0, 1) / np.maximum(tissue.sum(0), 1e-6))
    return {**dict(zip(("wm", "gm", "csf"), healthy * brain, strict=True)), **parts}


def _signal(name: str, t1: np.ndarray, t2: float, density: float) -> np.ndarray:
    """Relative signal of one contrast: spoiled gradient echo (Ernst), fast spin echo, or inversion recovery."""
    if name in ("t1n", "t1c"):
        e1, flip = np.exp(-10 / t1), np.deg2rad(20)
        return density * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
    if name == "t2w":
        return density * (1 - np.exp(-4500 / t1)) * np.exp(-85 / t2)
    return density * np.abs(1 - 2 * np.exp(-2500 / t1) + np.exp(-9000 / t1)) * np.exp(-120 / t2)


def _scan(
    name: str,
    fractions: dict[str, np.ndarray],
    brain: np.ndarray,
    relaxation: dict[str, np.ndarray],
    spacing_mm: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """One contrast (X, Y, Z) float32 of whole numbers: signal x texture x bias field, Rician noise, gain; 0 outside."""
    # contrast agent in mM: the barrier leaks in the enhancing rim, elsewhere it stays in the vessels
    enhancing = {"et": 0.3 * np.exp(0.3 * _noise(rng, 6, spacing_mm)), "gm": 0.025, "ncr": 0.03}
    agent = enhancing if name == "t1c" else {}
    ragged = 1 + 0.09 * _noise(rng, 6, spacing_mm)  # lesions are less even than healthy tissue
    signal = np.zeros(brain.shape, np.float32)
    for tissue, fraction in fractions.items():
        t1, t2, density = relaxation[tissue]
        rate = 1 / t1 + GD_RELAXIVITY * agent.get(tissue, 0.0)
        signal += fraction * _signal(name, 1 / rate, t2, density) * (ragged if tissue in ("ncr", "ed", "et") else 1)
    signal *= 1 + 0.025 * _noise(rng, 5, spacing_mm)
    signal *= np.exp(0.07 * _noise(rng, 70, spacing_mm))
    top = np.percentile(signal[brain], 99.5)
    sigma = rng.uniform(0.008, 0.02) * top
    real, imaginary = sigma * rng.standard_normal((2, *brain.shape), dtype=np.float32)
    gain = np.exp(rng.uniform(np.log(300), np.log(1300))) / top
    image = np.hypot(signal + real, imaginary) * gain
    return np.where(brain, np.clip(np.rint(image), 1, 32767), 0).astype(np.float32)
