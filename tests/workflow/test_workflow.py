"""The smoke preset from nothing to report, once; then what the run left behind, and what a change would redo.

With pytest-xdist, `--dist loadfile` keeps this file on one worker, so that the run is made once.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PRESETS, job_counts, snakemake

from xdiff.config import Config, jobs, load_config
from xdiff.metrics.evaluate import COLUMNS
from xdiff.observation import points_of
from xdiff.trust import WITHOUT_CARD

SMOKE = ["--configfile", PRESETS / "smoke.yaml"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run of the smoke preset."""
    folder = tmp_path_factory.mktemp("smoke")
    done = snakemake(folder, *SMOKE, "--", "all")
    logs = "\n".join(p.read_text()[-400:] for p in (folder / "results/logs").rglob("*.log") if "rror" in p.read_text())
    assert done.returncode == 0, done.stdout[-3000:] + logs
    return folder


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([PRESETS.parents[1] / "config.yaml", PRESETS / "smoke.yaml"])


@pytest.fixture(scope="module")
def everything(smoke: Path) -> pd.DataFrame:
    return pd.read_csv(smoke / "results/metrics/all.tsv", sep="\t", dtype={"indices": str})


@pytest.fixture(scope="module")
def metrics(everything: pd.DataFrame) -> pd.DataFrame:
    """What was measured on test subjects."""
    return everything[~everything["metric"].str.startswith("history_")]


def test_long_table_has_the_columns_of_the_contract(metrics: pd.DataFrame) -> None:
    assert list(metrics.columns) == COLUMNS


def test_every_method_has_rows_for_every_point_it_can_do(metrics: pd.DataFrame, config: Config, smoke: Path) -> None:
    """Or the point is listed as left out, for methods that are not made for it."""
    skipped = pd.read_csv(smoke / "results/metrics/skipped.tsv", sep="\t")
    left_out = set(skipped[["method", "cohort", "K", "policy", "contrasts_given"]].itertuples(index=False, name=None))
    assert {(m, p, c) for m, _, _, p, c in left_out if m in ("nearest", "linear", "field_posterior")} == {
        *(("nearest", policy, "all") for policy in ("orthogonal", "tilted")),
        ("linear", "orthogonal", "all"),
        ("linear", "tilted", "all"),
        ("field_posterior", "tilted", "all"),
        ("nearest", "uniform", "t1n"),  # which cannot interpolate what is not given
    }
    assert not {m for m, *_ in left_out} & {"zeros", "mean_template", "retrieval", "gaussian", "gaussian_local", "unet", "xdiff"}
    found = metrics[metrics["metric"] == "evaluations"]
    counted = 0
    for job in jobs(config):
        entry, n_test = config.methods[job.method], config.cohorts[job.cohort].split.n_test
        for point in points_of(config.sweeps[job.sweep], entry.estimates, entry.min_k, entry.stepped):
            same = found[(found["method"] == job.method) & (found["cohort"] == job.cohort) & (found["K"] == point.K)]
            same = same[(same["estimate"] == point.estimate) & (same["seed"] == point.seed) & (same["steps"] == point.steps)]
            same = same[(same["policy"] == point.policy) & (same["contrasts_given"] == point.contrasts_given)]
            if (job.method, job.cohort, point.K, point.policy, point.contrasts_given) in left_out:
                assert same.empty, f"{job} {point}"
            elif job.cohort == "gaussian-field":
                assert len(same) == n_test, f"{job} {point}"
            else:  # patients, some with a second visit
                assert len(same) == same["subject"].nunique() >= n_test, f"{job} {point}"
            counted += len(same)
    assert counted == len(found)
    assert set(found["method"]) == set(config.run.methods)


def test_evaluations_are_counted_in_sections(metrics: pd.DataFrame) -> None:
    evaluations = metrics[metrics["metric"] == "evaluations"].set_index(["method", "estimate"])["value"]
    assert set(evaluations["xdiff", "mean"]) == {3 * 24}  # one call on every section of every axis
    assert set(evaluations["xdiff", "sample"]) == {3 * 24, 3 * 24 * 2}  # one step and two
    assert (evaluations.drop("xdiff", level="method") == 0).all()


