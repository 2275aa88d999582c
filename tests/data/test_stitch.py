"""Stations to one volume, against the body that they were cut from: every step is worth decibels that the test would miss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from body_stations import GAINS, body, points_of, psnr, stations, truth

from xdiff.data import stitch as stitching
from xdiff.data.stations import Station
from xdiff.data.stitch import Stitched, gains_of, grid_of, stitch
from xdiff.data.swaps import Overlap, fat_below_the_skin, fat_fraction, find_swaps
from xdiff.errors import InputError

WHERE = Path("1234567_20201_2_0.zip")
LENGTH_MM = 8.0 * (6 * 12 + 4)
CUT = stations(contrasts=("water", "fat"))
OTHER = stations(contrasts=("water", "fat"), swapped=range(6))  # the same, fat and water exchanged everywhere


def decibels(found: Stitched) -> float:
    """The worse of water and fat."""
    true = truth(found.body.shape, found.affine, LENGTH_MM)
    return min(psnr(found.images[name], true[name]) for name in true)


def swapped(*indices: int) -> list[Station]:
    return [(OTHER if i in indices else CUT)[i] for i in range(6)]


@cache
def plain() -> Stitched:
    return stitch(CUT, 0, WHERE)


def labels(found: Stitched) -> list[int]:
    return [i for i, row in enumerate(found.record["stations"]) if row["swapped"]]


# The whole --------------------------------------------------------------------------------------------------------


def test_the_stitched_body_is_the_one_that_was_cut() -> None:
    found = stitch(swapped(1, 4), 0, WHERE)
    true = truth(found.body.shape, found.affine, LENGTH_MM)
    assert decibels(found) > 41  # 43.3 measured; see below what it is without one step or another
    for name in true:
        assert np.corrcoef(found.images[name].ravel(), true[name].ravel())[0, 1] > 0.999
    np.testing.assert_allclose(found.affine[:3, :3], 6 * np.eye(3))
    assert found.body.shape == (56, 38, 101) and labels(found) == [1, 4] and found.record["swaps_repaired"] == 2


def test_the_body_mask_is_the_body_without_holes() -> None:
    found = plain()
    water, fat = body(points_of(found.body.shape, found.affine), LENGTH_MM)
    true = water + fat > 150
    assert 2 * (true & found.body).sum() / (true.sum() + found.body.sum()) > 0.95
    lung = tuple(np.rint(np.linalg.solve(found.affine, [-55, 0, 0.82 * LENGTH_MM, 1])[:3]).astype(int))
    assert found.body[lung] and not true[lung]


@pytest.mark.parametrize("spacing_mm", [5.0, 8.0])
def test_any_spacing_up_to_the_coarsest_gives_the_same_body(spacing_mm: float) -> None:
    found = stitch(CUT, spacing_mm, WHERE)
    np.testing.assert_allclose(np.diag(found.affine)[:3], spacing_mm)
    assert decibels(found) > 33
    assert found.record == plain().record


def test_a_tilted_body_lies_where_its_stations_lay() -> None:
    turn = np.eye(4)
    turn[:3, :3] = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])
    turn[:3, 3] = 7, -11, 300
    straight, found = plain(), stitch([replace(one, affine=turn @ one.affine) for one in CUT], 0, WHERE)
    np.testing.assert_allclose(found.affine, turn @ straight.affine, atol=1e-9)
    np.testing.assert_allclose(found.images["water"], straight.images["water"], atol=0.05)


# What each step is worth ------------------------------------------------------------------------------------------


def no_gains(log_ratios: list[float]) -> np.ndarray:
    return np.ones(len(log_ratios) + 1)


def no_swaps(below_skin: list[float], overlaps: list[Overlap]) -> tuple[tuple[bool, ...], float]:
    return (False,) * len(below_skin), 1.0


def average(stations: list[Station], i: int, grid: stitching.Grid) -> np.ndarray:
    return np.ones(grid.shape[2], np.float32)


def cut(stations: list[Station], i: int, grid: stitching.Grid) -> np.ndarray:
    """The lower station as far as it goes."""
    heights = grid.first_mm[2] + grid.spacing_mm * np.arange(grid.shape[2])
    covered = heights < (stations[i - 1].extent_mm[2, 1] if i else -np.inf)
    return np.where(covered, 1e-6, 1.0).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "instead", "at_most"),
    [("gains_of", no_gains, 23), ("find_swaps", no_swaps, 18), ("_ramp", average, 33), ("_ramp", cut, 30)],
)
def test_without_one_step_the_body_is_another(
    monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable, at_most: float
) -> None:
    monkeypatch.setattr(stitching, name, instead)
    assert decibels(stitch(swapped(1), 0, WHERE)) < at_most


# Gains ------------------------------------------------------------------------------------------------------------


def test_the_gains_undo_those_of_the_stations() -> None:
    found = [row["gain"] for row in plain().record["stations"]]
    np.testing.assert_allclose(found, np.exp(np.log(GAINS).mean()) / np.array(GAINS), rtol=0.01)


def test_gains_from_ratios_have_a_geometric_mean_of_one() -> None:
    np.testing.assert_allclose(gains_of([np.log(2.0), np.log(0.5)]), np.array([1, 2, 1]) / 2 ** (1 / 3))


def test_a_bright_artefact_in_an_overlap_does_not_move_its_gain() -> None:
    """A fifth of the overlap's tissue ten times as bright: a mean of ratios would be 60 % off."""
    images = {name: image.copy() for name, image in CUT[2].images.items()}
    for image in images.values():
        image[22:34, 12:24, :4] *= 10
    expected = [row["gain"] for row in plain().record["stations"]]
    found = [row["gain"] for row in stitch([*CUT[:2], replace(CUT[2], images=images), *CUT[3:]], 0, WHERE).record["stations"]]
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_a_station_far_too_bright_is_named_by_its_height() -> None:
    images = {name: image * 20 for name, image in CUT[3].images.items()}
    with pytest.raises(InputError, match=r"times as bright as its neighbour, from 284 to 316 mm"):
        stitch([*CUT[:3], replace(CUT[3], images=images), *CUT[4:]], 0, WHERE)


