"""From a subject's own space to the grid: canonical axes, isotropic resampling, crop or pad, one scale, provenance kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from xdiff.config import Cohort, Grid
from xdiff.data.cohorts import Files, Subject, find_subjects, read_subject
from xdiff.data.split import Split, shard_of
from xdiff.data.workers import each
from xdiff.errors import InputError, ManyInputErrors
from xdiff.observation import intensity_scale
from xdiff.plain import digest, write_json
from xdiff.planes import AXES
from xdiff.resampling import nearest, resample
from xdiff.volumes import spacing_of
from xdiff.whole_file import whole_file

PREPROCESS_VERSION = 2


def preprocess(cohort: Cohort, grid: Grid, names: tuple[str, str], root: Path, split: Split, out: Path, workers: int = 1) -> None:
    """Put every listed subject of a cohort on the grid, and write the index. `names` are those of cohort and grid.

    A subject whose files and settings are unchanged is not redone, so that this is also what joins shards: it finds their work
    done. Bad subjects are reported together at the end, after all good ones have been written; so is a subject over which one of
    the `workers` (processes) dies. With frame `scanner` nothing is written before every training subject is good. What is written
    depends on neither workers nor shards.
    """
    subjects = _listed(cohort, root, split)
    centre_mm = _mean_centre(subjects, cohort, grid, names, split, out, workers)
    errors = _place(subjects, cohort, grid, centre_mm, out, workers)
    if errors:
        raise ManyInputErrors(errors, len(subjects) - len(errors))
    _write_index(subjects, cohort, grid, names, centre_mm, out)


def preprocess_shard(
    cohort: Cohort, grid: Grid, names: tuple[str, str], root: Path, split: Split, out: Path, shard: str, workers: int = 1
) -> list[InputError]:
    """Put the subjects of a shard i/n on the grid, for `preprocess` to join. Returns what is wrong with bad subjects, which are
    left to it: were they an error here, they would keep other shards from their good ones."""
    subjects = _listed(cohort, root, split)
    centre_mm = _mean_centre(subjects, cohort, grid, names, split, out, workers)
    return _place(shard_of(subjects, shard), cohort, grid, centre_mm, out, workers)


def find_centres(cohort: Cohort, root: Path, split: Split, out: Path, shard: str, workers: int = 1) -> list[InputError]:
    """Where a shard's training subjects lie, which frame `scanner` has to know of all shards before anything is put on its grid.
    Without this, every shard would read all training subjects. Returns what is wrong with bad ones."""
    train = set(split.side("train"))
    subjects = [files for files in shard_of(_listed(cohort, root, split), shard) if files.subject in train]
    return _call(partial(_centre, cohort=cohort, out=out), subjects, workers)[1]


def _listed(cohort: Cohort, root: Path, split: Split) -> list[Files]:
    listed = set(split.table["subject"])
    return [files for files in find_subjects(cohort, root) if files.subject in listed]


def _call(call: Callable, subjects: Sequence[Files], workers: int) -> tuple[dict[str, Any], list[InputError]]:
    """What `call` gives of each subject, and the errors of the bad ones, both in the order of subjects."""
    told = tqdm(each(call, subjects, workers, attrgetter("subject")), total=len(subjects), unit="subject", disable=None)
    given = {files.subject: result for files, result in told}
    ordered = {files.subject: given[files.subject] for files in subjects}
    errors = {name: result for name, result in ordered.items() if isinstance(result, InputError)}
    return {name: result for name, result in ordered.items() if name not in errors}, list(errors.values())


def _place(
    subjects: Sequence[Files], cohort: Cohort, grid: Grid, centre_mm: list[float] | None, out: Path, workers: int
) -> list[InputError]:
    """Write the arrays and sidecars of these subjects; returns the errors of the bad ones."""
    (out / "volumes").mkdir(parents=True, exist_ok=True)
    return _call(partial(_ensure, cohort=cohort, grid=grid, centre_mm=centre_mm, out=out), subjects, workers)[1]


def _mean_centre(
    subjects: Sequence[Files], cohort: Cohort, grid: Grid, names: tuple[str, str], split: Split, out: Path, workers: int
) -> list[float] | None:
    """Mean world position (mm) of the training subjects' foreground boxes: all that the scanner frame may know, and all of them,
    whatever the shard: without one of them every volume would lie elsewhere. None for other frames."""
    if grid.frame != "scanner":
        return None
    train = set(split.side("train"))
    if not train:
        wanted = "training subjects, whose mean position frame `scanner` uses"
        raise InputError(names[0], "a split without a training side", wanted)
    training = [files for files in subjects if files.subject in train]
    centres, errors = _call(partial(_centre, cohort=cohort, out=out), training, workers)
    if errors:  # nothing can be placed, but all bad subjects be told at once
        others = [files for files in subjects if files.subject not in train]
        errors += _call(partial(_centre, cohort=cohort, out=out), others, workers)[1]
        raise ManyInputErrors(errors, len(subjects) - len(errors))
    return np.mean(list(centres.values()), axis=0).round(3).tolist()


def _centre(files: Files, cohort: Cohort, out: Path) -> list[float]:
    """World position (mm) of the middle of one subject's foreground box, from its file where it has been found before."""
    path, key = out / "centres" / f"{files.subject}.json", _key(files, cohort)
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("key") != key:
        subject = read_subject(files, cohort)
        known = {"key": key, "centre_mm": (subject.affine @ [*_box_centre(subject.foreground), 1.0])[:3].tolist()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    return known["centre_mm"]


def _ensure(files: Files, cohort: Cohort, grid: Grid, centre_mm: list[float] | None, out: Path) -> None:
    """Write one subject's arrays and, last, its sidecar, unless the sidecar already has this key."""
    sidecar = out / "volumes" / f"{files.subject}.json"
    key = key_of(files, cohort, grid, centre_mm)
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
        "source_shape": list(subject.foreground.shape),
        "source_spacing_mm": spacing_of(subject.affine).round(6).tolist(),
        "scale": [float(s) for s in scale],
        "cropped": round(cropped, 6),
        "sha256": _sha256(stored, mask, labels),
        "images_sha256": _sha256(stored),
    }
    write_json(sidecar, record)


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
    images = np.stack([resample(image, ratio, offset, grid.shape) for image in subject.images])
    mask = resample(subject.foreground.astype(np.float32), ratio, offset, grid.shape) >= 0.5
    labels = None if subject.labels is None else nearest(subject.labels, ratio, offset, grid.shape)
    affine = subject.affine.copy()
    affine[:3, :3] = subject.affine[:3, :3] * ratio
    affine[:3, 3] = (subject.affine @ [*offset, 1.0])[:3]
    return images, labels, mask, affine, _cropped(subject.foreground, ratio, offset, grid.shape)


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
    records = (json.loads((out / "volumes" / f"{f.subject}.json").read_text()) for f in subjects)
    rows = [{k: r[k] for k in ("subject", "cropped", "sha256", "images_sha256")} for r in records]
    _refuse_copies(subjects, [row.pop("images_sha256") for row in rows])
    table = pd.DataFrame(rows)
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
    info |= {"anatomy": cohort.anatomy, "read_as": cohort.read_as}
    if cohort.projection:
        info["projection"] = asdict(cohort.projection)
    table.to_csv(out / "index.tsv", sep="\t", index=False)
    write_json(out / "dataset.json", info)


