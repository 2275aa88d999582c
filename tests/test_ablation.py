"""Ablations: what counts as one, that differences are those of pairs, and that the tables to read say what the numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_metrics import (
    ABLATIONS,
    ablation_metrics,
    small_metrics,
    sweep_metrics,
    training_checks,
    write_history,
    write_metrics,
)

from xdiff import ablation, report
from xdiff.errors import InputError
from xdiff.layout import layout, method_rank, row_labels
from xdiff.markup import DASH, Table
from xdiff.metrics.history import history_rows
from xdiff.posterior_checks import check_numbers
from xdiff.posterior_checks import tables as posterior_tables
from xdiff.stats import base_of, read_metrics, without_ablations
from xdiff.tables import main, main_numbers, paired_numbers, read_ablation

OWN, JOINT = "openneuro-ds002748", "openneuro-ds002748+ixi-2mm"
ABLATED = [m for m in ABLATIONS if m.startswith("xdiff-")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metrics(ablation_metrics(patients=4), tmp_path_factory.mktemp("ablation") / "all.tsv")


@pytest.fixture(scope="module")
def metrics(path: Path) -> pd.DataFrame:
    return read_metrics(path)


@pytest.fixture(scope="module")
def found(metrics: pd.DataFrame) -> pd.DataFrame:
    return ablation.numbers(metrics)


@pytest.fixture(scope="module")
def tables(found: pd.DataFrame) -> dict[str, Table]:
    """Title -> table, of the one family."""
    ((title, own),) = ablation.tables(found).items()
    assert title == "openneuro-ds002748, grid 48"
    return {table.title: table for table in own}


def cells(table: Table) -> dict[str, dict[str, object]]:
    return {label: dict(zip([name for _, name in table.columns], row, strict=True)) for label, row in table.rows}


# --- names


@pytest.mark.parametrize(
    ("method", "base"),
    [("xdiff-no-trunk", "xdiff"), ("xdiff-10-subjects", "xdiff"), ("gaussian_local-x", "gaussian_local")]
    + [(name, "") for name in ("xdiff", "mean_template", "xdiff_paper", "-trunk", "xdiff-", "")],
)
def test_the_first_hyphen_alone_makes_an_ablation(method: str, base: str) -> None:
    assert base_of(method) == base


def test_ablations_follow_their_base_and_come_before_what_follows_it() -> None:
    names = ["truth", "xdiff-b", "unet-a", "other", "xdiff", "unet", "xdiff-a", "gaussian-z", "gaussian", "unet2d"]
    rows = pd.DataFrame({"method": names, "estimate": "mean", "steps": 1})
    ranked = ["gaussian", "gaussian-z", "unet", "unet-a", "unet2d", "xdiff", "xdiff-a", "xdiff-b", "other", "truth"]
    assert list(row_labels(rows).values()) == ranked
    assert method_rank("xdiff") < method_rank("xdiff-a") < method_rank("other")


def test_an_ablation_is_left_out_only_beside_its_base() -> None:
    rows = [("a", "xdiff"), ("a", "xdiff-x"), ("b", "xdiff-x"), ("a", "unet-y"), ("a+b", "xdiff-x"), ("a+b", "xdiff")]
    table = pd.DataFrame([dict(trained_on=t, cohort="a", grid="g", method=m) for t, m in rows])
    kept = without_ablations(table)
    assert list(zip(kept["trained_on"], kept["method"], strict=True)) == [rows[i] for i in (0, 2, 3, 5)]
    plain = table[table["method"] == "xdiff"]
    pd.testing.assert_frame_equal(without_ablations(plain), plain)


# --- numbers


def test_differences_are_means_of_pairs_and_not_of_groups(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    psnr = metrics.query("metric == 'psnr' and estimate == 'mean' and K == 5")
    wide = psnr.pivot_table(index="subject", columns=["trained_on", "method"], values="value")
    rows = found.query("measure == 'psnr_difference' and estimate == 'mean' and K == 5")
    assert len(rows) == len(ABLATED) + 2
    for row in rows.itertuples():
        apart = (wide[row.row_trained_on, row.method] - wide[OWN, row.base_method]).to_numpy()
        assert row.mean == pytest.approx(apart.mean(), abs=1e-9) and row.n == 4
        drawn = np.random.default_rng(1).integers(4, size=(20_000, 4))
        np.testing.assert_allclose([row.lo, row.hi], np.quantile(apart[drawn].mean(1), [0.025, 0.975]), atol=0.01)
        assert row.hi - row.lo < 0.2  # the patients themselves are decibels apart


def test_patients_that_only_one_of_two_has_are_not_compared(metrics: pd.DataFrame) -> None:
    fewer = metrics[(metrics["method"] != "xdiff") | (metrics["subject"] != "sub-01") | (metrics["trained_on"] != OWN)]
    rows = ablation.numbers(fewer).query("base_method == 'xdiff' and estimate == 'mean'")
    assert set(rows.query("measure == 'psnr_difference'")["n"]) == {3}
    assert set(rows.query("measure == 'psnr' and method == 'xdiff-no-trunk'")["n"]) == {4}


def test_checks_crps_and_costs_are_those_of_the_long_table(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    checks = check_numbers(metrics).query("trained_on == @OWN and method == 'xdiff-no-trunk' and steps == 8").set_index("check")
    own = found.query("method == 'xdiff-no-trunk' and estimate == 'sample'").set_index("measure")
    for name in ablation.CHECKED:
        assert own.loc[name, ["mean", "lo", "hi"]].tolist() == checks.loc[name, ["mean", "lo", "hi"]].tolist()
    crps = metrics.query("metric == 'crps' and trained_on == @OWN and steps == 8").pivot(
        index="subject", columns="method", values="value"
    )
    expected = (crps["xdiff-no-trunk"] - crps["xdiff"]).mean()
    assert own.loc["crps_difference", "mean"] == pytest.approx(expected)
    assert own.loc["crps", "mean"] == pytest.approx(crps["xdiff-no-trunk"].mean())
    assert own.loc["evaluations", "mean"] == 144 * 8 and own.loc["seconds", "mean"] == pytest.approx(0.15 * 8)
    assert own.loc["seconds", "device"] == "cpu"


def test_the_base_comes_first_and_has_no_difference(found: pd.DataFrame) -> None:
    order = found.query("K == 5")[["base_method", "method", "row_trained_on"]].drop_duplicates().to_numpy().tolist()
    xdiff = [["xdiff", m, OWN] for m in ("xdiff", *sorted(ABLATED))]
    assert order == [["gaussian", "gaussian", OWN], ["gaussian", "gaussian", JOINT], *xdiff, ["xdiff", "xdiff", JOINT]]
    itself = found[(found["method"] == found["base_method"]) & (found["row_trained_on"] == OWN)]
    assert not itself["measure"].str.endswith("_difference").any() and set(found["trained_on"]) == {OWN}


def test_samples_are_compared_at_the_same_number_of_steps(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    rows = found.query("method == 'xdiff-ddim' and measure == 'crps_difference'").set_index("steps")["mean"]
    crps = metrics.query("metric == 'crps' and trained_on == @OWN").groupby(["method", "steps"])["value"].mean()
    assert rows.to_dict() == pytest.approx((crps["xdiff-ddim"] - crps["xdiff"]).to_dict()) and set(rows.index) == {1, 2, 8, 32}


def test_ablations_of_a_joint_training_are_compared_within_it(metrics: pd.DataFrame) -> None:
    more = metrics[metrics["method"].eq("xdiff-no-trunk")].assign(trained_on=JOINT)
    rows = ablation.numbers(pd.concat([metrics, more])).query("trained_on == @JOINT")
    assert set(zip(rows["base_method"], rows["method"], rows["row_trained_on"], strict=True)) == {
        ("xdiff", "xdiff", JOINT),
        ("xdiff", "xdiff-no-trunk", JOINT),
    }


@pytest.mark.parametrize("kept", [["xdiff"], ["xdiff-no-trunk", "gaussian"]], ids=["no ablation", "no base"])
def test_without_a_pair_there_is_nothing(metrics: pd.DataFrame, kept: list[str]) -> None:
    alone = metrics[metrics["method"].isin(kept) & (metrics["trained_on"] == OWN)]
    found = ablation.numbers(alone)
    assert found.empty and list(found.columns) == ablation.COLUMNS and ablation.tables(found) == {}


def test_how_trainings_went_makes_no_ablation(metrics: pd.DataFrame, tmp_path: Path) -> None:
    trained = [history_rows(write_history(tmp_path / m, training_checks(n=3), m)) for m in ("xdiff", "xdiff-no-trunk")]
    together = read_metrics(write_metrics(pd.concat([sweep_metrics(patients=2), *trained]), tmp_path / "all.tsv"))
    assert ablation.numbers(together).empty


def test_means_alone_are_enough(tmp_path: Path) -> None:
    psnr = {(m, k, s): db for m, db in (("xdiff", 20.0), ("xdiff-x", 19.5)) for k in (1, 5) for s in ("a", "b")}
    found = ablation.numbers(read_metrics(write_metrics(small_metrics(psnr, region="unseen"), tmp_path / "all.tsv")))
    ((table,),) = ablation.tables(found).values()
    assert cells(table)["xdiff-x"]["K = 5"].text == "-0.50" and cells(table)["xdiff"]["K = 5"].text == "20.00"
    assert cells(table)["xdiff"]["evaluations"].text == DASH and "an unnamed device" in table.caption


# --- tables to read


def test_three_tables_means_samples_and_steps(tables: dict[str, Table]) -> None:
    assert list(tables) == ["Ablation", "Ablation: samples, K = 5, 8 steps", "Ablation: steps and solver, K = 5"]
    joint = [f"{m}, also trained on ixi-2mm" for m in ("gaussian", "xdiff")]
    xdiff = ["xdiff", *sorted(ABLATED), joint[1]]
    assert list(cells(tables["Ablation"])) == ["gaussian", joint[0], *xdiff]
    assert list(cells(tables["Ablation: samples, K = 5, 8 steps"])) == xdiff
    stepped = [f"{m}, {n} step{'s' * (n > 1)}" for m in ("xdiff", "xdiff-ddim") for n in (1, 2, 8, 32)]
    assert list(cells(tables["Ablation: steps and solver, K = 5"])) == stepped


def test_cells_are_the_numbers_with_a_sign_where_they_are_differences(found: pd.DataFrame, tables: dict[str, Table]) -> None:
    own = found.query("method == 'xdiff-no-trunk' and K == 5").set_index(["estimate", "measure"])
    mean, drawn = (cells(tables[t])["xdiff-no-trunk"] for t in ("Ablation", "Ablation: samples, K = 5, 8 steps"))
    row = own.loc[("mean", "psnr_difference")]
    assert tuple(mean["K = 5"])[:3] == tuple(f"{row[c]:+.2f}" for c in ("mean", "lo", "hi")) and mean["K = 5"].text[0] == "-"
    assert drawn["CRPS"].text == f"{own.loc[('sample', 'crps_difference'), 'mean']:+.4f}"
    assert drawn["sample / mean"].text == f"{own.loc[('sample', 'sample_to_mean'), 'mean']:.2f}"
    assert [drawn[c].text for c in ("evaluations", "s / volume")] == ["1152", "1.2"]
    base = found.query("method == 'xdiff' and row_trained_on == @OWN and measure == 'psnr' and K == 5 and estimate == 'mean'")
    assert cells(tables["Ablation"])["xdiff"]["K = 5"].text == f"{base['mean'].item():.2f}"


def test_times_of_two_devices_are_told_apart(metrics: pd.DataFrame) -> None:
    moved = metrics.assign(device=metrics["device"].mask(metrics["method"] == "xdiff-no-trunk", "NVIDIA H200"))
    table = next(iter(ablation.tables(ablation.numbers(moved)).values()))[0]
    assert (
        cells(table)["xdiff-no-trunk"]["s / volume"].text == "0.15 (a)" and cells(table)["xdiff"]["s / volume"].text == "0.2 (b)"
    )
    assert "median time on NVIDIA H200 (a); cpu (b)" in table.caption
    mixed = metrics.assign(device=metrics["device"].mask(metrics["subject"] == "sub-01", "NVIDIA H200"))
    table = next(iter(ablation.tables(ablation.numbers(mixed)).values()))[0]
    assert {row["s / volume"].text for row in cells(table).values()} == {DASH}


def test_the_common_number_of_steps_is_what_most_lines_have(metrics: pd.DataFrame) -> None:
    changed = metrics.assign(steps=metrics["steps"].mask((metrics["method"] == "xdiff-no-trunk") & (metrics["steps"] == 8), 32))
    titles = [t.title for t in next(iter(ablation.tables(ablation.numbers(changed)).values()))]
    assert titles[1] == "Ablation: samples, K = 5, 8 steps"


def test_a_base_drawn_with_other_steps_has_a_table_of_its_own(found: pd.DataFrame) -> None:
    other = found.query("method in ['xdiff', 'xdiff-ddim'] and estimate == 'sample' and steps == 32 and row_trained_on == @OWN")
    other = other.assign(base_method="score", method=other["method"].str.replace("xdiff", "score"))
    own = {t.title: t for t in next(iter(ablation.tables(pd.concat([found, other])).values()))}
    assert list(cells(own["Ablation: samples, K = 5, 32 steps"])) == ["score", "score-ddim"]
    assert "xdiff-no-trunk" in cells(own["Ablation: samples, K = 5, 8 steps"])


def test_main_tables_have_the_base_alone_and_its_ablations_have_a_section(
    path: Path, metrics: pd.DataFrame, tmp_path: Path
) -> None:
    for _, own in layout(main_numbers(metrics), paired_numbers(metrics)):
        assert not [label for table in own for label, _ in table.rows if label.startswith("xdiff-")]
    assert {label for own in posterior_tables(check_numbers(metrics)).values() for t in own for label, _ in t.rows} == {"xdiff"}
    main(["--metrics", str(path), "--out", str(tmp_path)])
    text, latex = (tmp_path / "main.md").read_text(), (tmp_path / "main.tex").read_text()
    assert text.count("**Ablation") == 3 and "| xdiff-no-trunk |" in text[text.index("**Ablation**") :]
    assert "xdiff-" not in text[: text.index("**Ablation**")] and latex.count("Ablation") >= 3
    assert set(pd.read_csv(tmp_path / "main.tsv", sep="\t")["method"]) == set(ABLATIONS)  # every number stays in the .tsv
    pd.testing.assert_frame_equal(
        read_ablation(tmp_path / "ablation.tsv"), ablation.numbers(metrics), check_dtype=False, rtol=1e-4, atol=1e-6
    )


def test_without_ablations_there_is_no_section_and_no_error(tmp_path: Path) -> None:
    main(["--metrics", str(write_metrics(sweep_metrics(patients=2), tmp_path / "all.tsv")), "--out", str(tmp_path)])
    assert read_ablation(tmp_path / "ablation.tsv").empty and "Ablation" not in (tmp_path / "main.md").read_text()


def test_the_page_shows_them(path: Path, tmp_path: Path) -> None:
    main(["--metrics", str(path), "--out", str(tmp_path)])
    (tmp_path / "captions.json").write_text("{}")
    report.main(["--tables", str(tmp_path), "--figures", str(tmp_path), "--out", str(tmp_path / "index.html")])
    page = (tmp_path / "index.html").read_text()
    assert page.count("<h4>Ablation") == 3 and "xdiff-no-trunk" in page


# --- command line


def test_the_command_writes_numbers_and_text(path: Path, found: pd.DataFrame, tmp_path: Path) -> None:
    ablation.main(["--metrics", str(path), "--out", str(tmp_path / "out")])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ablation.tsv", "ablation.md"}
    assert len(read_ablation(tmp_path / "out/ablation.tsv")) == len(found)
    assert (tmp_path / "out/ablation.md").read_text().count("**Ablation") == 3


def test_the_command_refuses_a_table_without_ablations(tmp_path: Path) -> None:
    table = write_metrics(sweep_metrics(patients=1), tmp_path / "all.tsv")
    with pytest.raises(InputError, match=r"all\.tsv: found no ablation, expected rows of a method BASE-WHAT"):
        ablation.main(["--metrics", str(table), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_order_of_rows_does_not_matter(metrics: pd.DataFrame, found: pd.DataFrame) -> None:
    shuffled = ablation.numbers(metrics.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(shuffled, found)
