"""How cohorts lie on disk: one finder per layout, each from a folder to the files of every subject."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from xdiff.config import Cohort
from xdiff.data import fastmri, hdf5
from xdiff.data.conventions import MSD_CHANNELS, MSD_LABELS, Release, check_contrasts, contrast_of, release_of
from xdiff.data.dicom import check_ids, check_patients, files_below
from xdiff.data.kspace import patient_of_kspace
from xdiff.data.split import patient_of, visit_name
from xdiff.errors import InputError

TABLE = "subjects.tsv"
GRADES = ("", "HGG", "LGG")  # BraTS 2017 to 2019 keep high and low grades apart


@dataclass(frozen=True)
class Files:
    """The files of one subject; a missing one is found when it is read, so that one bad subject does not hide the others.

    `images`: contrast -> file, or the subject's folder of DICOM files. `channels`: contrast -> channel of a 4D file.
    `label_map`: value in the file -> ours, where they differ.
    """

    subject: str
    images: dict[str, Path]
    labels: Path | None
    channels: dict[str, int] = field(default_factory=dict)
    label_map: dict[int, int] = field(default_factory=dict)

    @property
    def sources(self) -> list[Path]:
        """Every file that the subject is read from, each once."""
        paths = dict.fromkeys([*self.images.values(), *([self.labels] if self.labels else [])])
        return [file for path in paths for file in (files_below(path) if path.is_dir() else [path])]

    def states(self) -> list[tuple[str, int, int]]:
        """Name, bytes and time of change of every source, 0 and 0 of one that is not there: other ones are another subject."""
        return [_state(path) for path in self.sources]


def _state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return str(path), 0, 0
    return str(path), status.st_size, status.st_mtime_ns


def bids(cohort: Cohort, root: Path) -> Iterator[Files]:
    """sub-XX[/ses-YY]/anat/sub-XX[_ses-YY][_ENTITIES]_{suffix}.nii[.gz], participants.tsv optional."""
    folders = folders_of(root, "sub-")
    _check_participants(root, {p.name for p in folders}, cohort.exclude)
    for folder in folders:
        for session in folders_of(folder, "ses-") or [None]:
            name = folder.name if session is None else f"{folder.name}_{session.name}"
            if name in cohort.exclude:
                continue
            anat = (session or folder) / "anat"
            images = {contrast: _bids_file(anat, name, contrast) for contrast in cohort.contrasts}
            yield Files(name, images, _labels(cohort, lambda s, anat=anat, name=name: _bids_file(anat, name, s)))


def _bids_file(folder: Path, name: str, suffix: str) -> Path:
    """With no entities between name and suffix, or with those (acq-, run-) of the only file that there is."""
    path = _nifti(folder, f"{name}_{suffix}")
    if path.exists():
        return path
    found = sorted(folder.glob(f"{name}_*_{suffix}.nii*"))
    if len(found) > 1:
        example = found[0].name.removeprefix(f"{name}_").split(".")[0]
        raise InputError(folder, f"{[p.name for p in found]}", f"one file of {suffix}; a suffix such as {example} names one")
    return found[0] if found else path


def brats(cohort: Cohort, root: Path) -> Iterator[Files]:
    """BraTS 2017 to 2023 (see conventions.py), told by the folders' names; HGG/ and LGG/ below the root are looked into."""
    check_contrasts(cohort.contrasts, cohort.layout)
    for folder, release in brats_folders(root):
        if folder.name in cohort.exclude:
            continue
        if release is None:
            raise InputError(folder, "a name that no year of BraTS gives", "one subject's folder, such as BraTS2021_00000")
        yield _brats_files(cohort, folder, release)


def brats_folders(root: Path) -> Iterator[tuple[Path, Release | None]]:
    """Every folder that is called after BraTS, and the years that name a subject's so."""
    for grade in GRADES:
        for folder in folders_of(root / grade, "BraTS", "Brats"):
            yield folder, release_of(folder.name)


