"""Dry runs of every configuration: each resolves to jobs in seconds, without any data."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PRESETS, REPOSITORY, UNDER, hide_torch, job_counts, overlays, snakemake
from synthetic_metrics import ablation_metrics, sweep_metrics, write_metrics

from xdiff.config import EMBEDDED, HDF5, POLICIES, has_water_fat, jobs, load_config, method_json, parts_of, segment_jobs
from xdiff.observation import points_of
from xdiff.trust import WITHOUT_CARD

CONFIGS = [REPOSITORY / "config.yaml", *sorted(PRESETS.glob("*.yaml"))]
MOST_JOBS, MOST_SECONDS = 5000, {"paper": 30}  # seconds: of processor time, which other work on the machine does not add to


def test_overlays_say_what_they_go_over() -> None:
    for name, under in UNDER.items():
        command = " ".join(f"workflow/presets/{one}.yaml" for one in (*under, name))
        assert command in (PRESETS / f"{name}.yaml").read_text()


def children_s() -> float:
    """Processor time of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_dry_run_plans_every_job(path: Path, tmp_path: Path) -> None:
    overlay = ["--configfile", *overlays(path)] if overlays(path) else []
    start_s = children_s()
    dry = snakemake(
        tmp_path, *overlay, "--config", f"data_root={tmp_path / 'data'}", "--dry-run", "--quiet", "rules", "--", "all"
    )
    seconds = children_s() - start_s
    assert dry.returncode == 0, dry.stdout[-3000:]
    config = load_config([REPOSITORY / "config.yaml", *overlays(path)])
    wanted, masked = jobs(config), segment_jobs(config)
    stores = {(name, job.grid) for job in wanted for name in (job.cohort, *parts_of(job.trained_on))}
    fetched = [config.cohorts[name] for name in {name for name, _ in stores} if config.cohorts[name].download]
    knees = [entry for entry in fetched if entry.layout in HDF5]
    downloads = [entry.download for entry in fetched if entry not in knees]
    shards = config.run.data_shards if config.run.data_shards > 1 else 0
    stitched = sum(config.cohorts[name].layout == "ukb" for name in {name for name, _ in stores})
    expected = {
        "download_knee": len(knees),
        "download_brats": sum(bool(route.token_variable) and route.kind != "ukb" for route in downloads),
        "download_ukb": sum(route.kind == "ukb" for route in downloads),
        "stitch": stitched,
        "stitch_shard": shards * stitched,
        "skull_strip": sum(bool(config.cohorts[name].skull_strip) for name in {name for name, _ in stores}),
        "download": sum(not route.token_variable for route in downloads),
        "generate": len({name for name, _ in stores if config.cohorts[name].layout in EMBEDDED}),
        "split": len({name for name, _ in stores}),
        "centres": shards * sum(config.grids[grid].frame == "scanner" for _, grid in stores),
        "preprocess_shard": shards * len(stores),
        "preprocess": len(stores),
        "anatomy": len({(name, grid) for name, grid in stores if has_water_fat(config.cohorts[name])}),
        "data_page": len({(job.cohort, job.grid) for job in wanted}),
        "train": len({(job.trained_on, job.grid, job.method) for job in wanted}),
        "sample": len(wanted) * config.run.shards,
        "evaluate": len(wanted) * config.run.shards,
        "segmenter": len({(job.cohort, job.grid) for job in masked}),
        "segment": len(masked) * config.run.shards,
        "segment_real": 2 * len({job._replace(method="") for job in masked}) * config.run.shards,
        "tumour_panel": min(1, len(masked)),
        "trust_card": int(any(job.method not in WITHOUT_CARD for job in wanted)),
        **dict.fromkeys(("collect", "panel", "tables", "figures", "report", "all"), 1),
    }
    expected = {rule: count for rule, count in expected.items() if count}
    assert job_counts(dry.stdout) == {**expected, "total": sum(expected.values())}, dry.stdout[-2000:]
    assert wanted and sum(expected.values()) < MOST_JOBS and seconds < MOST_SECONDS.get(path.stem, 10)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_named_splits_exist_and_nothing_selected_is_empty(path: Path) -> None:
    config = load_config([REPOSITORY / "config.yaml", *overlays(path)])
    for name in {name for job in jobs(config) for name in (job.cohort, *parts_of(job.trained_on))}:
        cohort = config.cohorts[name]
        assert cohort.layout in EMBEDDED or cohort.source, f"{name}: no source to print where the folder is missing"
        assert not cohort.split.file or (REPOSITORY / cohort.split.file).exists()
    assert {job.cohort for job in jobs(config)} == set(config.run.cohorts), "a cohort that `only` keeps from every job"
    assert {job.sweep for job in jobs(config)} == set(config.run.sweeps), "a sweep that `only` keeps from every job"


