"""HDF5 files of raw MRI data, small: fastMRI's, written with h5py, and ISMRMRD's, written by the package its authors keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
from scipy.spatial.transform import Rotation

PATIENT = "6a1f" * 16  # a hash of 64 digits
LIMIT = "<minimum>0</minimum><maximum>{}</maximum><center>{}</center>"
HEADER = (
    '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{subject}'
    "<experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions>"
    "<encoding><encodedSpace>{encoded}</encodedSpace><reconSpace>{recon}</reconSpace>"
    "<encodingLimits>{limits}</encodingLimits><trajectory>{trajectory}</trajectory></encoding>{user}</ismrmrdHeader>"
)
SLICES, ROWS, COLUMNS = 6, 16, 12  # of fastMRI's array
RECON_MM = (8.0, 6.6, 3.0)  # readout (rows), phase encoding (columns), thickness: pixels of 0.5 x 0.55 mm
SPACING = (1.0, 1.5, 2.0)  # of k-space
DIRECTIONS = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()[:, [2, 0, 1]]  # columns: read, phase, slice
POSITION = (4.0, -7.0, 21.0)


def space(matrix: tuple[int, ...], fov_mm: tuple[float, ...]) -> str:
    tags = (("matrixSize", matrix), ("fieldOfView_mm", fov_mm))
    parts = ("".join(f"<{axis}>{n}</{axis}>" for axis, n in zip("xyz", numbers, strict=True)) for _, numbers in tags)
    return "".join(f"<{name}>{part}</{name}>" for (name, _), part in zip(tags, parts, strict=True))


def xml(encoded: tuple, recon: tuple, **more: str) -> bytes:
    """A header with these two spaces, each (matrix, field of view in mm). `more`: limits, trajectory, subject, user."""
    parts = {"limits": "", "trajectory": "cartesian", "subject": "", "user": "", **more}
    return HEADER.format(encoded=space(*encoded), recon=space(*recon), **parts).encode()


def fastmri_xml(matrix: tuple = (ROWS, COLUMNS, 1), fov_mm: tuple = RECON_MM, scale: float = 1.0) -> bytes:
    """As NYU's headers: the readout twice as long as the image, a thicker slab; `scale` of the encoded pixels."""
    encoded = (2 * matrix[0], matrix[1], matrix[2]), (2 * fov_mm[0] * scale, fov_mm[1] * scale, 1.5 * fov_mm[2])
    return xml(encoded, (matrix, fov_mm))


def knee(seed: int = 0, shape: tuple[int, int, int] = (SLICES, ROWS, COLUMNS)) -> np.ndarray:
    """(slices, rows, columns) float32: an ellipsoid brighter towards the last slice, row and column, in noise."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(axis=0) < 1
    ramp = 2 + 0.5 * grid[0] + 0.3 * grid[1] + 0.2 * grid[2]
    noise = np.random.default_rng(seed).rayleigh(0.02, shape)
    return (1e-4 * (inside * ramp + noise)).astype(np.float32)


def write_fastmri(path: Path, array: np.ndarray | None = None, **more: object) -> Path:
    """A file of the training set. `more`: acquisition, patient, header (None: none), name of the reconstruction (None: none)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = knee() if array is None else array
    header, name = more.get("header", fastmri_xml()), more.get("name", "reconstruction_rss")
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((len(array), 2, 4, 4), np.complex64)
        if header is not None:
            file["ismrmrd_header"] = header
        if name is not None:
            file[name] = array
        attributes = {"acquisition": more.get("acquisition", "CORPD_FBK"), "patient_id": more.get("patient", PATIENT)}
        file.attrs.update({key: value for key, value in attributes.items() if value is not None})
    return path


def phantom(shape: tuple[int, int, int] = (16, 12, 10)) -> np.ndarray:
    """(readout, phase 1, phase 2) float64 without a symmetry: three blocks of different sizes and values off the middle."""
    image = np.zeros(shape)
    image[4:12, 3:9, 3:8] = 1
    image[5:8, 4:6, 3:5] = 3
    image[10, 7, 6] = 7
    return image


def coils(shape: tuple[int, int, int], n: int = 3) -> np.ndarray:
    """(n, readout, phase 1, phase 2) complex sensitivities, smooth, each with a phase of its own."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, m) for m in shape), indexing="ij"))
    centres = np.random.default_rng(5).uniform(-1, 1, (n, 3))
    fields = [np.exp(-((grid - c[:, None, None, None]) ** 2).sum(axis=0) / 4) for c in centres]
    return np.stack([field * np.exp(1j * (0.7 * i + grid[i % 3])) for i, field in enumerate(fields)])


def kspace_of(images: np.ndarray) -> np.ndarray:
    """(coils, readout, phase 1, phase 2): the centred Fourier transform of what each coil sees."""
    axes = (1, 2, 3)
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), axes=axes), axes=axes)


def readouts(kspace: np.ndarray, seed: int = 1, **head: object) -> Iterator[ismrmrd.Acquisition]:
    """Every line in no order, with the geometry of this module. `head`: fields that differ."""
    _, _, n1, n2 = kspace.shape
    for at in np.random.default_rng(seed).permutation(n1 * n2):
        y, z = divmod(int(at), n2)
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[:, :, y, z], np.complex64))
        acquisition.center_sample = kspace.shape[1] // 2
        acquisition.idx.kspace_encode_step_1, acquisition.idx.kspace_encode_step_2 = y, z
        directions = dict(zip(("read_dir", "phase_dir", "slice_dir"), DIRECTIONS.T, strict=True))
        for name, value in {"position": POSITION, **directions, **head}.items():
            setattr(acquisition, name, tuple(map(float, value)) if np.ndim(value) else value)
        yield acquisition


def kspace_xml(shape: tuple[int, int, int], **more: object) -> bytes:
    """The header of k-space (readout, phase 1, phase 2) of SPACING; `recon`: another reconSpace, `encoded`: another one."""
    fov = tuple(n * size for n, size in zip(shape, SPACING, strict=True))
    steps = "".join(
        f"<kspace_encoding_step_{i}>{LIMIT.format(n - 1, n // 2)}</kspace_encoding_step_{i}>"
        for i, n in enumerate(shape[1:], start=1)
    )
    whole = (shape, fov)
    return xml(more.pop("encoded", whole), more.pop("recon", whole), **{"limits": steps, **more})


def write_kspace(
    path: Path, kspace: np.ndarray, header: bytes | None = None, change: Callable | None = None, **head: object
) -> Path:
    """A file of every line of `kspace` (coils, readout, phase 1, phase 2), a noise scan before them.

    change: called with every acquisition; False leaves it out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = ismrmrd.Acquisition.from_array(np.full((kspace.shape[0], 5), 9 + 9j, np.complex64))
    noise.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    lines = [line for line in readouts(kspace, **head) if change is None or change(line) is not False]
    with ismrmrd.Dataset(path, mode="w") as dataset:
        dataset.write_xml_header(kspace_xml(kspace.shape[1:]) if header is None else header)
    with ismrmrd.File(path) as file:
        file["dataset"].acquisitions = [noise, *lines]
    return path
