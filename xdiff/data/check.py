"""`xdiff check FOLDER`: what a folder holds and what would stop the pipeline, before anything is run."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.config import BY_SERIES, HDF5, Cohort, Labels, SplitRule
from xdiff.data.check_text import text_of
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.conventions import LABELS, MSD_CHANNELS
from xdiff.data.heads import head_of
from xdiff.data.layouts import Files
from xdiff.data.overflow import check_overflow
from xdiff.data.recognise import RECOGNISERS, SAMPLE, Names, recognise
from xdiff.data.split import SIDES, patient_of, split_by_rule
from xdiff.errors import InputError
from xdiff.volumes import Header, Volume, check_same_pose, read_header, read_volume

FEW_PATIENTS = 100
MEANINGS = dict.fromkeys(("brats", "msd"), LABELS)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `stops`: whether the pipeline would refuse the subject for it."""

    subject: str
    where: str
    found: str
    expected: str
    stops: bool = True


@dataclass
class Voxels:
    """What the voxels of one volume say: intensities, whole head or not and why, and a mask's values."""

    subject: str
    contrast: str
    low: float
    high: float
    whole: bool | None = None
    reason: str = ""
    values: tuple[int, ...] = ()


@dataclass
class Findings:
    """All that is known of a folder; `headers[subject][contrast]`, masks under their suffix."""

    folder: Path
    cohort: Cohort
    names: Names
    subjects: list[Files] = field(default_factory=list)
    headers: dict[str, dict[str, Header]] = field(default_factory=dict)
    voxels: list[Voxels] = field(default_factory=list)
    sampled: int = 0
    sides: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        return any(problem.stops for problem in self.problems)

    def note(self, subject: str, error: InputError, stops: bool = True) -> None:
        self.problems.append(Problem(subject, error.where, error.found, error.expected, stops))


def check(folder: Path, layout: str = "auto", contrasts: Sequence[str] = (), voxels: int = SAMPLE) -> Findings:
    """Look at every name and header below `folder`, and at the voxels of `voxels` subjects spread evenly over the list.

    Raises InputError only where there is nothing to look at; all else is in `problems`.
    """
    names = recognise(folder, layout)
    mask = max(names.masks, key=names.masks.get, default=None)
    labels = None if mask is None else Labels(mask, {1: "label_1"}, optional=True)
    chosen = tuple(contrasts) or names.contrasts()
    if not chosen:
        raise InputError(folder, f"layout {names.layout} without an image", "NIfTI files of at least one contrast")
    if names.layout in HDF5:
        chosen = chosen if contrasts else (names.images.most_common(1)[0][0],)  # a file has one
    series = {}
    if names.layout in BY_SERIES:
        series = {re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_"): f"^{re.escape(text)}$" for text in chosen}
        chosen = tuple(series)
    findings = Findings(folder, Cohort(names.layout, chosen, labels=labels, series=series), names)
    _find(findings)
    _read_headers(findings)
    _find_duplicates(findings)
    _read_voxels(findings, voxels)
    _settle(findings)
    return findings


def _find(findings: Findings) -> None:
    """The subjects as the pipeline finds them; participants without a folder are left out after they have been noted."""
    try:
        findings.subjects = find_subjects(findings.cohort, findings.folder)
    except InputError as error:
        findings.note("", error)
        absent = _absent_participants(findings.folder)
        if absent:
            findings.cohort = replace(findings.cohort, exclude=absent)
            findings.subjects = find_subjects(findings.cohort, findings.folder)


def _absent_participants(folder: Path) -> tuple[str, ...]:
    table = folder / "participants.tsv"
    if not table.exists():
        return ()
    with table.open(newline="") as handle:
        listed = {row.get("participant_id") or "" for row in csv.DictReader(handle, delimiter="\t")}
    return tuple(sorted(name for name in listed if name and not (folder / name).is_dir()))


def _files(files: Files) -> Iterable[tuple[str, Path]]:
    yield from files.images.items()
    if files.labels is not None:
        yield "mask", files.labels


def _read_headers(findings: Findings) -> None:
    for files in findings.subjects:
        read = findings.headers.setdefault(files.subject, {})
        for contrast, path in _files(files):
            try:
                if not path.exists():
                    raise InputError(path, "no such file", f"contrast {contrast} of {files.subject}")
                if path.is_dir() or findings.cohort.layout in HDF5:
                    continue  # DICOM, k-space: what there is to know takes as long as reading the subject
                read[contrast] = read_header(path, len(MSD_CHANNELS) if contrast in files.channels else 1)
                if len(read) > 1:
                    check_same_pose(read[contrast], next(iter(read.values())))
            except InputError as error:
                findings.note(files.subject, error)


def _find_duplicates(findings: Findings) -> None:
    """Files of the same bytes under two names. Told first by length and checksum (.gz) or a piece (.nii), then by all bytes."""
    alike: dict[tuple, list[tuple[str, Path]]] = defaultdict(list)
    for files in findings.subjects:
        headers = findings.headers[files.subject].items()
        for path in {header.path: None for contrast, header in headers if contrast != "mask"}:  # empty masks are alike
            alike[_glance(path)].append((files.subject, path))
    for group in alike.values():
        if len(group) == 1:
            continue
        first: dict[str, Path] = {}
        for subject, path in group:
            known = first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
            if known is not path:
                findings.note(subject, InputError(path, f"the same bytes as {known}", "another image in every file"), stops=False)


def _glance(path: Path) -> tuple:
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 8) if path.suffix == ".gz" else size // 2)
        return size, stream.read(8 if path.suffix == ".gz" else 4096)


