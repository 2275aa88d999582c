"""Geometry: cutting and its exact adjoint, rotations of the cube, evidence, distances in mm."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiff.errors import InputError
from xdiff.planes import (
    AXES,
    ObliquePlane,
    Plane,
    adjoint,
    coverage,
    cut,
    distance_mm,
    evidence,
    parse_plane,
    profiles,
    shifted,
    stack,
    unstack,
)

SHAPE = (7, 8, 9)
BRATS, UKB_LIKE = (240, 240, 155), (155, 240, 240)
quick = settings(max_examples=40, deadline=None)


def volume_of(shape: tuple[int, ...] = SHAPE, contrasts: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((contrasts, *shape))


@st.composite
def box_planes(draw: st.DrawFn, shape: tuple[int, int, int] = SHAPE) -> Plane:
    axis = draw(st.integers(0, 2))
    thickness = draw(st.one_of(st.just(1.0), st.floats(1.0, 6.0)))
    return Plane(axis, draw(st.integers(0, shape[axis] - 1)), thickness)


@st.composite
def oblique_planes(draw: st.DrawFn) -> ObliquePlane:
    """Any pose whose pixels may also lie outside the volume."""
    centre = tuple(draw(st.floats(1.0, n - 2.0)) for n in SHAPE)
    normal = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: np.linalg.norm(n) > 0.2)))
    basis = np.linalg.svd(normal[None])[2][1:]
    return ObliquePlane(centre, tuple(basis[0]), tuple(basis[1]), (draw(st.integers(2, 6)), draw(st.integers(2, 6))))


mixed_planes = st.lists(st.one_of(box_planes(), oblique_planes()), min_size=1, max_size=4)


def axis_as_oblique(axis: int, index: float, shape: tuple[int, int, int] = SHAPE) -> ObliquePlane:
    """The thin section `index` of an array axis, written as an oblique plane."""
    across = [a for a in range(3) if a != axis]
    centre = [(n - 1) / 2 for n in shape]
    centre[axis] = index
    u, v = (tuple(float(a == b) for b in range(3)) for a in across)
    return ObliquePlane(tuple(centre), u, v, tuple(shape[a] for a in across))


# Cutting and its adjoint ------------------------------------------------------------------------------------------


@quick
@given(mixed_planes, st.integers(0, 2**31))
def test_adjoint_is_the_transpose_of_cutting(planes: list, seed: int) -> None:
    """<A x, y> = <x, A^T y> for thin, thick, oblique and mixed planes."""
    x = volume_of(seed=seed)
    sections = cut(x, planes)
    y = [np.random.default_rng([seed, i]).standard_normal(s.shape) for i, s in enumerate(sections)]
    left = sum(float((a * b).sum()) for a, b in zip(sections, y, strict=True))
    right = float((x * adjoint(y, planes, x)).sum())
    assert abs(left - right) <= 1e-10 * (1 + abs(left))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_thin_section_is_indexing(axis: int) -> None:
    x = volume_of()
    for index in range(SHAPE[axis]):
        np.testing.assert_array_equal(Plane(axis, index).cut(x), np.take(x, index, axis=axis + 1))


@pytest.mark.parametrize("shape", [BRATS, UKB_LIKE])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_axis_has_its_own_depth(shape: tuple[int, int, int], axis: int) -> None:
    """The official code drew depths up to 240 on a 155-deep axis, and divided by one axis' length on all."""
    x = np.zeros((1, *shape), dtype=np.uint8)
    last = shape[axis] - 1
    x[(slice(None), *(last if a == axis else slice(None) for a in range(3)))] = 1
    section = Plane(axis, last).cut(x)
    assert section.shape == (1, *(n for a, n in enumerate(shape) if a != axis))
    assert section.all()
    assert not Plane(axis, last - 1).cut(x).any()
    for outside in (shape[axis], -1):
        with pytest.raises(ValueError, match=rf"section {outside} of the \w+ axis, expected 0\.\.{last}"):
            Plane(axis, outside).cut(x)


@quick
@given(box_planes())
def test_profile_weights_sum_to_one(plane: Plane) -> None:
    profile = plane.profile(SHAPE[plane.axis])
    rows, weights = zip(*profile, strict=True)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert min(weights) > 0
    assert list(rows) == list(range(rows[0], rows[-1] + 1))
    assert abs(rows[0] - plane.index) <= (plane.thickness + 1) / 2


@pytest.mark.parametrize(
    ("thickness", "expected"),
    [
        (1.0, {4: 1.0}),
        (2.0, {3: 0.25, 4: 0.5, 5: 0.25}),
        (2.5, {3: 0.3, 4: 0.4, 5: 0.3}),
        (3.0, {3: 1 / 3, 4: 1 / 3, 5: 1 / 3}),
        (5.0, {r: 0.2 for r in range(2, 7)}),
    ],
)
def test_profile_is_the_overlap_with_a_box(thickness: float, expected: dict[int, float]) -> None:
    assert dict(Plane(2, 4, thickness).profile(9)) == pytest.approx(expected)


