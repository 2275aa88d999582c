"""Whole heads are told from skull-stripped ones by what can be measured, and refused where stripped ones are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xdiff.config import Cohort, Config, Grid, MethodEntry, Run, Sweep
from xdiff.data.heads import check_stripped, head_of, largest_part, ring_contrast
from xdiff.errors import InputError
from xdiff.volumes import Volume

SPACING = np.array([2.0, 2.0, 3.0])
SHAPE = (100, 110, 60)


def depth_mm() -> np.ndarray:
    """Distance below the surface of an ellipsoid of 160 x 190 x 150 mm, negative outside (along the radius)."""
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    radius = np.sqrt((x / 80) ** 2 + (y / 95) ** 2 + (z / 75) ** 2)
    return (1 - radius) * 75


def head(scalp: float = 1.5, skull: float = 0.4, scale: float = 300.0) -> np.ndarray:
    """Scalp of 8 mm, skull of 8 mm, then brain, in units of the brain; nothing outside."""
    depth = depth_mm()
    tissue = np.select([depth < 0, depth < 8, depth < 16], [0, scalp, skull], 1.0)
    noise = np.random.default_rng(0).normal(1, 0.05, SHAPE)
    return np.where(depth >= 0, np.maximum(tissue * noise * scale, 1), 0).astype(np.float32)


def brain() -> np.ndarray:
    """What is left of it without scalp and skull, cerebrospinal fluid dark at the rim."""
    depth = depth_mm()
    return np.where(depth >= 16, head() * np.clip((depth - 16) / 10, 0.3, 1), 0).astype(np.float32)


def test_a_stripped_brain_is_one_whatever_its_rim() -> None:
    for image in (brain(), brain() * 7, np.where(brain() > 0, 500 - brain(), 0)):  # T1w, other units, bright rim as in T2w
        found = head_of(image, SPACING)
        assert not found.whole
        assert "exact zeros" in found.reason


def test_noise_outside_the_head_gives_it_away() -> None:
    noisy = head() + np.random.default_rng(1).rayleigh(5, SHAPE).astype(np.float32)
    assert head_of(noisy, SPACING) == (True, "100.0% non-zero voxels")


def test_more_than_a_brain_can_hold() -> None:
    """An ellipsoid has 4/3 pi abc: 2,388 ml here, and 699 at two thirds of the spacing."""
    flat = (depth_mm() >= 0).astype(np.float32)
    found = head_of(flat, SPACING)
    assert found.whole
    assert abs(float(found.reason.split()[3]) - 4 / 3 * np.pi * 80 * 95 * 75 / 1000) < 60
    assert not head_of(flat, SPACING * 2 / 3).whole


def test_the_ring_of_skull_shows_at_any_size_and_without_noise_outside() -> None:
    """A small head, its background set to zero, has neither of the other signs."""
    found = head_of(head(), SPACING * 0.9)
    assert found.whole
    assert "dark ring" in found.reason


def test_the_contrast_of_the_ring_is_what_lies_about_it_over_it() -> None:
    """Shells of 1.5, 0.4 and 1.0: the darkest whole shell has 0.4, the darker side 1.0."""
    image = head()
    assert ring_contrast(image, image > 0, SPACING) == pytest.approx(1.0 / 0.4, rel=0.02)
    assert ring_contrast(brain(), brain() > 0, SPACING) < 1.01


def test_a_thin_object_has_no_ring() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[40:45] = 1
    assert ring_contrast(image, image > 0, SPACING) == 1


def test_the_largest_part_is_kept_and_filled() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = mask[8, 8, 8] = False
    expected = np.zeros((9, 9, 9), bool)
    expected[1:6, 1:6, 1:6] = True
    mask[8, 8, 8] = True
    np.testing.assert_array_equal(largest_part(mask), expected)


def test_the_message_names_the_file_what_was_found_and_what_to_do() -> None:
    affine = np.diag([*(SPACING * 0.9), 1.0])
    with pytest.raises(InputError) as caught:
        check_stripped(Volume(head(), affine, Path("sub-01_T1w.nii.gz")))
    message = str(caught.value)
    assert message.startswith("sub-01_T1w.nii.gz: found a whole head: a dark ring")
    assert "skull_strip" in message and "foreground: otsu" in message
    check_stripped(Volume(brain(), affine, Path("sub-01_T1w.nii.gz")))


def crossed(trained: str, tested: str) -> Config:
    """A model of cohort a, asked for cohort b."""
    cohorts = {"a": Cohort("bids", ("T1w",), foreground=trained), "b": Cohort("bids", ("T1w",), foreground=tested)}
    run = Run(("b",), ("g",), ("m",), ("s",), trained_on=("a",))
    return Config(cohorts, {"g": Grid((8, 8, 8), 4.0)}, {"m": MethodEntry("baselines.trivial")}, {"s": Sweep()}, run)


def test_a_skull_stripped_model_is_not_asked_for_whole_heads() -> None:
    with pytest.raises(
        InputError, match=r"run\.trained_on: a: found a model of skull-stripped volumes for cohort b of whole heads"
    ):
        crossed("nonzero", "otsu")
    for trained, tested in (("nonzero", "nonzero"), ("otsu", "otsu"), ("otsu", "nonzero"), ("nonzero", "all")):
        crossed(trained, tested)