def _read_voxels(findings: Findings, most: int) -> None:
    """Subjects spread evenly over the list; those whose headers are bad already have their problem."""
    bad = {problem.subject for problem in findings.problems if problem.stops}
    good = [files for files in findings.subjects if files.subject not in bad]
    at = np.unique(np.linspace(0, len(good) - 1, min(most, len(good))).round().astype(int)) if good else []
    findings.sampled = len(at)
    for files in (good[i] for i in at):
        try:
            for contrast, volume in _volumes(files, findings.cohort):
                seen = _mask(files, volume) if contrast == "mask" else _image(files, contrast, volume)
                findings.voxels.append(seen)
                if contrast not in findings.headers[files.subject]:
                    header = Header(volume.path, volume.shape, volume.affine, "", "")
                    findings.headers[files.subject][contrast] = header
        except InputError as error:
            findings.note(files.subject, error)


def _volumes(files: Files, cohort: Cohort) -> Iterator[tuple[str, Volume]]:
    """One volume after the other, as the pipeline reads them."""
    if cohort.layout in ("msd", "dicom", *HDF5):
        subject = read_subject(replace(files, labels=None), replace(cohort, labels=None, foreground="all"))
        for (contrast, path), image in zip(files.images.items(), subject.images, strict=True):
            yield contrast, Volume(image, subject.affine, path)
    else:
        for contrast, path in files.images.items():
            yield contrast, read_volume(path)
    if files.labels is not None:
        yield "mask", read_volume(files.labels)


def _image(files: Files, contrast: str, volume: Volume) -> Voxels:
    if not volume.array.any() or volume.array.max() <= 0:
        raise InputError(volume.path, "no positive voxel", "an image with positive intensities (or `norm: none`)")
    check_overflow(volume)
    head = head_of(volume.array, volume.spacing_mm)
    return Voxels(files.subject, contrast, float(volume.array.min()), float(volume.array.max()), head.whole, head.reason)


def _mask(files: Files, volume: Volume) -> Voxels:
    values = np.unique(volume.array)
    if values.min() < 0 or values.max() > 255 or (values != np.round(values)).any():
        raise InputError(volume.path, f"mask values {values[:5].tolist()}", "whole numbers from 0 to 255")
    return Voxels(
        files.subject,
        "mask",
        float(values[0]),
        float(values[-1]),
        values=tuple(files.label_map.get(int(v), int(v)) for v in values),
    )


def _settle(findings: Findings) -> None:
    """The cohort's entry that fits what was found: foreground, labels, subjects to leave out; and the split they give."""
    heads = [seen for seen in findings.voxels if seen.whole is not None]
    whole = 2 * sum(seen.whole for seen in heads) > len(heads)
    for seen in heads:
        if seen.whole != whole:
            path = findings.headers[seen.subject][seen.contrast].path
            kinds = "skull-stripped volumes", "whole heads"
            error = InputError(path, f"a {'whole head' if seen.whole else 'skull-stripped volume'} ({seen.reason})", kinds[whole])
            findings.note(seen.subject, error, stops=not whole)
    bad = {problem.subject for problem in findings.problems if problem.stops and problem.subject}
    exclude = tuple(sorted(bad | set(findings.cohort.exclude)))
    foreground = "otsu" if whole else "nonzero"
    findings.cohort = replace(findings.cohort, exclude=exclude, foreground=foreground, labels=_labels(findings))
    _split(findings, [files.subject for files in findings.subjects if files.subject not in bad])


