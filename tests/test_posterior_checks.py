"""The posterior checks on rows whose ratios are known, and on exact draws of the Gaussian field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Prepared
from synthetic_metrics import small_metrics, sweep_metrics, synthetic_metrics, training_checks, write_history, write_metrics

from xdiff.config import MethodEntry, Sweep
from xdiff.layout import families
from xdiff.markup import DASH, to_latex, to_markdown
from xdiff.metrics.__main__ import collect
from xdiff.metrics.evaluate import evaluate
from xdiff.metrics.history import history_rows
from xdiff.posterior_checks import CHECKS, check_numbers, check_rows, tables
from xdiff.sample import sample
from xdiff.stats import POINT, read_metrics
from xdiff.tables import main, read_main, read_posterior
from xdiff.train import train

PATIENTS = ("s1", "s2", "s3")
EXACT = np.array([0.01, 0.02, 0.06])  # MSE of the closed form, patient by patient: a mean of ratios is no ratio of means


def errors(method: str, mse: np.ndarray, **columns: object) -> pd.DataFrame:
    """Rows of psnr in unseen at K = 1 from the MSE of every patient."""
    psnr = {(method, 1, s): -10 * np.log10(v) for s, v in zip(PATIENTS, mse, strict=True)}
    return small_metrics(psnr, region="unseen", steps=1, **columns)


def scores(method: str, values: tuple[float, ...], **columns: object) -> pd.DataFrame:
    """Rows of another metric in unseen_masked at K = 1."""
    return small_metrics({(method, 1, s): v for s, v in zip(PATIENTS, values, strict=True)}, **columns)


def one_method(method: str, of_exact: float, of_mean: float, steps: int = 8) -> pd.DataFrame:
    """A mean whose MSE is of_exact times the exact one, and two draws on either side of of_mean times the mean's."""
    mean = of_exact * EXACT + np.array([0.004, 0.0, -0.004]) * (method != "field_posterior")
    drawn = [errors(method, of_mean * mean * s, estimate="sample", seed=i) for i, s in enumerate((0.8, 1.2))]
    drawn = [rows.assign(steps=steps) for rows in drawn]
    return pd.concat([errors(method, mean), *drawn])


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    """The closed form, a fair sampler and its ablation, read as from all.tsv."""
    parts = [one_method("field_posterior", 1, 2), one_method("xdiff", 1.05, 1.9), one_method("xdiff_notrunk", 1.3, 1.5)]
    band = dict(estimate="sample", steps=8, metric="band_variance", x_name="band")
    for x, values in ((1.0, (0.9, 1.0, 1.4)), (2.0, (0.9, 1.0, 1.1)), (3.0, (0.5, 0.6, 0.7))):
        parts.append(scores("xdiff", values, x=x, **band))
    drawn = dict(estimate="sample", steps=8)
    parts.append(scores("xdiff", (0.02, 0.04, 0.06), metric="crps", seed=-2, **drawn))
    parts.append(scores("xdiff", (0.03, 0.06, 0.09), metric="mae", estimate="mean", steps=1))
    # what must not be mistaken for them: a CRPS from the spread of a mean or of one draw, the MAE of samples, the bands of a mean
    parts.append(scores("xdiff", (9.0, 9.0, 9.0), metric="crps", estimate="mean", steps=1))
    parts.append(scores("xdiff", (9.0, 9.0, 9.0), metric="crps", seed=0, **drawn))
    parts.append(scores("xdiff", (9.0, 9.0, 9.0), metric="mae", seed=0, **drawn))
    parts.append(scores("xdiff", (9.0, 9.0, 9.0), x=1.0, **band | dict(estimate="mean", steps=1)))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def checks(metrics: pd.DataFrame) -> pd.DataFrame:
    return check_numbers(metrics).set_index(["method", "check"])


def test_error_ratios_are_ratios_of_means_over_patients(checks: pd.DataFrame) -> None:
    assert checks.loc[("xdiff", "mean_to_closed_form"), "mean"] == pytest.approx(1.05)
    assert checks.loc[("xdiff", "sample_to_mean"), "mean"] == pytest.approx(1.9)
    assert checks.loc[("xdiff_notrunk", "mean_to_closed_form"), "mean"] == pytest.approx(1.3)
    assert checks.loc[("xdiff_notrunk", "sample_to_mean"), "mean"] == pytest.approx(1.5)
    exact = checks.loc[("field_posterior", "mean_to_closed_form"), ["mean", "lo", "hi"]]
    assert exact.tolist() == [1, 1, 1]


