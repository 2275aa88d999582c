"""From a subject's own space to the grid: canonical axes, isotropic resampling, crop or pad, one scale, provenance kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from xdiff.config import Cohort, Grid, digest
from xdiff.data.cohorts import Files, Subject, find_subjects, read_subject
from xdiff.data.split import Split
from xdiff.errors import InputError, ManyInputErrors
from xdiff.observation import intensity_scale
from xdiff.planes import AXES
from xdiff.volumes import spacing_of

PREPROCESS_VERSION = 1
FWHM_PER_SIGMA = 2.3548


def preprocess(cohort: Cohort, grid: Grid, names: tuple[str, str], root: Path, split: Split, out: Path) -> None:
    """Put every listed subject of a cohort on the grid. `names` are those of cohort and grid.

    A subject whose files and settings are unchanged is not redone. Bad subjects are reported together at the end,
    after all good ones have been written.
    """
    listed = set(split.table["subject"])
    subjects = [files for files in find_subjects(cohort, root) if files.subject in listed]
    (out / "volumes").mkdir(parents=True, exist_ok=True)
    errors: list[InputError] = []
    centre_mm = None
    if grid.frame == "scanner":
        train = set(split.side("train"))
        if not train:
            raise InputError(
                names[0], "a split without a training side", "training subjects, whose mean position frame `scanner` uses"
            )
        centre_mm = _mean_centre(cohort, [f for f in subjects if f.subject in train], out, errors)
    for files in subjects:
        try:
            _ensure(files, cohort, grid, centre_mm, out)
        except InputError as error:
            errors.append(error)
    if errors:
        unique = list({str(e): e for e in errors}.values())
        raise ManyInputErrors(unique, len(subjects) - len({e.where for e in unique}))
    _write_index(subjects, cohort, grid, names, centre_mm, out)


def _mean_centre(cohort: Cohort, subjects: Sequence[Files], out: Path, errors: list[InputError]) -> list[float]:
    """Mean world position of the training subjects' foreground boxes: all that the scanner frame may know."""
    cache = out / "volumes" / "centres.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    centres = []
    for files in subjects:
        key = _key(files, cohort)
        if key not in known:
            try:
                subject = read_subject(files, cohort)
            except InputError as error:
                errors.append(error)
                continue
            known[key] = (subject.affine @ [*_box_centre(subject.foreground), 1.0])[:3].tolist()
        centres.append(known[key])
    _write_json(cache, known)
    if not centres:
        raise ManyInputErrors(errors, 0)
    return np.mean(centres, axis=0).round(3).tolist()


def _ensure(files: Files, cohort: Cohort, grid: Grid, centre_mm: list[float] | None, out: Path) -> None:
    """Write one subject's arrays and, last, its sidecar, unless the sidecar already has this key."""
    sidecar = out / "volumes" / f"{files.subject}.json"
    key = digest(
        [
            _key(files, cohort),
            list(grid.shape),
            grid.spacing_mm,
            grid.frame,
            grid.native_axis,
            centre_mm,
            PREPROCESS_VERSION,
        ]
    )
    if sidecar.exists() and json.loads(sidecar.read_text())["key"] == key:
        return
    subject = read_subject(files, cohort)
    images, labels, mask, affine, cropped = to_grid(subject, grid, centre_mm)
    scale = intensity_scale(images) if cohort.norm == "p99.5" else np.ones(len(images), dtype=np.float32)
    stored = images / scale[:, None, None, None]
    if cohort.norm == "p99.5":
        stored = stored.astype(np.float16)  # 11 bits around 1.0: ten times finer than the 8-bit sources
    _save(sidecar.with_suffix(".npy"), stored)
    _save(sidecar.with_name(f"{files.subject}_foreground.npy"), mask)
    if labels is not None:
        _save(sidecar.with_name(f"{files.subject}_labels.npy"), labels)
    record = {
        "key": key,
        "subject": files.subject,
        "sources": {name: str(path) for name, path in files.images.items()},
        "affine": affine.tolist(),
        "spacing_mm": spacing_of(affine).round(6).tolist(),
        "scale": [float(s) for s in scale],
        "cropped": round(cropped, 6),
        "sha256": _sha256(stored, mask, labels),
    }
    _write_json(sidecar, record)


