"""Training cases: the subject left out of its own gaussian, what is given and what is known of it, how often one is used."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import PLAIN, THIN, Case, core_of, make_draws, same
from columns import observation_of
from conftest import Prepared

from xdiff import draws as module
from xdiff.augment import Augmentation
from xdiff.data.split import patient_of
from xdiff.draws import ECHO, Draw, Draws, DrawSettings
from xdiff.gaussian_fit import with_mirror
from xdiff.local import Core
from xdiff.observation import Point, choose_planes, intensity_scale, observe, well_filled
from xdiff.planes import ObliquePlane, Plane, cut
from xdiff.resident import read

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
        hidden = ~shown.view.mask
        differences = [(a - b).abs()[:, hidden].max() for a, b in zip(changed.known, shown.known, strict=True)]
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
        draw = draws.case(subject, *read(cohort.store, subject), [Plane(2, 9)])
        in_sample = core.known(observation_of(draw, cohort.store))[1].gaussian
        errors = [((g - draw.truth) ** 2).sum() for g in (draw.known.gaussian, in_sample)]
        ratio.append(errors[0] / errors[1])
    assert np.median(ratio) > 1.3


def test_a_subject_that_the_core_does_not_hold_gets_the_plain_estimate(case: Case) -> None:
    """Above max_volumes, and on the validation side."""
    cohort, core = case
    linear = replace(core.linear, rows=with_mirror(core.linear.rows[:3]), patients=core.linear.patients[:3])
    few, names = replace(core, linear=linear), sorted(cohort.split.side("train"))  # the order of the core's rows
    for subject in (names[4], cohort.split.side("val")[0]):
        draw = make_draws((cohort, few), THIN, [subject]).one(np.random.default_rng(0))
        expected = few.estimate(observation_of(draw, cohort.store)).corrected
        np.testing.assert_array_equal(draw.known.corrected, expected)
    draw = make_draws((cohort, few), THIN, [names[1]]).one(np.random.default_rng(0))
    assert not np.allclose(draw.known.corrected, few.estimate(observation_of(draw, cohort.store)).corrected, atol=1e-3)


# What is drawn ------------------------------------------------------------------------------------------------------


def units_of(volume: np.ndarray, draw: Draw, cohort: Prepared) -> np.ndarray:
    """The scale (C, 1, 1, 1) that `observe` finds where the draw's planes cut this volume."""
    store, given = cohort.store, np.array(cohort.store.contrasts)[draw.view.given.numpy()].tolist()
    seen = observe(volume, draw.view.planes, store.contrasts, draw.view.spacing_mm, store.frame, store.norm, given)
    return seen.scale[:, None, None, None]