def test_values_are_finite_where_they_are_defined(metrics: pd.DataFrame) -> None:
    scored = metrics[
        metrics["region"].isin(["grid", "unseen", "unseen_masked"]) & metrics["metric"].isin(["psnr", "mae", "nmse"])
    ]
    assert len(scored) > 100 and np.isfinite(scored["value"]).all()
    assert scored.loc[scored["metric"] == "psnr", "value"].between(0, 60).all()
    always = [c for c in COLUMNS if c not in ("gap_mm", "x", "x_name", "value")]
    assert not metrics[always].isna().any().any()
    assert metrics.loc[metrics["K"] > 1, "gap_mm"].notna().all() and metrics.loc[metrics["K"] == 1, "gap_mm"].isna().all()
    assert (metrics["x"].notna() == metrics["x_name"].notna()).all()
    assert not metrics.duplicated([c for c in COLUMNS if c not in ("value", "device")]).any()


def test_rows_of_one_cohort_carry_its_split_and_one_weights_hash(metrics: pd.DataFrame, smoke: Path) -> None:
    for cohort, rows in metrics.groupby("cohort"):
        first = (smoke / f"results/data/{cohort}/split.tsv").read_text().splitlines()[0]
        assert {first.split()[2][:12]} == set(rows["split"])
        split = pd.read_csv(smoke / f"results/data/{cohort}/split.tsv", sep="\t", comment="#")
        assert set(rows["subject"]) == set(split.loc[split["side"] == "test", "subject"])
        assert (rows.groupby("method")["weights"].nunique() == 1).all()
        grid = rows["grid"].iloc[0]
        for method, weights in rows.groupby("method")["weights"].first().items():
            written = json.loads((smoke / f"results/models/{cohort}/{grid}/{method}/config.json").read_text())
            assert written["sha256"][:12] == weights


def test_trainings_are_told_beside_what_was_measured(everything: pd.DataFrame, smoke: Path, config: Config) -> None:
    told = everything[everything["metric"].str.startswith("history_")]
    models = {(job.trained_on, job.grid, job.method) for job in jobs(config)}
    histories = {model: smoke.joinpath("results/models", *model, "history.jsonl").read_text() for model in models}
    iterated = {model for model, text in histories.items() if text}
    assert {model[2] for model in iterated} >= {"xdiff"} and len(iterated) < len(models)
    assert set(told[["trained_on", "grid", "method"]].itertuples(index=False, name=None)) == iterated
    for model in iterated:
        steps = {json.loads(line)["step"] for line in histories[model].splitlines()}
        own = told[(told[["trained_on", "grid", "method"]] == list(model)).all(axis=1)]
        assert set(own["x"]) == steps and set(own["subject"]) <= {"validation", "training"}
        assert own.loc[own["metric"] == "history_best", "value"].isin(steps).sum() == 1
    assert (smoke / "results/figures/training_curves.png").exists()


def test_a_contrast_that_is_not_given_is_all_unseen(metrics: pd.DataFrame) -> None:
    """Of T1 sections alone the other contrasts have no voxel that is known, yet the gaussian row says something about them."""
    rows = metrics[(metrics["cohort"] == "phantom-brain") & (metrics["metric"] == "psnr") & metrics["x_name"].isna()]
    rows = rows[(rows["method"] == "gaussian") & (rows["estimate"] == "mean") & (rows["K"] == 1)]
    mean = rows.groupby(["contrasts_given", "contrast", "region"])["value"].mean()
    for contrast in ("t1c", "t2w", "t2f"):
        assert mean["t1n", contrast, "brain"] == pytest.approx(mean["t1n", contrast, "unseen_masked"])
        assert mean["all", contrast, "brain"] > mean["all", contrast, "unseen_masked"]
        assert mean["t1n", contrast, "unseen_masked"] > 10
    assert mean["t1n", "t1n", "brain"] > mean["t1n", "t1n", "unseen_masked"]


