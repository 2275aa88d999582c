"""Raw k-space in ISMRMRD's format: the phantom comes back at its place, and what is no full 3D k-space is refused by name."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import psutil
import pytest
from hdf5_files import DIRECTIONS, LIMIT, POSITION, SPACING, coils, kspace_of, kspace_xml, phantom, write_kspace

from xdiff.config import Cohort, Grid
from xdiff.data import kspace as module
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.kspace import read_kspace
from xdiff.data.preprocess import preprocess
from xdiff.data.split import split_by_count
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.volumes import Volume

SHAPE = (16, 12, 10)
COHORT = Cohort("ismrmrd", ("pd",), foreground="all")
USER = "<userParameters>{}</userParameters>"


def seen(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(coils, readout, phase 1, phase 2): what each coil sees of the phantom."""
    return phantom(shape) * coils(shape)


def truth(images: np.ndarray) -> np.ndarray:
    return np.sqrt((np.abs(images) ** 2).sum(axis=0))


def place(voxel: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Where a voxel (readout, phase 1, phase 2) lies, RAS mm: `position` is that of voxel n // 2, directions are in LPS."""
    steps = [(i - n // 2) * size for i, n, size in zip(voxel, shape, SPACING, strict=True)]
    lps = np.array(POSITION) + sum(step * DIRECTIONS[:, axis] for axis, step in enumerate(steps))
    return lps * (-1, -1, 1)


def value_at(volume: Volume, ras_mm: np.ndarray) -> float:
    voxel = np.linalg.inv(volume.affine) @ [*ras_mm, 1]
    assert np.abs(voxel - voxel.round()).max() < 1e-3, voxel
    return float(volume.array[tuple(voxel[:3].round().astype(int))])


def refused(path: Path, found: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read_kspace(path)
    assert "\n" not in str(caught.value) and caught.value.where == str(path)
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


# Values and geometry ----------------------------------------------------------------------------------------------


def test_every_voxel_comes_back_where_the_acquisitions_put_it(tmp_path: Path) -> None:
    """All of them, at a tilted position: the phantom times the root of the sum of squares of the sensitivities."""
    images = seen()
    volume = read_kspace(write_kspace(tmp_path / "a.h5", kspace_of(images)))
    assert sorted(volume.shape) == sorted(SHAPE)
    for voxel, value in np.ndenumerate(truth(images)):
        assert value_at(volume, place(voxel)) == pytest.approx(value, abs=1e-5)
    assert np.abs(volume.affine[:3, :3]).argmax(axis=0).tolist() == [0, 1, 2] and (np.diag(volume.affine) > 0).all()


def test_odd_sizes_have_their_origin_in_the_middle_too(tmp_path: Path) -> None:
    shape = (15, 13, 9)
    images = seen(shape)
    volume = read_kspace(write_kspace(tmp_path / "a.h5", kspace_of(images)))
    for voxel in ((10, 7, 6), (5, 4, 3), (7, 6, 4)):
        assert value_at(volume, place(voxel, shape)) == pytest.approx(truth(images)[voxel], abs=1e-5)


def test_oversampling_is_cut_off_and_interpolation_of_the_scanner_is_not_made(tmp_path: Path) -> None:
    """reconSpace as GE writes it: half the readout's field of view, and more voxels than were encoded."""
    images = np.zeros((1, 32, 12, 10), complex)
    images[0, 8:24] = phantom()
    fov = (16 * SPACING[0], 12 * SPACING[1], 10 * SPACING[2])
    path = write_kspace(tmp_path / "a.h5", kspace_of(images), kspace_xml((32, 12, 10), recon=((24, 24, 10), fov)))
    volume = read_kspace(path)
    assert sorted(volume.shape) == sorted(SHAPE)
    assert sorted(volume.spacing_mm) == pytest.approx(sorted(SPACING))
    assert value_at(volume, place((10, 7, 6))) == pytest.approx(7, abs=1e-5)
    assert volume.array.sum() == pytest.approx(phantom().sum(), rel=1e-5)


def test_partitions_that_are_counted_as_slices(tmp_path: Path) -> None:
    """mridata.org's conversion of GE's 3D files: the second step is always 0, and each partition has its own position."""
    images = seen()

    def as_slices(acquisition: ismrmrd.Acquisition) -> None:
        z, acquisition.idx.kspace_encode_step_2 = acquisition.idx.kspace_encode_step_2, 0
        acquisition.idx.slice = z
        acquisition.position = tuple(map(float, POSITION + (z - 5) * SPACING[2] * DIRECTIONS[:, 2]))

    limits = f"<kspace_encoding_step_1>{LIMIT.format(12, 6)}</kspace_encoding_step_1><slice>{LIMIT.format(9, 5)}</slice>"
    path = write_kspace(tmp_path / "a.h5", kspace_of(images), kspace_xml(SHAPE, limits=limits), as_slices)
    assert value_at(read_kspace(path), place((10, 7, 6))) == pytest.approx(truth(images)[10, 7, 6], abs=1e-5)
    one = ((16, 12, 1), (16 * SPACING[0], 12 * SPACING[1], SPACING[2]))  # the header of a 2D sequence
    path = write_kspace(tmp_path / "b.h5", kspace_of(images), kspace_xml(SHAPE, limits=limits, encoded=one, recon=one), as_slices)
    assert value_at(read_kspace(path), place((10, 7, 6))) == pytest.approx(truth(images)[10, 7, 6], abs=1e-5)


def test_two_dimensional_slices_are_not_taken_for_partitions(tmp_path: Path) -> None:
    images = seen()
    axes = (1, 2)
    slices = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), axes=axes), axes=axes)
    slices = np.roll(slices, 3, axis=3)
    refused(write_kspace(tmp_path / "a.h5", slices), r"% of the energy in the middle half of the second", "not 2D slices")


def test_alternating_signs_of_ge_files_move_nothing(tmp_path: Path) -> None:
    images = seen()
    kspace = kspace_of(images) * (-1.0) ** np.arange(12)[:, None]
    user = USER.format(
        "".join(
            f"<userParameterLong><name>{k}</name><value>{v}</value></userParameterLong>" for k, v in (("ChopY", 0), ("ChopZ", 1))
        )
    )
    path = write_kspace(tmp_path / "a.h5", kspace, kspace_xml(SHAPE, user=user))
    assert value_at(read_kspace(path), place((10, 7, 6))) == pytest.approx(truth(images)[10, 7, 6], abs=1e-5)


def test_noise_and_calibration_are_no_lines(tmp_path: Path) -> None:
    """A noise scan is in every file of these tests; here a calibration line is, too, of another line's index."""
    images, count = seen(), iter(range(1000))

    def calibrate(acquisition: ismrmrd.Acquisition) -> None:
        if next(count) == 7:
            acquisition.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)

    path = write_kspace(tmp_path / "a.h5", kspace_of(images), change=calibrate)
    with ismrmrd.Dataset(path, mode="r+") as dataset:
        line = dataset.read_acquisition(3)
        line.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        dataset.append_acquisition(line)
    assert value_at(read_kspace(path), place((10, 7, 6))) == pytest.approx(truth(images)[10, 7, 6], abs=1e-5)


