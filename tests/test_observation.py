"""What a method is given: the given sections and nothing else, chosen as the protocol says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xdiff.config import Sweep
from xdiff.errors import InputError
from xdiff.observation import (
    NotEnoughSections,
    Observation,
    Point,
    choose_planes,
    gap_mm,
    intensity_scale,
    leaves_enough_unseen,
    observe,
    points_of,
)
from xdiff.planes import AXES, AXIS_NAMES, ObliquePlane, Plane
from xdiff.stacks import tilted_stack

SHAPE = (20, 24, 40)
POINT = Point(K=3, axis="axial", policy="uniform", thickness_mm=0.0, steps=1, estimate="mean", seed=0)
policies = st.sampled_from(["uniform", "centre", "random", "tumour", "off_tumour"])


def foreground(first: int = 4, last: int = 35) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:17, 5:20, first : last + 1] = True
    return mask


def tumour(first: int = 20, last: int = 26, largest: int = 22) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[8:11, 8:11, first : last + 1] = 2
    labels[7:13, 7:13, largest] = 1
    return labels


def indices(point: Point, mask: np.ndarray | None = None, labels: np.ndarray | None = None, subject: str = "s") -> list[int]:
    planes = choose_planes(point, foreground() if mask is None else mask, labels, (1.0, 1.0, 1.0), subject)
    assert all(plane.axis == AXES[point.axis] for plane in planes)
    return [plane.index for plane in planes]


def point(**changes) -> Point:
    return dataclasses.replace(POINT, **changes)


# Policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "expected"), [(1, [20]), (2, [14, 25]), (3, [12, 20, 27]), (5, [9, 14, 20, 25, 30])])
def test_uniform_takes_the_interior_points_of_k_plus_two(k: int, expected: list[int]) -> None:
    """Foreground 4..35: linspace(4, 35, K + 2) without its ends, rounded (19.5 to the even 20)."""
    assert indices(point(K=k)) == expected


def test_centre_takes_adjacent_sections_of_the_middle() -> None:
    assert indices(point(K=4, policy="centre")) == [18, 19, 20, 21]


def test_random_depends_on_seed_and_subject_only() -> None:
    drawn = {(seed, s): indices(point(K=5, policy="random", seed=seed), subject=s) for seed in (0, 1) for s in ("a", "b")}
    assert len({tuple(v) for v in drawn.values()}) == 4
    assert indices(point(K=5, policy="random", seed=1, steps=8, estimate="sample"), subject="b") == drawn[1, "b"]


def test_tumour_swaps_the_nearest_uniform_section_for_the_largest_tumour_one() -> None:
    assert indices(point(K=1, policy="tumour"), labels=tumour()) == [22]
    assert indices(point(K=3, policy="tumour"), labels=tumour()) == [12, 22, 27]
    assert indices(point(K=3, policy="tumour"), labels=tumour(28, 34, largest=33)) == [12, 20, 33]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), policies, st.sampled_from(AXIS_NAMES), st.integers(5, 17), st.integers(24, 33), st.integers(0, 3))
def test_every_policy_gives_k_different_foreground_sections(
    k: int, policy: str, axis: str, first: int, last: int, seed: int
) -> None:
    mask = foreground(first - 1, last + 1)
    wanted = point(K=k, policy=policy, axis=axis, seed=seed)
    found = indices(wanted, mask, tumour(first=22, last=23, largest=23))
    rows = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != AXES[axis])))
    assert found == sorted(set(found))
    assert len(found) == k
    assert set(found) <= set(rows.tolist())


@pytest.mark.parametrize(
    ("k", "axis", "expected"),
    [
        (1, "coronal", ["coronal:12"]),
        (2, "coronal", ["coronal:12", "axial:20"]),
        (3, "axial", ["axial:20", "coronal:12", "sagittal:10"]),
        (3, "sagittal", ["sagittal:10", "axial:20", "coronal:12"]),
        (5, "axial", ["axial:14", "axial:25", "coronal:10", "coronal:14", "sagittal:10"]),
    ],
)
def test_orthogonal_divides_the_sections_among_the_axes(k: int, axis: str, expected: list[str]) -> None:
    """Foreground 3..16, 5..19, 4..35; K = 3 is a localizer: one section of every axis, each in the middle."""
    planes = choose_planes(point(K=k, axis=axis, policy="orthogonal"), foreground(), None, (1.0, 1.0, 1.0), "s")
    assert [p.name for p in planes] == expected
    by_axis = {a: [p.index for p in planes if p.axis == AXES[a]] for a in AXIS_NAMES}
    for name, chosen in by_axis.items():
        assert not chosen or chosen == indices(point(K=len(chosen), axis=name))


def test_orthogonal_sections_may_be_thick() -> None:
    planes = choose_planes(point(policy="orthogonal", thickness_mm=5.0), foreground(), None, (1.0, 2.0, 2.5), "s")
    assert [(p.axis, p.thickness) for p in planes] == [(2, 2.0), (1, 2.5), (0, 5.0)]


def test_tilted_sections_are_oblique_parallel_and_thin() -> None:
    planes = choose_planes(point(K=4, policy="tilted"), foreground(), None, (1.0, 1.0, 1.0), "s")
    assert planes == tilted_stack(2, 4, foreground(), (1.0, 1.0, 1.0))
    with pytest.raises(NotEnoughSections, match="sub-7: tilted sections are thin, thickness_mm is 5"):
        choose_planes(point(policy="tilted", thickness_mm=5.0), foreground(), None, (1.0, 1.0, 1.0), "sub-7")


def test_off_tumour_never_shows_the_tumour() -> None:
    for k in (1, 3, 10, 20):
        found = indices(point(K=k, policy="off_tumour"), labels=tumour())
        assert not set(found) & set(range(20, 27))


@pytest.mark.parametrize("labels", [None, np.zeros(SHAPE, np.uint8)])
@pytest.mark.parametrize("policy", ["tumour", "off_tumour"])
def test_tumour_policies_need_a_tumour(policy: str, labels: np.ndarray | None) -> None:
    with pytest.raises(NotEnoughSections, match=f"sub-7: policy {policy} needs a labelled tumour"):
        choose_planes(point(policy=policy), foreground(), labels, (1, 1, 1), "sub-7")


@pytest.mark.parametrize(("policy", "k"), [("uniform", 33), ("centre", 40), ("random", 33), ("off_tumour", 26), ("tumour", 33)])
def test_too_many_sections_are_refused_not_shrunk(policy: str, k: int) -> None:
    with pytest.raises(NotEnoughSections, match=r"s: \d+ (foreground|tumour-free) sections, \d+ asked for"):
        indices(point(K=k, policy=policy), labels=tumour())


def test_thickness_in_mm_becomes_sections_of_that_axis() -> None:
    planes = choose_planes(point(thickness_mm=5.0), foreground(), None, (1.0, 1.0, 2.0), "s")
    assert {p.thickness for p in planes} == {2.5}
    planes = choose_planes(point(thickness_mm=1.0), foreground(), None, (1.0, 1.0, 2.0), "s")
    assert all(p.thin for p in planes)


def test_a_quarter_of_the_sections_must_stay_unseen() -> None:
    """32 foreground sections: 24 may be given, 25 may not; thick sections count every row they average."""
    rows = range(4, 36)
    assert leaves_enough_unseen([Plane(2, i) for i in rows[:24]], foreground())
    assert not leaves_enough_unseen([Plane(2, i) for i in rows[:25]], foreground())
    assert leaves_enough_unseen([Plane(2, 6 + 3 * i, 3.0) for i in range(8)], foreground())
    assert not leaves_enough_unseen([Plane(2, 6 + 3 * i, 3.0) for i in range(9)], foreground())


def test_of_a_thick_section_the_covered_part_counts() -> None:
    """32 foreground sections, 12 of thickness 2 cover 24 of them and leave 8, a quarter; 13 leave less."""
    assert leaves_enough_unseen([Plane(2, 5 + 2 * i, 2.0) for i in range(12)], foreground())
    assert not leaves_enough_unseen([Plane(2, 5 + 2 * i, 2.0) for i in range(13)], foreground())


def test_sections_of_several_axes_are_counted_in_voxels() -> None:
    """A foreground of 14 x 15 x 32: 8 of 14, then 5 of 15 sections of the rest leave 6/14 x 10/15 = 2/7; 7 leave 6/14 x 8/15."""
    mixed = [Plane(0, 4 + i) for i in range(8)]
    assert leaves_enough_unseen([*mixed, *(Plane(1, 6 + i) for i in range(5))], foreground())
    assert not leaves_enough_unseen([*mixed, *(Plane(1, 6 + i) for i in range(7))], foreground())


@pytest.mark.parametrize(("count", "enough"), [(5, True), (20, True), (26, False)])
def test_oblique_sections_count_as_one_voxel_thick(count: int, enough: bool) -> None:
    """The foreground is 32 high and 15 deep: 32 cos + 14 sin = 35 voxels along the normal, of which `count` are covered."""
    assert leaves_enough_unseen(tilted_stack(2, count, foreground(), (1.0, 1.0, 1.0)), foreground()) == enough


def test_gap_is_between_parallel_sections() -> None:
    assert gap_mm([Plane(2, 12), Plane(0, 3), Plane(2, 2)], (1.0, 1.0, 3.0)) == pytest.approx(30.0)
    assert np.isnan(gap_mm([Plane(0, 1), Plane(1, 1), Plane(2, 1)], (1.0, 1.0, 1.0)))
    tilted = [ObliquePlane((4, 5, z), (1, 0, 0), (0, 0.8, 0.6), (5, 5)) for z in (2, 3, 8)]
    assert gap_mm(tilted, (1.0, 1.0, 1.0)) == pytest.approx(3 * 0.8)


def test_gap_is_the_mean_distance_in_mm() -> None:
    assert gap_mm([Plane(2, 12), Plane(2, 2), Plane(2, 5)], (1.0, 1.0, 3.0)) == pytest.approx(15.0)
    assert np.isnan(gap_mm([Plane(2, 12)], (1.0, 1.0, 3.0)))


# Points of a sweep --------------------------------------------------------------------------------------------------


def test_what_does_not_matter_to_a_mean_is_not_repeated() -> None:
    sweep = Sweep(K=(1, 5), steps=(4, 8), estimate=("mean", "sample"), seed=(0, 1))
    found = points_of(sweep, ["mean", "sample"])
    assert len(found) == 2 * (1 + 2 * 2)
    assert {(p.steps, p.seed) for p in found if p.estimate == "mean"} == {(1, 0)}
    assert len(points_of(sweep, ["mean"])) == 2
    assert {p.K for p in points_of(sweep, ["mean", "sample"], min_k=2)} == {5}


def test_random_policies_keep_their_seeds() -> None:
    assert len(points_of(Sweep(policy=("random",), seed=(0, 1, 2)), ["mean"])) == 3


def test_every_point_has_a_name_of_its_own() -> None:
    """Names are paths: two points of one name would overwrite each other."""
    sweep = Sweep(
        K=(1, 11),
        axis=("axial", "coronal"),
        policy=("uniform", "random"),
        thickness_mm=(0.0, 2.5, 5.0),
        contrasts_given=("all", "t1", "t1+t2"),
        steps=(1, 10),
        estimate=("mean", "sample", "mean_of_4"),
        seed=(0, 1),
    )
    found = points_of(sweep, ["mean", "sample", "mean_of_4"])
    assert len(found) == 2 * 2 * 3 * 3 * (2 * 2 * 2 * 2 + 1 + 2)
    assert len({p.name for p in found}) == len(found)


# Observations -------------------------------------------------------------------------------------------------------


def volume() -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 50.0, (2, *SHAPE)).astype(np.float32)


def fields_equal(a: Observation, b: Observation) -> bool:
    sections = all(np.array_equal(x, y) for x, y in zip(a.sections, b.sections, strict=True))
    rest = ("planes", "contrasts", "shape", "spacing_mm", "frame", "given")
    return sections and np.array_equal(a.scale, b.scale) and all(getattr(a, n) == getattr(b, n) for n in rest)


def test_an_observation_holds_nothing_of_the_hidden_voxels() -> None:
    planes = [Plane(2, 10), Plane(0, 4)]
    first = volume()
    second = np.full_like(first, -7)
    second[..., 10], second[:, 4] = first[..., 10], first[:, 4]
    a, b = (observe(v, planes, ("t1", "t2"), (1, 1, 2), "centred") for v in (first, second))
    assert fields_equal(a, b)
    second[0, 4, 0, 0] += 1000
    assert not fields_equal(a, observe(second, planes, ("t1", "t2"), (1, 1, 2), "centred"))


def test_sections_are_in_units_of_their_own_99_5th_percentile() -> None:
    planes = [Plane(2, 10), Plane(2, 20)]
    found = observe(volume(), planes, ("t1", "t2"), (1, 1, 2), "centred")
    together = np.stack([s for s in found.sections], axis=1)
    np.testing.assert_allclose(np.percentile(together.reshape(2, -1), 99.5, axis=1), 1.0, rtol=1e-5)
    for section, plane in zip(found.sections, planes, strict=True):
        assert section.dtype == np.float32
        np.testing.assert_allclose(section * found.scale[:, None, None], plane.cut(volume()), rtol=1e-6)
    doubled = observe(2 * volume(), planes, ("t1", "t2"), (1, 1, 2), "centred")
    np.testing.assert_allclose(doubled.sections[0], found.sections[0], rtol=1e-6)


def test_norm_none_leaves_values_alone() -> None:
    found = observe(-volume(), [Plane(2, 10)], ("t1", "t2"), (1, 1, 2), "centred", "none")
    np.testing.assert_array_equal(found.sections[0], -volume()[..., 10])
    np.testing.assert_array_equal(found.scale, [1, 1])


def test_evidence_mask_and_distance_belong_to_the_planes() -> None:
    found = observe(volume(), [Plane(2, 10), Plane(0, 4)], ("t1", "t2"), (1, 1, 2), "scanner", "none")
    assert found.mask.sum() == 20 * 24 + 24 * 40 - 24
    np.testing.assert_array_equal(found.evidence, np.where(found.mask, volume(), 0))
    assert found.distance_mm[10, 3, 13] == pytest.approx(6.0)
    np.testing.assert_array_equal(found.distance_mm == 0, found.mask)


def test_scale_does_not_depend_on_the_background() -> None:
    small = volume()[:, 5:15, 5:15, 5:15]
    padded = np.pad(small, [(0, 0), (9, 9), (9, 9), (9, 9)])
    np.testing.assert_array_equal(intensity_scale(small), intensity_scale(padded))


def test_a_section_without_signal_has_no_scale() -> None:
    dark = volume()
    dark[1, ..., 10] = 0
    with pytest.raises(InputError, match="a contrast without a positive voxel"):
        observe(dark, [Plane(2, 10)], ("t1", "t2"), (1, 1, 2), "centred")


# Given contrasts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["p99.5", "none"])
def test_a_contrast_that_is_not_given_leaves_no_trace(norm: str) -> None:
    """Neither its values nor its brightness: whatever it is, the observation is the same; its scale is 1."""
    planes, first, second = [Plane(2, 10), Plane(0, 4)], volume(), volume()
    second[1] = 700 * np.random.default_rng(1).random(SHAPE)
    a, b = (observe(v, planes, ("t1", "t2"), (1, 1, 2), "centred", norm, ["t1"]) for v in (first, second))
    assert fields_equal(a, b) and a.given == (True, False) and a.scale[1] == 1
    whole = observe(first, planes, ("t1", "t2"), (1, 1, 2), "centred", norm)
    assert a.scale[0] == whole.scale[0] and whole.given == (True, True)
    for own, every in zip(a.sections, whole.sections, strict=True):
        np.testing.assert_array_equal(own[0], every[0])
        assert own.dtype == np.float32 and not own[1].any() and every[1].any()


def test_known_voxels_are_those_of_the_planes_in_the_given_contrasts() -> None:
    found = observe(volume(), [Plane(1, 3)], ("t1", "t2"), (1, 1, 2), "centred", given=["t2"])
    expected = np.zeros((2, *SHAPE), bool)
    expected[1, :, 3] = True
    np.testing.assert_array_equal(found.known, expected)
    assert found.mask.shape == SHAPE and found.mask.sum() == expected.sum()
    np.testing.assert_array_equal(found.evidence != 0, expected)
    assert found.interpolated[1].all() and not found.interpolated[0].any()


def test_given_all_is_given_none_of_the_names() -> None:
    planes = [Plane(2, 10), Plane(2, 20)]
    a, b = (observe(volume(), planes, ("t1", "t2"), (1, 1, 2), "centred", given=g) for g in (None, ["t2", "t1"]))
    assert fields_equal(a, b) and b.known.all(axis=0).sum() == b.mask.sum()


def test_names_and_sections_that_do_not_fit_what_is_given_are_refused() -> None:
    with pytest.raises(InputError, match=r"given contrasts: found \['t1', 'flair'\], expected some of \['t1', 't2'\]"):
        observe(volume(), [Plane(2, 10)], ("t1", "t2"), (1, 1, 2), "centred", given=["t1", "flair"])
    with pytest.raises(InputError, match=r"found \[\], expected some of"):
        observe(volume(), [Plane(2, 10)], ("t1", "t2"), (1, 1, 2), "centred", given=[])
    full = observe(volume(), [Plane(2, 10)], ("t1", "t2"), (1, 1, 2), "centred")
    with pytest.raises(ValueError, match="expected zeros there"):
        dataclasses.replace(full, given=(True, False))
    for wrong in ((True,), (False, False)):
        with pytest.raises(ValueError, match="expected one each, at least one True"):
            dataclasses.replace(full, given=wrong)
