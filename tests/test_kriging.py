"""Kriging against dense linear algebra: along an axis, thick sections, tilted stacks, several directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.special import gamma, kv
from test_gaussian import PLANES, SHAPE, SPACING_MM, given_by, rows_of

from xdiff.data.gaussian_field import GaussianField
from xdiff.kriging import NUGGET, _stack_kriging, kriging_variance, kriging_weights, spread_residual
from xdiff.observation import Observation, observe
from xdiff.planes import ObliquePlane, Plane, profiles, project
from xdiff.stacks import stacks, tilted_stack

# Spreading the residual ----------------------------------------------------------------------------------------------


def matern_by_bessel(distance: np.ndarray, scale: float) -> np.ndarray:
    """Matern correlation with smoothness 3/2 from its definition with a Bessel function."""
    x = np.sqrt(3) * np.maximum(np.abs(distance), 1e-9) / scale
    return 2**-0.5 / gamma(1.5) * x**1.5 * kv(1.5, x)


def dense_kriging(indices: list[int], n: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """C_us C_ss^-1 (n, K) and the covariance C (n, n)."""
    covariance = matern_by_bessel(np.subtract.outer(np.arange(n), np.arange(n)), scale)
    return covariance[:, indices] @ np.linalg.inv(covariance[np.ix_(indices, indices)] + 1e-5 * np.eye(len(indices))), covariance


indices_of = st.sets(st.integers(0, 19), min_size=1, max_size=6).map(sorted)


@settings(max_examples=60, deadline=None)
@given(indices_of, st.floats(0.2, 20.0))
def test_kriging_weights_are_the_best_linear_prediction(indices: list[int], scale: float) -> None:
    """And what is known is met: to the nugget's 1e-5 for one section; where neighbours are nearly equal the nugget smooths
    them, by what C (C + nugget I)^-1 says (the projection that follows puts the given values in exactly)."""
    found = kriging_weights(indices, 20, scale)
    weights, covariance = dense_kriging(indices, 20, scale)
    np.testing.assert_allclose(found, weights, atol=1e-4)
    smallest = np.linalg.eigvalsh(covariance[np.ix_(indices, indices)])[0]
    np.testing.assert_allclose(found[indices], np.eye(len(indices)), atol=1.1e-5 / (smallest + 1e-5) + 1e-4)


def test_a_short_length_reaches_nowhere_and_far_away_nothing_is_added() -> None:
    indices, values = [2, 7, 17], np.array([1.0, -3.0, 2.0])
    short = kriging_weights(indices, 20, 0.05) @ values
    np.testing.assert_allclose(short[indices], values, rtol=1e-4)
    np.testing.assert_allclose(np.delete(short, indices), 0, atol=1e-10)
    assert np.abs(kriging_weights([5], 500, 10.0)[200:]).max() < 1e-12


def test_a_long_length_interpolates_a_line_better_than_the_nearest_section() -> None:
    rows = np.arange(31)
    found = kriging_weights([0, 10, 20, 30], 31, 60.0) @ np.array([0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(found, rows / 10, atol=0.05)


@pytest.mark.parametrize("planes", [[Plane(2, 3)], [Plane(2, 1), Plane(2, 6)]])
def test_kriging_variance_is_what_a_matern_process_leaves_open(planes: list[Plane]) -> None:
    length_mm, at = 9.0, [p.index for p in planes]
    weights, covariance = dense_kriging(at, 8, length_mm / SPACING_MM[2])
    expected = np.broadcast_to(1 - (weights * covariance[:, at]).sum(axis=1), SHAPE)
    np.testing.assert_allclose(kriging_variance(given_by(planes), length_mm), expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.floats(1.0, 4.0)), min_size=1, max_size=3, unique_by=lambda t: t[0]))
def test_thick_sections_are_kriged_as_averages(at: list[tuple[int, float]]) -> None:
    """The conditional mean and variance of a Matern process of which the profiles' averages are known, by dense algebra."""
    planes, length_mm = [Plane(2, i, thickness) for i, thickness in at], 9.0
    observation, base = given_by(planes), rows_of(seed=3)[0]
    covariance = matern_by_bessel(np.subtract.outer(np.arange(8), np.arange(8)), length_mm / SPACING_MM[2])
    seen_by = profiles(planes, 8)
    own = seen_by @ covariance @ seen_by.T + NUGGET * np.eye(len(planes))
    weights = np.linalg.solve(own, seen_by @ covariance).T
    left = np.clip(1 - (weights * (covariance @ seen_by.T)).sum(axis=1), 0, 1)
    np.testing.assert_allclose(kriging_variance(observation, length_mm), np.broadcast_to(left, SHAPE), atol=1e-4)
    missing = np.stack([s - p.cut(base) for s, p in zip(observation.sections, planes, strict=True)])
    expected = base + np.moveaxis(np.tensordot(weights, missing, axes=1), 0, 3)
    found = spread_residual(base, observation, length_mm)
    np.testing.assert_allclose(found, project(expected, observation.sections, planes), atol=2e-3)