# What is missing --------------------------------------------------------------------------------------------------


def beyond_ellipse(acquisition: ismrmrd.Acquisition) -> bool:
    y, z = acquisition.idx.kspace_encode_step_1, acquisition.idx.kspace_encode_step_2
    return bool(np.hypot((y - 6) / 6, (z - 5) / 5) <= 1)


def one_edge(acquisition: ismrmrd.Acquisition) -> bool:
    return acquisition.idx.kspace_encode_step_2 >= 3


@pytest.mark.parametrize(("keep", "share"), [(beyond_ellipse, r"\d+\.\d% of the lines"), (one_edge, r"30\.0% of the lines")])
def test_corners_and_one_edge_may_be_missing_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep, share: str
) -> None:
    images = seen()
    path = write_kspace(tmp_path / "a.h5", kspace_of(images), change=keep)
    found = read_kspace(path).array
    assert re.search(rf"a\.h5: {share}, in corners or at one edge", capsys.readouterr().out)
    kspace = kspace_of(images)
    for y, z in np.ndindex(12, 10):
        line = ismrmrd.Acquisition()
        line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2 = y, z
        kspace[:, :, y, z] *= keep(line)
    axes = (1, 2, 3)
    filled = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes=axes), axes=axes), axes=axes)
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(truth(filled).ravel()), atol=1e-5)