def _split(findings: Findings, subjects: Sequence[str]) -> None:
    """By fractions, or by numbers where so few patients could leave a side empty."""
    patients = len({patient_of(subject) for subject in subjects})
    if patients < FEW_PATIENTS:
        each = max(1, patients // 10)
        findings.cohort = replace(findings.cohort, split=SplitRule(n_val=each, n_test=each))
    if patients < 3:
        findings.note(
            "", InputError(findings.folder, f"{patients} usable patient(s)", "at least 3: to train, to validate, to test")
        )
        return
    split = split_by_rule(subjects, findings.cohort.split)
    findings.sides = {side: len(split.side(side)) for side in SIDES}


def _labels(findings: Findings) -> Labels | None:
    seen = Counter(value for voxels in findings.voxels for value in voxels.values if value)
    if findings.cohort.labels is None or not seen:
        return None
    meanings = MEANINGS.get(findings.cohort.layout, {})
    values = {value: meanings.get(value, f"label_{value}") for value in sorted({*seen, *meanings})}
    optional = any(files.labels is None for files in findings.subjects)
    return Labels(findings.cohort.labels.suffix, values, optional)


def as_data(findings: Findings) -> dict[str, Any]:
    """The findings as plain numbers, lists and maps: what --json writes and the text is made of."""
    return {
        "folder": str(findings.folder),
        "layout": findings.cohort.layout,
        "subjects": len(findings.subjects),
        "patients": len({patient_of(files.subject) for files in findings.subjects}),
        "files": sum(len(headers) for headers in findings.headers.values()),
        "images": {name: _of_contrast(findings, name) for name in findings.cohort.contrasts},
        "other_suffixes": {n: c for n, c in findings.names.images.items() if n not in findings.cohort.contrasts},
        "masks": dict(findings.names.masks),
        "mask_values": _counts(value for seen in findings.voxels for value in seen.values),
        "voxels_of": findings.sampled,
        "split": findings.sides,
        "problems": [asdict(problem) for problem in findings.problems],
        "stops": findings.stops,
        "config": _config(findings),
    }


def _of_contrast(findings: Findings, contrast: str) -> dict[str, Any]:
    headers = [read[contrast] for read in findings.headers.values() if contrast in read]
    seen = [voxels for voxels in findings.voxels if voxels.contrast == contrast]
    return {
        "subjects": len(headers),
        "shapes": _counts("x".join(map(str, header.shape)) for header in headers),
        "spacings_mm": _counts(" x ".join(f"{size:.4g}" for size in header.spacing_mm) for header in headers),
        "orientations": _counts(header.orientation for header in headers if header.orientation),
        "dtypes": _counts(header.dtype for header in headers if header.dtype),
        "intensities": [min(v.low for v in seen), max(v.high for v in seen)] if seen else None,
        "heads": _counts("whole head" if voxels.whole else "skull-stripped" for voxels in seen),
        "why": seen[0].reason if seen else "",
    }


def _counts(values: Iterable[Any]) -> dict[str, int]:
    """How often each value comes, the commonest first."""
    return {str(value): n for value, n in Counter(values).most_common()}


def cohort_name(folder: Path) -> str:
    """What a folder's cohort is called: its own name, in letters that a path and a wildcard can have."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder.name)


def _config(findings: Findings) -> dict[str, Any]:
    """What goes into mine.yaml: the cohort's entry but for what is the default, and a run of it."""
    name = cohort_name(findings.folder)
    cohort = findings.cohort
    entry: dict[str, Any] = {"layout": cohort.layout, "contrasts": list(cohort.contrasts), "foreground": cohort.foreground}
    if name != findings.folder.name:
        entry["root"] = findings.folder.name
    if cohort.series:
        entry["series"] = dict(cohort.series)
    if cohort.labels:
        entry["labels"] = {"suffix": cohort.labels.suffix, "values": cohort.labels.values, "optional": cohort.labels.optional}
    if cohort.split.n_test:
        entry["split"] = {"n_val": cohort.split.n_val, "n_test": cohort.split.n_test}
    if cohort.exclude:
        entry["exclude"] = list(cohort.exclude)
    return {"cohorts": {name: entry}, "run": {"cohorts": [name], "grids": ["48"]}}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff check", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", default="auto", help=f"auto, {', '.join(RECOGNISERS)}")
    parser.add_argument("--contrasts", nargs="+", default=(), help="file suffixes, such as T1w; those most subjects have")
    parser.add_argument(
        "--voxels", type=int, default=SAMPLE, help=f"subjects whose voxels are read ({SAMPLE}); headers of all are"
    )
    parser.add_argument("--json", type=Path, help="write the findings there too")
    args = parser.parse_args(argv)
    findings = check(args.folder.resolve(), args.layout, args.contrasts, args.voxels)
    data = as_data(findings)
    print(text_of(data))
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    if findings.stops:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