# Tilted stacks, several directions -----------------------------------------------------------------------------------


def on_axis(axis: int, index: float) -> ObliquePlane:
    """A thin section of an array axis written as an oblique plane."""
    across = [a for a in range(3) if a != axis]
    centre = [(n - 1) / 2 for n in SHAPE]
    centre[axis] = index
    u, v = (tuple(float(a == b) for b in range(3)) for a in across)
    return ObliquePlane(tuple(centre), u, v, tuple(SHAPE[a] for a in across))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_planes_that_lie_on_an_axis_are_its_sections(axis: int) -> None:
    base, thin = rows_of(seed=3)[0], [Plane(axis, 1), Plane(axis, 4)]
    oblique = [on_axis(axis, p.index) for p in thin]
    found = spread_residual(base, given_by(oblique[::-1]), 10.0)
    np.testing.assert_allclose(found, spread_residual(base, given_by(thin), 10.0), atol=2e-4)
    np.testing.assert_allclose(kriging_variance(given_by(oblique), 10.0), kriging_variance(given_by(thin), 10.0), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tilted_stack_is_kriged_along_its_normal(axis: int) -> None:
    """Voxel by voxel: Matern kriging over signed distances in mm, of what the planes miss at the voxel's foot."""
    planes, length_mm = tilted_stack(axis, 3, np.ones(SHAPE, bool), SPACING_MM), 9.0
    rng = np.random.default_rng(0)
    missing = [rng.standard_normal((2, *p.size)) for p in planes]
    (stack,) = stacks(planes, SPACING_MM)
    predicted, explained = _stack_kriging(stack, missing, given_by(planes), length_mm)
    mm = np.array(SPACING_MM)
    for voxel in rng.integers(0, SHAPE, (40, 3)):
        offsets, values, inside = [], [], []
        for plane, image in zip(planes, missing, strict=True):
            basis, away = np.stack([plane.u, plane.v], axis=1) * mm[:, None], (voxel - plane.centre) * mm
            pixel = np.linalg.lstsq(basis, away, rcond=None)[0]
            offsets.append((away - basis @ pixel) @ stack.normal)
            at = pixel + (np.array(plane.size) - 1) / 2
            inside.append(((at >= -0.5) & (at <= np.array(plane.size) - 0.5)).all())
            grid, at = tuple(np.arange(n) for n in plane.size), np.clip(at, 0, np.array(plane.size) - 1)
            values.append([inside[-1] * RegularGridInterpolator(grid, one)(at)[0] for one in image])
        own = matern_by_bessel(np.subtract.outer(offsets, offsets), length_mm) + NUGGET * np.eye(3)
        cross = matern_by_bessel(np.array(offsets), length_mm)
        weights = np.linalg.solve(own, cross)
        np.testing.assert_allclose(predicted[(slice(None), *voxel)], weights @ np.array(values), atol=1e-4)
        assert explained[tuple(voxel)] == pytest.approx((weights * cross)[inside].sum(), abs=1e-4)


def test_beyond_its_edges_an_oblique_section_tells_nothing() -> None:
    small = ObliquePlane((2.5, 3.0, 3.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (3, 3))
    left = kriging_variance(given_by([small]), 10.0)
    assert (left[2:4, 2:5, 3:5] < 0.5).all()
    assert (left[:1] == 1).all()
    assert (left[:, :1] == 1).all()


@pytest.mark.parametrize("planes", [[Plane(0, 2), Plane(2, 5)], [Plane(2, 1), Plane(0, 2), Plane(1, 3), Plane(2, 6)]])
def test_several_directions_are_kriged_together(planes: list[Plane]) -> None:
    """Voxel by voxel against dense kriging from the voxel's feet in all planes, with a correlation that is a product of Matern
    correlations along the axes; and what is left open too."""
    observation, base, length_mm = given_by(planes), rows_of(seed=3)[0], 9.0
    found, left = spread_residual(base, observation, length_mm), kriging_variance(observation, length_mm)
    truth = rows_of(1, seed=99)[0]
    for voxel in np.argwhere(~observation.mask)[::7]:
        feet = np.stack([[p.index if a == p.axis else voxel[a] for a in range(3)] for p in planes])
        missing = np.stack([(truth - base)[(slice(None), *foot)] for foot in feet])
        between = matern_by_bessel((feet[:, None] - feet) * SPACING_MM, length_mm).prod(axis=-1) + NUGGET * np.eye(len(planes))
        cross = matern_by_bessel((feet - voxel) * SPACING_MM, length_mm).prod(axis=-1)
        weights = np.linalg.solve(between, cross)
        at = (slice(None), *voxel)
        np.testing.assert_allclose(found[at] - base[at], weights @ missing, atol=1e-3)
        assert left[tuple(voxel)] == pytest.approx(1 - weights @ cross, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spreading_from_a_tilted_stack_beats_putting_it_in(axis: int) -> None:
    shape, mm = (14, 15, 16), (2.0, 2.0, 2.0)
    base = np.zeros((1, *shape), np.float32)
    errors = []
    for seed in range(3):
        truth = GaussianField(shape, length=3.0).draw(np.random.default_rng(seed))[None].astype(np.float32)
        planes = tilted_stack(axis, 3, np.ones(shape, bool), mm)
        observation = observe(truth, planes, ("a",), mm, "centred", "none")
        spread, put_in = spread_residual(base, observation, 8.0), project(base, observation.sections, planes)
        errors.append([((v - truth) ** 2).mean() for v in (spread, put_in)])
        for plane, section in zip(planes, observation.sections, strict=True):
            np.testing.assert_allclose(plane.cut(spread), section, atol=1e-4)
    assert (np.array(errors)[:, 0] < 0.85 * np.array(errors)[:, 1]).all()


def test_spreading_is_kriging_along_one_axis() -> None:
    observation = given_by([Plane(2, 1), Plane(2, 6)])
    base = rows_of(seed=3)[0]
    found = spread_residual(base, observation, 10.0)
    residual = np.stack([s - p.cut(base) for s, p in zip(observation.sections, observation.planes, strict=True)])
    expected = base + np.moveaxis(np.tensordot(kriging_weights([1, 6], 8, 10.0 / SPACING_MM[2]), residual, axes=1), 0, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    shuffled = Observation(
        observation.planes[::-1], observation.sections[::-1], ("a", "b"), SHAPE, SPACING_MM, observation.scale, "c"
    )
    np.testing.assert_array_equal(spread_residual(base, shuffled, 10.0), found)


@pytest.mark.parametrize("planes", [[Plane(2, 3)], [Plane(0, 4), Plane(0, 1)], [Plane(1, 0), Plane(1, 3), Plane(1, 5)]])
def test_one_stack_of_thin_sections_is_spread_by_kriging_along_its_axis(planes: list[Plane]) -> None:
    """Weights from fits, and tables, were made with this order of operations."""
    observation, base, length_mm = given_by(planes), rows_of(seed=3)[0], 10.0
    axis, planes = planes[0].axis, sorted(planes, key=lambda p: p.index)
    sections = {p: s for p, s in zip(observation.planes, observation.sections, strict=True)}
    missing = np.stack([sections[p] - p.cut(base) for p in planes])
    weights = kriging_weights([p.index for p in planes], SHAPE[axis], length_mm / SPACING_MM[axis])
    near = np.exp(-observation.distance_mm / length_mm).astype(np.float32)
    faded = np.moveaxis(np.tensordot(weights, missing, axes=1), 0, axis + 1) * near
    expected = np.where(observation.mask, observation.evidence, base + faded / near)
    np.testing.assert_allclose(spread_residual(base, observation, length_mm), expected, atol=1e-6)


def test_spreading_nothing_changes_nothing() -> None:
    truth = rows_of(1, seed=99)[0]
    for planes in (PLANES["parallel"], PLANES["crossing"]):
        np.testing.assert_allclose(spread_residual(truth, given_by(planes), 10.0), truth, atol=1e-6)
