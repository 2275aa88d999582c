"""Augmentation: what it must leave as it is, what moves together, and how far its settings let it go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from xdiff.augment import Augmentation, sample_cubic, sample_linear

SHAPE, SPACING = (26, 30, 24), (4.0, 4.0, 4.0)
ALWAYS = Augmentation(warp=1.0)
STILL = Augmentation(1.0, rotation_deg=0, scale=0, shift_mm=0, elastic_mm=0, gamma=0, bias=0)
IDENTITY = np.indices(SHAPE).astype(float)


def blob() -> tuple[np.ndarray, np.ndarray]:
    """An off-centre ellipsoid that is 0.4 at its border and 1 inside, on a background of exactly 0, and its foreground."""
    squares = [((x - c) / r) ** 2 for x, c, r in zip(np.indices(SHAPE), (11, 16, 12), (8, 10, 7), strict=True)]
    radius = np.sqrt(sum(squares))
    inside = radius <= 1
    return np.where(inside, 1 - 0.6 * radius**2, 0).astype(np.float32)[None], inside


def apply(
    augmentation: Augmentation, volume: np.ndarray, foreground: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    changed = augmentation(torch.from_numpy(volume), torch.from_numpy(foreground), SPACING, rng)
    return changed[0].numpy(), changed[1].numpy()


def draw(augmentation: Augmentation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return apply(augmentation, *blob(), np.random.default_rng(seed))


def sources(augmentation: Augmentation, shape: tuple[int, ...], spacing: tuple[float, float, float], seed: int) -> np.ndarray:
    return augmentation._sources(shape, spacing, np.random.default_rng(seed), torch.device("cpu")).double().numpy()


def moved_mm(augmentation: Augmentation, seed: int) -> np.ndarray:
    """(3, X, Y, Z): how far away every voxel takes its value from."""
    return (sources(augmentation, SHAPE, SPACING, seed) - IDENTITY) * 4.0


@pytest.mark.parametrize("seed", range(5))
def test_range_stays_positive_and_background_stays_zero(seed: int) -> None:
    volume, inside = draw(ALWAYS, seed)
    assert volume.shape == (1, *SHAPE) and volume.dtype == np.float32 and inside.dtype == bool
    assert volume.min() == 0 and np.isfinite(volume).all()
    assert 0.7 < volume.max() < 1.5
    assert not volume[0][~ndimage.binary_dilation(inside)].any()


@pytest.mark.parametrize("seed", range(5))
def test_foreground_and_volume_move_together(seed: int) -> None:
    volume, inside = draw(replace(ALWAYS, gamma=0, bias=0), seed)
    head = volume[0] > 0.2  # half of the border's value
    assert 2 * (head & inside).sum() / (head.sum() + inside.sum()) > 0.96
    before, after = (ndimage.center_of_mass(mask) for mask in (blob()[1], inside))
    assert np.abs(np.subtract(ndimage.center_of_mass(head), after)).max() < 0.25
    assert np.linalg.norm(np.subtract(before, after)) > 0.1


def test_contrasts_move_together_and_change_apart() -> None:
    volume, inside = blob()
    pair = np.concatenate([volume, 0.5 * volume])
    first, second = apply(replace(ALWAYS, gamma=0, bias=0), pair, inside, np.random.default_rng(0))[0]
    np.testing.assert_allclose(second, 0.5 * first, atol=1e-6)
    first, second = apply(ALWAYS, np.concatenate([volume, volume]), inside, np.random.default_rng(0))[0]
    assert np.abs(first - second)[inside].mean() > 0.01


def test_a_volume_without_background_keeps_its_values_where_foreground_ends() -> None:
    """A random field, or a scan with noise in the air: nothing may be cut out of it."""
    volume = np.random.default_rng(0).uniform(0.5, 1, (1, *SHAPE)).astype(np.float32)
    half = np.indices(SHAPE)[0] < 13
    warped, _ = apply(replace(STILL, gamma=0.1), volume, half, np.random.default_rng(0))
    assert warped.min() > 0.3


def test_a_draw_depends_on_its_generator_alone() -> None:
    first, again, other = draw(ALWAYS, 1), draw(ALWAYS, 1), draw(ALWAYS, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


def test_the_given_arrays_are_not_written_to() -> None:
    for augmentation in (ALWAYS, Augmentation(symmetric=True)):
        volume, inside = blob()
        apply(augmentation, volume, inside, np.random.default_rng(0))
        for now, before in zip((volume, inside), blob(), strict=True):
            np.testing.assert_array_equal(now, before)


def test_warp_is_the_share_of_draws_that_are_changed() -> None:
    volume, inside = blob()
    assert all(np.array_equal(draw(replace(ALWAYS, warp=0.0), s)[0], volume) for s in range(20))
    small = blob()[0][:, 8:14, 12:18, 8:14], inside[8:14, 12:18, 8:14]
    rng = np.random.default_rng(0)
    changed = [not np.array_equal(apply(replace(ALWAYS, warp=0.3), *small, rng)[0], small[0]) for _ in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


def test_settings_of_zero_change_nothing() -> None:
    for result, expected in zip(draw(STILL, 0), blob(), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_interpolation_is_scipys() -> None:
    """Cubic inside, where scipy's treatment of the edge does not matter; linear everywhere."""
    rng = np.random.default_rng(0)
    volume = rng.random((2, *SHAPE), dtype=np.float32)
    inner = np.stack([rng.uniform(6, n - 7, (9, 8, 7)) for n in SHAPE]).astype(np.float32)
    found = sample_cubic(torch.from_numpy(volume), torch.from_numpy(inner)).numpy()
    for channel, one in zip(volume, found, strict=True):
        np.testing.assert_allclose(one, ndimage.map_coordinates(channel, inner, order=3, mode="mirror"), atol=2e-5)
    anywhere = np.stack([rng.uniform(-3, n + 2, (9, 8, 7)) for n in SHAPE]).astype(np.float32)
    found = sample_linear(torch.from_numpy(volume), torch.from_numpy(anywhere)).numpy()
    for channel, one in zip(volume, found, strict=True):
        np.testing.assert_allclose(one, ndimage.map_coordinates(channel, anywhere, order=1, mode="nearest"), atol=2e-5)


