"""Agreement with the truth, by hand on a few patients: Bland and Altman's limits, concordance, the control, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anatomy_metrics import anatomy_metrics, anatomy_row, measured
from test_tumours import cells, long

from xdiff import anatomy, reference, tables
from xdiff.markup import Table
from xdiff.stats import BODY_MEASURES, SPINE_MEASURES, read_metrics

TITLE = "phantom-body, grid body"
METRIC = "body_volume_l"
TRUTH = (50.0, 60.0, 70.0, 80.0)


def rows_of(method: str, values: Sequence[float], metric: str = METRIC, **change: object) -> list[dict]:
    return [anatomy_row(method, f"{i}_2_0", metric, value, **change) for i, value in enumerate(values)]


@pytest.fixture
def volumes() -> list[dict]:
    """Errors of xdiff 2, -1, 3, 0; of the control, the mean 62, 12, 2, -8, -18."""
    rows = rows_of("truth", TRUTH) + rows_of("xdiff", (52.0, 59.0, 73.0, 80.0)) + rows_of("population_mean", [62.0] * 4)
    found = [rows_of(m, [1.0] * 4, name) for m in ("truth", "xdiff", "population_mean") for name in ("body_found", "spine_found")]
    return [*rows, *(row for own in found for row in own)]


def numbers_of(rows: Sequence[dict]) -> pd.DataFrame:
    found = anatomy.numbers(long(rows))
    return found[found["metric"] == METRIC].set_index("method")


def made(metrics: pd.DataFrame) -> dict[str, Table]:
    return {table.title: table for table in anatomy.tables(anatomy.numbers(metrics)).get(TITLE, [])}


def test_bland_and_altman_by_hand(volumes: list[dict]) -> None:
    """Differences 2, -1, 3, 0: mean 1, squared deviations 1 + 4 + 4 + 1 over 3."""
    found = numbers_of(volumes).loc["xdiff"]
    sd = np.sqrt(10 / 3)
    assert found["bias"] == pytest.approx(1) and found["mae"] == pytest.approx(1.5) and found["n"] == 4
    assert [found["limit_lo"], found["limit_hi"]] == pytest.approx([1 - 1.96 * sd, 1 + 1.96 * sd])
    assert found["bias_lo"] < 1 < found["bias_hi"]


def test_concordance_by_hand(volumes: list[dict]) -> None:
    """cov 122.5, var 124.5 and 125 over n, means 66 and 65."""
    found = numbers_of(volumes)
    assert found.loc["xdiff", "concordance"] == pytest.approx(2 * 122.5 / (122.5 + 125 + 1), rel=1e-6)
    assert found.loc["xdiff", "r"] == pytest.approx(122.5 / np.sqrt(122.5 * 125), rel=1e-6)


def test_the_control_is_a_row_with_its_error_and_no_correlation(volumes: list[dict]) -> None:
    found = numbers_of(volumes)
    control = found.loc["population_mean"]
    assert control["bias"] == pytest.approx(-3) and control["mae"] == pytest.approx(10)
    assert np.isnan(control["r"]) and control["concordance"] == 0 and np.isnan(control["gain"])
    assert found.loc["xdiff", "gain"] == pytest.approx(10 - 1.5) and found.loc["xdiff", "p"] == pytest.approx(0.125)
    assert list(found.index) == ["population_mean", "xdiff"]  # truth is what they are measured by


def test_a_bias_that_correlation_does_not_see_concordance_does(volumes: list[dict]) -> None:
    moved = [r | {"value": r["value"] + 20} if r["method"] == "xdiff" and r["metric"] == METRIC else r for r in volumes]
    before, after = (numbers_of(rows).loc["xdiff"] for rows in (volumes, moved))
    assert after["r"] == pytest.approx(before["r"]) and after["concordance"] < 0.4 < before["concordance"]


def test_scatter_between_draws_widens_the_limits_and_adds_no_patients(volumes: list[dict]) -> None:
    """Two draws each, 5 above and below: the bias stays, every squared deviation grows by 25."""
    others = [r for r in volumes if r["method"] != "xdiff"]
    own = [r for r in volumes if r["method"] == "xdiff" and r["metric"] == METRIC]
    drawn = [r | dict(value=r["value"] + off, estimate="sample", seed=seed) for r in own for seed, off in enumerate((-5.0, 5.0))]
    found = numbers_of([*others, *drawn]).loc["xdiff"]
    sd = np.sqrt((10 + 4 * 25) / 3)
    assert found["n"] == 4 and found["volumes"] == 4
    assert [found["bias"], found["limit_hi"]] == pytest.approx([1, 1 + 1.96 * sd])
    assert found["mae"] == pytest.approx(np.mean([5, 5, 5, 5]))


def test_one_patient_has_an_error_and_no_limits() -> None:
    found = numbers_of([r for m in ("truth", "xdiff") for r in rows_of(m, (50.0 + len(m),))]).loc["xdiff"]
    assert found["mae"] == 0 and found[["limit_lo", "r", "concordance", "bias_lo"]].isna().all()


def test_volumes_without_a_spine_are_counted_and_in_no_average() -> None:
    """Of three bodies a method's second has no spine, and its third is not even a body."""
    rows = []
    for i in range(3):
        whole = {m: 40.0 + i for m in (*BODY_MEASURES, *SPINE_MEASURES)}
        rows += measured("truth", f"{i}_2_0", whole)
        part = {m: v + 1 for m, v in whole.items() if i == 0 or (i == 1 and m in BODY_MEASURES)}
        rows += measured("xdiff", f"{i}_2_0", part) + measured("zeros", f"{i}_2_0", {})
    table = long(rows)
    metrics = table[table["value"].notna()]
    found = anatomy.numbers(metrics).set_index(["method", "metric"])
    assert found.loc[("xdiff", "body_volume_l"), ["n", "missing"]].tolist() == [2, 1]
    assert found.loc[("xdiff", "spine_cobb_deg"), ["n", "missing"]].tolist() == [1, 2]
    assert found.loc[("zeros", "spine_cobb_deg"), ["n", "missing"]].tolist() == [0, 3]
    shares = made(metrics)["Anatomy, volumes not measured (%)"]
    assert [name for name, _ in shares.columns] == ["no body", "no spine"]
    assert cells(shares) == {"zeros": ["100.00", "100.00"], "xdiff": ["*33.33", "*66.67"]}


