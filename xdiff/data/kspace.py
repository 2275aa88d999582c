"""Fully sampled Cartesian 3D k-space in ISMRMRD's format (.h5), such as the knees of mridata.org, as a magnitude volume.

Every coil by itself: its lines to their places, an inverse FFT in 3D; then the root of the sum of squares. All is at the encoded
resolution: where a header's reconSpace has more voxels, the scanner has interpolated, and we do not. The part of the field of
view beyond reconSpace (oversampling) is cut off. Only magnitudes are kept, so that a shift of k-space has no effect, but lines
that were acquired with alternating signs (ChopY, ChopZ of GE's files, github.com/MRSRL/mridata-recon) move the image by half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from xdiff.data.hdf5 import Space, header_of, library, opened, space_of
from xdiff.data.kspace_lines import Lines, lines_of
from xdiff.errors import InputError
from xdiff.volumes import POSE_TOLERANCE_VOXELS, Volume, canonical

GROUP = "dataset"
BLOCK = 512  # acquisitions that are read at once
CENTRAL_ENERGY = 0.8  # of k-space, in the middle half of each axis; images, such as slices that are encoded already, have 0.5
DIRECTION_TOLERANCE = 1e-3  # of a cosine
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_kspace(path: Path) -> Volume:
    """Reconstruct one subject, as a RAS+ volume.

    The place of its voxels is that of the acquisitions: directions in LPS, `position` at voxel n // 2 of each axis. Raises
    InputError for undersampled data (with the share that is missing), anything but one Cartesian 3D volume, and damaged files.
    """
    with opened(path) as file:
        xml, data = _parts(file, path)
        header = header_of(xml, path)
        lines = lines_of(header, _heads(data), path)
        encoded = _encoded(header, lines, path)
        if lines.note:
            print(f"{path}: {lines.note}", flush=True)
        volume = _root_sum_of_squares(data, lines, encoded.matrix[0], path)
    for axis, chopped in enumerate((False, *_chopped(header))):
        volume = volume if chopped else fft.fftshift(volume, axes=axis)
    if not np.isfinite(volume).all():
        raise InputError(path, "k-space with NaN or infinite samples", "finite samples only")
    kept = _kept(header, encoded, path)
    start = [n // 2 - m // 2 for n, m in zip(encoded.matrix, kept, strict=True)]
    volume = volume[tuple(slice(first, first + n) for first, n in zip(start, kept, strict=True))]
    return canonical(volume, _affine(lines, encoded, kept, path), path)


def patient_of_kspace(path: Path) -> str:
    """The patient's id in the header, or nothing. Raises InputError where there is no header."""
    with opened(path) as file:
        subject = header_of(_parts(file, path)[0], path).subjectInformation
    return (subject.patientID or "").strip() if subject else ""


def _parts(file: Any, path: Path) -> tuple[bytes, Any]:
    """The header and the table of acquisitions."""
    group = file.get(GROUP)
    if group is None or "xml" not in group or "data" not in group:
        found = sorted(file if group is None else group)
        raise InputError(path, f"{found}", f"a group {GROUP!r} with xml and data (raw data in ISMRMRD's format)")
    data = group["data"]
    # names alone: where fields lie in a record is up to the program that wrote it
    kind = library("ismrmrd.hdf5").acquisition_dtype
    if data.dtype.names != kind.names or data.dtype["head"].names != kind["head"].names or not data.size:
        raise InputError(path, f"{GROUP}/data of {data.size} records ({data.dtype.names})", f"acquisitions ({kind.names})")
    return group["xml"][0], data


def _heads(data: Any) -> np.ndarray:
    """The header of every acquisition. Whole records are read: of `data["head"]` alone, h5py 3.16 never frees the samples that it
    leaves out, which is the size of the file."""
    return np.concatenate([data[start : start + BLOCK]["head"].copy() for start in range(0, data.size, BLOCK)])


def _encoded(header: Any, lines: Lines, path: Path) -> Space:
    """encodedSpace, of all partitions: where the header counts them as slices, it describes one of them."""
    one = space_of(header, "encodedSpace", path)
    partitions = lines.shape[1] // one.matrix[2]
    return Space((*one.matrix[:2], lines.shape[1]), (*one.fov_mm[:2], one.fov_mm[2] * partitions))


def _chopped(header: Any) -> tuple[bool, bool]:
    """Whether signs alternate from line to line along the two phase encodings."""
    given = header.userParameters.userParameterLong if header.userParameters else []
    values = {parameter.name: parameter.value for parameter in given}
    return values.get("ChopY", 1) == 0, values.get("ChopZ", 1) == 0