def test_intervals_are_over_patients_drawn_with_both_values(checks: pd.DataFrame) -> None:
    """The sample is the same multiple of the mean in every patient, the mean is not of the closed form."""
    constant = checks.loc[("xdiff", "sample_to_mean"), ["lo", "hi"]].to_numpy(float)
    np.testing.assert_allclose(constant, 1.9)
    mean = 1.05 * EXACT + np.array([0.004, 0.0, -0.004])
    chosen = np.random.default_rng(9).integers(3, size=(20_000, 3))
    expected = np.quantile(mean[chosen].sum(1) / EXACT[chosen].sum(1), [0.025, 0.975])
    found = checks.loc[("xdiff", "mean_to_closed_form"), ["lo", "hi"]].to_numpy(float)
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_bands_crps_and_mae_are_means_over_patients(checks: pd.DataFrame) -> None:
    expected = {"band_1": 1.1, "band_2": 1.0, "band_3": 0.6, "crps": 0.04, "mean_mae": 0.06}
    assert checks.loc["xdiff"].loc[list(expected), "mean"].to_dict() == pytest.approx(expected)
    assert set(checks["n"]) == {3} and set(checks["draws"]) == {2}
    assert set(checks.loc["xdiff_notrunk"].index) == {"mean_to_closed_form", "sample_to_mean"}


def test_table_has_a_row_per_method_and_a_dash_for_what_was_not_measured(metrics: pd.DataFrame) -> None:
    ((title, (table,)),) = tables(check_numbers(metrics)).items()
    assert title == "knee, grid 2mm" and table.title == "Posterior checks"
    assert [name for _, name in table.columns] == ["K", "steps", *(name for (_, name), _ in CHECKS.values())]
    rows = {label: [c.text for c in cells] for label, cells in table.rows}
    assert list(rows) == ["xdiff", "field_posterior", "xdiff_notrunk"]
    assert rows["xdiff"] == ["1", "8", "1.050", "1.90", "1.10", "1.00", "0.60", "0.0400", "0.0600"]
    assert rows["xdiff_notrunk"][2:] == ["1.300", "1.50", *[DASH] * 5]


def test_caption_says_what_should_be_and_of_how_many(metrics: pd.DataFrame) -> None:
    ((table,),) = tables(check_numbers(metrics)).values()
    for part in ("should be 1;", "should be 2 (3.01 dB)", "necessary, not sufficient", "3 test patients (samples of each: 2)"):
        assert part in table.caption, part
    assert "axial, uniform, centred" in table.caption
    alone = tables(check_numbers(metrics[metrics["metric"] == "psnr"].query("method == 'xdiff'")))["knee, grid 2mm"][0]
    assert "exact" not in alone.caption and "CRPS" not in alone.caption and "band" not in alone.caption


def test_without_the_closed_form_its_column_is_absent(metrics: pd.DataFrame) -> None:
    found = check_numbers(metrics[metrics["method"] != "field_posterior"])
    assert "mean_to_closed_form" not in set(found["check"])
    ((table,),) = tables(found).values()
    assert [name for _, name in table.columns][2] == "sample / mean"


def test_methods_without_samples_or_without_a_mean(metrics: pd.DataFrame) -> None:
    only_means = metrics[metrics["estimate"] == "mean"]
    assert check_numbers(only_means).empty and tables(check_numbers(only_means)) == {}
    no_scores = metrics[(metrics["estimate"] == "sample") & (metrics["metric"] == "psnr")]
    assert check_numbers(no_scores).empty
    only_samples = check_numbers(metrics[metrics["estimate"] == "sample"])
    assert set(only_samples["check"]) == {"band_1", "band_2", "band_3", "crps"} and set(only_samples["method"]) == {"xdiff"}