def test_only_what_finds_nothing_is_there_and_still_told() -> None:
    rows = [r for i in range(2) for r in measured("truth", f"{i}_2_0", dict.fromkeys((*BODY_MEASURES, *SPINE_MEASURES), 1.0))]
    rows += [r for i in range(2) for r in measured("zeros", f"{i}_2_0", {})]
    metrics = long(rows)
    assert list(made(metrics[metrics["value"].notna()])) == ["Anatomy, volumes not measured (%)"]


def test_tables_to_read() -> None:
    metrics = anatomy_metrics()
    found = made(metrics[metrics["value"].notna()])
    kinds = ("absolute error", "bias and limits", "gain over the population mean", "concordance")
    wanted = [f"Anatomy, {kind}, K = {k}" for k in (1, 5) for kind in kinds]
    assert list(found) == [*wanted, "Anatomy, volumes not measured (%)"]
    errors, gains = found["Anatomy, absolute error, K = 5"], found["Anatomy, gain over the population mean, K = 5"]
    assert [name for _, name in errors.columns][:2] == ["volume (l)", "fat (%)"] and len(errors.columns) == 8
    assert all(text.startswith("*") for text in cells(errors)["xdiff"])
    assert "population_mean" in cells(errors) and "population_mean" not in cells(gains)
    assert not any(text.startswith("*") for row in cells(found["Anatomy, bias and limits, K = 5"]).values() for text in row)
    assert all(
        "On phantoms this tests the code, not the science." in t.caption for n, t in found.items() if "not measured" not in n
    )
    assert "10 to 12 test patients" in found["Anatomy, absolute error, K = 1"].caption


def test_a_control_that_is_best_is_in_bold(volumes: list[dict]) -> None:
    worse = [r | {"value": r["value"] + 60} if r["method"] == "xdiff" and r["metric"] == METRIC else r for r in volumes]
    errors = cells(made(long(worse))["Anatomy, absolute error, K = 5"])
    assert errors == {"population_mean": ["*10.00"], "xdiff": ["61.00"]}


def test_other_tables_have_no_anatomy_and_no_bodies_no_table(tmp_path: Path) -> None:
    psnr = [anatomy_row("xdiff", "1_2_0", "psnr", 20.0, region="unseen", K=k) for k in (1, 5)]
    assert anatomy.numbers(long(psnr)).empty and anatomy.tables(anatomy.numbers(long(psnr))) == {}
    pd.concat([long(psnr), anatomy_metrics(patients=3)]).to_csv(tmp_path / "all.tsv", sep="\t", index=False)
    tables.main(["--metrics", str(tmp_path / "all.tsv"), "--out", str(tmp_path / "tables")])
    whole = anatomy.numbers(read_metrics(tmp_path / "all.tsv"))
    pd.testing.assert_frame_equal(tables.read_anatomy(tmp_path / "tables/anatomy.tsv"), whole, rtol=1e-4, check_dtype=False)
    text = (tmp_path / "tables/main.md").read_text()
    assert "**Anatomy, absolute error, K = 1**" in text
    assert "population\\_mean" not in text[: text.index("**Anatomy, absolute error")]


def test_a_reference_keeps_what_the_tables_need() -> None:
    table = anatomy_metrics(patients=3)
    text = table.astype(str).replace("nan", "")
    kept = reference.shorten(pd.concat([text, text.assign(policy="random")]))
    assert len(kept) == len(table) and set(kept["policy"]) == {"uniform"}
