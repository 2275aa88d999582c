"""What a model keeps: sentences worked by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from anatomy_metrics import anatomy_metrics
from synthetic_metrics import COLUMNS
from test_tumours import row
from trust_rows import BETTER, WHERE, against, card, claim, long, rows_of, trial

from xdiff.trust.keeps import keeps
from xdiff.trust.wording import BAD, GOOD, MISSING, OPEN

GAUSSIAN = "Closer to the truth than the best linear estimate (gaussian)"
LINEAR = "Closer to the truth than linear interpolation between the given slices (linear)"


def test_where_it_is_closer_the_sentence_has_number_interval_n_and_condition(tmp_path: Path) -> None:
    rows = against("gaussian", {1: [1.0, 1.0, 1.0], 5: [2.0, 2.0, 2.0], 10: [-1.0, -1.0, -1.0]})
    said = claim(keeps(trial(rows, tmp_path)), GAUSSIAN)
    assert said.verdict == GOOD
    assert said.text == (
        "PSNR in what was not given is higher: K = 1: +1.00 dB [1.00, 1.00]; K = 5: +2.00 dB [2.00, 2.00] "
        f"(n = 3 patients; {WHERE}). Not shown at K = 10: see below."
    )


@pytest.mark.parametrize(
    ("differences", "verdict"), [([-1.0, -1.0], BAD), ([-1.0, 1.0], OPEN), ([1.0], OPEN), ([1.0, 1.0], GOOD)]
)
def test_the_whole_interval_decides(tmp_path: Path, differences: list[float], verdict: str) -> None:
    assert claim(keeps(trial(against("gaussian", {1: differences}), tmp_path)), GAUSSIAN).verdict == verdict


def test_patients_are_paired(tmp_path: Path) -> None:
    """Unpaired, a spread of 1 dB between patients would hide a gain of 0.1 dB."""
    assert "+0.10 dB [0.10, 0.10]" in claim(keeps(trial(against("gaussian", {1: [0.1] * 4}), tmp_path)), GAUSSIAN).text


def test_interpolation_is_met_in_the_foreground(tmp_path: Path) -> None:
    """In `unseen` it is charged for what it paints beyond the head, and would be beaten by any method that knows a head."""
    rows = against("linear", {2: [9.0, 9.0]}) + against("linear", {2: [-1.0, -1.0]}, region="unseen_masked")
    assert claim(keeps(trial(rows, tmp_path)), LINEAR).verdict == BAD


@pytest.mark.parametrize(("largest", "verdict"), [(2e-6, GOOD), (0.02, BAD)])
def test_given_slices_are_judged_by_their_largest_error(tmp_path: Path, largest: float, verdict: str) -> None:
    rows = BETTER + rows_of("xdiff", 1, [0.0, largest, 0.0], metric="max_error", region="given")
    said = claim(keeps(trial(rows, tmp_path)), "Given slices")
    assert said.verdict == verdict and f"is {largest:.2g} of the intensity scale" in said.text and "n = 3 patients" in said.text


def test_by_distance_it_counts_from_the_nearest_bin_on_without_a_gap(tmp_path: Path) -> None:
    rows = list(BETTER)
    for x, gain in ((2.0, 2.0), (6.0, 1.0), (10.0, -1.0), (14.0, 3.0)):
        rows += against("gaussian", {1: [gain] * 3}, region="unseen_masked", x_name="distance_mm", x=x)
    said = claim(keeps(trial(rows, tmp_path)), "Closer to the truth far from a given slice, K = 1")
    assert said.verdict == GOOD
    assert "from 2 mm (+2.00 dB [2.00, 2.00]) to 6 mm (+1.00 dB [1.00, 1.00])" in said.text and "up to 14 mm" in said.text


def test_worse_next_to_a_given_slice_is_said(tmp_path: Path) -> None:
    rows = BETTER + against("gaussian", {1: [-1.0] * 3}, region="unseen_masked", x_name="distance_mm", x=2.0)
    said = claim(keeps(trial(rows, tmp_path)), "Closer to the truth far from a given slice, K = 1")
    assert said.verdict == BAD and "Not shown even next to a given slice: -1.00 dB [-1.00, -1.00]" in said.text


def test_bodies_are_judged_against_the_population_mean(tmp_path: Path) -> None:
    """Of METHODS in anatomy_metrics xdiff keeps most of a person; the mean template is made to give everybody the same."""
    table = anatomy_metrics(ks=(5,))
    flat = table[table["method"] == "population_mean"].assign(method="mean_template")
    table = pd.concat([table[table["method"] != "mean_template"], flat])
    scored = dict(region="unseen", metric="psnr", contrast="water", trained_on="phantom-body", cohort="phantom-body", grid="body")
    methods = ("xdiff", "mean_template")
    psnr = [row(m, s, 20.0, **scored) for m in methods for s in table["subject"].unique()]
    rows = [*table[COLUMNS].to_dict("records"), *psnr]
    topic = "Volume, fat and spine of this patient, K = 5"
    said = [s for s in card(long(rows), tmp_path).sections[0][1] if s.topic == topic]
    assert said[0].verdict == GOOD and "volume +" in said[0].text and "n = 12 patients" in said[0].text
    (same,) = [s for s in card(long(rows), tmp_path, "mean_template").sections[0][1] if s.topic == topic]
    assert same.verdict == OPEN and "volume +0.00 l [0.00, 0.00]" in same.text


def lesion(method: str, found: list[float], region: str) -> list[dict]:
    more = dict(metric="found", region=region, x_name="lesion", contrast="all")
    return [row(method, f"sub-{i}", value, x=0.0, K=1, indices="1", **more) for i, value in enumerate(found)]


@pytest.mark.parametrize(("found", "verdict"), [([1.0, 1.0], GOOD), ([1.0, 0.0], BAD)])
def test_seen_tumours_are_judged_against_the_real_volumes(tmp_path: Path, found: list[float], verdict: str) -> None:
    rows = BETTER + lesion("xdiff", found, "lesion_seen") + lesion("truth", [1.0, 1.0], "lesion_seen")
    said = claim(keeps(trial(rows, tmp_path)), "Tumours that a given slice crosses")
    assert said.verdict == verdict and "in the real volumes K = 1: 1.00 [1.00, 1.00] (n = 2 patients" in said.text


def test_what_was_not_measured_is_said_and_not_left_out(tmp_path: Path) -> None:
    said = keeps(trial(BETTER, tmp_path))
    missing = [s.topic for s in said if s.verdict == MISSING]
    assert [t.split(",")[0] for t in missing] == [
        "Given slices come back unchanged",
        "Closer to the truth than the mean of the training volumes (mean_template)",
        LINEAR,
        "Closer to the truth far from a given slice",
        "Volume",
        "Tumours that a given slice crosses are still there",
    ]
    assert all(s.text.endswith(".") for s in said)