@pytest.mark.parametrize(
    ("keep", "found"),
    [
        (lambda a: a.idx.kspace_encode_step_1 % 2 == 0, r"46\.8% of the lines within the ellipse missing"),
        (lambda a: (a.idx.kspace_encode_step_1, a.idx.kspace_encode_step_2) != (6, 5), r"^\d\.\d% of the lines"),
        (lambda a: a.idx.kspace_encode_step_2 >= 5, r"% of the lines"),
        (lambda a: 2 <= a.idx.kspace_encode_step_1 < 10, r"% of the lines"),
    ],
    ids=["every second", "the centre", "half", "both edges"],
)
def test_undersampled_data_are_refused_with_what_is_missing(tmp_path: Path, keep, found: str) -> None:
    refused(write_kspace(tmp_path / "a.h5", kspace_of(seen()), change=keep), found, "fully sampled k-space")


def test_a_partial_echo_is_filled_with_zeros(tmp_path: Path) -> None:
    images = seen()
    path = write_kspace(tmp_path / "a.h5", kspace_of(images)[:, 4:], kspace_xml(SHAPE), center_sample=4)
    kspace = kspace_of(images)
    kspace[:, :4] = 0
    axes = (1, 2, 3)
    filled = truth(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes=axes), axes=axes), axes=axes))
    assert value_at(read_kspace(path), place((10, 7, 6))) == pytest.approx(filled[10, 7, 6], abs=1e-5)
    refused(write_kspace(tmp_path / "b.h5", kspace_of(images)[:, 9:], kspace_xml(SHAPE)), "7 samples with", "of the 16")


# What is no single volume, or damaged -----------------------------------------------------------------------------


def set_head(**fields: object):
    """Changes one acquisition in three."""

    def change(acquisition: ismrmrd.Acquisition) -> None:
        if acquisition.idx.kspace_encode_step_1 % 3 == 0:
            for name, value in fields.items():
                setattr(acquisition.idx if hasattr(acquisition.idx, name) else acquisition, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        (set_head(contrast=1), "2 values of contrast", "a single volume"),
        (set_head(repetition=1), "2 values of repetition", "a single volume"),
        (set_head(average=1), "2 values of average", "a single volume"),
        (set_head(slice=1), "2 slabs", "one 3D volume"),
        (set_head(kspace_encode_step_1=0), r"\d+ acquisitions of the line 0", "each line once"),
        (set_head(kspace_encode_step_1=40), "encoding steps 1 to 40", "within the 12"),
        (set_head(read_dir=(0.0, 0.0, 1.0)), "directions", "one direction|right angles"),
        (set_head(position=(0.0, 0.0, 0.0)), "positions that change", "one position"),
        (lambda a: a.setFlag(ismrmrd.ACQ_IS_REVERSE), "read backwards", "one direction"),
        (lambda a: a.setFlag(ismrmrd.ACQ_IS_NAVIGATION_DATA), "noise and calibration alone", "lines of an image"),
    ],
)
def test_what_is_no_single_volume_is_named(tmp_path: Path, change, found: str, expected: str) -> None:
    refused(write_kspace(tmp_path / "a.h5", kspace_of(seen()), change=change), found, expected)


@pytest.mark.parametrize(
    ("head", "found"),
    [({"phase_dir": (0, 0, 0)}, r"directions .*0\.0, 0\.0, 0\.0"), ({"position": (np.nan, 0, 0)}, "positions")],
)
def test_a_geometry_that_is_not_there_is_not_made_up(tmp_path: Path, head: dict, found: str) -> None:
    refused(write_kspace(tmp_path / "a.h5", kspace_of(seen()), **head), found, "right angles|one position")


