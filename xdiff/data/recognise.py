"""What layout a folder has and which contrasts and masks lie in it, from names alone."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xdiff.data import fastmri, hdf5
from xdiff.data.conventions import CONTRASTS
from xdiff.data.dicom import DESCRIPTION, files_below, read_slices
from xdiff.data.kspace import GROUP
from xdiff.data.layouts import FINDERS, TABLE, brats_folders, folders_of
from xdiff.errors import InputError

MASK = re.compile(r"(^|[_-])(mask|seg|dseg|label|labels|lesion|roi)$", re.IGNORECASE)
SAMPLE = 20  # subjects
RAW = "mr"  # contrast of raw data
NIFTI = re.compile(r"\.nii(\.gz)?$")


@dataclass(frozen=True)
class Names:
    """A layout and how many subjects have a file of each suffix; masks apart from images."""

    layout: str
    images: Counter
    masks: Counter

    def contrasts(self) -> tuple[str, ...]:
        """The suffixes of images that at least half as many subjects have as the commonest one, by name."""
        most = max(self.images.values(), default=0)
        return tuple(sorted(name for name, n in self.images.items() if 2 * n >= most))


def recognise(root: Path, layout: str = "auto") -> Names:
    """The layout of a folder, or its names under the layout that is given.

    Raises InputError where the folder is missing or holds none of the known layouts.
    """
    if not root.is_dir():
        raise InputError(root, "no such folder", "a folder of NIfTI volumes")
    for name, suffixes in RECOGNISERS.items():
        if layout not in ("auto", name):
            continue
        images, masks = Counter(), Counter()
        for suffix in suffixes(root):
            (masks if MASK.search(suffix) else images)[suffix] += 1
        if images or layout == name:
            return Names(name, images, masks)
    if layout != "auto":
        raise InputError("--layout", repr(layout), f"auto or one of {', '.join(RECOGNISERS)}")
    raise InputError(
        root, f"no layout that is known ({_seen(root)})", "; ".join(f"{n}: {FINDERS[n].wanted}" for n in RECOGNISERS)
    )


def _bids(root: Path) -> Iterator[str]:
    for subject in folders_of(root, "sub-"):
        for session in folders_of(subject, "ses-") or [subject]:
            stem = subject.name if session is subject else f"{subject.name}_{session.name}"
            yield from _suffixes(session / "anat", f"{stem}_")


def _brats(root: Path) -> Iterator[str]:
    """Contrasts under our names, whatever the year calls them."""
    for folder, release in brats_folders(root):
        if release is not None:
            ours = {theirs: name for name, theirs in release.suffixes.items()}
            suffixes = _suffixes(folder, f"{folder.name}{release.separator}")
            yield from (ours.get(suffix, suffix) for suffix in suffixes if suffix in ours or MASK.search(suffix))


def _msd(root: Path) -> Iterator[str]:
    for part in ("imagesTr", "imagesTs", "labelsTr"):
        for _ in _suffixes(root / part, ""):
            yield from ["label"] if part == "labelsTr" else CONTRASTS


def _tsv(root: Path) -> Iterator[str]:
    """Columns of paths to NIfTI files."""
    if (root / TABLE).is_file():
        with (root / TABLE).open(newline="", encoding="utf-8-sig") as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                yield from (name for name, cell in row.items() if name and NIFTI.search((cell or "").strip()))


def _dicom(root: Path) -> Iterator[str]:
    """SeriesDescriptions in the folders of SAMPLE subjects at most, spread evenly: every file has to be opened for them."""
    folders = [folder for folder in folders_of(root) if _is_dicom(next(iter(files_below(folder)), None))]
    for folder in folders[:: max(1, len(folders) // SAMPLE)]:
        try:
            yield from sorted({one.tags[DESCRIPTION] for one in read_slices(folder)} - {""})
        except InputError:
            continue  # found again, and named, when the subject is read


def _fastmri(root: Path) -> Iterator[str]:
    """`acquisition` of every file, one contrast each."""
    for path in hdf5.files_below(root):
        if hdf5.is_hdf5(path):
            try:
                yield fastmri.exam_of(path).acquisition
            except InputError:
                continue  # another kind of file; or found again, and named, when the subject is read


def _ismrmrd(root: Path) -> Iterator[str]:
    """Nothing in raw data says what its contrast would be called."""
    for path in hdf5.files_below(root):
        if hdf5.is_hdf5(path):
            try:
                with hdf5.opened(path) as file:
                    found = GROUP in file
            except InputError:
                continue
            if found:
                yield RAW


def _is_dicom(path: Path | None) -> bool:
    if path is None:
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


# tried in this order; a new layout is one function that yields a suffix for every file that belongs to it
RECOGNISERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "bids": _bids,
    "brats": _brats,
    "msd": _msd,
    "tsv": _tsv,
    "dicom": _dicom,
    "fastmri": _fastmri,
    "ismrmrd": _ismrmrd,
}


def _suffixes(folder: Path, stem: str) -> Iterator[str]:
    """What follows the stem in the names of a folder's NIfTI files; .nii beside .nii.gz counts once."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = {NIFTI.sub("", entry.name) for entry in entries if NIFTI.search(entry.name)}
        yield from (name[len(stem) :] for name in sorted(names) if name.startswith(stem))


def _seen(root: Path) -> str:
    names = sorted(os.listdir(root))
    return f"{len(names)} entries, {', '.join(names[:3])} ..." if names else "empty"
