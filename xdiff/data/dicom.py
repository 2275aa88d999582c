"""One series of classic DICOM files (a slice each) as a volume, its place in the world taken from the slices' own headers.

SimpleITK (GDCM) reads the files one by one: it unpacks compressed slices and applies the rescale slope of each. How slices
make a volume is decided here: its own series reader goes on with a warning where a slice is missing.
Geometry: DICOM PS3.3 C.7.6.2.1.1, in LPS mm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.data.dicom_elements import check_lengths
from xdiff.data.split import patient_of
from xdiff.errors import InputError
from xdiff.volumes import POSE_TOLERANCE_VOXELS, Volume, canonical

PATIENT, SERIES, DESCRIPTION, ECHO, FRAME = "0010|0020", "0020|000e", "0008|103e", "0018|0081", "0020|0052"
POSITION, ORIENTATION, SPACING, THICKNESS = "0020|0032", "0020|0037", "0028|0030", "0018|0050"
NAMES = {
    POSITION: "ImagePositionPatient",
    ORIENTATION: "ImageOrientationPatient",
    SPACING: "PixelSpacing",
    THICKNESS: "SliceThickness",
}
# what lies beside slices without being one; UK Biobank's archives hold a manifest.cvs
BESIDE = {".json", ".txt", ".csv", ".cvs", ".tsv", ".xml", ".md", ".nii", ".gz"}
ANONYMOUS = re.compile(r"0*|anon.*|unknown|none|n/?a", re.IGNORECASE)
DIRECTION_TOLERANCE = 1e-3  # of a cosine: headers are decimal strings, some of four digits


@dataclass(frozen=True)
class Slice:
    """One file: its tags as text (stripped, "" where absent), columns and rows."""

    path: Path
    tags: dict[str, str]
    size: tuple[int, int]

    def numbers(self, tag: str, n: int) -> np.ndarray:
        """The `n` numbers of a tag; raises InputError where they are not there."""
        try:
            numbers = np.array([float(part) for part in self.tags[tag].split("\\")])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != n or not np.isfinite(numbers).all():
            raise InputError(self.path, f"{NAMES[tag]} {self.tags[tag]!r}", f"{n} numbers")
        return numbers


def files_below(folder: Path) -> list[Path]:
    """Files at any depth that should be slices, by path: hidden ones, DICOMDIR and those of other kinds left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = (n for n in names if not n.startswith(".") and n != "DICOMDIR" and Path(n).suffix.lower() not in BESIDE)
        found += [Path(place) / name for name in kept]
    return sorted(found)


def read_slices(folder: Path) -> list[Slice]:
    """The header of every file below `folder`. Raises InputError for one that is no DICOM image, or for a folder without any."""
    slices = [_header(path) for path in files_below(folder)]
    if not slices:
        raise InputError(folder, "no DICOM file", "the files of a subject's series")
    return slices


def read_series(slices: Sequence[Slice], pattern: str, where: Path, contrast: str) -> Volume:
    """The one series whose description `pattern` (a regular expression, in any case) is found in, as a RAS+ volume.

    Raises InputError where none or several are, and for slices that do not make up one volume: several frames in a file,
    colours, different sizes, spacings or orientations, two echoes, two slices in one place, a missing slice, a sheared stack. A
    slice missing at either end leaves nothing to see it by.
    """
    return stack(_choose(slices, pattern, where, contrast))


def stack(series: Sequence[Slice]) -> Volume:
    """The slices of one series as a RAS+ volume. Raises InputError as `read_series` does."""
    _check_alike(series)
    ordered, step = _in_order(series)
    array = np.stack([pixels(one.path, one.size) for one in ordered], axis=-1)
    return canonical(array, _affine(ordered[0], step), ordered[0].path.parent)


