"""The statistics on numbers worked out by hand, and what is refused when the long table is read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import small_metrics, write_metrics

from xdiff.errors import InputError
from xdiff.stats import POINT, ROW, bootstrap_mean, paired_difference, paired_ratio, patient_values, read_metrics, summarise


def test_bootstrap_of_two_patients_spans_both():
    # The mean of a resample of {0, 1} is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean(pd.Series([0.0, 1.0], index=["a", "b"])) == (0.5, 0.0, 1.0)


def test_bootstrap_agrees_with_the_normal_interval_for_many_patients():
    values = pd.Series(np.random.default_rng(1).normal(20, 2, size=400))
    mean, lo, hi = bootstrap_mean(values, n_boot=4000)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (mean - lo, hi - mean) == pytest.approx((half, half), rel=0.08)


def test_bootstrap_averages_visits_first_and_ignores_the_order_of_rows():
    visits = pd.Series([1.0, 3.0, 5.0, 10.0], index=["p1", "p1", "p2", "p3"])
    patients = pd.Series([10.0, 2.0, 5.0], index=["p3", "p1", "p2"])
    assert bootstrap_mean(visits) == pytest.approx(bootstrap_mean(patients), abs=1e-12)
    assert bootstrap_mean(visits)[0] == pytest.approx(17 / 3)


def test_bootstrap_of_one_patient_has_no_interval():
    mean, lo, hi = bootstrap_mean(pd.Series([7.0], index=["p"]))
    assert mean == 7 and np.isnan(lo) and np.isnan(hi)


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_bootstrap_refuses_nothing_and_nan(values):
    with pytest.raises(ValueError, match="NaN among"):
        bootstrap_mean(pd.Series(values, dtype=float))


def test_paired_difference_of_six_patients_all_better():
    names = list("abcdef")
    a = pd.Series([11.0, 12, 13, 14, 15, 16], index=names)
    b = pd.Series([10.0] * 6 + [99.0], index=[*names, "only in b"])
    result = paired_difference(a, b)
    assert (result.mean, result.n) == (3.5, 6)
    assert result.p == pytest.approx(2 / 2**6)  # all six signs alike: the two extremes of 64 sign patterns
    assert 2.0 < result.lo < 3.5 < result.hi < 5.0


def test_paired_ratio_of_two_patients_spans_both():
    # A resample of the pairs (1, 1) and (6, 2) has the ratio 1, 7/3 or 3; the mean of the ratios would be 2.
    a, b = pd.Series([1.0, 4.0, 8.0], index=["p", "q", "q"]), pd.Series([2.0, 1.0, 99.0], index=["q", "p", "only in b"])
    assert paired_ratio(a, b) == pytest.approx((7 / 3, 1, 3, 2))


def test_interval_of_a_paired_ratio_is_that_of_patients_drawn_again():
    rng = np.random.default_rng(4)
    b = pd.Series(rng.uniform(1, 20, 9), index=list("abcdefghi"))
    a = b * rng.uniform(1, 1.5, 9) + rng.uniform(0, 4, 9)
    chosen = rng.integers(9, size=(40_000, 9))
    expected = np.quantile(a.to_numpy()[chosen].sum(1) / b.to_numpy()[chosen].sum(1), [0.025, 0.975])
    assert paired_ratio(a, b, n_boot=20_000)[1:3] == pytest.approx(expected, rel=0.004)


def test_paired_ratio_without_an_interval_or_a_common_patient():
    a = pd.Series([1.0, 3.0], index=["p", "q"])
    assert paired_ratio(a[:1], a)[::3] == (1, 1) and np.isnan(paired_ratio(a[:1], a)[1:3]).all()
    assert paired_ratio(a, a - 1)[0] == 2 and np.isnan(paired_ratio(a, a - 1)[1:3]).all()
    assert np.isnan(paired_ratio(a, 0 * a)[:3]).all()
    with pytest.raises(ValueError, match="no patient in both"):
        paired_ratio(a, a.rename(index=str.upper))


def test_paired_difference_without_a_difference_or_a_common_patient():
    same = pd.Series([1.0, 2.0], index=["a", "b"])
    assert paired_difference(same, same) == (0, 0, 0, 1.0, 2)
    with pytest.raises(ValueError, match="no patient in both"):
        paired_difference(same, same.rename(index=str.upper))


def test_contrasts_then_visits_then_patients_are_averaged():
    base = {("gaussian", 1, "BraTS-GLI-00500-000"): 10.0, ("gaussian", 1, "BraTS-GLI-00501-000"): 31.0}
    other = {("gaussian", 1, "BraTS-GLI-00500-000"): 14.0}
    visit = {("gaussian", 1, "BraTS-GLI-00500-001"): 20.0}
    metrics = pd.concat(
        [small_metrics(base, contrast="t1n"), small_metrics(other, contrast="t2w"), small_metrics(visit, contrast="t1n")]
    )
    values = patient_values(metrics, ["method", "K"]).set_index("patient")
    assert values.loc["BraTS-GLI-00500", "value"] == 16.0  # (mean(10, 14) + 20) / 2: the visits weigh the same
    assert values.loc["BraTS-GLI-00500", "volumes"] == 2
    summary = summarise(metrics, ["method", "K"]).iloc[0]
    assert (summary["mean"], summary["n"], summary["volumes"]) == (23.5, 2, 3)


def test_summarise_agrees_with_bootstrap_mean_group_by_group():
    rng = np.random.default_rng(0)
    sizes = {1: 3, 2: 7, 5: 7}
    psnr = {("gaussian", k, f"sub-{s:02d}"): rng.normal(20, 3) for k, n in sizes.items() for s in range(n)}
    metrics = small_metrics(psnr).sample(frac=1, random_state=0)
    for row in summarise(metrics, ["K"]).itertuples():
        own = metrics[metrics["K"] == row.K].set_index("subject")["value"]
        assert (row.mean, row.lo, row.hi) == pytest.approx(bootstrap_mean(own))
        assert row.n == sizes[row.K]


def test_missing_columns_are_named_with_the_file(tmp_path):
    path = write_metrics(small_metrics({("linear", 2, "s"): 1.0}).drop(columns=["frame", "split"]), tmp_path / "all.tsv")
    with pytest.raises(InputError, match=r"all\.tsv: found no column frame, split, expected the columns trained_on"):
        read_metrics(path)


def test_duplicates_are_an_error_that_shows_one(tmp_path):
    one = small_metrics({("linear", 2, "sub-01"): 1.0})
    path = write_metrics(pd.concat([one, one.assign(value=2.0)]), tmp_path / "all.tsv")
    with pytest.raises(InputError, match="1 duplicated rows, first method=linear .*subject=sub-01"):
        read_metrics(path)


def test_mixed_norms_in_one_row_are_an_error(tmp_path):
    mixed = pd.concat([small_metrics({("linear", 2, f"s{i}"): 1.0}, norm=norm) for i, norm in enumerate("xy")])
    with pytest.raises(InputError, match=r"norms \['x', 'y'\] for linear K=2"):
        read_metrics(write_metrics(mixed, tmp_path / "all.tsv"))


def test_undefined_values_are_dropped_and_counted_aloud(tmp_path, capsys):
    table = small_metrics({("linear", 2, "s1"): 1.0, ("linear", 2, "s2"): np.nan})
    kept = read_metrics(write_metrics(table, tmp_path / "all.tsv"))
    assert list(kept["subject"]) == ["s1"]
    assert "1 undefined values left out (psnr in unseen_masked: 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("K", "three", "three.*expected numbers in K"), ("steps", 1.5, "fractions in steps"), ("K", None, "2 rows without K")],
)
def test_what_is_not_a_whole_number_is_an_error(tmp_path, column, value, message):
    table = small_metrics({("linear", 2, "s1"): 1.0, ("linear", 2, "s2"): 1.0}).astype({column: object})
    table[column] = value
    with pytest.raises(InputError, match=message):
        read_metrics(write_metrics(table, tmp_path / "all.tsv"))


def test_an_empty_table_is_an_error(tmp_path):
    path = write_metrics(small_metrics({("linear", 2, "s"): 1.0}).iloc[:0], tmp_path / "all.tsv")
    with pytest.raises(InputError, match="no rows"):
        read_metrics(path)


def test_a_table_from_before_contrasts_could_lack_was_given_all(tmp_path):
    rows = small_metrics({("gaussian", 1, "a"): 17.0}).drop(columns="contrasts_given")
    assert set(read_metrics(write_metrics(rows, tmp_path / "all.tsv"))["contrasts_given"]) == {"all"}


def test_rows_with_other_contrasts_given_are_never_averaged_together(tmp_path):
    """They are points of their own, not duplicates of the rows with all contrasts given."""
    rows = [small_metrics({("gaussian", 1, "a"): db}, contrasts_given=g) for db, g in ((17.0, "all"), (13.0, "t1n"))]
    found = read_metrics(write_metrics(pd.concat(rows), tmp_path / "all.tsv"))
    means = summarise(found, [*POINT, *ROW]).set_index("contrasts_given")["mean"]
    assert means.to_dict() == {"all": 17.0, "t1n": 13.0}
