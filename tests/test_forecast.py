"""Forecasts of jobs from hand-made unit costs, against sums made by hand; and the jobs against those that bench does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PRESETS, REPOSITORY, Prepared, overlays
from plan_costs import CORE, GAUSSIAN, GPU, ROWS, TRIVIAL, UNET, configured, lines_of, trained

from xdiff import bench, local_fit
from xdiff.config import Cohort, Grid, Plan, SplitRule, load_config
from xdiff.data.phantom_body import phantom_body_names
from xdiff.data.phantom_brain import phantom_names
from xdiff.data.phantom_knee import phantom_knee_names
from xdiff.errors import InputError
from xdiff.forecast import Forecast
from xdiff.model import training
from xdiff.planned import planned_split
from xdiff.train import train
from xdiff.unit_costs import Costs, read_costs

# Jobs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [REPOSITORY / "config.yaml", *sorted(PRESETS.glob("*.yaml"))], ids=lambda path: path.stem)
def test_a_forecast_has_the_jobs_of_bench(preset: Path) -> None:
    config = load_config([REPOSITORY / "config.yaml", *overlays(preset)])
    config = replace(config, run=replace(config.run, shards=1, data_shards=1))  # which bench knows nothing of
    done = [task.name for task in bench.tasks(config, Path("results"), None)]
    # what makes a cohort's files goes with its split, and what follows the scores takes seconds, as measuring real bodies does
    quick = ("generate", "skull_strip", "stitch", "anatomy", "panel", "tumour_panel", "tables", "figures")
    counted = [name for name in done if name.split()[0] not in quick]
    assert [line.name for line in Forecast(config, Costs([])).lines] == counted


def test_bench_tasks_keep_the_names_of_their_ledger() -> None:
    config = configured(GAUSSIAN, {"slices": {"K": [1]}})
    assert [task.name for task in bench.tasks(config, Path("results"), None)] == [
        *("generate field", "split field"),
        "preprocess field g",
        "train gaussian@field g",
        "sample gaussian@field field g slices",
        "evaluate gaussian@field field g slices",
        *("collect", "panel", "tables", "figures"),
    ]


def test_segmenting_comes_after_sampling_and_says_that_its_time_is_missing() -> None:
    config = load_config([REPOSITORY / "config.yaml"])
    lines = {line.name: line for line in Forecast(config, Costs([])).lines}
    masks = lines["segment xdiff@phantom-brain phantom-brain 48 slices"]
    assert masks.missing == ["nnU-Net"] and masks.after == [
        "segmenter phantom-brain 48",
        "sample xdiff@phantom-brain phantom-brain 48 slices",
    ]
    assert lines["segment truth@phantom-brain phantom-brain 48 slices"].after == ["segmenter phantom-brain 48"]
    assert not any("gaussian-field" in name for name in lines if name.startswith("segment"))


def test_volumes_of_a_shard_are_segmented_when_it_is_sampled() -> None:
    config = load_config([REPOSITORY / "config.yaml"], {"run": {"shards": 2, "cohorts": ["phantom-brain"]}})
    lines = {line.name: line for line in Forecast(config, Costs([])).lines}
    assert lines["segment xdiff@phantom-brain phantom-brain 48 slices 2-of-2"].after == [
        "segmenter phantom-brain 48",
        "sample xdiff@phantom-brain phantom-brain 48 slices 2-of-2",
    ]
    assert {name for line in lines.values() for name in line.after if not name.startswith("core")} <= set(lines)


def test_shards_divide_the_test_subjects(costs: Costs) -> None:
    lines = lines_of(configured(GAUSSIAN, shards=2), costs)
    first, second = (lines[f"sample gaussian@field field g slices {i}-of-2"] for i in (1, 2))
    assert (first.volumes, second.volumes) == (2, 1)
    assert (first.seconds, second.seconds) == (2 * 1.25, 1.25)
    assert "sample gaussian@field field g slices" not in lines
    with pytest.raises(InputError, match="no test subject in shard 4/4"):
        Forecast(configured(GAUSSIAN, shards=4), costs)


def test_shards_of_data_divide_the_subjects_and_are_joined_for_nothing(costs: Costs) -> None:
    config = configured(GAUSSIAN, data_shards=4)
    lines = lines_of(config, costs)
    shards = [lines[f"preprocess_shard field g {number}-of-4"] for number in range(1, 5)]
    assert [line.seconds for line in shards] == [3 * 2.0, 3 * 2.0, 2 * 2.0, 2 * 2.0]
    assert all(line.after == ["split field"] for line in shards)
    joined = lines["preprocess field g"]
    assert (joined.seconds, joined.counted, joined.volumes) == (0.0, False, 10)
    assert joined.after == [line.name for line in shards] and "centres field g 1-of-4" not in lines


def test_the_scanner_frame_reads_training_volumes_first(costs: Costs) -> None:
    scanner = {"g": Grid((4, 5, 12), 4.0, "scanner")}
    what = ["reading of training volumes (frame scanner)"]
    assert lines_of(replace(configured(GAUSSIAN), grids=scanner), costs)["preprocess field g"].missing == what
    lines = lines_of(replace(configured(GAUSSIAN, data_shards=2), grids=scanner), costs)
    assert lines["centres field g 2-of-2"].missing == what and not lines["preprocess_shard field g 1-of-2"].missing
    assert lines["preprocess_shard field g 1-of-2"].after == ["centres field g 1-of-2", "centres field g 2-of-2"]


def test_cohorts_trained_on_together_give_their_training_sides(costs: Costs) -> None:
    config = configured(GAUSSIAN, trained_on=["self"])
    both = {"field": config.cohorts["field"], "other": config.cohorts["field"]}
    config = replace(config, cohorts=both, run=replace(config.run, trained_on=("self", "field+other")))
    forecast = Forecast(config, costs)
    assert [len(forecast.split_of("field+other").side(side)) for side in ("train", "val", "test")] == [10, 2, 3]
    lines = {line.name: line for line in forecast.lines}
    assert lines["train gaussian@field+other g"].after == ["preprocess field g", "preprocess other g"]
    assert lines["train gaussian@field+other g"].notes == ["of 5 training volumes"]
    assert lines["sample gaussian@field+other field g slices"].volumes == 3


# Subjects -----------------------------------------------------------------------------------------------------------


def test_the_planned_split_of_an_embedded_cohort_is_the_one_that_is_made(field: Prepared) -> None:
    cohort = Cohort("gaussian-field", ("field",), split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort})
    assert planned_split(config, "field").sha == field.split.sha


def test_phantom_patients_have_follow_ups() -> None:
    names = phantom_names(10, 0.2)
    assert len(names) == 12
    assert [name for name in names if name.endswith("001")] == ["BraTS-GLI-00004-001", "BraTS-GLI-00009-001"]


@pytest.mark.parametrize(
    ("layout", "contrast", "names"), [("phantom-knee", "pd", phantom_knee_names), ("phantom-body", "fat", phantom_body_names)]
)
def test_the_subjects_of_phantoms_are_known_before_they_are_made(layout: str, contrast: str, names: Callable) -> None:
    entry = Cohort(layout, (contrast,), split=SplitRule(n_val=1, n_test=2), generate={"n_patients": 9, "seed": 1})
    split = planned_split(replace(configured(GAUSSIAN), cohorts={"field": entry}), "field")
    assert sorted(split.table["subject"]) == names(9)
    assert len(split.side("test")) == 2


def test_a_committed_split_needs_no_data() -> None:
    config = load_config([REPOSITORY / "config.yaml", PRESETS / "real-brains-2mm.yaml"])
    split = planned_split(config, "openneuro-ds002748", Path("/nowhere"))
    listed = (REPOSITORY / "workflow/splits/openneuro-ds002748.tsv").read_text().splitlines()[2:]
    assert len(split.table) == len(listed)


def test_a_raw_folder_tells_subjects_and_its_absence_what_would(heads: Prepared, tmp_path: Path) -> None:
    cohort = Cohort("bids", ("T1w", "T2w"), split=SplitRule(n_val=1, n_test=2))
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort})
    for subject in heads.store.subjects:
        (tmp_path / "field" / subject / "anat").mkdir(parents=True)
    assert planned_split(config, "field", tmp_path).sha == heads.split.sha
    with pytest.raises(InputError, match=r"no split.file and no folder \S*elsewhere/field.*split.file, plan.subjects.field, or"):
        planned_split(config, "field", tmp_path / "elsewhere")


def test_expected_subjects_are_counted_until_files_are_there(heads: Prepared, tmp_path: Path) -> None:
    cohort = Cohort("bids", ("T1w", "T2w"), split=SplitRule(n_val=10, n_test=20), skull_strip="hd-bet")
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort}, plan=Plan({"field": 100}))
    assert [len(planned_split(config, "field", tmp_path).side(side)) for side in ("train", "val", "test")] == [70, 10, 20]
    lines = {line.name: line for line in Forecast(config, Costs([]), tmp_path).lines}
    assert lines["preprocess field g"].notes == ["100 subjects (plan.subjects)"]
    assert lines["split field"].missing == ["skull stripping"]
    for subject in heads.store.subjects:
        (tmp_path / "field" / subject / "anat").mkdir(parents=True)
    config = replace(config, cohorts={"field": replace(cohort, split=SplitRule(n_val=1, n_test=2))})
    assert planned_split(config, "field", tmp_path).sha == heads.split.sha
    there = {line.name: line for line in Forecast(config, Costs([]), tmp_path).lines}
    assert there["preprocess field g"].notes == [f"{len(heads.store.subjects)} subjects"]


def test_an_embedded_cohort_without_its_number_is_refused() -> None:
    config = replace(configured(GAUSSIAN), cohorts={"field": Cohort("phantom-brain", ("t1n",), generate={"seed": 1})})
    with pytest.raises(InputError, match="cohorts.field.generate: found no key 'n_patients'"):
        planned_split(config, "field")


# Lines --------------------------------------------------------------------------------------------------------------


def test_totals_of_a_small_configuration(costs: Costs) -> None:
    lines = lines_of(configured(GAUSSIAN, {"slices": {"K": [1, 4], "axis": ["axial", "coronal"]}}), costs)
    assert lines["preprocess field g"].seconds == 10 * 2.0
    assert lines["train gaussian@field g"].seconds == 7.0
    sample = lines["sample gaussian@field field g slices"]
    assert sample.seconds == 3 * 2 * (1.0 + 3.0) + 12 * 0.25  # subjects x axes x both K, and 12 volumes in and out
    assert (sample.peak_mib, sample.volumes, sample.at_most, sample.missing) == (700, 12, True, [])
    assert lines["evaluate gaussian@field field g slices"].seconds == 12 * 0.5
    assert sum(line.seconds for line in lines.values()) == 20 + 7 + 27 + 6
    assert lines["split field"].missing == ["generate field"]
    assert not lines["collect"].counted


@pytest.mark.parametrize(
    ("sweep", "at_most"),
    [
        ({"K": [1], "axis": ["axial", "coronal"]}, False),
        ({"K": [1, 2]}, True),
        ({"K": [1], "policy": ["tilted"]}, True),
        ({"K": [1], "thickness_mm": [5.0]}, True),
    ],
)
def test_all_points_but_the_plainest_may_be_left_out(costs: Costs, sweep: dict, at_most: bool) -> None:
    line = lines_of(configured(GAUSSIAN, {"slices": sweep}), costs)["sample gaussian@field field g slices"]
    assert line.at_most is at_most


def test_what_learns_nothing_is_not_counted(costs: Costs) -> None:
    methods = {"zeros": {"module": TRIVIAL, "params": {"kind": "zeros"}, "learns": False}}
    assert not lines_of(configured(methods), costs)["train zeros@field g"].counted


def test_a_training_is_its_steps_and_its_checks_and_the_core_is_fitted_once(costs: Costs) -> None:
    lines = lines_of(configured(trained()), costs)
    assert lines["train gaussian_local@field g"].seconds == 11.0
    # one validation subject and one of training, before the first step, at 30, 60, 90 and at the end
    assert lines["train unet@field g"].seconds == 100 * 0.5 + 5 * 2 * 0.125
    assert lines["train xdiff@field g"].seconds == 10 * 2.0 + 5 * 2 * 0.25
    assert lines["train unet@field g"].notes == ["core of gaussian_local@field g"]


def test_another_core_is_fitted_besides(costs: Costs) -> None:
    lines = lines_of(configured(trained(core={**CORE, "width": 8})), costs)
    assert lines["train unet@field g"].seconds == 11.0 + 100 * 0.5 + 5 * 2 * 0.125  # by the row of gaussian_local
    assert lines["train xdiff@field g"].notes == ["core of unet@field g"]


def test_fewer_patients_make_another_core(costs: Costs) -> None:
    lines = lines_of(configured(trained(patients=4)), costs)
    assert "of 5 training volumes" in lines["train unet@field g"].notes
    same = lines_of(configured(trained(patients=5)), costs)  # all of them
    assert same["train unet@field g"].notes == ["core of gaussian_local@field g"]


@pytest.mark.parametrize(("minutes", "unet_s", "xdiff_s"), [(0.5, 30.0, 20.0), (10, 50.0, 20.0)])
def test_a_training_ends_by_its_steps_or_its_minutes(costs: Costs, minutes: float, unet_s: float, xdiff_s: float) -> None:
    lines = lines_of(configured(trained(minutes=minutes)), costs)
    checks = 1 + (2 if minutes < 1 else 4)  # 60 steps in half a minute
    assert lines["train unet@field g"].seconds == pytest.approx(unet_s + checks * 2 * 0.125)
    assert lines["train xdiff@field g"].seconds == xdiff_s + 5 * 2 * 0.25


def test_minutes_are_known_where_steps_are_not_measured() -> None:
    line = lines_of(configured(trained(minutes=2)), Costs([]))["train unet@field g"]
    assert (line.seconds, line.missing) == (120.0, ["train_step unet"])


def test_patience_may_end_a_training_sooner(costs: Costs) -> None:
    assert lines_of(configured(trained(patience=3)), costs)["train unet@field g"].at_most


@dataclass(frozen=True)
class Assembled(training.Settings):
    """Of a method that trains X-Diffusion's network and draws otherwise."""

    assembly: tuple[int, ...] = ()

    @property
    def trained(self) -> training.Settings:
        return training.Settings(**{f.name: getattr(self, f.name) for f in fields(training.Settings)})