def test_truth_is_the_volume_or_its_mirror_image_in_the_observations_units(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, _ = case
    half = np.arange(cohort.store.shape[0])[:, None, None] < 10  # neither head nor field has a side of its own
    plain = type(cohort.store).foreground
    monkeypatch.setattr(type(cohort.store), "foreground", lambda self, subject: plain(self, subject) & half)
    subject = cohort.split.side("train")[0]
    volume, seen = cohort.store.volume(subject), Counter()
    expected = {False: (volume, cohort.store.foreground(subject))}
    expected[True] = volume[:, ::-1], expected[False][1][::-1]
    for seed in range(40):
        draw = make_draws(case, subjects=[subject]).one(np.random.default_rng(seed))
        found = {m: np.allclose(draw.truth.numpy() * units_of(v, draw, cohort), v, atol=1e-6) for m, (v, _) in expected.items()}
        assert sum(found.values()) == 1
        mirrored = found[True]
        np.testing.assert_array_equal(draw.foreground, expected[mirrored][1])
        seen[mirrored] += 1
    assert min(seen[True], seen[False]) > 8


@with_augmentation
def test_what_is_given_comes_from_the_truth_and_is_met_by_the_estimate(case: Case, augment: Augmentation) -> None:
    """To the bit where thin sections of axes give it; of thick and oblique ones on average."""
    cohort, _ = case
    draws, rng, kinds = make_draws(case, replace(PLAIN, augment=augment, tilted=0.3)), np.random.default_rng(3), set()
    for _ in range(12):
        draw = draws.one(rng)
        view, given = draw.view, draw.view.given.numpy()
        kinds.add((view.exact, isinstance(view.planes[0], ObliquePlane)))
        assert draw.truth.dtype == draw.known.corrected.dtype == torch.float32
        assert draw.truth.shape == draw.known.corrected.shape == (len(cohort.store.contrasts), *cohort.store.shape)
        assert draw.foreground.shape == cohort.store.shape
        observation = observation_of(draw, cohort.store)
        np.testing.assert_allclose(view.evidence, observation.evidence, atol=1e-5)
        np.testing.assert_array_equal(view.evidence[view.known], draw.truth[view.known])
        np.testing.assert_array_equal(view.mask, observation.mask)
        for estimate in (draw.known.gaussian, draw.known.corrected):
            np.testing.assert_array_equal(estimate[view.known], draw.truth[view.known])
            pairs = (cut(volume.numpy(), view.planes) for volume in (estimate, draw.truth))
            for found, true in zip(*pairs, strict=True):
                np.testing.assert_allclose(found[given], true[given], atol=1e-4)
        if cohort.store.norm == "p99.5":
            together = np.concatenate([s[given].reshape(given.sum(), -1) for s in observation.sections], axis=1)
            np.testing.assert_allclose(intensity_scale(together), 1, rtol=1e-5)
    assert kinds >= {(True, False), (False, True)}


def test_a_draw_depends_on_its_generator_alone(case: Case) -> None:
    settings = DrawSettings()
    draws = make_draws(case, settings)
    first = [draws.one(np.random.default_rng(seed)) for seed in (0, 1)]
    again = [make_draws(case, settings).one(np.random.default_rng(seed)) for seed in (1, 0)][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.truth, b.truth)
        assert same(a, b)
        assert a.view.planes == b.view.planes and torch.equal(a.view.given, b.view.given)
    assert not np.array_equal(first[0].truth, first[1].truth)


def test_all_subjects_axes_and_few_sections_more_often_than_many(case: Case) -> None:
    cohort, _ = case
    draws, rng = make_draws(case, replace(THIN, max_k=6)), np.random.default_rng(0)
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


def test_all_kinds_of_sections_are_drawn(field_case: Case) -> None:
    """Each as often as its share says, but for those that do not fit."""
    cohort, _ = field_case
    foreground = cohort.store.foreground(cohort.store.subjects[0])
    settings = replace(PLAIN, orthogonal=0.3, tilted=0.2, thick=0.4, max_k=6)
    draws, rng, found = make_draws(field_case, settings), np.random.default_rng(0), Counter()
    for _ in range(400):
        planes = draws._planes(rng, foreground, (4.0, 4.0, 4.0))
        oblique = isinstance(planes[0], ObliquePlane)
        assert all(isinstance(p, ObliquePlane) == oblique for p in planes)
        found["tilted"] += oblique
        found["orthogonal"] += not oblique and len({p.axis for p in planes}) > 1
        found["thick"] += not oblique and not any(p.thin for p in planes)
        assert oblique or len({p.thickness for p in planes}) == 1
    assert found["tilted"] / 400 == pytest.approx(0.2, abs=0.08)
    assert 0.3 * 0.35 < found["orthogonal"] / 400 < 0.3  # of one section there is one axis
    assert 0.4 * 0.8 * 0.6 < found["thick"] / 400 < 0.4 * 0.8 + 0.05  # many thick ones leave too little unseen


@pytest.mark.parametrize("resident", [False, True], ids=["read", "resident"])
@pytest.mark.parametrize("planes", [[Plane(2, 6), Plane(2, 13)], [Plane(2, 8, 3.0)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_a_contrast_that_is_not_given_keeps_its_units_and_is_known_nowhere(
    heads_case: Case, planes: list[Plane], resident: bool
) -> None:
    cohort, core = heads_case
    subject = cohort.split.side("train")[0]
    volume, foreground = read(cohort.store, subject)
    draws = make_draws(heads_case, resident=resident)
    every, one = (draws.case(subject, volume, foreground, planes, given) for given in (None, ["T2w"]))
    assert one.view.given.tolist() == [False, True] and every.view.given.all()
    assert torch.equal(one.truth[0], volume[0])
    assert torch.equal(one.truth[1], every.truth[1]) and torch.equal(one.view.evidence[1], every.view.evidence[1])
    assert not one.view.evidence[0].any() and not one.view.known[0].any()
    assert torch.equal(one.view.known[1], every.view.known[1]) and torch.equal(one.view.mask, every.view.mask)
    assert 0.1 < one.known.corrected[0].mean() / one.truth[0].mean() < 10 and one.known.corrected[0].std() > 0.05
    assert (one.known.corrected[0] - every.known.corrected[0]).abs().mean() > 1e-3
    for plane in planes:
        torch.testing.assert_close(plane.cut(one.known.corrected)[1], plane.cut(one.truth)[1], atol=1e-4, rtol=0)


def test_some_contrasts_are_given_as_often_as_the_settings_say(heads_case: Case) -> None:
    draws, rng = make_draws(heads_case, replace(THIN, fewer=0.6)), np.random.default_rng(0)
    given = Counter(tuple(draws.one(rng).view.given.tolist()) for _ in range(60))
    assert set(given) == {(True, True), (True, False), (False, True)}
    assert given[True, True] / 60 == pytest.approx(0.4, abs=0.15)


@pytest.mark.parametrize(("uniform", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_sections_lie_as_in_the_sweeps_or_anywhere(field_case: Case, uniform: float, expected: float) -> None:
    cohort, _ = field_case
    foreground = cohort.store.foreground(cohort.store.subjects[0])
    draws, rng, even = make_draws(field_case, replace(THIN, uniform=uniform)), np.random.default_rng(0), []
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


# How often ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_draw_is_made_once_and_used_often(field_case: Case, repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, made, one = replace(PLAIN, repeats=repeats), [], Draws.one
    monkeypatch.setattr(Draws, "one", lambda self, rng: (made.append(one(self, rng)), made[-1])[1])
    draws, later = make_draws(field_case, settings), ECHO * repeats
    steps = [draws.of_step(7, step, 2) for step in range(3 * later)]
    assert len(made) <= 4 * ECHO + 1
    uses = Counter(id(draw) for pair in steps for draw in pair)
    assert max(uses.values()) == 2 * repeats and sorted(uses.values())[len(uses) // 2] >= repeats
    assert all(first is not second for first, second in steps)
    assert len({(id(first), id(second)) for first, second in steps}) >= len(steps) * 2 / (repeats + 1) - 2
    resumed = make_draws(field_case, settings).of_step(7, later + 1, 2)  # a training that begins here sees the same
    assert all(same(a, b) for a, b in zip(resumed, steps[later + 1], strict=True))
    assert not same(resumed[0], make_draws(field_case, settings).of_step(8, later + 1, 2)[0])
