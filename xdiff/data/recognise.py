"""What layout a folder has and which contrasts and masks lie in it, from names alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xdiff.data.dicom import DESCRIPTION, read_slices
from xdiff.data.layouts import brats_folders
from xdiff.errors import InputError

MASK = re.compile(r"(^|[_-])(mask|seg|dseg|label|labels|lesion|roi)$", re.IGNORECASE)
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

    Raises InputError where the folder is missing, holds none of the known layouts, or DICOM files.
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
        root, f"no layout that is known ({_seen(root)})", "sub-*/anat/sub-*_T1w.nii.gz (BIDS) or BraTS-*/BraTS-*-t1n.nii.gz"
    )


def _bids(root: Path) -> Iterator[str]:
    for subject in _folders(root, "sub-"):
        for session in _folders(subject, "ses-") or [subject]:
            stem = subject.name if session is subject else f"{subject.name}_{session.name}"
            yield from _suffixes(session / "anat", f"{stem}_")


def _brats(root: Path) -> Iterator[str]:
    """Suffixes under our names, whatever the year calls them."""
    for subject, release in brats_folders(root):
        ours = {theirs: name for name, theirs in release.suffixes.items()} if release else {}
        found = _suffixes(subject, f"{subject.name}{release.separator}") if release else ()
        yield from (ours.get(suffix, suffix) for suffix in found)


def _dicom(root: Path) -> Iterator[str]:
    """Nothing, or an InputError that names the series of the first subject: which of them are meant, only their owner knows."""
    for folder, _, files in os.walk(root):
        for file in files[:1]:
            with (Path(folder) / file).open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    subject = root / Path(folder).relative_to(root).parts[0] if Path(folder) != root else root
                    series = sorted({one.tags[DESCRIPTION] for one in read_slices(subject)})
                    wanted = "layout dicom with a pattern for each contrast, such as series: {T1w: 't1.*mprage'}"
                    raise InputError(subject, f"DICOM series {series}", f"NIfTI files, or a cohort of {wanted}")
    yield from ()


# tried in this order; a new layout is one function that yields a suffix for every file that belongs to it
RECOGNISERS: dict[str, Callable[[Path], Iterator[str]]] = {"bids": _bids, "brats": _brats, "dicom": _dicom}


def _folders(root: Path, start: str) -> Sequence[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name.startswith(start) and entry.is_dir())


def _suffixes(folder: Path, stem: str) -> Iterator[str]:
    """What follows the stem in the names of a folder's NIfTI files; .nii beside .nii.gz counts once."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = {NIFTI.sub("", entry.name) for entry in entries if NIFTI.search(entry.name)}
        yield from (name[len(stem) :] for name in sorted(names) if name.startswith(stem))


def _seen(root: Path) -> str:
    names = sorted(os.listdir(root))
    return f"{len(names)} entries, {', '.join(names[:3])} ..." if names else "empty"
