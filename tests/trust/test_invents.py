"""What a model invents or leaves out: sentences worked by hand."""

from __future__ import annotations

from math import log10
from pathlib import Path

import pytest
from test_keeps import lesion
from trust_rows import BETTER, claim, rows_of, trial

from xdiff.trust.invents import invents
from xdiff.trust.wording import BAD, GOOD, MISSING, OPEN


def test_unseen_tumours_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    rows = BETTER + lesion("xdiff", [0.0, 0.0], "lesion_unseen") + lesion("truth", [1.0, 1.0], "lesion_unseen")
    said = claim(invents(trial(rows, tmp_path)), "Tumours that no given slice crosses")
    assert said.verdict == BAD and said.text.startswith("Share found by the segmenter: K = 1: 0.00 [0.00, 0.00]")
    assert said.text.endswith("An empty place in such a volume says nothing.")


@pytest.mark.parametrize(("false", "verdict"), [([3.0, 3.0], BAD), ([1.0, 1.0], GOOD), ([0.0, 3.0], OPEN)])
def test_false_tumours_are_counted_above_the_segmenters_own(tmp_path: Path, false: list[float], verdict: str) -> None:
    named = dict(metric="false_lesions", region="WT", contrast="all")
    rows = BETTER + rows_of("xdiff", 1, false, **named) + rows_of("truth", 1, [1.0, 1.0], **named)
    rows += rows_of("xdiff", 1, [0.5, 0.5], metric="dice", region="WT", contrast="all")
    assert claim(invents(trial(rows, tmp_path)), "No tumours where there are none").verdict == verdict


def test_the_swap_says_how_much_is_the_patients_own(tmp_path: Path) -> None:
    rows = BETTER + rows_of("xdiff", 1, [6.0, 7.0, 8.0], policy="swap")
    said = claim(invents(trial(rows, tmp_path)), "The result comes from the patient's own slices")
    assert said.verdict == GOOD
    assert "add K = 1: +5.00 dB [5.00, 5.00] to PSNR in what was not given, over 7.00 dB (n = 3 patients" in said.text


@pytest.mark.parametrize(("ratio", "verdict"), [(2.0, GOOD), (2.5, BAD), (1.2, BAD)])
def test_a_sample_should_have_twice_the_error_of_the_mean(tmp_path: Path, ratio: float, verdict: str) -> None:
    drawn = [11.0 + i - 10 * log10(ratio) for i in range(3)]
    rows = BETTER + rows_of("xdiff", 1, drawn, estimate="sample", steps=8)
    said = claim(invents(trial(rows, tmp_path)), "Samples scatter")
    assert said.verdict == verdict and f"K = 1: {ratio:.2f} [{ratio:.2f}, {ratio:.2f}]" in said.text and "8 steps" in said.text


@pytest.mark.parametrize(("high", "verdict"), [(1.0, GOOD), (0.4, BAD)])
def test_samples_without_high_frequencies_are_too_smooth(tmp_path: Path, high: float, verdict: str) -> None:
    rows = BETTER + rows_of("xdiff", 1, [8.0, 9.0, 10.0], estimate="sample", steps=8)
    named = dict(metric="band_variance", region="unseen_masked", x_name="band", estimate="sample", steps=8)
    for band, variance in ((1.0, 1.0), (2.0, 1.1), (3.0, high)):
        rows += rows_of("xdiff", 1, [variance] * 3, x=band, **named)
    said = claim(invents(trial(rows, tmp_path)), "Samples have as much detail")
    assert said.verdict == verdict and f"high frequencies, K = 1: {high:.2f}" in said.text


@pytest.mark.parametrize(
    ("covered", "verdict", "told"),
    [([0.9] * 3, GOOD, ")."), ([0.8] * 3, BAD, "overconfident, at K = 1."), ([0.97] * 3, BAD, "overcautious, at K = 1.")],
)
def test_intervals_must_cover_what_they_say(tmp_path: Path, covered: list[float], verdict: str, told: str) -> None:
    rows = BETTER + rows_of("xdiff", 1, covered, metric="coverage_90", region="unseen_masked")
    said = claim(invents(trial(rows, tmp_path)), "Its own uncertainty")
    assert said.verdict == verdict and said.text.endswith(told) and f"{100 * covered[0]:.1f} %" in said.text


def test_coverage_whose_interval_reaches_the_limits_is_undecided(tmp_path: Path) -> None:
    rows = BETTER + rows_of("xdiff", 1, [0.80, 0.85, 0.92], metric="coverage_90", region="unseen_masked")
    assert claim(invents(trial(rows, tmp_path)), "Its own uncertainty").verdict == OPEN


@pytest.mark.parametrize(("sharp", "verdict"), [(0.9, GOOD), (0.3, BAD)])
def test_a_blurred_mean_is_said_to_lack_detail(tmp_path: Path, sharp: float, verdict: str) -> None:
    rows = BETTER + rows_of("xdiff", 1, [sharp] * 3, metric="sharpness", region="unseen_masked")
    assert claim(invents(trial(rows, tmp_path)), "Fine detail is there (mean)").verdict == verdict


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    said = invents(trial(BETTER, tmp_path))
    assert len(said) == 7 and {s.verdict for s in said} == {MISSING}