def to_grid(subject: Subject, grid: Grid, centre_mm: Sequence[float] | None) -> tuple:
    """Resample one subject.

    Returns images (C, X, Y, Z) float32, labels (X, Y, Z) uint8 or None, foreground (X, Y, Z) bool, affine (4, 4) of the grid
    in the subject's world, and the fraction of the foreground that the grid does not hold.
    """
    source_mm = spacing_of(subject.affine)
    target_mm = np.full(3, grid.spacing_mm)
    if grid.native_axis:
        target_mm[AXES[grid.native_axis]] = source_mm[AXES[grid.native_axis]]
    ratio = target_mm / source_mm
    ratio = np.where(np.abs(ratio - 1) < 1e-3, 1.0, ratio)
    if centre_mm is None:
        centre = _box_centre(subject.foreground)
    else:
        centre = (np.linalg.inv(subject.affine) @ [*centre_mm, 1.0])[:3]
    offset = centre - ratio * (np.array(grid.shape) - 1) / 2
    # where spacing does not change, a shift by whole voxels keeps the acquired sections untouched
    offset = np.where(ratio == 1.0, np.round(offset), offset)
    images = np.stack([_resample(image, ratio, offset, grid.shape) for image in subject.images])
    mask = _resample(subject.foreground.astype(np.float32), ratio, offset, grid.shape) >= 0.5
    labels = None if subject.labels is None else _nearest(subject.labels, ratio, offset, grid.shape)
    affine = subject.affine.copy()
    affine[:3, :3] = subject.affine[:3, :3] * ratio
    affine[:3, 3] = (subject.affine @ [*offset, 1.0])[:3]
    return images, labels, mask, affine, _cropped(subject.foreground, ratio, offset, grid.shape)


def _resample(image: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Trilinear, with a Gaussian before downsampling whose width makes up for the larger voxel (FWHM^2 = new^2 - old^2)."""
    if (ratio == 1.0).all():
        return _shift(image, offset.astype(int), shape)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) / FWHM_PER_SIGMA
    smooth = ndimage.gaussian_filter(image, sigma) if sigma.any() else image
    return ndimage.affine_transform(smooth, ratio, offset, tuple(shape), order=1, mode="constant", cval=0.0)


def _nearest(labels: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return ndimage.affine_transform(labels, ratio, offset, tuple(shape), order=0, mode="constant", cval=0)


def _shift(image: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Crop or pad by whole voxels, bit for bit."""
    result = np.zeros(tuple(shape), dtype=image.dtype)
    source = [slice(max(0, o), min(n, o + s)) for o, n, s in zip(offset, image.shape, shape, strict=True)]
    target = [slice(s.start - o, s.stop - o) for s, o in zip(source, offset, strict=True)]
    if all(s.stop > s.start for s in source):
        result[tuple(target)] = image[tuple(source)]
    return result


def _cropped(mask: np.ndarray, ratio: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> float:
    voxels = (np.argwhere(mask) - offset) / ratio
    inside = ((voxels >= -0.5) & (voxels <= np.array(shape) - 0.5)).all(axis=1)
    return float(1 - inside.mean())


def _box_centre(mask: np.ndarray) -> np.ndarray:
    voxels = np.argwhere(mask)
    return (voxels.min(axis=0) + voxels.max(axis=0)) / 2


def _write_index(
    subjects: Sequence[Files], cohort: Cohort, grid: Grid, names: tuple[str, str], centre_mm: list | None, out: Path
) -> None:
    records = [json.loads((out / "volumes" / f"{f.subject}.json").read_text()) for f in subjects]
    table = pd.DataFrame([{k: r[k] for k in ("subject", "cropped", "sha256")} for r in records])
    info = {
        "cohort": names[0],
        "grid": names[1],
        "contrasts": list(cohort.contrasts),
        "labels": {str(k): v for k, v in cohort.labels.values.items()} if cohort.labels else {},
        "shape": list(grid.shape),
        "spacing_mm": grid.spacing_mm,
        "native_axis": grid.native_axis,
        "frame": grid.frame,
        "centre_mm": centre_mm,
        "norm": cohort.norm,
        "source": cohort.source,
        "fingerprint": digest([table["subject"].tolist(), table["sha256"].tolist()]),
    }
    table.to_csv(out / "index.tsv", sep="\t", index=False)
    _write_json(out / "dataset.json", info)


def _key(files: Files, cohort: Cohort) -> str:
    """Changes when a source file or the way it is read changes."""
    paths = [*files.images.values(), *([files.labels] if files.labels else [])]
    stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else (str(p), 0, 0) for p in paths]
    return digest([stats, cohort.foreground, cohort.norm, list(cohort.contrasts)])


def _sha256(*arrays: np.ndarray | None) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    os.replace(temporary, path)


def _write_json(path: Path, data: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(temporary, path)