def _brats_files(cohort: Cohort, folder: Path, release: Release) -> Files:
    def path(suffix: str) -> Path:
        return _nifti(folder, f"{folder.name}{release.separator}{suffix}")

    images = {contrast: path(release.suffixes[contrast]) for contrast in cohort.contrasts}
    return Files(folder.name, images, _labels(cohort, path), label_map=release.labels or {})


def msd(cohort: Cohort, root: Path) -> Iterator[Files]:
    """Task01_BrainTumour: imagesTr/BRATS_001.nii.gz of four channels, labelsTr/ beside it, imagesTs/ without labels.

    Where the cohort has labels that are not `optional`, imagesTs does not belong to it.
    """
    check_contrasts(cohort.contrasts, cohort.layout)
    order = _msd_channels(root / "dataset.json")
    channels = {contrast: order.index(contrast) for contrast in cohort.contrasts}
    for part in ("Tr", "Ts"):
        if part == "Ts" and cohort.labels and not cohort.labels.optional:
            continue
        for path in sorted((root / f"images{part}").glob("[!.]*.nii*")):
            labels = _labels(cohort, lambda _, path=path: root / "labelsTr" / path.name) if part == "Tr" else None
            images = dict.fromkeys(cohort.contrasts, path)
            yield Files(path.name.split(".")[0], images, labels, channels, MSD_LABELS)


def _msd_channels(path: Path) -> list[str]:
    """Our names of the channels in the order that dataset.json gives, or in the published one where there is no such file."""
    if not path.exists():
        return [contrast_of(name, path) for name in MSD_CHANNELS]
    try:
        modality = json.loads(path.read_text())["modality"]
        names = [str(modality[str(i)]) for i in range(len(modality))]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"no channels ({type(error).__name__}: {error})", f"modality {MSD_CHANNELS}") from error
    order = [contrast_of(name, path) for name in names]
    if sorted(order) != sorted(contrast_of(name, path) for name in MSD_CHANNELS):
        raise InputError(path, f"modality {names}", f"{list(MSD_CHANNELS)}, each once")
    return order


def tsv(cohort: Cohort, root: Path) -> Iterator[Files]:
    """subjects.tsv: columns subject, patient (optional), one per contrast, one for labels; paths relative to its folder."""
    table = root / TABLE
    if not table.is_file():
        raise InputError(table, "no such file", f"a table with columns subject, {', '.join(cohort.contrasts)}")
    with table.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        required = ["subject", *cohort.contrasts]
        if cohort.labels and not cohort.labels.optional:
            required.append(cohort.labels.suffix)
        missing = [name for name in required if name not in (reader.fieldnames or [])]
        if missing:
            raise InputError(table, f"columns {reader.fieldnames}", f"a column {missing[0]!r} (tab-separated)")
        for row in reader:
            yield _tsv_row(cohort, row, required, f"{table}, line {reader.line_num}", root)


def _tsv_row(cohort: Cohort, row: dict, required: list[str], where: str, root: Path) -> Files:
    if None in row or None in row.values():
        raise InputError(where, "more or fewer cells than the first line", "one cell for each column")
    empty = [name for name in required if not row[name].strip()]
    if empty:
        raise InputError(where, f"nothing under {empty[0]!r}", "a name under subject, a path under every contrast")
    name = row["subject"].strip()
    patient = (row.get("patient") or "").strip() or patient_of(name)
    for text in (name, patient):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
            raise InputError(where, repr(text), "a name of letters, digits, dots, hyphens and underscores")
    labels = row.get(cohort.labels.suffix, "").strip() if cohort.labels else ""
    images = {contrast: root / row[contrast].strip() for contrast in cohort.contrasts}
    return Files(visit_name(patient, name, where), images, root / labels if labels else None)


def dicom(cohort: Cohort, root: Path) -> Iterator[Files]:
    """SUBJECT/ with the DICOM files of all its series at any depth, chosen by `series`; labels as SUBJECT/{suffix}.nii[.gz]."""
    folders = [folder for folder in folders_of(root) if folder.name not in cohort.exclude]
    check_patients(folders)
    for folder in folders:
        labels = _labels(cohort, lambda suffix, folder=folder: _nifti(folder, suffix))
        yield Files(folder.name, dict.fromkeys(cohort.contrasts, folder), labels)


