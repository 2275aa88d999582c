"""Knees of fastMRI: the reconstruction that NYU put beside the k-space, as a volume. One contrast per file.

Zbontar et al. 2018, arXiv 1811.08839. The files carry no position and no direction. ASSUMED, from how others turn them for
display (fastMRI+ flips them upside down) and from the manufacturer's default order of slices: see AXES. Whether a knee is a left
or a right one is not known, so that left and right, and the order of slices, may be mirrored. World coordinates begin in the
middle of the array.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xdiff.data.hdf5 import Space, header_of, opened, space_of
from xdiff.data.split import visit_name
from xdiff.errors import InputError
from xdiff.volumes import Volume, canonical

RECONSTRUCTIONS = ("reconstruction_rss", "reconstruction_esc")  # root sum of squares; emulated single coil
HEADER = "ismrmrd_header"
LEFT, POSTERIOR, SUPERIOR = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)
# how `acquisition` begins -> where columns, rows and slices of the array run to
AXES = {"COR": (LEFT, SUPERIOR, POSTERIOR), "SAG": (POSTERIOR, SUPERIOR, LEFT)}
HASH = re.compile(r"[0-9a-f]{32,}")
HASH_DIGITS = 12  # of a patient's hash, in names
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SPACING_TOLERANCE = 0.02


class Exam(NamedTuple):
    """What a file's attributes say: the protocol, such as CORPD_FBK, and whose knee it is."""

    acquisition: str
    patient: str


def exam_of(path: Path) -> Exam:
    """Raises InputError where the file cannot be opened, or lacks an attribute."""
    with opened(path) as file:
        found = {name: file.attrs.get(name) for name in ("acquisition", "patient_id")}
    for name, value in found.items():
        if not isinstance(value, str) or not value.strip():
            raise InputError(path, f"{value!r} as attribute {name}", "its text, as in fastMRI's files")
    return Exam(*(value.strip() for value in found.values()))


def subject_of(path: Path, exam: Exam) -> str:
    """PATIENT_ses-FILE: all exams of a patient are visits, on one side of every split.

    A patient is a hash of 64 digits, of which names carry 12. Raises InputError where the id, or the file's name, cannot be part
    of a name.
    """
    patient = exam.patient[:HASH_DIGITS] if HASH.fullmatch(exam.patient) else exam.patient
    for text in (patient, path.stem):
        if not NAME.fullmatch(text):
            raise InputError(path, repr(text), "letters, digits, dots, hyphens and underscores in patient_id and name")
    return visit_name(patient, f"{patient}_ses-{path.stem}", path)


def read_fastmri(path: Path) -> Volume:
    """The reconstruction at the geometry that the header gives, as a RAS+ volume: nothing is resampled, thick slices stay thick.

    Raises InputError where there is k-space alone, where header and array disagree, and for voxels that are not finite.
    """
    acquisition = exam_of(path).acquisition
    if acquisition[:3] not in AXES:
        raise InputError(path, f"acquisition {acquisition!r}", f"one that begins with {' or '.join(AXES)}")
    with opened(path) as file:
        array = np.asarray(_reconstruction(file, path), dtype=np.float32)
        xml = file[HEADER][()] if HEADER in file else None
    if not isinstance(xml, bytes | str):
        raise InputError(path, f"no {HEADER}", "ISMRMRD's XML, which says how large voxels are")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise InputError(path, f"{bad} NaN or infinite voxels", "finite voxels only")
    spacing_mm = _spacing(header_of(xml, path), array.shape, path)
    columns_rows_slices = array.transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(AXES[acquisition[:3]]) * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(columns_rows_slices.shape) - 1) / 2)
    return canonical(columns_rows_slices, affine, path)


def _reconstruction(file: Any, path: Path) -> Any:
    """(slices, rows, columns) of the first of RECONSTRUCTIONS that is there."""
    found = next((file[name] for name in RECONSTRUCTIONS if name in file), None)
    if found is None:
        expected = f"{' or '.join(RECONSTRUCTIONS)} (test and challenge sets have k-space alone: leave their folder out)"
        raise InputError(path, f"{sorted(file)}, no image", expected)
    if len(found.shape) != 3 or min(found.shape) < 2:
        raise InputError(path, f"{found.name[1:]} of shape {found.shape}", "at least two slices of rows and columns")
    return found


def _spacing(header: Any, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Spacing in mm of columns, rows and slices of an array (slices, rows, columns); the readout, `x`, runs along rows' index.

    Slices are said to have no gap (Zbontar et al., section 4); no header says where they are.
    """
    recon, encoded = space_of(header, "reconSpace", path), space_of(header, "encodedSpace", path)
    slices, rows, columns = shape
    if recon.matrix[:2] != (rows, columns) or recon.matrix[2] not in (1, slices):
        raise InputError(path, f"{slices} slices of {rows} x {columns}", f"reconSpace {recon.matrix} as its header says")
    _check_crop(recon, encoded, path)
    row_mm, column_mm, slice_mm = recon.spacing_mm
    return np.array([column_mm, row_mm, slice_mm])


def _check_crop(recon: Space, encoded: Space, path: Path) -> None:
    """The image is cut out of the encoded one: both have the same pixels."""
    if not np.allclose(recon.spacing_mm[:2], encoded.spacing_mm[:2], rtol=SPACING_TOLERANCE):
        found = f"reconSpace of {np.round(recon.spacing_mm[:2], 4).tolist()} mm"
        raise InputError(path, found, f"{np.round(encoded.spacing_mm[:2], 4).tolist()} mm as encodedSpace")
