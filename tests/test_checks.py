"""How trainings are scored: the residual's scale, the checks, and that they measure what the protocol does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from cases import Case, core_of, make_draws, same
from columns import observation_of
from conftest import Prepared

from xdiff.draws import Checks, Draw, DrawSettings, importance, mean_gain, residual
from xdiff.metrics.core import by_region, regions


@pytest.fixture(scope="module")
def case(cohort: Prepared) -> Case:
    return cohort, core_of(cohort)


@pytest.fixture(scope="module")
def field_case(field: Prepared) -> Case:
    return field, core_of(field)


def test_importance_turns_errors_of_residuals_into_errors_of_intensities(case: Case) -> None:
    draw = make_draws(case).one(np.random.default_rng(0))
    weight, error = importance(draw.known), draw.truth - draw.known.corrected
    np.testing.assert_allclose(weight.mean(dim=(1, 2, 3)), 1, rtol=1e-4)
    relative = (error**2).mean(dim=(1, 2, 3)) / (draw.known.std**2).mean(dim=(1, 2, 3))
    np.testing.assert_allclose((weight * residual(draw) ** 2).mean(dim=(1, 2, 3)), relative, rtol=1e-3)
    assert weight.dtype == residual(draw).dtype == torch.float32


def test_checks_score_as_the_protocol_defines_unseen(case: Case) -> None:
    """Against xdiff.metrics.core, contrast by contrast, on a volume that paints outside the head too."""
    cohort, _ = case
    checks = Checks(make_draws(case), cohort.split, (1, 3), 2)
    generator = torch.Generator().manual_seed(0)
    guesses = [draw.truth + 0.1 * torch.randn(draw.truth.shape, generator=generator) for _, _, draw, _ in checks.cases]
    left = iter(guesses)
    scores = checks.score(lambda draw: next(left))
    expected: dict[tuple[str, int], list[float]] = {}
    for (side, k, draw, _), guess in zip(checks.cases, guesses, strict=True):
        where = regions(draw.foreground.numpy(), draw.view.mask.numpy(), None)
        by_contrast = [
            {(region, metric): value for region, metric, value in by_region(truth, one, where)}["unseen", "psnr"]
            for truth, one in zip(draw.truth.numpy(), guess.numpy(), strict=True)
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
        assert {p.axis for p in draw.view.planes} == {2} and len(draw.view.planes) == k


def test_training_subjects_are_checked_against_the_gaussian_that_leaves_them_out(field_case: Case) -> None:
    """Else their gain would be measured against a memorised answer, and overfitting would not show."""
    cohort, core = field_case
    checks = Checks(make_draws(field_case), cohort.split, (1,), 4)

    def shown_what_it_knows(draw: Draw) -> torch.Tensor:
        return core.known(observation_of(draw, cohort.store))[1].gaussian

    scores = checks.score(shown_what_it_knows)
    assert scores["validation"][1]["psnr"] == scores["validation"][1]["gaussian"]
    assert scores["training"][1]["psnr"] > scores["training"][1]["gaussian"] + 0.5


def test_a_k_that_leaves_too_little_unseen_is_left_out_as_in_the_sweeps(field_case: Case) -> None:
    checks = Checks(make_draws(field_case), field_case[0].split, (3, 14, 16, 60), 1)  # of 18 sections
    assert {k for _, k, _, _ in checks.cases} == {3}
