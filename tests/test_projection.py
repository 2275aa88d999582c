"""Projection on the data: given sections come back exactly, by the shortest step, and contradictions are averaged out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xdiff.planes import ObliquePlane, Plane, _least_squares, adjoint, coverage, cut, project

SHAPE = (7, 8, 9)
BRATS, UKB_LIKE = (240, 240, 155), (155, 240, 240)
TILTED = ObliquePlane((3.1, 3.4, 4.2), (0.8, 0.0, 0.6), (0.0, 1.0, 0.0), (5, 6))


def volume_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, *SHAPE))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.integers(0, 2).flatmap(lambda a: st.builds(Plane, st.just(a), st.integers(0, SHAPE[a] - 1))), min_size=1, max_size=6
    )
)
def test_given_thin_sections_come_back_bit_for_bit(planes: list[Plane]) -> None:
    """Crossing planes too, in float32, and nothing else moves."""
    truth, guess = volume_of(seed=1).astype(np.float32), volume_of(seed=2).astype(np.float32)
    found = project(guess, cut(truth, planes), planes)
    assert found.dtype == np.float32
    for section, plane in zip(cut(truth, planes), planes, strict=True):
        np.testing.assert_array_equal(plane.cut(found), section)
    hidden = coverage(planes, SHAPE) == 0
    np.testing.assert_array_equal(found[:, hidden], guess[:, hidden])


@pytest.mark.parametrize("shape", [BRATS, UKB_LIKE])
def test_given_sections_come_back_at_the_papers_sizes(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    truth, guess = (rng.random((1, *shape), dtype=np.float32) for _ in range(2))
    planes = [Plane(0, shape[0] // 2), Plane(1, 17), Plane(2, shape[2] - 1)]
    found = project(guess, cut(truth, planes), planes)
    for section, plane in zip(cut(truth, planes), planes, strict=True):
        np.testing.assert_array_equal(plane.cut(found), section)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["thick", "oblique", "mixed"])
def test_projection_on_thick_and_oblique_planes_meets_the_data(kind: str, seed: int) -> None:
    """Sections of one true volume at its planes again to 1e-4, and the step is the shortest one (it lies in the range of A^T)."""
    rng = np.random.default_rng(seed)
    thick = [Plane(int(a), int(rng.integers(1, SHAPE[a] - 1)), float(rng.uniform(1.2, 4))) for a in rng.integers(0, 3, 3)]
    basis = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    tilted = [ObliquePlane((3.1, 3.4, 4.2), tuple(basis[0]), tuple(basis[1]), (5, 6))]
    planes = {"thick": thick, "oblique": tilted, "mixed": [*thick, *tilted, Plane(2, 4)]}[kind]
    truth, guess = volume_of(seed=seed + 10).astype(np.float32), volume_of(seed=seed + 20).astype(np.float32)
    found = project(guess, cut(truth, planes), planes)
    assert found.dtype == np.float32
    for section, plane in zip(cut(truth, planes), planes, strict=True):
        np.testing.assert_allclose(plane.cut(found), section, atol=1e-4)
    step = (found - guess)[0].ravel().astype(np.float64)
    rows = np.stack([np.concatenate([s.ravel() for s in cut(e.reshape(1, *SHAPE), planes)]) for e in np.eye(step.size)])
    inside = rows @ np.linalg.lstsq(rows, step, rcond=None)[0]
    np.testing.assert_allclose(inside, step, atol=2e-3)


def test_projecting_a_volume_that_agrees_changes_nothing() -> None:
    x, planes = volume_of(), [Plane(2, 4, 2.5), TILTED]
    np.testing.assert_allclose(project(x, cut(x, planes), planes), x, atol=1e-9)


@pytest.mark.parametrize(
    "planes",
    [
        [Plane(0, 3, 3.0), Plane(1, 4, 4.0), Plane(2, 5, 2.5)],
        [Plane(0, 3, 3.0), Plane(1, 4)],
        [TILTED, Plane(2, 5, 2.5)],
        [ObliquePlane((3.0, 3.0, 4.0), (1.0, 0.0, 0.3), (0.0, 1.0, 0.0), (20, 20))],
    ],
    ids=["thick", "thick and thin", "tilted", "partly outside"],
)
@pytest.mark.parametrize("error", [1e-3, 1.0])
def test_contradicting_sections_give_the_least_squares_volume(planes: list, error: float) -> None:
    """Where thick sections cross, A A^T is singular: noise must neither blow up nor keep the fit from being optimal."""
    rng, guess = np.random.default_rng(5), volume_of(1)
    sections = [s + error * rng.standard_normal(s.shape) for s in cut(volume_of(2), planes)]
    found = project(guess, sections, planes)
    rows = np.stack([np.concatenate([s[0].ravel() for s in cut(e.reshape(1, *SHAPE), planes)]) for e in np.eye(504)], axis=1)
    for c in range(2):
        missing = np.concatenate([s[c].ravel() for s in sections]) - rows @ guess[c].ravel()
        expected = guess[c].ravel() + np.linalg.lstsq(rows, missing, rcond=1e-10)[0]
        np.testing.assert_allclose(found[c].ravel(), expected, atol=2e-4)
    residual = [s - p.cut(found) for s, p in zip(sections, planes, strict=True)]
    assert np.abs(adjoint(residual, planes, found)).max() < 1e-4


# Sections of one axis: the closed form -------------------------------------------------------------------------------


@st.composite
def parallel_thick_planes(draw: st.DrawFn) -> list[Plane]:
    """Some thick, some perhaps thin, overlapping, perhaps one given twice."""
    axis = draw(st.integers(0, 2))
    thickness = st.one_of(st.just(1.0), st.floats(1.1, 5.0))
    planes = draw(st.lists(st.builds(Plane, st.just(axis), st.integers(0, SHAPE[axis] - 1), thickness), min_size=1, max_size=4))
    return [*planes, Plane(axis, 3, 2.5)] * draw(st.sampled_from([1, 1, 2]))


@settings(max_examples=40, deadline=None)
@given(parallel_thick_planes(), st.integers(0, 2**31))
def test_one_axis_equals_the_iterative_least_squares(planes: list[Plane], seed: int) -> None:
    """Also on sections that contradict each other: both are the pseudo-inverse. Nearly equal planes make it large: relative."""
    guess, rng = volume_of(seed), np.random.default_rng([seed, 1])
    sections = [s + 0.1 * rng.standard_normal(s.shape) for s in cut(volume_of(seed + 1), planes)]
    rows = np.stack([[dict(p.profile(SHAPE[p.axis])).get(r, 0.0) for r in range(SHAPE[p.axis])] for p in planes])
    singular = np.linalg.svd(rows, compute_uv=False)
    assume(singular[singular > 1e-9].min() > 0.05)
    step = project(guess, sections, planes) - guess
    expected = _least_squares([s - p.cut(guess) for s, p in zip(sections, planes, strict=True)], planes, guess.shape)
    np.testing.assert_allclose(step, expected, atol=1e-4 * np.abs(expected).max())


def test_one_thick_section_is_met_to_rounding() -> None:
    """Closed form: one step lands on the data, in float32 as well as in float64."""
    plane = Plane(2, 4, 2.5)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-13)):
        truth, guess = volume_of(1).astype(dtype), volume_of(2).astype(dtype)
        found = project(guess, cut(truth, [plane]), [plane])
        assert found.dtype == dtype
        np.testing.assert_allclose(plane.cut(found), plane.cut(truth), atol=tolerance)
        np.testing.assert_array_equal(found[..., [0, 1, 2, 6, 7, 8]], guess[..., [0, 1, 2, 6, 7, 8]])


@pytest.mark.parametrize(
    "planes",
    [
        [Plane(2, 3)],
        [Plane(0, 2), Plane(1, 3), Plane(2, 5)],
        [Plane(1, 2, 2.5), Plane(1, 5, 3.0)],
        [Plane(0, 3, 2.0), Plane(0, 5)],
    ],
    ids=["thin", "crossing", "thick", "thick and thin"],
)
def test_tensors_are_projected_as_arrays_are(planes: list[Plane]) -> None:
    torch = pytest.importorskip("torch")
    truth, guess = volume_of(1).astype(np.float32), volume_of(2).astype(np.float32)
    found = project(torch.from_numpy(guess), [torch.from_numpy(s.copy()) for s in cut(truth, planes)], planes)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), project(guess, cut(truth, planes), planes), atol=2e-6)
    if all(p.thin for p in planes):
        for plane in planes:
            np.testing.assert_allclose(plane.cut(found.numpy()), plane.cut(truth), rtol=2e-7)


@pytest.mark.parametrize("planes", [[Plane(2, 3), Plane(0, 1)], [Plane(2, 3, 2.5), Plane(0, 2)]], ids=["thin", "thick"])
def test_contrasts_that_are_not_given_stay_as_they_are(planes: list[Plane]) -> None:
    rng = np.random.default_rng(8)
    truth, guess = rng.random((2, 3, 6, 7, 8))
    carried = (True, False, True)
    sections = [np.where(np.array(carried)[:, None, None], s, 0) for s in cut(truth, planes)]
    found, alone = project(guess, sections, planes, carried), project(guess, cut(truth, planes), planes)
    np.testing.assert_array_equal(found[1], guess[1])
    np.testing.assert_allclose(found[[0, 2]], alone[[0, 2]], atol=1e-6)
    assert np.abs(alone[1] - guess[1]).max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_dense_tilted_sections_that_are_met_already_are_met_again(seed: int) -> None:
    """Eleven of them 1.4 voxels apart, which nearly depend on each other: rounding errors are all that is left to explain."""
    centres = [(11.5, round(6.468 + 1.4064 * i, 3), 10.5) for i in range(11)]
    planes = [ObliquePlane(c, (0.999953, 0.0, 0.0), (0.0, 0.258819, 0.965926), (25, 23)) for c in centres]
    truth, guess = np.random.default_rng(seed).random((2, 1, 24, 28, 22), dtype=np.float32)
    sections = cut(truth, planes)
    once = project(guess, sections, planes)
    again = project(once, sections, planes)
    for found in (once, again):
        for plane, section in zip(planes, sections, strict=True):
            np.testing.assert_allclose(plane.cut(found), section, atol=2e-5)
    np.testing.assert_allclose(again, once, atol=1e-2)  # 2e-3 when this was written