def test_every_number_of_steps_and_both_frames_are_shown(tmp_path: Path) -> None:
    swept = sweep_metrics(patients=3, steps=(1, 4, 16))
    shifted = swept.assign(frame="scanner", grid="2mm-scanner", value=swept["value"] - 1e-3)
    found = check_numbers(read_metrics(write_metrics(pd.concat([swept, shifted]), tmp_path / "all.tsv")))
    ((centred, scanner),) = tables(found).values()
    assert (centred.title, scanner.title) == ("Posterior checks", "Posterior checks, scanner")
    asked = [(label, cells[0].text, cells[1].text) for label, cells in centred.rows]
    assert asked == [("xdiff", k, n) for k in "15" for n in ("1", "4", "16")]
    assert "(samples of each: 4)" in centred.caption and centred.rows != scanner.rows


def test_numbers_survive_posterior_tsv_and_reach_every_table_to_read(tmp_path: Path) -> None:
    swept = sweep_metrics(patients=3, steps=(4, 16)).assign(grid="48")
    main(["--metrics", str(write_metrics(swept, tmp_path / "all.tsv")), "--out", str(tmp_path)])
    found = read_posterior(tmp_path / "posterior.tsv")
    numbers = check_numbers(read_metrics(tmp_path / "all.tsv"))
    pd.testing.assert_frame_equal(found, numbers, rtol=1e-5, check_dtype=False)
    ((table,),) = tables(found).values()
    assert to_markdown(table) in (tmp_path / "main.md").read_text()
    body = to_latex(table, "x").split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body in (tmp_path / "main.tex").read_text() and body.count(r"\\") == 4


def test_families_are_those_of_the_other_tables(tmp_path: Path) -> None:
    main(["--metrics", str(write_metrics(synthetic_metrics(patients=2), tmp_path / "all.tsv")), "--out", str(tmp_path)])
    found = tables(read_posterior(tmp_path / "posterior.tsv"))
    assert list(found) == [title for title, _ in families(read_main(tmp_path / "main.tsv"))]
    assert [len(own) for own in found.values()] == [1, 2, 2]  # brats has one frame
    assert (tmp_path / "main.md").read_text().count("**Posterior checks") == 5


def test_how_trainings_went_is_no_check(metrics: pd.DataFrame, tmp_path: Path) -> None:
    trained = history_rows(write_history(tmp_path, training_checks(n=4)))
    together = read_metrics(write_metrics(pd.concat([metrics, trained]), tmp_path / "all.tsv"))
    pd.testing.assert_frame_equal(check_numbers(together), check_numbers(metrics), check_dtype=False, rtol=1e-9)


def test_what_a_reference_must_keep_besides(metrics: pd.DataFrame) -> None:
    kept = metrics[check_rows(metrics.astype(str))]
    assert kept.groupby(["metric", "estimate"]).size().to_dict() == {("band_variance", "sample"): 9, ("mae", "mean"): 3}
    other_k = metrics[metrics["estimate"] == "mean"].assign(K=5)  # a point without samples
    assert not check_rows(pd.concat([metrics, other_k], ignore_index=True))[len(metrics) :].any()


def test_exact_draws_of_the_gaussian_field_pass(field: Prepared, tmp_path: Path) -> None:
    """field_posterior through the whole chain: weights, volumes, metrics, checks."""
    entry = MethodEntry("baselines.field_posterior", estimates=("mean", "sample"))
    train("field_posterior", entry, field.store, field.split, tmp_path / "weights")
    sweep = Sweep(K=(2,), estimate=("mean", "sample"), seed=(0, 1, 2))
    sample(entry, tmp_path / "weights", field.store, field.split, sweep, tmp_path / "out")
    evaluate(tmp_path / "out/manifest-1-of-1.tsv").to_csv(tmp_path / "one.tsv", sep="\t", index=False)
    collect([tmp_path / "one.tsv"], tmp_path / "all.tsv")
    found = check_numbers(read_metrics(tmp_path / "all.tsv")).set_index("check")
    assert set(found.index) == set(CHECKS) and set(found["draws"]) == {3} and set(found["n"]) == {3}
    assert found.loc["mean_to_closed_form", "mean"] == pytest.approx(1)
    assert 1.7 < found.loc["sample_to_mean", "mean"] < 2.3
    assert found.loc[["band_1", "band_2", "band_3"], "mean"].between(0.6, 1.5).all()
    assert found.loc["crps", "mean"] / found.loc["mean_mae", "mean"] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert found[POINT].drop_duplicates().shape[0] == 1