def stitched(cohort: Cohort, root: Path) -> Iterator[Files]:
    """SUBJECT/SUBJECT_{contrast}.nii[.gz], labels as SUBJECT/SUBJECT_{suffix}.nii[.gz]: what this program writes itself."""
    for folder in folders_of(root):
        if folder.name in cohort.exclude:
            continue

        def path(suffix: str, folder: Path = folder) -> Path:
            return _nifti(folder, f"{folder.name}_{suffix}")

        yield Files(folder.name, {contrast: path(contrast) for contrast in cohort.contrasts}, _labels(cohort, path))


def fastmri_files(cohort: Cohort, root: Path) -> Iterator[Files]:
    """*.h5 in the root or in its folders (multicoil_train/ ...), those whose `acquisition` the contrast's pattern is found in.

    A file that says nothing of itself is a subject, too: it is named when it is read.
    """
    (contrast,) = cohort.contrasts
    hdf5.library("h5py")
    for path in hdf5.files_below(root):
        try:
            exam = fastmri.exam_of(path)
            name = fastmri.subject_of(path, exam)
        except InputError:
            yield Files(path.stem, {contrast: path}, None)
            continue
        if re.search(cohort.series[contrast], exam.acquisition, re.IGNORECASE):
            yield Files(name, {contrast: path}, None)


def kspace_files(cohort: Cohort, root: Path) -> Iterator[Files]:
    """SUBJECT.h5 of raw data in ISMRMRD's format, in the root or in its folders."""
    (contrast,) = cohort.contrasts
    paths = [path for path in hdf5.files_below(root) if path.stem not in cohort.exclude]
    check_ids(paths, patient_of_kspace, attrgetter("stem"))
    yield from (Files(path.stem, {contrast: path}, None) for path in paths)


class Layout(NamedTuple):
    """`find`, and what an empty folder should have held."""

    find: Callable[[Cohort, Path], Iterator[Files]]
    wanted: str


_BRATS = Layout(brats, "BraTS-*-*-*/ (2023), BraTS2021_*/ or BraTS20_*/ (or older)")
FINDERS = {
    "bids": Layout(bids, "sub-*/anat/"),
    "gaussian-field": Layout(bids, "sub-*/anat/"),
    "brats": _BRATS,
    "phantom-brain": _BRATS,
    "phantom-body": Layout(stitched, "SUBJECT/SUBJECT_{contrast}.nii.gz"),
    "phantom-knee": Layout(stitched, "SUBJECT/SUBJECT_{contrast}.nii.gz"),
    "msd": Layout(msd, "imagesTr/BRATS_*.nii.gz"),
    "tsv": Layout(tsv, f"row of {TABLE}"),
    "dicom": Layout(dicom, "SUBJECT/ of DICOM files"),
    "fastmri": Layout(fastmri_files, "multicoil_*/*.h5 of fastMRI"),
    "ismrmrd": Layout(kspace_files, "SUBJECT.h5 of ISMRMRD raw data"),
    "ukb": Layout(stitched, "SUBJECT/SUBJECT_{contrast}.nii.gz, stitched"),
}


def folders_of(root: Path, *starts: str) -> list[Path]:
    """Folders in `root` by name, those that begin with one of `starts` where there are any; hidden ones are none."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = [e.name for e in entries if e.name.startswith(starts or "") and not e.name.startswith(".") and e.is_dir()]
    return [root / name for name in sorted(names)]


def _nifti(folder: Path, stem: str) -> Path:
    """STEM.nii.gz, or STEM.nii where only that is there."""
    zipped = folder / f"{stem}.nii.gz"
    plain = folder / f"{stem}.nii"
    return plain if not zipped.exists() and plain.exists() else zipped


def _labels(cohort: Cohort, path_of: Callable[[str], Path]) -> Path | None:
    """The label map, or None where the cohort has none or this subject may lack it and does."""
    if not cohort.labels:
        return None
    path = path_of(cohort.labels.suffix)
    return None if cohort.labels.optional and not path.exists() else path


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
