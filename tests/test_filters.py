"""Filters of volumes as matrices: each against scipy or numpy, at odd sizes, one contrast or several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from xdiff import filters

SHAPES = [(7, 5, 9), (3, 8, 6, 11), (2, 13, 4, 3), (1, 2, 16, 5)]
of_any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def volume_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def by_contrast(filter_: Callable[[np.ndarray], np.ndarray], volume: np.ndarray) -> np.ndarray:
    """A filter of (X, Y, Z) in float64, one contrast after the other."""
    flat = volume.astype(np.float64).reshape(-1, *volume.shape[-3:])
    return np.stack([filter_(one) for one in flat]).reshape(volume.shape)


def check(found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.float32 and tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@of_any_shape
@pytest.mark.parametrize("sigma", [1, 2, 4])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0,), (1,), (2,), (0, 2)], ids=str)
def test_smooth_is_the_gaussian_filter(shape: tuple[int, ...], sigma: int, axes: tuple[int, ...]) -> None:
    volume = volume_of(shape)
    sigmas = [sigma if axis in axes else 0 for axis in range(3)]
    check(
        filters.smooth(torch.from_numpy(volume), sigma, axes), by_contrast(lambda v: ndimage.gaussian_filter(v, sigmas), volume)
    )


@of_any_shape
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_curvature_is_the_second_derivative_of_the_gaussian_filter(shape: tuple[int, ...], axis: int) -> None:
    volume = volume_of(shape)
    expected = by_contrast(lambda v: ndimage.gaussian_filter1d(v, 1.5, axis=axis, order=2), volume)
    check(filters.curvature(torch.from_numpy(volume), 1.5, axis), expected)


@of_any_shape
@pytest.mark.parametrize("size", [3, 5])
def test_box_mean_is_the_uniform_filter(shape: tuple[int, ...], size: int) -> None:
    volume = volume_of(shape)
    expected = by_contrast(lambda v: ndimage.uniform_filter(v, size), volume)
    check(filters.box_mean(torch.from_numpy(volume), size), expected)


@of_any_shape
def test_gradient_is_numpys(shape: tuple[int, ...]) -> None:
    volume = volume_of(shape)
    found = filters.gradient(torch.from_numpy(volume))
    assert len(found) == 3
    for axis, one in enumerate(found):
        check(one, np.gradient(volume, axis=axis - 3))


def test_there_is_no_slope_along_an_axis_of_one_voxel() -> None:
    volume = volume_of((2, 4, 1, 5))
    slopes = filters.gradient(torch.from_numpy(volume))
    assert not slopes[1].any()
    check(slopes[0], np.gradient(volume, axis=1))


@of_any_shape
def test_laplace_is_scipys(shape: tuple[int, ...]) -> None:
    volume = volume_of(shape)
    check(filters.laplace(torch.from_numpy(volume)), by_contrast(ndimage.laplace, volume))


@of_any_shape
def test_spline_coefficients_are_those_of_the_interpolating_cubic_spline(shape: tuple[int, ...]) -> None:
    volume = volume_of(shape)
    expected = by_contrast(lambda v: ndimage.spline_filter(v, 3, output=np.float64, mode="mirror"), volume)
    check(filters.spline_coefficients(torch.from_numpy(volume)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_matrix_that_is_not_square_changes_the_size_along_its_axis_alone(axis: int) -> None:
    volume, matrix = volume_of((2, 5, 6, 7)), volume_of((4, (5, 6, 7)[axis]))
    found = filters.along_axis(torch.from_numpy(volume), torch.from_numpy(matrix), axis)
    expected = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis + 1)), 0, axis + 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
