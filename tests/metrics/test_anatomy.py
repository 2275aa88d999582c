"""Volume and fat of bodies of known size, and what is no body."""

from __future__ import annotations

import numpy as np
import pytest
from bodies import FAT_SHELL_MM, HALF_WIDTHS_MM, LENGTH_MM, TRUNK_FROM_MM, body, lateral_arc

from xdiff.errors import InputError
from xdiff.metrics.anatomy import body_mask, measure
from xdiff.stats import ANATOMY, SPINE_MEASURES

MM = (5.0, 5.0, 10.0)


def block(shape: tuple[int, int, int] = (40, 40, 40), fat_share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Water and fat of a box of 30 x 30 x 30 voxels, 6.75 l at MM."""
    signal = np.zeros(shape, np.float32)
    signal[5:35, 5:35, 5:35] = 100
    return signal * (1 - fat_share), signal * fat_share


def test_litres_and_fat_of_a_box_come_out_exactly() -> None:
    found = measure(*block(), MM)
    assert found["body_volume_l"] == pytest.approx(27000 * 250 / 1e6) and found["fat_fraction"] == pytest.approx(0.25)
    assert found["adipose_volume_l"] == 0
    assert measure(*block(fat_share=0.9), MM)["adipose_volume_l"] == pytest.approx(6.75)


def test_lungs_are_of_the_body_and_hands_beside_it_are_not() -> None:
    water, fat = block()
    water[10:20, 10:20, 20:40] = fat[10:20, 10:20, 20:40] = 0  # open at the top, as airways are
    fat[0:3, 0:3, 0:3] = 100
    assert measure(water, fat, MM)["body_volume_l"] == pytest.approx(6.75)
    tissue, whole = body_mask(water, fat, MM)
    assert whole[15, 15, 25] and not tissue[15, 15, 25] and tissue[0, 0, 0] and not whole[0, 0, 0]


def test_a_body_of_known_outline_and_shell() -> None:
    one = body(lateral_arc(30), spacing_mm=4.0)
    found = measure(*one.images)
    a, b = HALF_WIDTHS_MM
    trunk = np.pi * (LENGTH_MM - TRUNK_FROM_MM) * np.array([a * b, (a - FAT_SHELL_MM) * (b - FAT_SHELL_MM)]) / 1e6
    legs = 2 * np.pi * TRUNK_FROM_MM * np.array([70.0, 70 - FAT_SHELL_MM]) ** 2 / 1e6
    whole, lean = trunk + legs
    assert found["body_volume_l"] == pytest.approx(whole, rel=0.03)
    assert found["adipose_volume_l"] == pytest.approx(whole - lean, rel=0.06)
    assert found["fat_fraction"] == pytest.approx((0.92 * (whole - lean) + 0.06 * lean) / whole, rel=0.05)
    assert set(found) == set(ANATOMY) and found["spine_cobb_deg"] == pytest.approx(24, abs=2)


def test_what_the_units_of_the_signal_are_does_not_matter() -> None:
    one = body()
    scaled = measure(7 * one.water, 7 * one.fat, one.spacing_mm)
    assert scaled == pytest.approx(measure(*one.images), rel=1e-4)


def test_a_body_without_a_spine_keeps_its_other_measures() -> None:
    found = measure(*body(marrow=False).images)
    assert [name for name, value in found.items() if np.isnan(value)] == list(SPINE_MEASURES)


@pytest.mark.parametrize("image", [np.zeros((30, 30, 30)), np.ones((30, 30, 30))], ids=["zeros", "constant"])
def test_where_there_is_no_body_nothing_is_measured(image: np.ndarray) -> None:
    assert all(np.isnan(value) for value in measure(image, image, MM).values())


def test_a_few_given_sections_in_an_empty_volume_are_no_body() -> None:
    one = body()
    kept = np.isin(np.arange(one.water.shape[2]), [30, 60, 90])
    assert all(np.isnan(value) for value in measure(one.water * kept, one.fat * kept, one.spacing_mm).values())


@pytest.mark.parametrize(
    ("water", "fat", "message"),
    [
        (np.ones((4, 4, 4)), np.ones((4, 4, 5)), r"shapes \(4, 4, 4\) and \(4, 4, 5\)"),
        (np.ones((4, 4)), np.ones((4, 4)), "two volumes"),
        (np.full((4, 4, 4), np.nan), np.ones((4, 4, 4)), "NaN or infinite voxels"),
    ],
)
def test_what_is_no_pair_of_images_is_refused(water: np.ndarray, fat: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(water, fat, MM)