def _root_sum_of_squares(data: Any, lines: Lines, readout: int, path: Path) -> np.ndarray:
    """(readout, phase 1, phase 2) float32, the origin of each axis at its first voxel."""
    energy = [np.zeros(n) for n in (*lines.shape, readout)]
    total = np.zeros((*lines.shape, readout), np.float32)
    for coil in range(lines.channels):
        kspace = _coil(data, lines, coil, readout, path)
        power = np.square(kspace.real) + np.square(kspace.imag)
        for axis, profile in enumerate(energy):
            profile += power.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        del power
        image = fft.ifftn(kspace, overwrite_x=True)
        total += np.square(image.real)
        total += np.square(image.imag)
        del kspace, image
    _check_energy(energy, path)
    return np.sqrt(total, out=total).transpose(2, 0, 1)


def _coil(data: Any, lines: Lines, coil: int, readout: int, path: Path) -> np.ndarray:
    """(phase 1, phase 2, readout) complex64 of one coil; what was not acquired is zero."""
    kspace = np.zeros((*lines.shape, readout), np.complex64)
    first = lines.first_sample
    for start in range(0, len(lines.numbers), BLOCK):
        chosen = slice(start, start + BLOCK)
        numbers = lines.numbers[chosen]
        stored = data.fields("data")[numbers[0] : numbers[-1] + 1]
        for number, y, z in zip(numbers, lines.first[chosen], lines.second[chosen], strict=True):
            line = stored[number - numbers[0]]
            if line.size != 2 * lines.channels * lines.samples:
                expected = f"{lines.channels} channels of {lines.samples} complex samples"
                raise InputError(path, f"{line.size} numbers in acquisition {number}", expected)
            samples = line.astype(np.float32, copy=False).view(np.complex64)
            kspace[y, z, first : first + lines.samples] = samples[coil * lines.samples :][: lines.samples]
    return kspace


def _check_energy(energy: list[np.ndarray], path: Path) -> None:
    """k-space has nearly all in the middle; 2D slices, or lines at wrong places, do not."""
    for profile, axis in zip(energy, ("the first phase encoding", "the second phase encoding", "the readout"), strict=True):
        n = len(profile)
        share = profile[n // 4 : n - n // 4].sum() / max(profile.sum(), np.finfo(float).tiny)
        if share < CENTRAL_ENERGY:
            found = f"{share:.0%} of the energy in the middle half of {axis}"
            raise InputError(path, found, f"{CENTRAL_ENERGY:.0%} or more: 3D k-space, its centre in the middle (not 2D slices)")


def _kept(header: Any, encoded: Space, path: Path) -> tuple[int, ...]:
    """Voxels that the field of view of reconSpace has at the encoded resolution; how many it says itself is interpolation."""
    space = header.encoding[0].reconSpace.fieldOfView_mm
    partitions = encoded.matrix[2] // header.encoding[0].encodedSpace.matrixSize.z
    fov_mm = (space.x, space.y, space.z * partitions)
    kept = np.divide(fov_mm, encoded.spacing_mm)
    if not ((kept > 1.5) & (kept < np.array(encoded.matrix) + 0.5)).all():
        expected = f"one within encodedSpace, {encoded.fov_mm} mm of {encoded.matrix} voxels"
        raise InputError(path, f"reconSpace of {fov_mm} mm", expected)
    return tuple(int(n) for n in kept.round())


def _affine(lines: Lines, encoded: Space, kept: tuple[int, ...], path: Path) -> np.ndarray:
    """(4, 4) from (readout, phase 1, phase 2) to RAS mm. Partitions that are counted as slices may have their own positions."""
    heads = lines.heads
    directions = np.stack([heads[name].astype(float) for name in ("read_dir", "phase_dir", "slice_dir")], axis=-1)
    axes = directions[0]
    if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
        raise InputError(path, f"directions {axes.T.round(4).tolist()}", "three unit vectors at right angles")
    if np.abs(directions - axes).max() > DIRECTION_TOLERANCE:
        raise InputError(path, "directions that change from line to line", "one direction for each axis")
    positions = heads["position"].astype(float)
    middle = positions[lines.second == encoded.matrix[2] // 2]
    centre, tolerance = middle.mean(axis=0), min(encoded.spacing_mm) * POSE_TOLERANCE_VOXELS
    astray = np.abs((positions - centre) @ axes[:, :2]).max(), np.abs(middle - centre).max()
    if not np.isfinite(positions).all() or max(astray) > tolerance:
        raise InputError(path, "positions that change from line to line", "one position of the volume")
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ (axes * encoded.spacing_mm)
    affine[:3, 3] = LPS_TO_RAS @ centre - affine[:3, :3] @ [n // 2 for n in kept]
    return affine