def test_an_overlap_without_tissue() -> None:
    images = {name: image.copy() for name, image in CUT[2].images.items()}
    for image in images.values():
        image[..., :5] = 0
    with pytest.raises(InputError, match=r"zip: found 0 voxels of tissue that two stations share, from 188 to 220 mm"):
        stitch([*CUT[:2], replace(CUT[2], images=images), *CUT[3:]], 0, WHERE)


# Swaps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [(), (0,), (5,), (0, 2, 4), tuple(range(6))], ids=str)
def test_swapped_stations_are_found_and_put_right(indices: tuple[int, ...]) -> None:
    found = stitch(swapped(*indices), 0, WHERE)
    assert labels(found) == list(indices) and decibels(found) > 41
    assert max(row["fat_fraction_difference"] for row in found.record["overlaps"]) < 0.05


def test_a_lean_body_with_noise_is_told_from_a_swapped_one() -> None:
    lean = {"fat_mm": 9.0, "noise": 25.0, "contrasts": ("water", "fat")}
    for indices in ((2, 3), tuple(range(6))):
        assert labels(stitch(stations(swapped=indices, **lean), 0, WHERE)) == list(indices)


def test_every_combination_of_swaps_is_found_from_clear_signs() -> None:
    for swaps in itertools.product((False, True), repeat=4):
        below_skin = [-0.3 if swap else 0.3 for swap in swaps]
        overlaps = [Overlap(0.6, 0.1) if a != b else Overlap(0.1, 0.6) for a, b in itertools.pairwise(swaps)]
        assert find_swaps(below_skin, overlaps) == (swaps, pytest.approx(0.6 + 0.5))


def test_neighbours_overrule_the_anatomy_of_one_station() -> None:
    """Its rim says swapped, both its overlaps deny it."""
    assert find_swaps([0.4, -0.2, 0.4], [Overlap(0.05, 0.6)] * 2)[0] == (False,) * 3


def test_what_cannot_be_told_is_refused() -> None:
    """Fat and water alike everywhere."""
    alike = [replace(one, images={"water": one.images["water"], "fat": one.images["water"]}) for one in CUT]
    with pytest.raises(InputError, match=r"cannot be told apart \(margin 0\.000;"):
        stitch(alike, 0, WHERE)


def partly_swapped(columns: int) -> list[Station]:
    """Fat and water exchanged in the first columns of the second station."""
    images = {name: image.copy() for name, image in CUT[1].images.items()}
    images["fat"][:columns], images["water"][:columns] = OTHER[1].images["fat"][:columns], OTHER[1].images["water"][:columns]
    return [CUT[0], replace(CUT[1], images=images), *CUT[2:]]


def test_a_part_of_a_station_that_is_swapped_is_noted_and_left() -> None:
    found = stitch(partly_swapped(19), 0, WHERE)
    suspected = [row["part_swapped_suspected"] for row in found.record["overlaps"]]
    assert labels(found) == [] and suspected == [True, True, False, False, False]


def test_a_leg_of_two_that_is_swapped_leaves_no_right_answer() -> None:
    with pytest.raises(InputError, match=r"half of a station swapped\?"):
        stitch(partly_swapped(28), 0, WHERE)


def test_fat_fractions_stay_within_0_and_1_and_air_has_none() -> None:
    np.testing.assert_allclose(fat_fraction(np.array([0.0, 3, 4]), np.array([0.0, 1, 0])), [0, 0.75, 1])


def test_a_station_without_depth_says_nothing() -> None:
    thin = np.zeros((30, 30, 4), bool)
    thin[10:14] = True
    assert fat_below_the_skin(np.ones(thin.shape), thin, (2.0, 2.0, 2.0)) == 0


# Grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_coarser_than_the_stations_is_refused() -> None:
    with pytest.raises(InputError, match=r"stitch_spacing_mm 9, expected at most 8 mm"):
        grid_of(CUT, 9.0, WHERE)


def test_no_voxel_of_the_grid_lies_beyond_the_stations() -> None:
    for spacing_mm in (0, 3.7, 5.0, 7.3):
        grid = grid_of(CUT, spacing_mm, WHERE)
        faces = np.stack([grid.first_mm, grid.first_mm + grid.spacing_mm * (np.array(grid.shape) - 1)])
        low, high = faces[0] - grid.spacing_mm / 2, faces[1] + grid.spacing_mm / 2
        assert (low >= [-168, -114, -4]).all() and (high <= np.array([168, 114, 604]) + 1e-6).all()