def test_known_order_of_methods_holds_on_the_field(metrics: pd.DataFrame) -> None:
    """The closed-form posterior is the best there is, and anything beats black."""
    rows = metrics[
        (metrics["cohort"] == "gaussian-field") & (metrics["metric"] == "psnr") & (metrics["region"] == "unseen_masked")
    ]
    rows = rows[rows["x_name"].isna() & (rows["estimate"] == "mean") & (rows["K"] == 4) & (rows["policy"] == "uniform")]
    mean = rows.groupby("method")["value"].mean()
    assert mean.idxmax() == "field_posterior"
    assert mean["gaussian"] > mean["mean_template"] > 5


def test_points_left_out_are_collected(smoke: Path) -> None:
    skipped = pd.read_csv(smoke / "results/metrics/skipped.tsv", sep="\t")
    assert list(skipped.columns) == "trained_on cohort grid method K axis policy contrasts_given thickness_mm reason".split()
    assert skipped["reason"].notna().all()


@pytest.mark.parametrize(
    ("pattern", "least"),
    [(f"tables/{n}", 1) for n in ("main.md", "main.tex", "main.tsv", "paired.tsv", "posterior.tsv")] + [("figures/*.png", 3)],
)
def test_tables_and_figures_are_there(smoke: Path, pattern: str, least: int) -> None:
    found = list((smoke / "results").glob(pattern))
    assert len(found) >= least and all(p.stat().st_size > 200 for p in found)


def test_report_is_one_offline_page_that_names_every_method(smoke: Path, config: Config) -> None:
    page = (smoke / "results/report/index.html").read_text()
    assert all(method in page for method in config.run.methods)
    assert "data:image/png;base64," in page and 'src="http' not in page
    for card in (smoke / "results/trust").rglob("*.md"):
        assert f'id="trust-{"-".join(card.relative_to(smoke / "results/trust").with_suffix("").parts)}"' in page
    for cohort, grid in {(job.cohort, job.grid) for job in jobs(config)}:
        assert f"<h3>{cohort}, grid {grid}</h3>" in page and f'id="montage-{cohort}-{grid}"' in page


def test_every_model_has_a_card_that_says_given_slices_came_back(smoke: Path, config: Config) -> None:
    wanted = {(job.trained_on, job.grid, job.method) for job in jobs(config) if job.method not in WITHOUT_CARD}
    cards = {
        p.relative_to(smoke / "results/trust").with_suffix("").parts: p.read_text() for p in smoke.glob("results/trust/*/*/*.md")
    }
    assert set(cards) == wanted
    assert all("**Given slices come back unchanged: shown.**" in card for card in cards.values())


def test_every_job_left_a_log_and_a_benchmark(smoke: Path, config: Config) -> None:
    for job in jobs(config):
        name = f"{job.cohort}/{job.grid}/{job.method}@{job.trained_on}/{job.sweep}/1-of-1"
        for rule in ("sample", "evaluate"):
            assert (smoke / f"results/logs/{rule}/{name}.log").exists()
            assert pd.read_csv(smoke / f"results/benchmarks/{rule}/{name}.tsv", sep="\t")["s"].iloc[0] >= 0


def test_second_run_has_nothing_to_do(smoke: Path) -> None:
    again = snakemake(smoke, *SMOKE, "--", "all")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout, again.stdout[-2000:]


def test_one_changed_sweep_redoes_only_what_depends_on_it(smoke: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("sweeps: {draws: {K: [2]}}\n")
    dry = snakemake(smoke, *SMOKE, overlay, "--dry-run", "--", "all")
    counts = job_counts(dry.stdout)
    # draws: gaussian on brains, gaussian and the closed form on the field
    expected = {"sample": 3, "evaluate": 3}
    expected |= dict.fromkeys(("collect", "panel", "tables", "figures", "trust_card", "report", "all"), 1)
    assert counts == {**expected, "total": sum(expected.values())}, dry.stdout[-2000:]


def test_one_changed_method_trains_and_samples_only_itself(smoke: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("methods: {xdiff: {params: {steps: 5}}}\n")
    counts = job_counts(snakemake(smoke, *SMOKE, overlay, "--dry-run", "--", "all").stdout)
    assert counts["train"] == 1 and counts["sample"] == counts["evaluate"] == 3  # slices, steps, swap
    assert not set(counts) & {"generate", "split", "preprocess"}