def read_slice(path: Path, thickness_mm: float | None = None) -> Volume:
    """One file as a RAS+ volume of one section, as thick as SliceThickness says or, where that is given, `thickness_mm`.

    Raises InputError as `read_series` does of a file.
    """
    one = _header(path)
    in_plane = _in_plane(one)
    thick = float(one.numbers(THICKNESS, 1)[0]) if thickness_mm is None else thickness_mm
    if thick <= 0:
        raise InputError(path, f"{NAMES[THICKNESS]} {one.tags[THICKNESS]}", "a number > 0")
    affine = _affine(one, np.cross(in_plane[:3], in_plane[3:6]) * thick)
    return canonical(pixels(path, one.size)[..., None], affine, path)


def by_series(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """SeriesInstanceUID -> its slices."""
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(one.tags[SERIES], []).append(one)
    return series


def check_patients(folders: Sequence[Path]) -> None:
    """Raise InputError where one PatientID is in the folders of two patients: their visits could come to lie on two sides.

    Looks into one file of each folder; an empty ID or a placeholder says nothing, and a damaged file is found when it is read.
    """

    def patient(folder: Path) -> str:
        first = next(iter(files_below(folder)), None)
        return "" if first is None else _header(first).tags[PATIENT]

    check_ids(folders, patient, attrgetter("name"))


def check_ids(places: Sequence[Path], patient_id: Callable[[Path], str], name: Callable[[Path], str]) -> None:
    """Raise InputError where two places (folders, files) have one `patient_id` and the names of two patients."""
    seen: dict[str, Path] = {}
    for place in places:
        try:
            patient = patient_id(place)
        except InputError:
            continue
        other = seen.setdefault(patient, place)
        if not ANONYMOUS.fullmatch(patient) and patient_of(name(other)) != patient_of(name(place)):
            raise InputError(
                place,
                f"PatientID {patient}, as in {other.name}",
                f"visits of one patient as PATIENT_ses-VISIT, such as {patient_of(name(other))}_ses-2",
            )


def _reader(path: Path) -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # GDCM's remarks on odd headers; what matters is checked here
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _header(path: Path) -> Slice:
    reader = opened(path)
    if reader.GetSize()[2:] != (1,) or reader.GetNumberOfComponents() != 1:
        found = f"size {reader.GetSize()} with {reader.GetNumberOfComponents()} component(s)"
        raise InputError(path, found, "one grey slice per file (multi-frame DICOM is not read: convert it to NIfTI)")
    wanted = (PATIENT, SERIES, DESCRIPTION, ECHO, FRAME, POSITION, ORIENTATION, SPACING, THICKNESS)
    return Slice(path, tags_of(reader, wanted), reader.GetSize()[:2])


def opened(path: Path) -> Any:
    """SimpleITK's reader with the header of a DICOM file read; raises InputError where that is none."""
    check_lengths(path)
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(path, f"no DICOM image ({_reason(error)})", "a slice, or no such file among them") from error
    return reader


def tags_of(reader: Any, wanted: Sequence[str]) -> dict[str, str]:
    """Tags (gggg|eeee) of an opened file as text, stripped, "" where absent."""
    known = set(reader.GetMetaDataKeys())
    return {tag: _text(reader.GetMetaData(tag)) if tag in known else "" for tag in wanted}


def _text(value: str) -> str:
    """Without padding; bytes that are no UTF-8 spelled out, so that every message can be printed."""
    return value.strip(" \0").encode("utf-8", "backslashreplace").decode()


def _reason(error: RuntimeError) -> str:
    return str(error).split("): ")[-1].strip().splitlines()[0]


def _choose(slices: Sequence[Slice], pattern: str, where: Path, contrast: str) -> list[Slice]:
    series = by_series(slices)
    described = {uid: group[0].tags[DESCRIPTION] for uid, group in series.items()}
    matching = [uid for uid, text in described.items() if re.search(pattern, text, re.IGNORECASE)]
    if len(matching) != 1:
        found = [described[uid] for uid in matching] if matching else f"none among {sorted(described.values())}"
        raise InputError(where, f"series {found}", f"one that {pattern!r} is found in (contrast {contrast})")
    return series[matching[0]]


def _check_alike(slices: Sequence[Slice]) -> None:
    """All of one size, spacing, orientation and echo."""
    first = slices[0]
    expected = _in_plane(first)
    for other in slices[1:]:
        if other.size != first.size:
            raise InputError(other.path, f"{other.size} pixels", f"{first.size} as {first.path.name} of the same series")
        if not np.allclose(_in_plane(other), expected, rtol=0, atol=DIRECTION_TOLERANCE):
            found = f"{NAMES[ORIENTATION]} {other.tags[ORIENTATION]}, {NAMES[SPACING]} {other.tags[SPACING]}"
            raise InputError(other.path, found, f"{first.tags[ORIENTATION]} and {first.tags[SPACING]} as {first.path.name}")
        if other.tags[ECHO] != first.tags[ECHO]:
            expectation = f"one echo: {first.tags[ECHO]!r} as {first.path.name} of the same series"
            raise InputError(other.path, f"EchoTime {other.tags[ECHO]!r}", expectation)


def _in_plane(one: Slice) -> np.ndarray:
    """Directions of rows and of columns (unit vectors, LPS) and the spacing between rows and between columns, in mm: (8,)."""
    orientation, spacing = one.numbers(ORIENTATION, 6), one.numbers(SPACING, 2)
    gram = orientation.reshape(2, 3) @ orientation.reshape(2, 3).T
    if np.abs(gram - np.eye(2)).max() > DIRECTION_TOLERANCE:
        raise InputError(one.path, f"{NAMES[ORIENTATION]} {one.tags[ORIENTATION]}", "two unit vectors at right angles")
    if spacing.min() <= 0:
        raise InputError(one.path, f"{NAMES[SPACING]} {one.tags[SPACING]}", "two numbers > 0")
    return np.concatenate([orientation, spacing])


def _in_order(slices: Sequence[Slice]) -> tuple[list[Slice], np.ndarray]:
    """The slices from first to last along their normal, and the step (3,) from one to the next in LPS mm."""
    if len(slices) < 2:
        raise InputError(slices[0].path, "a series of one slice", "at least 2 slices")
    orientation = _in_plane(slices[0])[:6]
    normal = np.cross(orientation[:3], orientation[3:])
    ordered = sorted(slices, key=lambda one: float(one.numbers(POSITION, 3) @ normal))
    positions = np.array([one.numbers(POSITION, 3) for one in ordered])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    off = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(ordered)), step), axis=1)
    tolerance = POSE_TOLERANCE_VOXELS * usual
    if gaps.min() <= tolerance:
        at = int(np.argmin(gaps))
        raise InputError(ordered[at + 1].path, f"the place of {ordered[at].path.name} (gap {gaps[at]:.4g} mm)", "one slice there")
    if off.max() > tolerance:
        at = int(np.argmax(np.abs(gaps - usual)))
        between = f"{gaps[at]:.4g} mm from {ordered[at].path.name} to this slice"
        raise InputError(ordered[at + 1].path, between, f"{usual:.4g} mm as between the others: no slice missing, none astray")
    if np.linalg.norm(step - normal * (step @ normal)) > 0.02 * usual:
        displaced = f"slices displaced by {step.round(3).tolist()} mm"
        raise InputError(ordered[-1].path.parent, displaced, "a step along their normal (no shear)")
    return ordered, step


def _affine(first: Slice, step: np.ndarray) -> np.ndarray:
    """(4, 4) from (column, row, slice) to RAS mm; PixelSpacing gives the distance between rows first."""
    in_plane = _in_plane(first)
    affine = np.eye(4)
    affine[:3, 0] = in_plane[:3] * in_plane[7]
    affine[:3, 1] = in_plane[3:6] * in_plane[6]
    affine[:3, 2] = step
    affine[:3, 3] = first.numbers(POSITION, 3)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(columns, rows) float32, rescaled, of a grey image of that size; raises InputError where it is damaged."""
    import SimpleITK

    reader = _reader(path)
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    try:
        return SimpleITK.GetArrayFromImage(reader.Execute())[0].T
    except RuntimeError as error:
        raise InputError(path, f"damaged pixels ({_reason(error)})", f"{size} pixels") from error
