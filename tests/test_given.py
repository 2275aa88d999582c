"""Slices in hand are read as what their files say, and refused where that is unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_slice
from PIL import Image

from xdiff.errors import InputError
from xdiff.given import Given, Reading, read_given
from xdiff.volumes import read_sections, write_volume

DIAGONAL = np.diag([1.5, 1.5, 1.5, 1.0])
RNG = np.random.default_rng(5)


def image(*shape: int) -> np.ndarray:
    return RNG.integers(1, 500, shape).astype(np.float32)


def one(path: Path, **said: object) -> Given:
    return read_given([path], Reading(**said))[0]


def turned(degrees: float, spacing: tuple = (1.5, 1.5, 1.5)) -> np.ndarray:
    """An affine turned about the left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * spacing
    return affine


# NIfTI ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "axis", "thickness_mm"),
    [
        ((20, 1, 18), (1.5, 4.0, 1.5), 1, 4.0),
        ((20, 22, 5), (1.0, 1.0, 6.0), 2, 6.0),
        ((3, 22, 20), (1.5, 1.5, 1.5), 0, 1.5),
        ((20, 22, 19), (1.0, 1.0, 5.0), 2, 5.0),
    ],
    ids=["one section", "coarse", "few", "as many as pixels but coarse"],
)
def test_axis_and_thickness_are_the_files(shape: tuple, spacing: tuple, axis: int, thickness_mm: float, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(*shape), np.diag([*spacing, 1.0]))
    given = one(tmp_path / "a.nii.gz")
    assert (given.axis, given.count, given.in_world) == (axis, shape[axis], True)
    assert given.thickness_mm == pytest.approx(thickness_mm)
    assert one(tmp_path / "a.nii.gz", thickness_mm=2.5).thickness_mm == 2.5


def test_axes_are_turned_to_ras_and_the_affine_with_them(tmp_path: Path) -> None:
    pixels = image(9, 8, 1)
    affine = np.array([[-1.5, 0, 0, 40], [0, -1.5, 0, 30], [0, 0, 1.5, 7], [0, 0, 0, 1.0]])  # LPS
    write_volume(tmp_path / "a.nii.gz", pixels, affine)
    given = one(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(given.volume.array, pixels[::-1, ::-1])
    np.testing.assert_allclose(given.volume.affine @ [0, 0, 0, 1], affine @ [8, 7, 0, 1])


def test_a_whole_volume_is_no_slice(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(20, 22, 18), DIAGONAL)
    with pytest.raises(InputError, match=r"a.nii.gz: found shape \(20, 22, 18\) at .*one section"):
        one(tmp_path / "a.nii.gz")


def test_a_line_is_no_slice(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(20, 1, 1), DIAGONAL)
    with pytest.raises(InputError, match="at least 2 voxels along two axes"):
        read_sections(tmp_path / "a.nii.gz")


def test_a_small_tilt_is_told_and_a_large_one_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(20, 22, 1), turned(12))
    assert one(tmp_path / "a.nii.gz").tilt_deg == pytest.approx(12, abs=0.01)
    write_volume(tmp_path / "b.nii.gz", image(20, 22, 1), turned(30))
    with pytest.raises(InputError, match="axes tilted by 30 degrees.*expected at most 20"):
        one(tmp_path / "b.nii.gz")


def test_what_is_said_of_the_axis_is_compared_with_the_file(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(20, 22, 1), DIAGONAL)
    assert one(tmp_path / "a.nii.gz", axis="axial").axis == 2
    with pytest.raises(InputError, match="axial sections by its affine, expected coronal"):
        one(tmp_path / "a.nii.gz", axis="coronal")