def test_profile_at_the_border_keeps_the_rows_inside() -> None:
    assert dict(Plane(2, 0, 3.0).profile(9)) == pytest.approx({0: 0.5, 1: 0.5})
    assert dict(Plane(2, 8, 2.0).profile(9)) == pytest.approx({7: 1 / 3, 8: 2 / 3})


@quick
@given(box_planes())
def test_a_thick_section_of_a_constant_is_that_constant(plane: Plane) -> None:
    np.testing.assert_allclose(plane.cut(np.full((1, *SHAPE), 3.5)), 3.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("axis", "thickness", "wrong"), [(3, 1.0, "axis is 3"), (-1, 1.0, "axis is -1"), (0, 0.5, "thickness is 0.5")]
)
def test_impossible_planes_are_refused(axis: int, thickness: float, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Plane(axis, 2, thickness)


@quick
@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 6), st.floats(1.0, 6.0)), min_size=1, max_size=4))
def test_cutting_sections_of_one_axis_is_a_matrix_along_it(axis: int, at: list[tuple[int, float]]) -> None:
    x, planes = volume_of(), [Plane(axis, index, thickness) for index, thickness in at]
    found = np.tensordot(profiles(planes, SHAPE[axis]), stack(x, axis), axes=1)
    np.testing.assert_allclose(found, np.stack(cut(x, planes)), atol=1e-12)


# Names --------------------------------------------------------------------------------------------------------------


@quick
@given(st.one_of(box_planes(), oblique_planes()))
def test_a_plane_is_its_name(plane: Plane | ObliquePlane) -> None:
    """Equal to the last bit: what was given is read from manifests again. Names hold nothing that separates names or columns."""
    assert parse_plane(plane.name) == plane
    assert not set(plane.name) & set(";\t ")


@pytest.mark.parametrize(
    ("plane", "name"),
    [
        (Plane(2, 12), "axial:12"),
        (Plane(1, 3, 2.0), "coronal:3x2"),
        (Plane(0, 3, np.float64(2.5)), "sagittal:3x2.5"),
        (ObliquePlane((1.5, 2, 3), (1, 0, 0), (0, 0.6, -0.8), (4, 5)), "oblique:1.5/2.0/3.0/1.0/0.0/0.0/0.0/0.6/-0.8/4x5"),
    ],
)
def test_names_are_plain(plane: Plane | ObliquePlane, name: str) -> None:
    assert plane.name == name
    assert parse_plane(name) == plane


@pytest.mark.parametrize(
    "name", ["", "axial", "axial:x", "diagonal:3", "axial:3x0.5", "oblique:1/2/3", "oblique:1/2/3/1/0/0/0/1/4x5", "oblique:a/b"]
)
def test_a_name_of_no_plane_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name of a given plane"):
        parse_plane(name)


# Oblique planes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_oblique_plane_on_an_axis_plane_equals_it(axis: int) -> None:
    x = volume_of()
    for index in range(SHAPE[axis]):
        oblique = axis_as_oblique(axis, index)
        np.testing.assert_allclose(oblique.cut(x), Plane(axis, index).cut(x), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            oblique.distance_mm(SHAPE, (1, 2, 3)),
            np.broadcast_to(Plane(axis, index).distance_mm(SHAPE, (1, 2, 3)), SHAPE),
            atol=1e-12,
        )


def test_an_oblique_plane_between_two_sections_is_their_mean() -> None:
    x = volume_of()
    expected = (Plane(2, 3).cut(x) + Plane(2, 4).cut(x)) / 2
    np.testing.assert_allclose(axis_as_oblique(2, 3.5).cut(x), expected, atol=1e-12)


