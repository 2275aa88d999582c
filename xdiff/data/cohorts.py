"""The subjects of a cohort: found by its layout, read from whatever files they have, and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from xdiff.config import Cohort
from xdiff.data.conventions import MSD_CHANNELS
from xdiff.data.dicom import read_series, read_slices
from xdiff.data.fastmri import read_fastmri
from xdiff.data.heads import check_stripped, largest_part
from xdiff.data.kspace import read_kspace
from xdiff.data.layouts import FINDERS, Files
from xdiff.data.overflow import check_overflow
from xdiff.data.projected import read_projection
from xdiff.errors import InputError
from xdiff.volumes import Volume, check_same_pose, read_channels, read_labels, read_volume

READERS = {"fastmri": read_fastmri, "ismrmrd": read_kspace}  # of one file of one contrast; else NIfTI


@dataclass(frozen=True)
class Subject:
    """One subject in its own space: `images` (C, X, Y, Z) float32, `labels` (X, Y, Z) uint8 or None, `foreground` bool."""

    name: str
    images: np.ndarray
    affine: np.ndarray
    labels: np.ndarray | None
    foreground: np.ndarray


def find_subjects(cohort: Cohort, root: Path) -> list[Files]:
    """All subjects of a cohort below `root`, by name. Raises InputError on a missing folder, an empty cohort or a name twice."""
    if not root.is_dir():
        hint = f"a folder; the public source is {cohort.source}" if cohort.source else "a folder of the cohort"
        raise InputError(root, "no such folder", f"{hint}; say where it is with --config data_root=... or XDIFF_DATA_ROOT")
    layout = FINDERS[cohort.layout]
    found: dict[str, Files] = {}
    for files in layout.find(cohort, root):
        if files.subject in cohort.exclude:
            continue
        if files.subject in found:
            places = [next(iter(one.images.values())) for one in (found[files.subject], files)]
            raise InputError(root, f"subject {files.subject} twice: {places[0]} and {places[1]}", "each subject once")
        found[files.subject] = files
    if not found:
        raise InputError(root, "no subject", f"at least one {layout.wanted} with {', '.join(cohort.contrasts)}")
    return [found[subject] for subject in sorted(found)]


def read_subject(files: Files, cohort: Cohort) -> Subject:
    """Read and check all files of one subject; raises InputError on the first thing that is wrong."""
    for contrast, path in files.images.items():
        if not path.exists():
            raise InputError(path, "no such file", f"contrast {contrast} of {files.subject}")
    projection, volumes = cohort.projection, []
    flat = projection.contrast if projection else ""
    read = replace(files, images={contrast: path for contrast, path in files.images.items() if contrast != flat})
    for volume in _read_images(read, cohort):
        volumes.append(volume)
        check_same_pose(volume, volumes[0])
        _check_signal(volume, cohort.norm)
        check_overflow(volume)
        if cohort.foreground == "nonzero" and cohort.anatomy == "brain":
            check_stripped(volume)
    images = np.stack([v.array for v in volumes])
    labels = _read_labels(files, cohort, volumes[0]) if files.labels is not None else None
    inside = foreground(images, cohort.foreground)
    if projection is not None:
        known = dict(zip(read.images, images, strict=True))
        known[projection.contrast] = read_projection(files.images[projection.contrast], projection, known, volumes[0].affine)
        images = np.stack([known[contrast] for contrast in files.images])
    return Subject(files.subject, images, volumes[0].affine, labels, inside)


def _read_images(files: Files, cohort: Cohort) -> Iterator[Volume]:
    """One volume per contrast, in the cohort's order; a file of several, or a folder, is read once."""
    if cohort.layout == "dicom":
        (folder,) = set(files.images.values())
        slices = read_slices(folder)
        yield from (read_series(slices, cohort.series[contrast], folder, contrast) for contrast in files.images)
    elif files.channels:
        (path,) = set(files.images.values())
        channels = read_channels(path, len(MSD_CHANNELS))
        yield from (channels[files.channels[contrast]] for contrast in files.images)
    else:
        read = READERS.get(cohort.layout, read_volume)
        yield from (read(path) for path in files.images.values())


def _read_labels(files: Files, cohort: Cohort, like: Volume) -> np.ndarray:
    """(X, Y, Z) uint8 under our values. A value that the release does not have, or the cohort does not name, is an error."""
    known = files.label_map or {value: value for value in cohort.labels.values}
    ours = {0: 0} | {stored: value for stored, value in known.items() if value in cohort.labels.values}
    stored = read_labels(files.labels, set(ours), like).array
    lookup = np.zeros(256, np.uint8)
    lookup[list(ours)] = list(ours.values())
    return lookup[stored]


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