@pytest.mark.parametrize(("value", "message"), [(0.0, "an empty section"), (-3.0, "values down to -3")])
def test_empty_and_negative_sections_are_refused(value: float, message: str, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", np.full((20, 22, 1), value, np.float32), DIAGONAL)
    with pytest.raises(InputError, match=f"a.nii.gz: found {message}"):
        one(tmp_path / "a.nii.gz")


def test_files_have_to_be_parallel(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", image(20, 22, 1), DIAGONAL)
    write_volume(tmp_path / "b.nii.gz", image(20, 22, 1), turned(2))
    write_volume(tmp_path / "c.nii.gz", image(20, 1, 22), DIAGONAL)
    for other, found in (("b", "axes turned by 2.0 degrees"), ("c", "coronal sections")):
        with pytest.raises(InputError, match=f"{other}.nii.gz: found .*{found}.*parallel to a.nii.gz"):
            read_given([tmp_path / "a.nii.gz", tmp_path / f"{other}.nii.gz"], Reading())


def test_a_missing_file_and_none_at_all_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.nii.gz: found no such file"):
        one(tmp_path / "nowhere.nii.gz")
    with pytest.raises(InputError, match="at least one slice"):
        read_given([], Reading())


# DICOM ----------------------------------------------------------------------------------------------------------------


def test_a_dicom_slice_lies_where_its_header_says(tmp_path: Path) -> None:
    pixels = RNG.integers(1, 900, (12, 10)).astype(np.int16)  # rows, columns
    thick = {(0x0018, 0x0050): ("DS", "4")}
    path = write_slice(tmp_path / "a.dcm", pixels, (-20.0, -30.0, 15.0), (1, 0, 0, 0, 1, 0), spacing=(1.2, 0.8), extra=thick)
    given = one(path)
    assert (given.axis, given.volume.shape, given.thickness_mm) == (2, (10, 12, 1), pytest.approx(4.0))
    # LPS to RAS: the first pixel is at the right front, the last of both axes in the array
    np.testing.assert_allclose(given.volume.affine @ [9, 11, 0, 1], [20, 30, 15, 1])
    assert given.volume.array[9, 11, 0] == pixels[0, 0]
    assert given.volume.array[9, 0, 0] == pixels[11, 0]


def test_a_dicom_slice_without_thickness_needs_it_said(tmp_path: Path) -> None:
    pixels = RNG.integers(1, 900, (12, 10)).astype(np.int16)
    path = write_slice(tmp_path / "a.dcm", pixels, (0, 0, 15.0), (1, 0, 0, 0, 1, 0), spacing=(1.2, 0.8))
    with pytest.raises(InputError, match="SliceThickness"):
        one(path)
    assert one(path, thickness_mm=3.0).thickness_mm == 3.0


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["radiological", "neurological"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_top_left_pixel_of_a_picture_lies_where_the_view_says(axis: str, view: str, tmp_path: Path) -> None:
    pixels = np.full((12, 10), 50, np.uint8)
    pixels[0, 0] = 250
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = one(tmp_path / "a.png", axis=axis, spacing_mm=1.5, view=view)
    (place,) = np.argwhere(given.volume.array == 250)
    world = (given.volume.affine @ [*place, 1.0])[:3]
    right_or_front = 1 if view == "radiological" else -1
    half_width, half_height = 1.5 * 9 / 2, 1.5 * 11 / 2
    expected = {
        "axial": [right_or_front * half_width, half_height, 0],
        "coronal": [right_or_front * half_width, 0, half_height],
        "sagittal": [0, right_or_front * half_width, half_height],
    }
    np.testing.assert_allclose(world, expected[axis])
    assert given.in_world is False


def test_sixteen_bits_of_a_picture_are_kept(tmp_path: Path) -> None:
    pixels = RNG.integers(300, 60000, (12, 10)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = one(tmp_path / "a.png", axis="axial", spacing_mm=1.5)
    np.testing.assert_array_equal(given.volume.array[:, :, 0], pixels[::-1, ::-1].T)


def test_a_picture_needs_spacing_and_axis(tmp_path: Path) -> None:
    Image.fromarray(np.full((12, 10), 50, np.uint8)).save(tmp_path / "a.png")
    for said in ({}, {"axis": "axial"}, {"spacing_mm": 1.0}):
        with pytest.raises(InputError, match="--spacing MM --axis"):
            one(tmp_path / "a.png", **said)


def test_colours_and_several_pictures_are_refused(tmp_path: Path) -> None:
    grey = np.full((12, 10, 3), 50, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    said = {"axis": "axial", "spacing_mm": 1.0}
    assert one(tmp_path / "grey.png", **said).volume.array.max() == 50
    with pytest.raises(InputError, match="a picture among several files"):
        read_given([tmp_path / "grey.png"] * 2, Reading(**said))
    Image.fromarray(grey * np.array([1, 2, 3], np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for name, message in (("colour", "mode RGB that is not all grey"), ("broken", "an unreadable picture")):
        with pytest.raises(InputError, match=message):
            one(tmp_path / f"{name}.png", **said)


@pytest.mark.parametrize("wrong", [{"axis": "transversal"}, {"view": "surgical"}, {"thickness_mm": 0.0}, {"spacing_mm": -1.0}])
def test_what_is_said_is_checked(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Reading(**wrong)