@quick
@given(oblique_planes(), st.tuples(*[st.floats(-2, 2)] * 4))
def test_an_oblique_cut_of_a_linear_ramp_is_exact(plane: ObliquePlane, ramp: tuple) -> None:
    """Trilinear interpolation reproduces a ramp: the pixel lies where `points` says."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    x = (grid @ ramp[:3] + ramp[3])[None]
    points = plane.points()
    inside = ((points >= 0) & (points <= np.array(SHAPE) - 1)).all(axis=1)
    np.testing.assert_allclose(plane.cut(x).ravel()[inside], (points @ ramp[:3] + ramp[3])[inside], atol=1e-9)


def test_pixels_far_outside_read_zero() -> None:
    section = ObliquePlane((3, 3, 4), (5, 0, 0), (0, 5, 0), (5, 5)).cut(np.ones((1, *SHAPE)))[0]
    assert section[2, 2] == 1
    assert not section[[0, 4]].any()


# Stacking, tensors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacking_all_sections_and_back(axis: int) -> None:
    x = volume_of()
    sections = stack(x, axis)
    for index in range(SHAPE[axis]):
        np.testing.assert_array_equal(sections[index], Plane(axis, index).cut(x))
    np.testing.assert_array_equal(unstack(sections, axis), x)


def test_torch_tensors_cut_and_stack_as_arrays_do() -> None:
    torch = pytest.importorskip("torch")
    x = volume_of()
    tensor = torch.from_numpy(x)
    for axis in range(3):
        np.testing.assert_array_equal(stack(tensor, axis).numpy(), stack(x, axis))
        np.testing.assert_array_equal(unstack(stack(tensor, axis), axis).numpy(), x)
        for plane in (Plane(axis, 4), Plane(axis, 4, 3.0)):
            np.testing.assert_allclose(plane.cut(tensor).numpy(), plane.cut(x), atol=1e-12)
            back = adjoint([plane.cut(tensor)], [plane], tensor)
            np.testing.assert_allclose(back.numpy(), adjoint([plane.cut(x)], [plane], x), atol=1e-12)


# Evidence and distance --------------------------------------------------------------------------------------------


def test_crossings_are_counted_once() -> None:
    """Three thin planes of one volume: every given voxel has its own value, not twice or three times it."""
    x = volume_of().astype(np.float32)
    planes = [Plane(0, 3), Plane(1, 4), Plane(2, 5)]
    found, mask = evidence(cut(x, planes), planes, SHAPE)
    seen = coverage(planes, SHAPE)
    assert seen[3, 4, 5] == 3
    assert seen[3, 4, 0] == 2
    assert mask.sum() == SHAPE[0] * SHAPE[1] * SHAPE[2] - 6 * 7 * 8
    np.testing.assert_array_equal(found, np.where(mask, x, 0))


def test_where_given_sections_disagree_the_mean_is_taken() -> None:
    planes = [Plane(0, 3), Plane(1, 4)]
    sections = [np.ones((1, 8, 9), np.float32), np.full((1, 7, 9), 3, np.float32)]
    found, _ = evidence(sections, planes, SHAPE)
    assert (found[0, 3, 4] == 2).all()
    assert (found[0, 3, :4] == 1).all()
    assert (found[0, :3, 4] == 3).all()


def test_distance_is_in_mm_along_the_axis() -> None:
    planes = [Plane(AXES["axial"], 2), Plane(AXES["sagittal"], 6)]
    found = distance_mm(planes, SHAPE, (0.5, 1.0, 4.0))
    for x, z in itertools.product(range(SHAPE[0]), range(SHAPE[2])):
        expected = min(4.0 * abs(z - 2), 0.5 * abs(x - 6))
        np.testing.assert_allclose(found[x, :, z], expected)


def test_distance_to_a_thick_slab_is_zero_inside_it() -> None:
    found = Plane(2, 4, 3.0).distance_mm(SHAPE, (1.0, 1.0, 2.0)).ravel()
    np.testing.assert_allclose(found, [6, 4, 2, 0, 0, 0, 2, 4, 6])


@quick
@given(oblique_planes(), st.tuples(*[st.floats(0.4, 5.0)] * 3))
def test_distance_to_an_oblique_plane_by_least_squares(plane: ObliquePlane, spacing: tuple) -> None:
    """Against the nearest point of the plane found by solving for it, in anisotropic mm."""
    found = plane.distance_mm(SHAPE, spacing)
    basis = np.stack([plane.u, plane.v], axis=1) * np.array(spacing)[:, None]
    for voxel in ((0, 0, 0), (6, 2, 8), (3, 7, 1)):
        offset = (np.array(voxel) - plane.centre) * spacing
        along = np.linalg.lstsq(basis, offset, rcond=None)[0]
        assert found[voxel] == pytest.approx(np.linalg.norm(offset - basis @ along), abs=1e-9)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -3, 1), (-20, 0, 0), (0, 9, -9)])
def test_shifting_is_padding_and_cutting(shift: tuple[int, int, int]) -> None:
    """Against padding by as much on every side, with zeros or with the edge; the contrasts' axis does not move."""
    volume = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    padding = [(0, 0), *((abs(by), abs(by)) for by in shift)]
    window = tuple(slice(abs(by) - by, abs(by) - by + n) for by, n in zip(shift, SHAPE, strict=True))
    np.testing.assert_array_equal(shifted(volume, shift), np.pad(volume, padding)[:, *window])
    np.testing.assert_array_equal(shifted(volume, shift, edge=True), np.pad(volume, padding, mode="edge")[:, *window])
    assert shifted(volume > 0, shift).dtype == bool