def test_cubic_interpolation_returns_the_values_at_the_voxels_edges_included() -> None:
    volume = np.random.default_rng(1).random((1, 7, 2, 9), dtype=np.float32)
    where = torch.from_numpy(np.indices(volume.shape[1:]).astype(np.float32))
    np.testing.assert_allclose(sample_cubic(torch.from_numpy(volume), where), volume, atol=1e-5)


def test_a_displacement_is_applied_before_the_rest() -> None:
    volume, inside = (torch.from_numpy(a) for a in blob())
    shift = torch.zeros(3, *SHAPE)
    shift[0] = 2
    rng = np.random.default_rng(0)
    moved, where = replace(STILL, warp=0.0)(volume, inside, SPACING, rng, shift)
    np.testing.assert_allclose(moved[:, :-2], volume[:, 2:], atol=1e-4)
    assert torch.equal(where[:-2], inside[2:])
    both, _ = replace(STILL, shift_mm=2.0)(volume, inside, SPACING, np.random.default_rng(3), shift)
    alone, _ = replace(STILL, shift_mm=2.0)(volume, inside, SPACING, np.random.default_rng(3))
    np.testing.assert_allclose(both[:, 3:-5], alone[:, 5:-3], atol=1e-4)


# Size of the deformation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_shift_is_cut_at_two_deviations(seed: int) -> None:
    moved = moved_mm(replace(STILL, shift_mm=3.0), seed)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1, :1], moved.shape), atol=3e-5)
    assert 0 < np.abs(moved).max() <= 6.0 + 1e-4


@pytest.mark.parametrize("seed", range(10))
def test_rotation_and_scale_are_cut_at_two_deviations(seed: int) -> None:
    augmentation = replace(STILL, rotation_deg=5.0, scale=0.04)
    centre = (np.array(SHAPE)[:, None] - 1) / 2
    points, images = ((a.reshape(3, -1) - centre) for a in (IDENTITY, IDENTITY + moved_mm(augmentation, seed) / 4.0))
    linear = images @ np.linalg.pinv(points)
    np.testing.assert_allclose(linear @ points, images, atol=1e-5)  # linear about the centre
    stretch = np.linalg.norm(linear, axis=0)  # a rotation times a scale per axis
    assert np.exp(-0.08) - 1e-5 <= stretch.min() < stretch.max() <= np.exp(0.08) + 1e-5
    rotation = linear / stretch
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    angles = np.abs(Rotation.from_matrix(rotation).as_euler("xyz", degrees=True))
    assert 0 < angles.max() <= 10 + 1e-4


def test_elastic_deformation_is_smooth_and_of_the_size_that_is_set() -> None:
    augmentation = replace(STILL, elastic_mm=2.5)
    moved = np.stack([moved_mm(augmentation, seed) for seed in range(30)])
    assert 0.6 * 2.5 < moved.std() < 2.5
    assert np.abs(moved).max() < 2 * 2.5 * 1.54**3  # nodes cut at two, a cubic spline overshoots by 1.54 per axis at most
    np.testing.assert_allclose(moved_mm(replace(STILL, elastic_mm=5.0), 3), 2 * moved[3], rtol=1e-4, atol=1e-4)
    roughness = np.abs(np.diff(moved, n=2, axis=3)).mean() / np.abs(moved).mean()
    assert roughness < 0.2  # 2.5 for white noise


