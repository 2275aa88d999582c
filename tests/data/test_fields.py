"""Random fields in mm: the same at every spacing, of unit variance, and deformations that can be undone."""

from __future__ import annotations

import numpy as np
import pytest

from xdiff.data.fields import Box, exp, grid_mm, noise, sample

BOX = Box((-30.0, 10.0, 5.0), (60.0, 48.0, 54.0))


def test_the_grid_covers_the_box_from_its_first_voxel() -> None:
    grid = grid_mm(BOX, 7.0)
    assert grid.shape == (3, 9, 7, 8)
    np.testing.assert_allclose(grid[:, 0, 0, 0], BOX.origin_mm)
    np.testing.assert_allclose(grid[:, 2, 1, 3], (-16, 17, 26))


def test_noise_is_a_function_of_position_with_unit_variance() -> None:
    fine, coarse = (noise(BOX, np.random.default_rng(3), 6.0, spacing_mm) for spacing_mm in (1.0, 3.0))
    np.testing.assert_allclose(fine[::3, ::3, ::3], coarse, atol=1e-5)
    many = np.stack([noise(BOX, np.random.default_rng(seed), 12.0, 6.0) for seed in range(400)])
    np.testing.assert_allclose(many.std(0), 1, atol=0.2)
    np.testing.assert_allclose(many.mean(0), 0, atol=0.25)


def test_values_between_voxels_are_linear_and_outside_those_of_the_border() -> None:
    grid = grid_mm(BOX, 3.0)
    plane = (grid[0] + 2 * grid[1])[None]
    points = np.array([[-28.5, 11.0, 20.0], [0.25, 30.0, 33.3], [-90.0, 10.0, 5.0]], np.float32).T.reshape(3, 3, 1, 1)
    found = sample(BOX, plane, points, 3.0).ravel()
    np.testing.assert_allclose(found, [-28.5 + 22, 0.25 + 60, -30 + 20], atol=1e-3)


def test_a_flow_and_its_reverse_cancel() -> None:
    rng = np.random.default_rng(1)
    velocity = np.stack([2.5 * noise(BOX, rng, 20.0, 2.0) for _ in range(3)])
    there, back = exp(BOX, velocity, 2.0), exp(BOX, -velocity, 2.0)
    grid = grid_mm(BOX, 2.0)
    returned = there + sample(BOX, back, grid + there, 2.0)
    inside = (slice(None), *(slice(5, -5),) * 3)
    assert np.abs(there[inside]).mean() > 1
    assert np.abs(returned[inside]).mean() < 0.05 * np.abs(there[inside]).mean()


def test_a_constant_velocity_is_a_shift() -> None:
    velocity = np.broadcast_to(np.array([1.0, -2.0, 3.0]).reshape(3, 1, 1, 1), grid_mm(BOX, 4.0).shape)
    assert exp(BOX, velocity, 4.0)[:, 7, 6, 6] == pytest.approx([1, -2, 3], abs=1e-4)