def test_a_method_that_draws_otherwise_with_another_ones_network_trains_nothing(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(load=None, train=None, settings_of=lambda params: Assembled.of(params))
    monkeypatch.setitem(sys.modules, "apart", module)
    xdiff = trained()["xdiff"]
    other = {**xdiff, "module": "apart", "params": {**xdiff["params"], "assembly": [1]}}
    lines = lines_of(configured({"xdiff": xdiff, "xdiff_apart": other}), costs)
    assert lines["train xdiff@field g"].seconds > 0
    apart = lines["train xdiff_apart@field g"]
    assert (apart.seconds, apart.missing, apart.notes) == (0.0, [], ["network of xdiff@field g"])
    seeded = {**other, "params": {**other["params"], "seed": 1}}
    assert lines_of(configured({"xdiff": xdiff, "xdiff_apart": seeded}), costs)["train xdiff_apart@field g"].missing


def variants() -> dict:
    """X-Diffusion, another sampler of it, another seed, and its network drawn the paper's way."""
    base = trained()["xdiff"]
    changes = {"xdiff": {}, "xdiff-ddim": {"sampler": {"solver": "ddim"}}, "xdiff-seed": {"seed": 1}}
    found = {name: {**base, "params": {**base["params"], **change}} for name, change in changes.items()}
    apart = {"trained_as": "xdiff", "assembly": {"views": 3}}
    return {**found, "xdiff-apart": {**base, "module": "baselines.xdiff_paper", "params": {**base["params"], **apart}}}


def test_entries_that_differ_in_their_sampler_alone_train_once(costs: Costs) -> None:
    forecast = Forecast(configured(variants()), costs)
    lines = {line.name: line for line in forecast.lines}
    for name in ("xdiff-ddim", "xdiff-apart"):
        assert lines[f"train {name}@field g"].seconds == 0
        assert lines[f"train {name}@field g"].notes == ["network of xdiff@field g"]
    assert lines["train xdiff@field g"].seconds == 11.0 + 20.0 + 2.5
    assert lines["train xdiff-seed@field g"].seconds == 20.0 + 2.5
    # each is sampled for itself, and waits for its own training, which waits for the shared one
    assert lines["sample xdiff-ddim@field field g slices"].seconds == lines["sample xdiff@field field g slices"].seconds > 0
    assert "train xdiff@field g" in lines["train xdiff-ddim@field g"].after


def test_what_is_shared_here_is_shared_by_the_training(field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training itself, but for its network: as many cores and networks are made as the forecast pays for."""
    made: list[str] = []
    monkeypatch.setattr(training, "_train", lambda *_: made.append("network") or {"network.x": np.zeros(1)})
    fitted = local_fit._fit
    monkeypatch.setattr(local_fit, "_fit", lambda *a: made.append("core") or fitted(*a))
    config = configured(variants())
    for name, entry in config.methods.items():
        train(name, entry, field.store, field.split, tmp_path / name)
    assert sorted(made) == ["core", "network", "network"]
    assert sorted(key[0] for key in Forecast(config, Costs([])).owners) == sorted(made)


def test_what_was_not_measured_is_missing_and_makes_the_rest_a_lower_bound() -> None:
    lines = lines_of(configured(GAUSSIAN), Costs([]))
    missing = [line.missing for line in lines.values()]
    reconstruct = ["reconstruct gaussian mean", "read_write"]
    assert missing == [["generate field"], ["preprocess"], ["fit gaussian"], reconstruct, ["evaluate"], []]


def test_gpu_hours_are_of_what_was_measured_on_a_gpu(table: Callable[..., Path]) -> None:
    methods = {"unet": {**trained()["unet"], "gpu": 1}}
    on_cpu = lines_of(configured(methods), read_costs([table(ROWS)]))["train unet@field g"]
    assert (on_cpu.asks_gpu, on_cpu.gpu) == (True, False)
    moved = [{**r, "device": GPU} if r["module"] == UNET else r for r in ROWS]
    assert lines_of(configured(methods), read_costs([table(moved)]))["train unet@field g"].gpu
    assert lines_of(configured(methods), Costs([]))["train unet@field g"].gpu
