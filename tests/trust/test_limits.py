"""When not to use a model: what does not beat the trivial rows, and what nobody tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust_rows import BETTER, WHERE, against, claim, rows_of, trials

from xdiff.trust.limits import limits
from xdiff.trust.wording import BAD, FEW_PATIENTS, GOOD, MISSING, OPEN, Statement

EVERY_K = "Better than the best linear estimate (gaussian) at every K tried"


def said(rows: list[dict], folder: Path, made: tuple[str, ...] = ()) -> list[Statement]:
    return limits(trials(rows, folder), made)


def test_the_k_at_which_it_does_not_beat_gaussian_are_named(tmp_path: Path) -> None:
    rows = against("gaussian", {1: [-1.0, 1.0], 5: [1.0, 1.0], 10: [-2.0, -2.0]})
    found = claim(said(rows, tmp_path), EVERY_K)
    assert found.verdict == BAD
    assert found.text == (
        "Not at K = 1: +0.00 dB [-1.00, 1.00]; K = 10: -2.00 dB [-2.00, -2.00] (PSNR in what was not given; n = 2 patients; "
        f"{WHERE})."
    )


def test_where_it_beats_gaussian_everywhere_the_least_gain_is_told(tmp_path: Path) -> None:
    found = claim(said(against("gaussian", {1: [0.5, 0.5], 5: [2.0, 2.0]}), tmp_path), EVERY_K)
    assert found.verdict == GOOD and found.text.startswith("At K = 1 and 5; least at K = 1: +0.50 dB [0.50, 0.50]")


def test_the_k_that_nobody_tried_are_named(tmp_path: Path) -> None:
    found = claim(said(BETTER, tmp_path), "Any other number of slices")
    assert found.verdict == MISSING and found.text.startswith("K = 2, 3, 5, 10 and 31 (tried: K = 1;")


def test_the_distances_at_which_it_does_not_beat_gaussian_are_named(tmp_path: Path) -> None:
    rows = list(BETTER)
    for x, gain in ((2.0, 2.0), (6.0, -0.5), (10.0, -1.0)):
        rows += against("gaussian", {1: [gain] * 3}, region="unseen_masked", x_name="distance_mm", x=x)
    found = claim(said(rows, tmp_path), "Better at every distance")
    assert found.verdict == BAD and "Not at K = 1: 6 and 10 mm, worst -1.00 dB [-1.00, -1.00] at 10 mm" in found.text


@pytest.mark.parametrize(("over_mean", "verdict"), [(1.0, GOOD), (-1.0, BAD)])
def test_in_the_scanner_frame_the_loss_and_what_is_left_are_told(tmp_path: Path, over_mean: float, verdict: str) -> None:
    away = dict(frame="scanner", grid="lgg-scanner")
    rows = BETTER + against("mean_template", {1: [over_mean] * 3}, **away)
    found = claim(said(rows, tmp_path), "Works where nobody says")
    assert found.verdict == verdict and f"changes by K = 1: {over_mean - 1:+.2f} dB" in found.text
    assert f"It is K = 1: {over_mean:+.2f} dB" in found.text and "axial, uniform, scanner, thin" in found.text


def test_other_ways_of_giving_slices_are_judged_or_listed_as_not_tried(tmp_path: Path) -> None:
    rows = BETTER + against("gaussian", {1: [1.0] * 3}, region="unseen_masked")
    rows += against("gaussian", {1: [-1.0] * 3}, region="unseen_masked", axis="coronal")
    found = said(rows, tmp_path)
    other = claim(found, "Better than the best linear estimate (gaussian) when slices are given otherwise: coronal")
    assert other.verdict == BAD and "K = 1: -1.00 dB [-1.00, -1.00]" in other.text
    assert claim(found, "Other axes").text == "Sagittal."
    assert claim(found, "Other ways of choosing slices").verdict == claim(found, "Thick slices").verdict == MISSING


def test_one_contrast_that_fails_is_enough(tmp_path: Path) -> None:
    rows = BETTER + against("gaussian", {1: [-3.0] * 3}, contrast="FLAIR")
    found = claim(said(rows, tmp_path), "Holds for every contrast")
    assert found.verdict == BAD and "FLAIR, K = 1: -3.00 dB" in found.text and "T1w, K = 1: +1.00 dB" in found.text
    assert claim(said(BETTER, tmp_path), "Holds for every contrast").text.startswith("T1w alone was tested")


def test_on_another_cohort_it_must_beat_that_cohorts_own_mean(tmp_path: Path) -> None:
    """The mean of its own training volumes is easily beaten on another organ."""
    away = dict(cohort="knee")
    rows = BETTER + against("mean_template", {1: [2.0] * 3}, **away)
    rows += rows_of("mean_template", 1, [17.0, 18.0, 19.0], **away, trained_on="knee")
    found = said(rows, tmp_path)
    topic = "On knee, which it was not trained on, better than the mean of the training volumes"
    assert claim(found, f"{topic} (mean_template)").verdict == GOOD
    own = claim(found, f"{topic} of knee itself")
    assert own.verdict == BAD and "K = 1: -5.00 dB [-5.00, -5.00]" in own.text


def test_on_another_cohort_it_must_beat_interpolation_that_was_run_there_for_another_training(tmp_path: Path) -> None:
    foreground = dict(cohort="knee", region="unseen_masked")
    rows = BETTER + rows_of("xdiff", 1, [10.0] * 3, cohort="knee") + rows_of("xdiff", 1, [10.0] * 3, **foreground)
    rows += rows_of("linear", 1, [12.0] * 3, trained_on="knee", **foreground)
    assert claim(said(rows, tmp_path), "On knee, which it was not trained on, better than linear").verdict == BAD


def test_a_cohort_that_is_made_is_no_patient(tmp_path: Path) -> None:
    rows = [r | {"trained_on": "tcga-lgg", "cohort": "phantom-brain"} for r in BETTER]
    assert claim(said(rows, tmp_path), "Tested on enough real patients").text.startswith("phantom-brain is made by the workflow")
    assert "made by the workflow" in claim(said(BETTER, tmp_path, ("tcga-lgg",)), "Tested on enough").text


@pytest.mark.parametrize(("n", "verdict"), [(FEW_PATIENTS - 1, BAD), (FEW_PATIENTS, GOOD)])
def test_few_patients_are_said_to_be_few(tmp_path: Path, n: int, verdict: str) -> None:
    found = claim(said(against("gaussian", {1: [1.0] * n}), tmp_path), "Tested on enough real patients")
    assert found.verdict == verdict and f"n = {n} patients" in found.text


def test_trainings_are_compared_where_there_are_several(tmp_path: Path) -> None:
    rows = BETTER + rows_of("xdiff", 1, [12.0, 13.0, 14.0], train_seed=1)
    found = claim(said(rows, tmp_path), "The same when it is trained again")
    assert found.verdict == OPEN and "over 2 trainings: K = 1: 12.00 to 13.00 dB (n = 3 patients" in found.text
    assert claim(said(BETTER, tmp_path), "The same when it is trained again").verdict == MISSING