def test_the_defaults_fold_no_head() -> None:
    """Jacobian of the map on 192 mm at 8 mm: positive everywhere, so that no tissue appears twice."""
    shape, lowest = (24, 24, 24), []
    for seed in range(40):
        where = sources(ALWAYS, shape, (8.0, 8.0, 8.0), seed)
        slopes = np.stack([np.stack(np.gradient(component)) for component in where])
        lowest.append(np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1))).min())
    assert min(lowest) > 0.1


@pytest.mark.parametrize("setting", ["rotation_deg", "scale", "shift_mm", "elastic_mm"])
def test_the_same_draw_moves_by_the_same_millimetres_at_another_spacing(setting: str) -> None:
    """48 voxels of 4 mm, 96 of 2 mm and 64 of 3 mm are the same box."""
    augmentation = replace(STILL, **{setting: getattr(ALWAYS, setting)})
    found = []
    for shape, spacing in (((48, 48, 48), (4.0, 4.0, 4.0)), ((96, 48, 64), (2.0, 4.0, 3.0))):
        scaled = np.array(spacing)[:, None, None, None]
        moved = (sources(augmentation, shape, spacing, 5) - np.indices(shape)) * scaled
        places = [np.linspace(-60, 60, 7) / mm + (n - 1) / 2 for n, mm in zip(shape, spacing, strict=True)]
        where = np.stack(np.meshgrid(*places, indexing="ij"))
        found.append(np.stack([ndimage.map_coordinates(component, where, order=1) for component in moved]))
    # control points lie on the outermost voxels, whose distance is 188 mm at 4 mm and 190 at 2 mm
    np.testing.assert_allclose(found[0], found[1], atol=0.1 * np.abs(found[0]).max())
    assert np.abs(found[0]).max() > 0.5


def test_gamma_and_bias_are_cut_at_two_deviations() -> None:
    volume = np.full((1, *SHAPE), 0.5, dtype=np.float32)
    inside = np.ones(SHAPE, dtype=bool)
    gammas, biases = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gammas.append(np.log2(1 / apply(replace(STILL, gamma=0.12), volume, inside, rng)[0][0, 13, 15, 12]))
        biases.append(np.log(apply(replace(STILL, bias=0.06), volume, inside, rng)[0] / 0.5))
    assert np.exp(-0.24) - 1e-4 <= min(gammas) < 0.9 < 1.1 < max(gammas) <= np.exp(0.24) + 1e-4
    assert 0.5 * 0.06 < np.std(biases) < 0.06 and np.abs(biases).max() < 2 * 0.06 * 1.54**3
    roughness = np.mean([np.abs(np.diff(b, n=2, axis=1)).mean() for b in biases]) / np.abs(biases).mean()
    assert roughness < 0.3  # 2.5 for white noise


# Symmetries of a random field ---------------------------------------------------------------------------------------

FIELD = np.arange(5 * 5 * 4, dtype=np.float32).reshape(1, 5, 5, 4)
SYMMETRIC = Augmentation(symmetric=True)


def neighbours(volume: np.ndarray) -> set[frozenset[float]]:
    """Values that lie side by side on the periodic array."""
    pairs = (zip(volume.ravel(), np.roll(volume, 1, axis).ravel(), strict=True) for axis in range(3))
    return {frozenset(pair) for of_axis in pairs for pair in of_axis}


def test_symmetries_keep_values_neighbours_and_foreground() -> None:
    inside = FIELD[0] % 3 == 0
    rng, places = np.random.default_rng(0), set()
    for _ in range(20):
        volume, foreground = apply(SYMMETRIC, np.concatenate([FIELD, -FIELD]), inside, rng)
        np.testing.assert_array_equal(np.sort(volume[0], axis=None), FIELD.ravel())
        assert neighbours(volume[0]) == neighbours(FIELD[0])
        np.testing.assert_array_equal(volume[1], -volume[0])
        np.testing.assert_array_equal(foreground, volume[0] % 3 == 0)
        places.add(int(np.argmin(volume[0])))
    assert len(places) > 10


def test_all_symmetries_that_the_array_has_are_drawn() -> None:
    """Two exchanges of the equal axes times eight mirror images: where the three neighbours of one voxel lie."""
    rng, seen = np.random.default_rng(1), set()
    for _ in range(300):
        volume = apply(SYMMETRIC, FIELD, FIELD[0] > 50, rng)[0][0]
        start, *ends = (np.argwhere(volume == FIELD[0][index])[0] for index in ((2, 2, 2), (3, 2, 2), (2, 3, 2), (2, 2, 3)))
        steps = [(end - start + 1) % volume.shape - 1 for end in ends]
        assert all(np.abs(step).sum() == 1 for step in steps)
        seen.add(tuple(map(tuple, steps)))
    assert len(seen) == 16
