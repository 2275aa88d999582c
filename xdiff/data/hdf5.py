"""HDF5 files of raw MRI data: opened with errors that name them, and what their ISMRMRD header says of space.

Header: ISMRMRD's XML schema (Inati et al. 2017, 10.1002/mrm.26089), read by the package that its authors keep.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from xdiff.errors import InputError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DAMAGED = (OSError, RuntimeError, KeyError)  # what h5py raises where bytes are missing or make no sense
NO_HEADER = (ValueError, TypeError, LookupError)  # what the parser of the schema raises
PLAUSIBLE_MM = (0.05, 20.0)  # of a voxel; outside, field of view or matrix is that of something else


@dataclass(frozen=True)
class Space:
    """Voxels and field of view (mm) along readout, first and second phase encoding."""

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return tuple(fov / n for fov, n in zip(self.fov_mm, self.matrix, strict=True))


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    with path.open("rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


def files_below(root: Path) -> list[Path]:
    """The .h5 files in a folder and in the folders in it, by path, as fastMRI's archives unpack; hidden ones are none."""
    found = [*root.glob("*.h5"), *root.glob("*/*.h5")]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def library(name: str) -> ModuleType:
    """A package that only raw data needs. Raises InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(name, "no such Python package", "`pip install -c constraints.txt h5py ismrmrd`") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The h5py.File, to be read within the block; InputError where it is missing or damaged."""
    if not path.is_file():
        raise InputError(path, "no such file", "an HDF5 file")
    h5py = library("h5py")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGED as error:
        raise InputError(path, f"an unreadable file ({' '.join(str(error).split())[:160]})", "a complete HDF5 file") from error


def header_of(xml: bytes | str, path: Path) -> Any:
    """ismrmrd's ismrmrdHeader. Raises InputError for what does not follow the schema."""
    ismrmrd = library("ismrmrd")
    importlib.import_module("ismrmrd.xsd")
    try:
        header = ismrmrd.xsd.CreateFromDocument(xml)
    except NO_HEADER as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(path, f"no ISMRMRD header ({reason})", "XML that follows ISMRMRD's schema") from error
    if len(header.encoding) != 1:
        raise InputError(path, f"{len(header.encoding)} encodings in the header", "one")
    return header


def space_of(header: Any, which: str, path: Path) -> Space:
    """`encodedSpace` or `reconSpace`. Raises InputError where its voxels are not of a size that voxels have."""
    space = getattr(header.encoding[0], which)
    matrix = tuple(int(getattr(space.matrixSize, axis)) for axis in "xyz")
    found = Space(matrix, tuple(float(getattr(space.fieldOfView_mm, axis)) for axis in "xyz"))
    least, most = PLAUSIBLE_MM
    if min(matrix) < 1 or not all(least <= size <= most for size in found.spacing_mm):
        seen = f"{which} of {matrix} voxels over {found.fov_mm} mm"
        raise InputError(path, seen, f"voxels of {least} to {most} mm")
    return found