def test_the_paper_preset_has_every_method_factor_and_cohort() -> None:
    """With gated cohorts and without what is not there: the names of house.md."""
    config = load_config([REPOSITORY / "config.yaml", *overlays(PRESETS / "paper.yaml")])
    wanted = jobs(config)
    methods = (
        "zeros mean_template nearest linear cubic retrieval gaussian gaussian_local unet unet2d mednerf coordinate_mlp".split()
    )
    for cohort in ("brats", "ukb"):
        found = {job.method for job in wanted if job.cohort == cohort}
        assert found >= {*methods, "score", "tpdm", "flow3d", "xdiff", "xdiff_paper"}, cohort
    chosen = [config.sweeps[job.sweep] for job in wanted]
    assert {k for sweep in chosen for k in sweep.K} >= {0, 1, 2, 3, 5, 10, 31}
    assert {n for sweep in chosen for n in sweep.steps} >= {1, 2, 4, 8, 16, 32, 50, 100, 199, 500, 1000}
    assert {name for sweep in chosen for name in sweep.policy} == {*POLICIES} - {"projection"}
    assert {name for sweep in chosen for name in sweep.estimate} == {"mean", "sample", "mean_of_16"}
    assert any(sweep.thickness_mm != (0.0,) for sweep in chosen) and segment_jobs(config)
    for base in ("unet", "flow3d", "xdiff"):
        entries = {name: config.methods[name] for name in (base, f"{base}-seed1", f"{base}-seed2")}
        assert [entry.params["seed"] for entry in entries.values()] == [0, 1, 2]
        assert len({method_json(replace(entry, params={**entry.params, "seed": 0})) for entry in entries.values()}) == 1
        table = [{job[:2] for job in wanted if job.method == name and job.sweep.startswith("slices")} for name in entries]
        assert table[0] == table[1] == table[2] != set()
    for name in ("xdiff-independent-noise", "xdiff-ddim", "xdiff_apart"):  # with the network of xdiff
        params = {key: value for key, value in config.methods[name].params.items() if key not in ("sampler", "trained_as")}
        assert params == config.methods["xdiff"].params, name
    assert config.methods["score"].params == config.methods["tpdm"].params


def test_no_job_of_the_paper_preset_is_without_a_point() -> None:
    config = load_config([REPOSITORY / "config.yaml", *overlays(PRESETS / "paper.yaml")])
    for job in jobs(config):
        entry = config.methods[job.method]
        assert points_of(config.sweeps[job.sweep], entry.estimates, entry.min_k, entry.stepped), job


def test_shards_multiply_the_sampling_jobs_only(tmp_path: Path) -> None:
    overlay = tmp_path / "shards.yaml"
    overlay.write_text("run: {shards: 2, methods: [gaussian, linear], sweeps: [slices]}\n")
    counts = job_counts(snakemake(tmp_path, "--configfile", PRESETS / "smoke.yaml", overlay, "-n", "--", "all").stdout)
    assert counts["train"] == 4  # two methods on two cohorts
    assert counts["sample"] == counts["evaluate"] == 2 * 4


def test_data_shards_multiply_the_preprocessing_jobs_only(tmp_path: Path) -> None:
    overlay = tmp_path / "shards.yaml"
    overlay.write_text("run: {data_shards: 3, cohorts: [phantom-brain]}\n")
    counts = job_counts(snakemake(tmp_path, "--configfile", PRESETS / "smoke.yaml", overlay, "-n", "--", "data").stdout)
    assert counts == {"data": 1, "generate": 1, "split": 1, "preprocess_shard": 3, "preprocess": 1, "total": 7}


def test_a_target_needs_only_what_comes_before_it(tmp_path: Path) -> None:
    dry = snakemake(tmp_path, "--configfile", PRESETS / "smoke.yaml", "--dry-run", "--", "models")
    counts = job_counts(dry.stdout)
    assert counts["models"] == 1 and counts["train"] > 1 and "sample" not in counts, dry.stdout[-2000:]


def test_the_ablation_target_plans_every_job_and_no_page(tmp_path: Path) -> None:
    arguments = ["--configfile", PRESETS / "ablation.yaml", "--config", f"data_root={tmp_path}", "--dry-run", "--", "ablation"]
    counts = job_counts(snakemake(tmp_path, *arguments).stdout)
    wanted = jobs(load_config([REPOSITORY / "config.yaml", PRESETS / "ablation.yaml"]))
    assert counts["ablation"] == 1 and counts["sample"] == counts["evaluate"] == len(wanted)
    assert not set(counts) & {"all", "panel", "tables", "figures", "trust_card", "report"}


@pytest.mark.parametrize("ablated", [True, False])
def test_the_ablation_target_makes_table_and_figure_from_the_long_table(tmp_path: Path, ablated: bool) -> None:
    table = ablation_metrics(patients=2) if ablated else sweep_metrics(patients=2)
    write_metrics(table, tmp_path / "results/metrics/all.tsv")
    arguments = ["--configfile", PRESETS / "ablation.yaml", "--allowed-rules", "ablation", "--", "ablation"]
    done = snakemake(tmp_path, *arguments)
    made = {p.name for p in (tmp_path / "results/ablation").glob("*")}
    if ablated:
        assert done.returncode == 0, done.stdout[-2000:]
        assert made == {"captions.json", *(f"ablation.{end}" for end in ("tsv", "md", "png", "pdf"))}
    else:
        assert done.returncode != 0 and not made
        assert "found no ablation" in (tmp_path / "results/logs/ablation.log").read_text()


def test_a_reference_is_drawn_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest one, as the rule does; tests/slow/test_references.py draws all by the rule."""
    hide_torch(tmp_path, monkeypatch)
    smallest = min(REPOSITORY.glob("results/reference/*/metrics.tsv.gz"), key=lambda path: path.stat().st_size).parent
    command = [sys.executable, "-m", "xdiff.redraw", "--reference", smallest, "--out", tmp_path / "drawn"]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "drawn" / smallest.name / "figures").glob("*.png"))) >= 2
    assert (tmp_path / "drawn" / smallest.name / "tables/main.md").stat().st_size > 200


def test_the_catalog_finds_the_workflow_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((REPOSITORY / "config.yaml").read_text())
    shim = ("--snakefile", REPOSITORY / "workflow" / "Snakefile", "--dry-run", "--quiet", "rules", "--", "all")
    plain = snakemake(tmp_path, "--dry-run", "--quiet", "rules", "--", "all")
    assert job_counts(snakemake(tmp_path, *shim).stdout) == job_counts(plain.stdout) != {}
