"""Training cases: the subject left out of its own gaussian, the policies of the sweeps, the residual's scale, the checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from columns import plain_core
from conftest import Prepared

from xdiff import draws as module
from xdiff.augment import Augmentation
from xdiff.data.split import patient_of
from xdiff.draws import ECHO, Checks, Draw, Draws, DrawSettings, importance, mean_gain, residual
from xdiff.gaussian_fit import with_mirror
from xdiff.local import Core, Estimate
from xdiff.metrics.core import by_region, regions
from xdiff.observation import Observation, Point, choose_planes, intensity_scale, observe, well_filled
from xdiff.planes import Plane, cut

WARPED, SYMMETRIC = Augmentation(warp=1.0), Augmentation(symmetric=True)


with_augmentation = pytest.mark.parametrize(
    ("case", "augment"),
    [
        pytest.param("field_case", PLAIN.augment, id="field"),
        pytest.param("field_case", WARPED, id="field-warped"),
        pytest.param("field_case", SYMMETRIC, id="field-symmetric"),
        pytest.param("heads_case", PLAIN.augment, id="heads"),
        pytest.param("heads_case", WARPED, id="heads-warped"),
    ],
    indirect=["case"],
)


@pytest.fixture(scope="module")
def field_case(field: Prepared) -> Case:
    return field, core_of(field)


@pytest.fixture(scope="module")
def heads_case(heads: Prepared) -> Case:
    return heads, core_of(heads)


@pytest.fixture(params=["field_case", "heads_case"], ids=["field", "heads"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


def overwritten(core: Core, row: int) -> Core:
    """The same core in which another volume stands where one and its mirror image did."""
    linear = core.linear
    volumes = linear.rows[: linear.n_rows // 2].copy()
    volumes[row] = 1 - volumes[row]
    return replace(core, linear=replace(linear, rows=with_mirror(volumes)))


# The subject is left out --------------------------------------------------------------------------------------------


@with_augmentation
def test_a_draw_does_not_know_its_subject_nor_its_mirror_image(case: Case, augment: Augmentation) -> None:
    """Overwriting both in the core changes nothing in any draw of the subject; overwriting another's does."""
    cohort, core = case
    subject = cohort.split.side("train")[1]
    row, settings = core.linear.patients.index(patient_of(subject)), DrawSettings(augment=augment)
    other = (row + 1) % len(core.linear.patients)
    for seed in range(6):  # mirror images among them
        shown, without, changed = (
            make_draws((cohort, one), settings, [subject]).one(np.random.default_rng(seed))
            for one in (core, overwritten(core, row), overwritten(core, other))
        )
        assert same(without, shown)
        hidden = ~shown.observation.mask
        differences = [np.abs(a - b)[:, hidden].max() for a, b in zip(changed.known, shown.known, strict=True)]
        assert min(differences[:3]) > 1e-3 and differences[3] > 1e-5


