"""Scores of masks against values worked out by hand, and against a plain restatement of BraTS' definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from xdiff.segment import scores
from xdiff.segment.scores import LEAST_MM3, MISSING_MM, dice, hd95_mm, lesions_of, score_lesions

ONE = (1.0, 1.0, 1.0)
EMPTY = np.zeros((40, 40, 40), bool)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def box(*corners: tuple[slice, slice, slice]) -> np.ndarray:
    mask = EMPTY.copy()
    for corner in corners:
        mask[corner] = True
    return mask


def cube(at: tuple[int, int, int], side: int) -> tuple[slice, slice, slice]:
    return tuple(slice(a, a + side) for a in at)


# Dice ----------------------------------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    a, b = box(cube((5, 5, 5), 4)), box(cube((7, 5, 5), 4))  # 64 voxels each, 32 in common
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1 and dice(a, EMPTY) == dice(EMPTY, a) == 0 and dice(EMPTY, EMPTY) == 1


# Surface distance ----------------------------------------------------------------------------------------------------


def test_surfaces_that_are_the_same_are_zero_apart() -> None:
    a = box(cube((5, 5, 5), 8))
    assert hd95_mm(a, a, ONE) == 0 and hd95_mm(EMPTY, EMPTY, ONE) == 0
    assert hd95_mm(a, EMPTY, ONE) == hd95_mm(EMPTY, a, ONE) == MISSING_MM


@pytest.mark.parametrize(("spacing", "expected"), [((1, 1, 1), 3), ((2, 1, 1), 6), ((1, 2, 3), 3)])
def test_a_slab_moved_by_three_voxels_is_three_voxels_away(spacing: tuple[int, int, int], expected: float) -> None:
    """A slab through the whole array has no other surface than its two faces and a narrow rim."""
    a, b = EMPTY.copy(), EMPTY.copy()
    a[10:30], b[13:33] = True, True
    assert hd95_mm(a, b, spacing) == pytest.approx(expected)


def test_a_small_far_spot_does_not_count_at_the_95th_percentile() -> None:
    a = box(cube((5, 5, 5), 20))  # 2400 faces
    with_spot = a | box(cube((36, 36, 36), 1))
    assert hd95_mm(with_spot, a, ONE) == 0
    assert hd95_mm(with_spot, box(cube((5, 5, 5), 2)), ONE) > 20


def test_a_mask_at_the_rim_of_the_array_has_a_surface_there() -> None:
    a, b = EMPTY.copy(), EMPTY.copy()
    a[:], b[2:] = True, True
    assert hd95_mm(a, b, ONE) > 0


def test_distances_are_near_those_between_voxel_boundaries(rng: np.random.Generator) -> None:
    """Against all pairs of corners of the voxel grid that lie on the surfaces, unweighted: within a voxel."""
    smooth = [ndimage.gaussian_filter(rng.standard_normal((24, 24, 24)), 3) for _ in range(2)]
    a, b = (s > 0.02 for s in smooth)

    def corners(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        count = sum(np.roll(padded, shift, (0, 1, 2)).astype(int) for shift in np.ndindex(2, 2, 2))
        return np.argwhere((count > 0) & (count < 8))

    apart = cdist(corners(a), corners(b))
    plain = max(np.percentile(apart.min(axis=1), 95), np.percentile(apart.min(axis=0), 95))
    assert hd95_mm(a, b, ONE) == pytest.approx(plain, abs=1.0)


# Lesions -------------------------------------------------------------------------------------------------------------


def test_components_with_touching_dilations_are_one_lesion() -> None:
    """Dilated by three each, cubes that leave six voxels between them touch, and with seven no longer."""
    for gap, expected in ((5, 1), (6, 1), (7, 2), (8, 2)):
        truth = box(cube((5, 10, 10), 5), cube((10 + gap, 10, 10), 5))
        numbers, count = lesions_of(truth)
        assert count == expected, gap
        assert ((numbers > 0) == truth).all()


def test_scores_by_hand() -> None:
    """One lesion found by half, one missed, one false lesion: (2/3 + 0 + 0) / 3."""
    truth = box(cube((3, 3, 3), 8), cube((25, 25, 25), 6))
    predicted = box((slice(3, 7), slice(3, 11), slice(3, 11)), cube((30, 5, 5), 4))
    found = score_lesions(predicted, truth, ONE)
    assert [lesion.volume_mm3 for lesion in found.lesions] == [512, 216]
    assert [lesion.found for lesion in found.lesions] == [True, False]
    assert found.lesions[0].dice == pytest.approx(2 / 3) and found.lesions[1].dice == 0
    assert found.lesions[1].hd95_mm == MISSING_MM and found.false_lesions == 1
    assert found.dice == pytest.approx(2 / 9) and found.recall == 0.5
    assert found.hd95_mm == pytest.approx((found.lesions[0].hd95_mm + 2 * MISSING_MM) / 3)
    assert found.lesions[0].hd95_mm == pytest.approx(4, abs=0.5)  # from the far face of the half that is missing


def test_a_component_counts_as_a_whole_for_every_lesion_that_it_overlaps() -> None:
    truth = box(cube((3, 10, 10), 6), cube((25, 10, 10), 6))
    predicted = box((slice(3, 31), slice(10, 16), slice(10, 16)))
    found = score_lesions(predicted, truth, ONE)
    assert [lesion.dice for lesion in found.lesions] == pytest.approx([2 * 216 / (1008 + 216)] * 2)
    assert found.false_lesions == 0


def test_small_lesions_of_the_truth_do_not_count_but_are_not_false_either() -> None:
    truth = box(cube((3, 3, 3), 3), cube((20, 20, 20), 6))  # 27 mm3 and 216 mm3
    found = score_lesions(truth, truth, ONE)
    assert len(found.lesions) == 2 and len(found.counted) == 1
    assert found.dice == 1 and found.hd95_mm == 0 and found.recall == 1 and found.false_lesions == 0
    assert found.lesions[0].volume_mm3 < LEAST_MM3
    assert len(score_lesions(truth, truth, (2, 2, 2)).counted) == 2  # mm, not voxels


def test_small_false_lesions_count() -> None:
    truth = box(cube((20, 20, 20), 6))
    found = score_lesions(truth | box(cube((2, 2, 2), 1)), truth, ONE)
    assert found.false_lesions == 1 and found.dice == 0.5 and found.hd95_mm == MISSING_MM / 2


def test_empty_masks() -> None:
    some = box(cube((5, 5, 5), 5))
    agreed = score_lesions(EMPTY, EMPTY, ONE)
    assert (agreed.dice, agreed.hd95_mm, agreed.false_lesions) == (1, 0, 0) and np.isnan(agreed.recall)
    missed = score_lesions(EMPTY, some, ONE)
    assert (missed.dice, missed.hd95_mm, missed.recall) == (0, MISSING_MM, 0)
    invented = score_lesions(some, EMPTY, ONE)
    assert (invented.dice, invented.hd95_mm, invented.false_lesions) == (0, MISSING_MM, 1)


def test_the_same_as_the_definition_written_out(rng: np.random.Generator) -> None:
    """Component by component, with the numbers that the challenge's own script computes; random blobs."""
    for _ in range(5):
        fields = [ndimage.gaussian_filter(rng.standard_normal((40, 40, 40)), 2) for _ in range(2)]
        truth, predicted = fields[0] > 0.075, 0.7 * fields[0] + 0.7 * fields[1] > 0.075
        dilated = ndimage.binary_dilation(truth, ndimage.generate_binary_structure(3, 2), iterations=3)
        combined = ndimage.label(dilated, np.ones((3, 3, 3)))[0] * truth
        parts = ndimage.label(predicted, np.ones((3, 3, 3)))[0]
        total, number, used = 0.0, 0, {0}
        for lesion in np.unique(combined[combined > 0]):
            inside = combined == lesion
            touching = set(np.unique(parts[inside])) - {0}
            used |= touching
            whole = np.isin(parts, list(touching))
            if inside.sum() > 50:
                total += 2 * (whole & inside).sum() / (whole.sum() + inside.sum())
                number += 1
        false = len(set(np.unique(parts)) - used)
        found = score_lesions(predicted, truth, ONE)
        assert found.false_lesions == false and false > 0
        assert found.dice == pytest.approx(total / (number + false))


def test_the_constants_are_those_of_the_challenge() -> None:
    assert (scores.DILATION, scores.LEAST_MM3, scores.MISSING_MM, scores.PERCENT) == (3, 50, 374, 95)
