"""Which files make up a cohort: layouts on disk mapped to one record per subject."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from xdiff.config import Cohort
from xdiff.data.heads import check_stripped, largest_part
from xdiff.errors import InputError
from xdiff.volumes import Volume, check_same_pose, read_labels, read_volume


@dataclass(frozen=True)
class Files:
    """The files of one subject; a missing one is found when it is read, so that one bad subject does not hide the others."""

    subject: str
    images: dict[str, Path]
    labels: Path | None


@dataclass(frozen=True)
class Subject:
    """One subject in its own space: `images` (C, X, Y, Z) float32, `labels` (X, Y, Z) uint8 or None, `foreground` bool."""

    name: str
    images: np.ndarray
    affine: np.ndarray
    labels: np.ndarray | None
    foreground: np.ndarray


def find_subjects(cohort: Cohort, root: Path) -> list[Files]:
    """All subjects of a cohort below `root`, by name. Raises InputError on a missing folder or an empty cohort."""
    if not root.is_dir():
        hint = f"a folder; the public source is {cohort.source}" if cohort.source else "a folder of the cohort"
        raise InputError(root, "no such folder", f"{hint}; say where it is with --config data_root=... or XDIFF_DATA_ROOT")
    found = _brats(cohort, root) if cohort.layout in ("brats", "phantom-brain") else _bids(cohort, root)
    found = [files for files in found if files.subject not in cohort.exclude]
    if not found:
        wanted = "BraTS-*-*-*/" if cohort.layout in ("brats", "phantom-brain") else "sub-*/anat/"
        raise InputError(root, "no subject", f"at least one {wanted} with {', '.join(cohort.contrasts)}")
    return sorted(found, key=lambda files: files.subject)


def _bids(cohort: Cohort, root: Path) -> list[Files]:
    """sub-XX[/ses-YY]/anat/sub-XX[_ses-YY]_{suffix}.nii[.gz], participants.tsv optional."""
    folders = sorted(p for p in root.glob("sub-*") if p.is_dir())
    _check_participants(root, {p.name for p in folders}, cohort.exclude)
    found = []
    for folder in folders:
        sessions = sorted(p for p in folder.glob("ses-*") if p.is_dir()) or [None]
        for session in sessions:
            name = folder.name if session is None else f"{folder.name}_{session.name}"
            found.append(_files(cohort, (session or folder) / "anat", name, "_"))
    return found


def _brats(cohort: Cohort, root: Path) -> list[Files]:
    """BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz (BraTS 2023)."""
    return [_files(cohort, folder, folder.name, "-") for folder in sorted(root.glob("BraTS-*")) if folder.is_dir()]


def _files(cohort: Cohort, folder: Path, name: str, separator: str) -> Files:
    def path(suffix: str) -> Path:
        zipped = folder / f"{name}{separator}{suffix}.nii.gz"
        plain = zipped.with_suffix("")
        return plain if plain.exists() and not zipped.exists() else zipped

    labels = path(cohort.labels.suffix) if cohort.labels else None
    if labels and cohort.labels.optional and not labels.exists():
        labels = None
    return Files(name, {contrast: path(contrast) for contrast in cohort.contrasts}, labels)


def _check_participants(root: Path, folders: set[str], excluded: tuple[str, ...]) -> None:
    table = root / "participants.tsv"
    if not table.exists():
        return
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    if not rows or "participant_id" not in rows[0]:
        raise InputError(table, "no participant_id column" if rows else "no rows", "a BIDS participants.tsv")
    absent = sorted({row["participant_id"] for row in rows} - folders - set(excluded))
    if absent:
        raise InputError(table, f"{len(absent)} participants without a folder: {absent[:5]}", "a folder for every participant")


def read_subject(files: Files, cohort: Cohort) -> Subject:
    """Read and check all files of one subject; raises InputError on the first thing that is wrong."""
    volumes = []
    for contrast, path in files.images.items():
        if not path.exists():
            raise InputError(path, "no such file", f"contrast {contrast} of {files.subject}")
        volumes.append(read_volume(path))
        check_same_pose(volumes[-1], volumes[0])
        _check_signal(volumes[-1], cohort.norm)
        if cohort.foreground == "nonzero":
            check_stripped(volumes[-1])
    images = np.stack([v.array for v in volumes])
    labels = None
    if files.labels is not None:
        labels = read_labels(files.labels, {0, *cohort.labels.values}, volumes[0]).array
    return Subject(files.subject, images, volumes[0].affine, labels, foreground(images, cohort.foreground))


def _check_signal(volume: Volume, norm: str) -> None:
    """Every contrast must have signal; the percentile scale needs some of it positive."""
    if not volume.array.any():
        raise InputError(volume.path, "only zeros", "an image")
    if norm != "none" and volume.array.max() <= 0:
        raise InputError(volume.path, "no positive voxel", "an image with positive intensities (or `norm: none`)")


def foreground(images: np.ndarray, rule: str) -> np.ndarray:
    """Foreground mask (X, Y, Z) of images (C, X, Y, Z): `nonzero` if skull-stripped, `otsu` for whole heads, `all` where there is
    no background."""
    if rule == "all":
        return np.ones(images.shape[1:], dtype=bool)
    if rule == "nonzero":
        mask = (images != 0).any(axis=0)
    else:
        from skimage.filters import threshold_otsu

        smooth = ndimage.gaussian_filter(images.mean(axis=0), 1.0)
        mask = smooth > 0.5 * threshold_otsu(smooth)  # half of Otsu's: dark tissue and CSF belong to the head
    return largest_part(mask)