def _refuse_copies(subjects: Sequence[Files], shas: Sequence[str]) -> None:
    """Raise ManyInputErrors where two subjects have the same voxels on the grid: trained on under one name and tested on under
    the other. They are not taken for visits of one patient, as only their names could carry that into every table."""
    first: dict[str, Files] = {}
    errors = []
    for files, sha in zip(subjects, shas, strict=True):
        known = first.setdefault(sha, files)
        if known is not files:
            found = f"the voxels of subject {known.subject} again, as subject {files.subject}"
            errors.append(InputError(next(iter(files.images.values())), found, "another scan under every name"))
    if errors:
        raise ManyInputErrors(errors, len(subjects) - len(errors))


def key_of(files: Files, cohort: Cohort, grid: Grid, centre_mm: list[float] | None) -> str:
    """What the sidecar of a finished subject carries; changes when anything does that its stored arrays depend on."""
    placed = [list(grid.shape), grid.spacing_mm, grid.frame, grid.native_axis, centre_mm]
    return digest([_key(files, cohort), *placed, PREPROCESS_VERSION])


def _key(files: Files, cohort: Cohort) -> str:
    """Changes when a source file or the way it is read changes."""
    read_as = [files.channels, files.label_map, cohort.series, *([asdict(cohort.projection)] if cohort.projection else [])]
    return digest([files.states(), read_as, cohort.foreground, cohort.norm, list(cohort.contrasts)])


def _sha256(*arrays: np.ndarray | None) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array)
