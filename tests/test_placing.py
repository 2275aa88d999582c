"""Given slices on a model's array: in its middle, on whole rows, in the place where their files put them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xdiff.errors import InputError
from xdiff.given import Given
from xdiff.observation import Observation
from xdiff.placing import Array, around, as_axis, observe_given
from xdiff.planes import Plane
from xdiff.volumes import Volume

SHAPE, SPACING = (24, 26, 28), (2.0, 2.0, 2.0)


def given(shape: tuple, axis: int, spacing: tuple = SPACING, start: tuple = (3.3, -7.1, 12.7), tilt_deg: float = 0.0) -> Given:
    """Sections with a box of 40 to 90 % of the file, brighter to the right, front and top."""
    array = np.zeros(shape, np.float32)
    inside = tuple(slice(None) if a == axis else slice(int(0.4 * n), int(0.9 * n)) for a, n in enumerate(shape))
    ramp = sum(np.arange(n).reshape([-1 if b == a else 1 for b in range(3)]) * (a + 1) for a, n in enumerate(shape))
    array[inside] = (100 + ramp)[inside]
    c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = start
    return Given(Volume(array, affine, Path("slice.nii.gz")), axis, spacing[axis], "")


def observed(files: list[Given], array: Array) -> Observation:
    return observe_given(files, array, "T1w", "centred")


def middle(array: Array) -> np.ndarray:
    return (array.affine @ [*((np.array(array.shape) - 1) / 2), 1.0])[:3]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_box_is_in_the_middle_and_the_slice_on_a_row(axis: int) -> None:
    shape = tuple(1 if a == axis else 20 + a for a in range(3))
    one = given(shape, axis, tilt_deg=7)
    array = around([one], SHAPE, SPACING, None)
    box = np.argwhere(one.volume.array > 0)
    true = (one.volume.affine @ [*((box.min(axis=0) + box.max(axis=0)) / 2), 1.0])[:3]
    assert np.abs(middle(array) - true).max() <= 1.5  # half a voxel along every axis, tilted
    np.testing.assert_allclose(array.affine[:3, :3], one.directions * 2.0)
    (plane,) = observed([one], array).planes
    assert plane == Plane(axis, SHAPE[axis] // 2) or plane == Plane(axis, SHAPE[axis] // 2 - 1)
    place = np.zeros(4)
    place[axis], place[3] = plane.index, 1
    back = np.linalg.inv(one.volume.affine) @ array.affine @ place
    assert back[axis] == pytest.approx(0, abs=1e-9)


def test_pixels_of_the_arrays_own_spacing_are_kept_bit_for_bit() -> None:
    one = given((20, 21, 1), 2)
    array = around([one], SHAPE, SPACING, None)
    observation = observed([one], array)
    raw = observation.sections[0][0] * observation.scale[0]
    offset = np.round((np.linalg.inv(array.affine) @ one.volume.affine)[:2, 3]).astype(int)
    section = one.volume.array[..., 0]
    for i, j in np.argwhere(section > 0):
        assert raw[i + offset[0], j + offset[1]] == pytest.approx(section[i, j], rel=1e-6)
    assert (raw > 0).sum() == (section > 0).sum()


def test_finer_pixels_are_averaged_in_place() -> None:
    one = given((80, 84, 1), 2, spacing=(0.5, 0.5, 2.0))
    array = around([one], SHAPE, SPACING, None)
    observation = observed([one], array)
    raw = observation.sections[0][0] * observation.scale[0]
    fine = one.volume.array[..., 0]
    coarse_mm, fine_mm = (
        a.affine[:2, :2] @ (np.argwhere(s > 0).T @ s[s > 0] / s.sum()) + a.affine[:2, 3]
        for a, s in ((array, raw), (one.volume, fine))
    )
    np.testing.assert_allclose(coarse_mm, fine_mm, atol=0.1)
    assert raw.sum() * 16 == pytest.approx(fine.sum(), rel=0.02)  # one pixel for sixteen


@pytest.mark.parametrize("at_mm", [-14.0, 0.0, 9.0])
def test_a_stated_height_puts_the_middle_of_the_anatomy_below(at_mm: float) -> None:
    one = given((20, 1, 22), 1)
    array = around([one], SHAPE, SPACING, at_mm)
    assert middle(array)[1] == pytest.approx(one.volume.affine[1, 3] - at_mm, abs=1.001)


def test_a_stack_goes_on_the_nearest_rows_with_its_thickness() -> None:
    one = given((20, 21, 4), 2, spacing=(2.0, 2.0, 7.0))
    observation = observed([one], around([one], SHAPE, SPACING, None))
    rows = [p.index for p in observation.planes]
    assert np.diff(rows).tolist() in ([3, 4, 3], [4, 3, 4], [4, 3, 3], [3, 3, 4], [3, 4, 4], [4, 4, 3])
    assert abs(np.mean(rows) - 13.5) <= 0.5 + 3.5 / 2
    assert {p.thickness for p in observation.planes} == {3.5}


def test_two_sections_on_one_row_are_refused() -> None:
    one = given((20, 21, 4), 2, spacing=(2.0, 2.0, 0.7))
    with pytest.raises(InputError, match="two sections less than 2 mm apart"):
        observed([one], around([one], SHAPE, SPACING, None))


def test_a_section_outside_the_array_is_refused() -> None:
    one = given((20, 21, 5), 2, spacing=(2.0, 2.0, 20.0))
    with pytest.raises(InputError, match="an axial section .* mm outside, expected within 56 mm"):
        observed([one], around([one], SHAPE, SPACING, None))


def test_moved_arrays_see_the_same_slices_elsewhere() -> None:
    one = given((20, 21, 1), 2, spacing=(1.5, 1.5, 2.0))
    array = around([one], SHAPE, SPACING, None)
    here, there = observed([one], array), observed([one], array.moved((2, -1, 3)))
    assert there.planes[0].index == here.planes[0].index - 3
    np.testing.assert_allclose(there.sections[0][0, :-2, 1:], here.sections[0][0, 2:, :-1], atol=1e-6)


def test_sections_taken_for_another_axis_keep_their_pixels() -> None:
    one = given((20, 21, 3), 2, spacing=(1.0, 1.5, 6.0))
    other = as_axis(one, 0)
    assert (other.axis, other.volume.shape) == (0, (3, 20, 21))
    np.testing.assert_allclose(other.volume.spacing_mm, [6.0, 1.0, 1.5])
    np.testing.assert_array_equal(other.volume.array[1], one.volume.array[:, :, 1])