@pytest.mark.parametrize(
    ("header", "found", "expected"),
    [
        (kspace_xml(SHAPE, trajectory="spiral"), "'spiral'", "cartesian"),
        (kspace_xml(SHAPE, encoded=(SHAPE, (16.0, 18.0, 0.02))), r"encodedSpace .*0\.02", "voxels of"),
        (kspace_xml(SHAPE, recon=(SHAPE, (16.0, 99.0, 20.0))), r"reconSpace .*99", "within encodedSpace"),
        (kspace_xml(SHAPE, recon=(SHAPE, (16.0, float("nan"), 20.0))), r"reconSpace .*nan", "within encodedSpace"),
        (b"<ismrmrdHeader/>", r"no ISMRMRD header \(", "schema"),
        (b"\xff\xfe", r"no ISMRMRD header \(", "schema"),
    ],
    ids=["spiral", "thin", "wide", "nan", "empty", "binary"],
)
def test_a_header_that_makes_no_sense_is_named(tmp_path: Path, header: bytes, found: str, expected: str) -> None:
    refused(write_kspace(tmp_path / "a.h5", kspace_of(seen()), header), found, expected)


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    kspace = kspace_of(seen())
    kspace[1, 3, 4, 5] = np.nan
    refused(write_kspace(tmp_path / "a.h5", kspace), "NaN or infinite", "finite samples")


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    refused(path, "no such file", "an HDF5 file")
    path.write_bytes(b"not HDF5")
    refused(path, "an unreadable file", "a complete HDF5 file")
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros(3)
    refused(path, r"\['kspace'\]", "a group 'dataset' with xml and data")
    with h5py.File(path, "w") as file:
        file["dataset/xml"], file["dataset/data"] = [b"<a/>"], np.zeros(3)
    refused(path, "dataset/data of 3 records", "acquisitions")


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.97])
def test_a_truncated_file(tmp_path: Path, kept: float) -> None:
    path = write_kspace(tmp_path / "a.h5", kspace_of(seen()))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(path, "an unreadable file", "a complete HDF5 file")


# Memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_one_coil_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 coils, 16 MB together, 2 MB each; a reading that kept the samples (see _heads) would grow by 110 MB."""
    monkeypatch.setattr(module, "BLOCK", 16)
    shape = (2048, 12, 10)
    path = write_kspace(tmp_path / "a.h5", kspace_of(phantom(shape) * coils(shape, 8)))
    read_kspace(path)
    before = psutil.Process().memory_info().rss
    for _ in range(7):
        read_kspace(path)
    assert psutil.Process().memory_info().rss - before < 40e6
    tracemalloc.start()
    read_kspace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


# As a cohort ------------------------------------------------------------------------------------------------------


def test_a_cohort_of_raw_files_reaches_the_store(tmp_path: Path) -> None:
    for i, name in enumerate(("p1", "p2", "deep/p3")):
        write_kspace(tmp_path / "raw" / f"{name}.h5", kspace_of((1 + i) * np.roll(seen(), i, axis=1)))
    (tmp_path / "raw/.p4.h5").write_bytes(b"of macOS")
    subjects = find_subjects(COHORT, tmp_path / "raw")
    assert [files.subject for files in subjects] == ["p1", "p2", "p3"]
    first, second = (read_subject(files, COHORT).images.sum() for files in subjects[:2])
    assert second == pytest.approx(2 * first, rel=1e-4)
    split = split_by_count([files.subject for files in subjects], 0, 1, 1)
    preprocess(COHORT, Grid((12, 12, 12), 2.0), ("c", "g"), tmp_path / "raw", split, tmp_path / "out")
    assert Store(tmp_path / "out").subjects == ["p1", "p2", "p3"]


def test_one_patient_id_under_two_names_is_refused(tmp_path: Path) -> None:
    subject = "<subjectInformation><patientID>{}</patientID></subjectInformation>"
    for name in ("a", "b"):
        write_kspace(tmp_path / f"{name}.h5", kspace_of(seen()), kspace_xml(SHAPE, subject=subject.format("K7")))
    with pytest.raises(InputError, match=r"b\.h5: found PatientID K7, as in a\.h5, expected visits .* such as a_ses-2"):
        find_subjects(COHORT, tmp_path)
    (tmp_path / "b.h5").rename(tmp_path / "a_ses-2.h5")
    assert [files.subject for files in find_subjects(COHORT, tmp_path)] == ["a", "a_ses-2"]
    for name in ("a", "b"):
        write_kspace(tmp_path / f"{name}.h5", kspace_of(seen()), kspace_xml(SHAPE, subject=subject.format("Anonymous")))
    (tmp_path / "a_ses-2.h5").unlink()
    assert len(find_subjects(COHORT, tmp_path)) == 2
