"""The centre-line of a column of marrow whose curve is known, and angles of lines whose angles are."""

from __future__ import annotations

import numpy as np
import pytest
from bodies import Body, body, lateral_arc, sagittal_wave

from xdiff.data.phantom_body import body_subject
from xdiff.metrics.anatomy import body_mask
from xdiff.metrics.spine import END_MM, MARROW, NotFound, marrow_likeness, smoothed, spine_centre_line, spine_shape

HEIGHTS = np.arange(0.0, 451.0, 6.0)


def line_of(one: Body) -> np.ndarray:
    tissue, whole = body_mask(*one.images)
    return spine_centre_line(marrow_likeness(one.water, one.fat, tissue & whole), whole, one.spacing_mm)


def off_mm(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n, 2) distance right and forwards from the true line, section by section."""
    return found[:, :2] - np.stack([np.interp(found[:, 2], truth[:, 2], truth[:, axis]) for axis in (0, 1)], axis=1)


def arc(degrees: float, axis: int, heights: np.ndarray = HEIGHTS) -> np.ndarray:
    """A circle's arc in the coronal (axis 0) or sagittal plane, whose end tangents differ by so many degrees."""
    half = heights[-1] / 2
    radius = half / np.sin(np.radians(degrees / 2))
    line = np.zeros((len(heights), 3))
    line[:, axis], line[:, 2] = np.sqrt(radius**2 - (heights - half) ** 2), heights
    return line


# Centre-line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_mm", [6.0, 4.0, (4.0, 4.0, 8.0)], ids=str)
def test_a_curved_column_is_found_within_half_a_voxel(spacing_mm: float | tuple) -> None:
    one = body(lateral_arc(30), sagittal_wave(20), spacing_mm)
    found = line_of(one)
    assert found[0, 2] < 270 and found[-1, 2] > 700  # its 470 mm, but for ends
    away = off_mm(found, one.line)
    assert np.hypot(*away.T).mean() < 3 and np.abs(away).max() < 6


def test_left_and_right_are_not_exchanged() -> None:
    lines = [line_of(body(lambda z, side=side: np.full_like(z, side * 18.0))) for side in (-1, 1)]
    assert [np.median(line[:, 0]) - 180 for line in lines] == pytest.approx([-18, 18], abs=2)


def test_arches_behind_the_canal_do_not_draw_the_line_backwards() -> None:
    one = body()
    x, y, z = np.meshgrid(*[np.arange(n) * 6.0 for n in one.water.shape], indexing="ij")
    arches = (np.abs(x - 180) < 15) & (np.abs(y - (126 - 35 - 42)) < 8) & (z > 250)
    total = one.water + one.fat
    marked = one._replace(water=np.where(arches, 0.6 * total, one.water), fat=np.where(arches, 0.4 * total, one.fat))
    np.testing.assert_allclose(line_of(marked), line_of(one), atol=2)


def test_no_column_is_found_where_there_is_none() -> None:
    with pytest.raises(NotFound, match="0 mm of a vertebral column, less than 300 mm"):
        line_of(body(marrow=False))


def test_a_mixture_of_fat_and_muscle_everywhere_is_no_column() -> None:
    one = body(marrow=False)
    total = one.water + one.fat
    with pytest.raises(NotFound):
        line_of(one._replace(water=0.6 * total, fat=0.4 * total))


def test_marrow_is_neither_muscle_nor_adipose_tissue_nor_air() -> None:
    fat = np.array([0.05, 0.2, 0.4, 0.725, 0.9, 0.4])[:, None, None]
    tissue = np.array([True] * 5 + [False])[:, None, None]
    found = marrow_likeness(1 - fat, fat, tissue)[:, 0, 0]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0, 0]) and MARROW[1] < 0.4 < MARROW[2]