def test_another_visit_of_the_patient_is_left_out_too(heads_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the heads taken for visits of one patient: neither is in the other's estimate."""
    cohort, core = heads_case
    names = sorted(cohort.split.side("train"))
    patients = (core.linear.patients[0], core.linear.patients[0], *core.linear.patients[2:])
    monkeypatch.setattr(module, "patient_of", dict(zip(names, patients, strict=True)).get)
    core = replace(core, linear=replace(core.linear, patients=patients))
    for subject in names[:2]:
        shown, *without = (
            make_draws((cohort, one), subjects=[subject]).one(np.random.default_rng(2))
            for one in (core, overwritten(core, 0), overwritten(core, 1), overwritten(core, 2))
        )
        assert [same(shown, other) for other in without] == [True, True, False]


def test_in_sample_the_estimate_would_know_the_answer(case: Case) -> None:
    """What is avoided: with its own row the estimate is far better than what a network is shown."""
    cohort, core = case
    draws, ratio = make_draws(case), []
    for subject in cohort.split.side("train"):
        draw = draws.case(subject, cohort.store.volume(subject), cohort.store.foreground(subject), [Plane(2, 9)])
        in_sample = core.estimate(draw.observation).gaussian
        errors = [((g - draw.truth) ** 2).sum() for g in (draw.known.gaussian, in_sample)]
        ratio.append(errors[0] / errors[1])
    assert np.median(ratio) > 1.3


def test_a_subject_that_the_core_does_not_hold_gets_the_plain_estimate(case: Case) -> None:
    """Above max_volumes, and on the validation side."""
    cohort, core = case
    linear = replace(core.linear, rows=with_mirror(core.linear.rows[:3]), patients=core.linear.patients[:3])
    few, names = replace(core, linear=linear), sorted(cohort.split.side("train"))  # the order of the core's rows
    for subject in (names[4], cohort.split.side("val")[0]):
        draw = make_draws((cohort, few), subjects=[subject]).one(np.random.default_rng(0))
        np.testing.assert_array_equal(draw.known.corrected, few.estimate(draw.observation).corrected)
    draw = make_draws((cohort, few), subjects=[names[1]]).one(np.random.default_rng(0))
    assert not np.allclose(draw.known.corrected, few.estimate(draw.observation).corrected, atol=1e-3)


# What is drawn ------------------------------------------------------------------------------------------------------


def test_truth_is_the_volume_or_its_mirror_image_in_the_observations_units(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, _ = case
    half = np.arange(cohort.store.shape[0])[:, None, None] < 10  # neither head nor field has a side of its own
    plain = type(cohort.store).foreground
    monkeypatch.setattr(type(cohort.store), "foreground", lambda self, subject: plain(self, subject) & half)
    subject = cohort.split.side("train")[0]
    volume, seen = cohort.store.volume(subject), Counter()
    for seed in range(40):
        draw = make_draws(case, subjects=[subject]).one(np.random.default_rng(seed))
        truth = draw.truth * draw.observation.scale[:, None, None, None]
        mirrored = not np.allclose(truth, volume, atol=1e-6)
        np.testing.assert_allclose(truth, volume[:, ::-1] if mirrored else volume, atol=1e-6)
        expected = cohort.store.foreground(subject)
        np.testing.assert_array_equal(draw.foreground, expected[::-1] if mirrored else expected)
        seen[mirrored] += 1
    assert min(seen[True], seen[False]) > 8


@with_augmentation
def test_what_is_given_comes_from_the_truth_and_is_met_by_the_estimate(case: Case, augment: Augmentation) -> None:
    cohort, _ = case
    draws, rng = make_draws(case, DrawSettings(augment=augment)), np.random.default_rng(3)
    for _ in range(10):
        draw = draws.one(rng)
        observation = draw.observation
        assert draw.truth.dtype == draw.known.corrected.dtype == np.float32
        assert draw.truth.shape == draw.known.corrected.shape == (len(cohort.store.contrasts), *cohort.store.shape)
        assert draw.foreground.shape == cohort.store.shape
        for given, true in zip(observation.sections, cut(draw.truth, observation.planes), strict=True):
            np.testing.assert_array_equal(given, true)
        for estimate in (draw.known.gaussian, draw.known.corrected):
            np.testing.assert_array_equal(estimate[:, observation.mask], draw.truth[:, observation.mask])
        if cohort.store.norm == "p99.5":
            together = np.concatenate([s.reshape(len(s), -1) for s in observation.sections], axis=1)
            np.testing.assert_allclose(intensity_scale(together), 1, rtol=1e-5)


def test_a_draw_depends_on_its_generator_alone(case: Case) -> None:
    settings = DrawSettings()
    draws = make_draws(case, settings)
    first = [draws.one(np.random.default_rng(seed)) for seed in (0, 1)]
    again = [make_draws(case, settings).one(np.random.default_rng(seed)) for seed in (1, 0)][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.truth, b.truth)
        assert same(a, b)
        assert a.observation.planes == b.observation.planes
    assert not np.array_equal(first[0].truth, first[1].truth)


def test_all_subjects_axes_and_few_sections_more_often_than_many(case: Case) -> None:
    cohort, _ = case
    draws, rng = make_draws(case, replace(PLAIN, max_k=6)), np.random.default_rng(0)
    loaded, axes, counts = Counter(), Counter(), Counter()
    volume = cohort.store.volume
    for _ in range(250):
        planes = draws._planes(rng, cohort.store.foreground(cohort.store.subjects[0]), (4.0, 4.0, 4.0))
        assert all(isinstance(p, Plane) and p.thin for p in planes)
        assert [p.index for p in planes] == sorted({p.index for p in planes})
        axes[planes[0].axis] += len({p.axis for p in planes}) == 1
        counts[len(planes)] += 1
    assert set(axes) == {0, 1, 2} and min(axes.values()) > 50
    assert set(counts) == {1, 2, 3, 4, 5, 6} and counts[1] > 1.2 * counts[2] > counts[6] > 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cohort.store), "volume", lambda self, s: (loaded.update([s]), volume(s))[1])
        for _ in range(60):
            draws.one(rng)
    assert set(loaded) == set(cohort.split.side("train"))


@pytest.mark.parametrize(("uniform", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_sections_lie_as_in_the_sweeps_or_anywhere(field_case: Case, uniform: float, expected: float) -> None:
    cohort, _ = field_case
    foreground = cohort.store.foreground(cohort.store.subjects[0])
    draws, rng, even = make_draws(field_case, replace(PLAIN, uniform=uniform)), np.random.default_rng(0), []
    for _ in range(60):
        planes = draws._planes(rng, foreground, (4.0, 4.0, 4.0))
        axis = ("sagittal", "coronal", "axial")[planes[0].axis]
        point = Point(len(planes), axis, "uniform", 0.0, 1, "mean", 0)
        even.append(planes == choose_planes(point, foreground, None, (4.0, 4.0, 4.0), "sub"))
    assert np.mean(even) == pytest.approx(expected, abs=0.1)  # a random section may happen to be the middle one


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sections_that_only_graze_the_head_are_not_given_in_training(axis: int) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(21) - 10] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) <= 100
    others = tuple(a for a in range(3) if a != axis)
    area = ball.sum(axis=others)
    kept = well_filled(ball, axis).any(axis=others)
    assert not kept[0] and not kept[-1] and kept[10]
    np.testing.assert_array_equal(kept, area >= 0.2 * area.max())
