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

PLAIN = DrawSettings(augment=Augmentation(warp=0.0))
WARPED, SYMMETRIC = Augmentation(warp=1.0), Augmentation(symmetric=True)
Case = tuple[Prepared, Core]


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


def core_of(cohort: Prepared) -> Core:
    """A plain core with some local correction: which does not matter here."""
    core = plain_core(cohort.store, cohort.split)
    with torch.no_grad():
        core.network.body[-1].weight.normal_(0, 1.0, generator=torch.Generator().manual_seed(0))
    return core


@pytest.fixture(scope="module")
def field_case(field: Prepared) -> Case:
    return field, core_of(field)


@pytest.fixture(scope="module")
def heads_case(heads: Prepared) -> Case:
    return heads, core_of(heads)


@pytest.fixture(params=["field_case", "heads_case"], ids=["field", "heads"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


def make_draws(case: Case, settings: DrawSettings = PLAIN, subjects: list[str] | None = None) -> Draws:
    cohort, core = case
    return Draws(cohort.store, subjects or cohort.split.side("train"), core, settings)


def overwritten(core: Core, row: int) -> Core:
    """The same core in which another volume stands where one and its mirror image did."""
    linear = core.linear
    volumes = linear.rows[: linear.n_rows // 2].copy()
    volumes[row] = 1 - volumes[row]
    return replace(core, linear=replace(linear, rows=with_mirror(volumes)))


# The subject is left out --------------------------------------------------------------------------------------------


def same(a: Draw, b: Draw) -> bool:
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(a.known, b.known, strict=True))


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


# The residual's scale -----------------------------------------------------------------------------------------------


def spread_out(case: Case, k: int) -> tuple[Observation, Estimate]:
    """k axial sections of a test subject, evenly spread, and what is known of it."""
    cohort, core = case
    store, subject = cohort.store, cohort.split.side("test")[0]
    point = Point(k, "axial", "uniform", 0.0, 1, "mean", 0)
    planes = choose_planes(point, store.foreground(subject), None, store.spacing_mm(subject), subject)
    observation = observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)
    return observation, core.estimate(observation)


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


def test_importance_turns_errors_of_residuals_into_errors_of_intensities(case: Case) -> None:
    draw = make_draws(case).one(np.random.default_rng(0))
    weight, error = importance(draw.known), draw.truth - draw.known.corrected
    np.testing.assert_allclose(weight.mean(axis=(1, 2, 3)), 1, rtol=1e-4)
    relative = (error**2).mean(axis=(1, 2, 3)) / (draw.known.std**2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose((weight * residual(draw) ** 2).mean(axis=(1, 2, 3)), relative, rtol=1e-3)
    assert weight.dtype == residual(draw).dtype == np.float32


# Checks -------------------------------------------------------------------------------------------------------------


def test_checks_score_as_the_protocol_defines_unseen(case: Case) -> None:
    """Against xdiff.metrics.core, contrast by contrast, on a volume that paints outside the head too."""
    cohort, _ = case
    checks = Checks(make_draws(case), cohort.split, (1, 3), 2)
    rng = np.random.default_rng(0)
    guesses = [draw.truth + 0.1 * rng.standard_normal(draw.truth.shape, dtype=np.float32) for _, _, draw, _ in checks.cases]
    left = iter(guesses)
    scores = checks.score(lambda draw: next(left))
    expected: dict[tuple[str, int], list[float]] = {}
    for (side, k, draw, _), guess in zip(checks.cases, guesses, strict=True):
        where = regions(draw.foreground, draw.observation.mask, None)
        by_contrast = [
            {(region, metric): value for region, metric, value in by_region(truth, one, where)}["unseen", "psnr"]
            for truth, one in zip(draw.truth, guess, strict=True)
        ]
        # one error over all contrasts: the mean of the squares, not of the decibels
        expected.setdefault((side, k), []).append(-10 * np.log10(np.mean([10 ** (-p / 10) for p in by_contrast])))
    found = {(side, k): entry["psnr"] for side, by_k in scores.items() for k, entry in by_k.items()}
    assert found == pytest.approx({key: np.mean(values) for key, values in expected.items()}, abs=2e-4)
    assert set(found) == {(side, k) for side in ("validation", "training") for k in (1, 3)}


def test_score_of_a_training_is_the_mean_gain_on_the_validation_side() -> None:
    scores = {"validation": {1: {"psnr": 21.0, "gaussian": 20.0}, 5: {"psnr": 24.5, "gaussian": 25.0}}}
    scores["training"] = {1: {"psnr": 99.0, "gaussian": 20.0}}
    assert mean_gain(scores) == 0.25
    assert mean_gain({"training": scores["training"]}) == 0


def test_the_gaussian_row_gains_nothing_on_itself(case: Case) -> None:
    checks = Checks(make_draws(case), case[0].split, (1, 3), 2)
    scores = checks.score(lambda draw: draw.known.gaussian)
    assert all(entry["psnr"] == entry["gaussian"] for by_k in scores.values() for entry in by_k.values())
    better = checks.score(lambda draw: 0.5 * draw.known.gaussian + 0.5 * draw.truth)  # half the error
    for by_k in better.values():
        for entry in by_k.values():
            assert entry["psnr"] - entry["gaussian"] == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_checks_are_the_same_cases_for_every_method_and_none_of_the_test_side(case: Case) -> None:
    cohort, _ = case
    asked: list[str] = []
    draws = make_draws(case, DrawSettings())
    one_case = draws.case
    draws.case = lambda subject, *rest: (asked.append(subject), one_case(subject, *rest))[1]  # type: ignore[method-assign]
    checks = Checks(draws, cohort.split, (1, 3), 2)
    val, train = cohort.split.side("val")[:2], cohort.split.side("train")[:2]
    assert Counter(asked) == {subject: 2 for subject in (*val, *train)}
    again = Checks(make_draws(case, DrawSettings()), cohort.split, (1, 3), 2)
    for (side, k, draw, base), (side_2, k_2, draw_2, base_2) in zip(checks.cases, again.cases, strict=True):
        assert (side, k, base) == (side_2, k_2, base_2)
        assert same(draw, draw_2)
        assert {p.axis for p in draw.observation.planes} == {2} and len(draw.observation.planes) == k


def test_training_subjects_are_checked_against_the_gaussian_that_leaves_them_out(field_case: Case) -> None:
    """Else their gain would be measured against a memorised answer, and overfitting would not show."""
    _, core = field_case
    checks = Checks(make_draws(field_case), field_case[0].split, (1,), 4)

    def shown_what_it_knows(draw: Draw) -> np.ndarray:
        return core.estimate(draw.observation).gaussian

    scores = checks.score(shown_what_it_knows)
    assert scores["validation"][1]["psnr"] == scores["validation"][1]["gaussian"]
    assert scores["training"][1]["psnr"] > scores["training"][1]["gaussian"] + 0.5


def test_a_k_that_leaves_too_little_unseen_is_left_out_as_in_the_sweeps(field_case: Case) -> None:
    checks = Checks(make_draws(field_case), field_case[0].split, (3, 14, 16, 60), 1)  # of 18 sections
    assert {k for _, k, _, _ in checks.cases} == {3}