@pytest.mark.parametrize("patient", [0, 15])
def test_the_spine_of_a_phantom_body_is_found_within_a_voxel(patient: int) -> None:
    """A woman of BMI 28, and a man of 38 with a scoliosis; from L5/S1, or the lower end of the stretch, to C7/T1."""
    images, _, affine, known = body_subject(1, patient, 6.0)
    tissue, whole = body_mask(images["water"], images["fat"], (6.0,) * 3)
    found = spine_centre_line(marrow_likeness(images["water"], images["fat"], tissue & whole), whole, (6.0,) * 3) + affine[:3, 3]
    truth = np.array(sorted(known["spine_centre_line_mm"], key=lambda point: point[2]))
    inside = (found[:, 2] >= truth[0, 2]) & (found[:, 2] <= truth[-1, 2])
    assert inside.sum() > 50 and np.hypot(*off_mm(found[inside], truth).T).mean() < 6
    same = truth[(truth[:, 2] >= found[inside][0, 2]) & (truth[:, 2] <= found[inside][-1, 2])]
    for name, tolerance in (("spine_cobb_deg", 5), ("spine_kyphosis_deg", 5)):
        assert spine_shape(found[inside])[name] == pytest.approx(spine_shape(same)[name], abs=tolerance)


# Shape ---------------------------------------------------------------------------------------------------------------


def test_a_straight_line_has_no_curvature_however_it_leans() -> None:
    line = np.stack([0.2 * HEIGHTS, -0.1 * HEIGHTS, HEIGHTS], axis=1)
    assert list(spine_shape(line).values()) == pytest.approx([0] * 5, abs=1e-6)


def test_the_cobb_angle_of_an_arc_is_that_of_its_ends() -> None:
    """Of the 450 mm of the arc, END_MM are cut at both ends; and a smoothing spline straightens towards its ends."""
    found = spine_shape(arc(30, 0))
    between = 30 * (450 - 2 * END_MM) / 450
    assert 0.85 * between < found["spine_cobb_deg"] < between
    radius_m = 0.225 / np.sin(np.radians(15))
    assert 0.85 / radius_m < found["spine_curvature_per_m"] < 1 / radius_m
    assert found["spine_lateral_mm"] == pytest.approx(1000 * radius_m * (1 - np.cos(np.radians(14))), rel=0.05)
    assert found["spine_kyphosis_deg"] == found["spine_lordosis_deg"] == 0


def test_lordosis_is_below_and_kyphosis_above() -> None:
    """A wave forwards in its lower half. Steepest at the ends and, backwards, in the middle: atan(2 pi A / L) each."""
    lower, upper = (HEIGHTS < 225, 20.0), (HEIGHTS >= 225, 10.0)
    y = sum(where * amplitude * np.sin(2 * np.pi * HEIGHTS / 450) for where, amplitude in (lower, upper))
    found = spine_shape(np.stack([0 * HEIGHTS, y, HEIGHTS], axis=1))
    steep = [float(np.degrees(np.arctan(2 * np.pi * a / 450))) for a in (20.0, 10.0)]
    middle = sum(steep) / 2  # the spline rounds off the change of slope there
    assert found["spine_lordosis_deg"] == pytest.approx(steep[0] + middle, abs=3)
    assert found["spine_kyphosis_deg"] == pytest.approx(steep[1] + middle, abs=3)
    assert found["spine_cobb_deg"] == 0


def test_turned_about_its_height_a_curve_changes_planes_and_not_curvature() -> None:
    coronal, sagittal = (spine_shape(arc(30, axis)) for axis in (0, 1))
    assert sagittal["spine_curvature_per_m"] == pytest.approx(coronal["spine_curvature_per_m"])
    assert sagittal["spine_cobb_deg"] == 0 and coronal["spine_cobb_deg"] > 23


def test_sections_twice_as_thick_give_the_same_curve() -> None:
    thin, thick = (arc(30, 0, np.arange(0.0, 457.0, step)) for step in (3.0, 6.0))
    assert spine_shape(thick)["spine_cobb_deg"] == pytest.approx(spine_shape(thin)["spine_cobb_deg"], rel=0.01)


def test_a_jitter_from_section_to_section_is_smoothed_away() -> None:
    line = arc(30, 0)
    jittered = line + np.random.default_rng(0).normal(0, 1.5, line.shape) * [1, 1, 0]
    assert np.abs(smoothed(jittered).place - smoothed(line).place).max() < 1.5
    assert spine_shape(jittered)["spine_cobb_deg"] == pytest.approx(spine_shape(line)["spine_cobb_deg"], abs=3)
