"""Forecasts by hand-made unit costs, against totals made by hand; and the jobs against those that bench does."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PRESETS, REPOSITORY, Prepared, overlays

from xdiff import bench, cli, local_fit, plan
from xdiff.config import Cohort, Config, Grid, SplitRule, from_dict, load_config
from xdiff.data.phantom_brain import phantom_names
from xdiff.errors import InputError
from xdiff.forecast import Forecast, Line, planned_split
from xdiff.model import training
from xdiff.plan import Disk, costs_of, disk, duration, makespan_s, pieces
from xdiff.train import train
from xdiff.unit_costs import Costs, Wanted, read_costs

COLUMNS = (
    "what method module size shape spacing_mm contrasts K estimate steps rows evaluations batch precision repeats median_s "
    "q25_s q75_s peak_mib device threads torch version commit date"
).split()
CPU, GPU = "Xeon (2 threads)", "NVIDIA H100"
SMALL = {"size": "small", "shape": "4x5x6", "contrasts": 1}  # half of the grid below
BASE = {"size": "g", "shape": "4x5x12", "contrasts": 1, "peak_mib": 100, "device": CPU, "date": "2026-01-02"}
TRIVIAL, LOCAL, UNET, XDIFF = "baselines.trivial", "baselines.gaussian_local", "baselines.unet", "xdiff.model.method"
CORE = {"cases": 24, "voxels": 500, "steps": 20, "width": 16}
LEARNED = {"core": CORE, "channels": [8, 16], "validate_k": [1], "validate_subjects": 1, "volumes": 2}


def row(what: str, seconds: float, method: str = "", module: str = "", **more: object) -> dict:
    return {**BASE, "what": what, "median_s": seconds, "method": method, "module": module, **more}


ROWS = [
    row("preprocess", 2.0, peak_mib=300),
    row("evaluate", 0.5),
    row("read_write", 0.25),
    row("reconstruct", 1.0, "gaussian", TRIVIAL, K=1, estimate="mean", steps=1, rows=5),
    row("reconstruct", 3.0, "gaussian", TRIVIAL, K=4, estimate="mean", steps=1, rows=5, peak_mib=700),
    row("fit", 7.0, "gaussian", TRIVIAL, rows=5),
    row("fit", 11.0, "gaussian_local", LOCAL, rows=5),
    row("train_step", 0.5, "unet", UNET, batch=2),
    row("train_step", 2.0, "xdiff", XDIFF, batch=2),
    row("network", 0.125, "unet", UNET, K=1, estimate="mean"),
    row("network", 0.25, "xdiff", XDIFF, K=1, estimate="mean"),
    row("reconstruct", 4.0, "xdiff", XDIFF, K=1, estimate="mean", steps=1),
    row("reconstruct", 8.0, "xdiff", XDIFF, K=1, estimate="sample", steps=4),
]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[Sequence[dict], str], Path]:
    """Writes rows as a file of unit costs."""

    def write(rows: Sequence[dict], name: str = "costs.tsv") -> Path:
        with (tmp_path / name).open("w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", restval="")
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / name

    return write


@pytest.fixture
def costs(table: Callable[..., Path]) -> Costs:
    return read_costs([table(ROWS)])


def configured(methods: dict, sweeps: dict | None = None, **run: object) -> Config:
    """Ten Gaussian fields (5 train, 2 val, 3 test) on a grid of 4 x 5 x 12."""
    cohort = {
        "layout": "gaussian-field",
        "contrasts": ["field"],
        "foreground": "all",
        "norm": "none",
        "split": {"n_val": 2, "n_test": 3},
        "generate": {"n_subjects": 10, "seed": 1, "shape": [4, 5, 12], "spacing_mm": 4.0},
    }
    sweeps = sweeps or {"slices": {"K": [1]}}
    chosen = {"cohorts": ["field"], "grids": ["g"], "methods": list(methods), "sweeps": list(sweeps), **run}
    grids = {"g": {"shape": [4, 5, 12], "spacing_mm": 4.0}}
    return from_dict(Config, {"cohorts": {"field": cohort}, "grids": grids, "methods": methods, "sweeps": sweeps, "run": chosen})


def lines_of(config: Config, costs: Costs) -> dict[str, Line]:
    return {line.name: line for line in Forecast(config, costs).lines}


GAUSSIAN = {"gaussian": {"module": TRIVIAL, "params": {"kind": "gaussian"}}}


# Jobs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [REPOSITORY / "config.yaml", *sorted(PRESETS.glob("*.yaml"))], ids=lambda path: path.stem)
def test_a_forecast_has_the_jobs_of_bench(preset: Path) -> None:
    config = load_config([REPOSITORY / "config.yaml", *overlays(preset)])
    found = [line.name for line in Forecast(config, Costs([])).lines]
    done = [task.name for task in bench.tasks(config, Path("results"), None)]
    assert [name for name in found if not name.startswith("evaluate")] == done
    samples = [name for name in done if name.startswith("sample")]
    assert [name.replace("evaluate", "sample") for name in found if name.startswith("evaluate")] == samples


def test_bench_tasks_keep_the_names_of_their_ledger() -> None:
    config = configured(GAUSSIAN, {"slices": {"K": [1]}})
    assert [task.name for task in bench.tasks(config, Path("results"), None)] == [
        "split field",
        "preprocess field g",
        "train gaussian@field g",
        "sample gaussian@field field g slices",
        "collect",
    ]


def test_shards_divide_the_test_subjects(costs: Costs) -> None:
    lines = lines_of(configured(GAUSSIAN, shards=2), costs)
    first, second = (lines[f"sample gaussian@field field g slices {i}-of-2"] for i in (1, 2))
    assert (first.volumes, second.volumes) == (2, 1)
    assert (first.seconds, second.seconds) == (2 * 1.25, 1.25)
    assert "sample gaussian@field field g slices" not in lines
    with pytest.raises(InputError, match="no test subject in shard 4/4"):
        Forecast(configured(GAUSSIAN, shards=4), costs)


# Subjects -----------------------------------------------------------------------------------------------------------


def test_the_planned_split_of_an_embedded_cohort_is_the_one_that_is_made(field: Prepared) -> None:
    cohort = Cohort("gaussian-field", ("field",), split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort})
    assert planned_split(config, "field").sha == field.split.sha


def test_phantom_patients_have_follow_ups() -> None:
    names = phantom_names(10, 0.2)
    assert len(names) == 12
    assert [name for name in names if name.endswith("001")] == ["BraTS-GLI-00004-001", "BraTS-GLI-00009-001"]


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
    with pytest.raises(InputError, match=r"no split.file and no folder \S*elsewhere/field.*cohorts.field.split.file, or the raw"):
        planned_split(config, "field", tmp_path / "elsewhere")


def test_an_embedded_cohort_without_its_number_is_refused() -> None:
    config = replace(configured(GAUSSIAN), cohorts={"field": Cohort("phantom-brain", ("t1n",), generate={"seed": 1})})
    with pytest.raises(InputError, match="cohorts.field.generate: found no key 'n_patients'"):
        planned_split(config, "field")


# Unit costs ---------------------------------------------------------------------------------------------------------


def wanted(what: str = "reconstruct", **more: object) -> Wanted:
    return Wanted(what, (4, 5, 12), 1, **{"method": "gaussian", "module": TRIVIAL, **more})


def test_the_exact_size_is_preferred_and_another_is_scaled_by_voxels_times_contrasts(table: Callable[..., Path]) -> None:
    rows = [row("preprocess", 4.0, **SMALL), row("preprocess", 90.0, size="huge", shape="40x50x12")]
    found = read_costs([table(rows)]).find(Wanted("preprocess", (4, 5, 12), 3))
    assert (found.seconds, found.peak_mib) == (4.0 * 2 * 3, None)  # twice the voxels, three times the contrasts
    assert found.notes == ("scaled from small x 1 contrasts",)
    found = read_costs([table([*rows, row("preprocess", 5.0)])]).find(Wanted("preprocess", (4, 5, 12), 1))
    assert (found.seconds, found.peak_mib, found.notes) == (5.0, 100, ())


@pytest.mark.parametrize(("k", "seconds", "note"), [(1, 1.0, ()), (2, 1.0, ("measured at K = 1",)), (4, 3.0, ())])
def test_the_nearest_measured_k_is_taken_as_it_is(costs: Costs, k: int, seconds: float, note: tuple) -> None:
    found = costs.find(wanted(k=k, estimate="mean"))
    assert (found.seconds, found.notes) == (seconds, note)


@pytest.mark.parametrize(
    ("estimate", "steps", "seconds", "notes"),
    [
        ("sample", 4, 8.0, ()),
        ("sample", 10, 20.0, ("scaled from 4 steps",)),
        ("mean_of_16", 4, 128.0, ("scaled from sample",)),
        ("mean", 0, 4.0, ()),
    ],
)
def test_samples_are_scaled_by_steps_and_draws(costs: Costs, estimate: str, steps: int, seconds: float, notes: tuple) -> None:
    found = costs.find(wanted(method="xdiff", module=XDIFF, k=1, estimate=estimate, steps=steps))
    assert (found.seconds, found.notes) == (seconds, notes)


def test_a_mean_does_not_stand_for_a_sample(costs: Costs) -> None:
    assert costs.find(wanted(estimate="sample")) is None


def test_an_ablation_costs_what_its_base_does_and_says_so(costs: Costs) -> None:
    found = costs.find(wanted("train_step", method="xdiff-no-slab", module=XDIFF, batch=1))
    assert (found.seconds, found.notes) == (1.0, ("as xdiff", "scaled from 2 volumes a step"))


def test_one_of_several_rows_of_a_module_is_not_guessed(table: Callable[..., Path]) -> None:
    rows = [row("fit", 7.0, "gaussian", TRIVIAL), row("fit", 1.0, "retrieval", TRIVIAL)]
    assert read_costs([table(rows[:1])]).find(wanted("fit", method="zeros")).notes == ("as gaussian",)
    assert read_costs([table(rows)]).find(wanted("fit", method="zeros")) is None


def test_the_first_file_with_such_a_cost_answers_and_the_newest_row_of_it(table: Callable[..., Path]) -> None:
    first = [row("evaluate", 1.0, date="2026-01-01"), row("evaluate", 2.0, date="2026-03-01")]
    files = [table(first, "a.tsv"), table([row("evaluate", 5.0), row("preprocess", 6.0)], "b.tsv")]
    costs = read_costs(files)
    assert [costs.find(Wanted(what, (4, 5, 12), 1)).seconds for what in ("evaluate", "preprocess")] == [2.0, 6.0]


def test_a_device_chooses_the_tables_of_its_machine(table: Callable[..., Path]) -> None:
    cpu = table([row("evaluate", 1.0)], "cpu.tsv")
    gpu = table([row("evaluate", 2.0, device="EPYC (16 threads)"), row("fit", 3.0, device=GPU)], "gpu.tsv")
    costs = read_costs([cpu, gpu], "h100")
    assert costs.find(Wanted("evaluate", (4, 5, 12), 1)).seconds == 2.0
    assert costs.sources == [f"{gpu}: EPYC (16 threads); {GPU}, 2026-01-02"]
    with pytest.raises(InputError, match="--device: found 'A100', expected part of the name of one of"):
        read_costs([cpu, gpu], "A100")


def test_committed_tables_of_several_machines_ask_for_one(
    table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TIMING", tmp_path)
    assert costs_of([], "").files == []
    table([row("evaluate", 1.0)], "cpu.tsv")
    table([row("preprocess", 1.0)], "again.tsv")
    assert len(costs_of([], "").files) == 2
    table([row("evaluate", 2.0, device=GPU)], "gpu.tsv")
    with pytest.raises(InputError, match="tables of several machines"):
        costs_of([], "")
    assert [path.name for path, _ in costs_of([], "H100").files] == ["gpu.tsv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"median_s": "fast"}, "line 2, median_s: found 'fast', expected a number"),
        ({"median_s": "nan"}, "line 2: found contrasts 1, median_s nan"),
        ({"shape": "4,5,6"}, "line 2, shape: found '4,5,6'"),
        ({"contrasts": 0}, "line 2: found contrasts 0"),
    ],
)
def test_a_broken_row_is_named(table: Callable[..., Path], change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_costs([table([{**ROWS[0], **change}])])


def test_a_file_that_is_no_table_of_costs_is_refused(tmp_path: Path, table: Callable[..., Path]) -> None:
    (tmp_path / "other.tsv").write_text("what\tmethod\n")
    for path, message in [("other.tsv", "no column 'module'"), ("absent.tsv", "no such file"), (table([]), "no row")]:
        with pytest.raises(InputError, match=message):
            read_costs([tmp_path / path])


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


def test_k_1_alone_leaves_nothing_out(costs: Costs) -> None:
    assert not lines_of(configured(GAUSSIAN), costs)["sample gaussian@field field g slices"].at_most


def test_what_learns_nothing_is_not_counted(costs: Costs) -> None:
    methods = {"zeros": {"module": TRIVIAL, "params": {"kind": "zeros"}, "learns": False}}
    assert not lines_of(configured(methods), costs)["train zeros@field g"].counted


def trained(**params: object) -> dict:
    """U-Net and X-Diffusion beside the core that they start from."""
    unet = {"module": UNET, "params": {**LEARNED, "steps": 100, "validate_every": 30, **params}}
    xdiff = {"module": XDIFF, "params": {**LEARNED, "steps": 10, "checks": 4, **params}, "estimates": ["mean", "sample"]}
    return {"gaussian_local": {"module": LOCAL, "params": CORE}, "unet": unet, "xdiff": {**xdiff, "stepped": True}}


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


def variants() -> dict:
    """X-Diffusion, another sampler of it, and another seed."""
    base = trained()["xdiff"]
    changes = {"xdiff": {}, "xdiff-ddim": {"sampler": {"solver": "ddim"}}, "xdiff-seed": {"seed": 1}}
    return {name: {**base, "params": {**base["params"], **change}} for name, change in changes.items()}


def test_entries_that_differ_in_their_sampler_alone_train_once(costs: Costs) -> None:
    forecast = Forecast(configured(variants()), costs)
    lines = {line.name: line for line in forecast.lines}
    assert lines["train xdiff-ddim@field g"].seconds == 0
    assert lines["train xdiff-ddim@field g"].notes == ["network of xdiff@field g"]
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


# Totals -------------------------------------------------------------------------------------------------------------


def test_lines_run_side_by_side_as_far_as_cores_and_what_they_wait_for_allow() -> None:
    lines = [
        Line("a", "1", seconds=10),
        Line("a", "2", seconds=4),
        Line("b", "", threads=2, seconds=5, after=["a 1"]),
        Line("c", "", seconds=3, after=["a 2"]),
    ]
    assert makespan_s(lines, 1) == 22
    assert makespan_s(lines, 2) == 15
    assert makespan_s(lines, 4) == 15
    with pytest.raises(ValueError, match="wait for lines that are not there"):
        makespan_s([Line("b", "", after=["a"])], 2)


def test_one_gpu_takes_one_line_at_a_time() -> None:
    lines = [Line("a", str(i), seconds=5, asks_gpu=True) for i in range(3)]
    assert makespan_s(lines, 8) == 15
    assert makespan_s([replace(line, asks_gpu=False) for line in lines], 8) == 5


def test_who_shares_a_part_waits_for_it_alone() -> None:
    first = Line("train", "x", seconds=10, shared=[("core train x", 4)])
    second = Line("train", "y", seconds=3, after=["core train x"])
    assert makespan_s([first, second], 2) == 10
    assert makespan_s([second, first], 1) == 13


def test_a_training_stops_at_the_end_of_a_piece_and_a_job_goes_on() -> None:
    sample, score = Line("sample", "", seconds=50), Line("evaluate", "", seconds=20)
    assert pieces([Line("train", "", seconds=130)], 60) == (3, 60)
    assert pieces([sample, score, sample], 60) == (2, 70)
    assert pieces([replace(sample, seconds=70), score], 60) == (1, 90)  # bench scores in the task that samples
    assert pieces([Line("train", "", seconds=100), sample], 60) == (2, 90)


def test_disk_by_hand(costs: Costs) -> None:
    forecast = Forecast(configured(GAUSSIAN, {"slices": {"K": [1, 4]}}), costs)
    voxels = 4 * 5 * 12
    store = 10 * (voxels * (4 + 1) + 2 * 128)  # float32 and the foreground
    volumes = 2 * 6 * (352 + 4 * voxels)  # 3 subjects x 2 points, each with its standard deviation
    assert disk(forecast) == Disk(store, 5 * voxels * 4, volumes)


def test_a_preprocessed_store_takes_what_was_said(field: Prepared) -> None:
    cohort = Cohort("gaussian-field", ("field",), norm="none", split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(GAUSSIAN), cohorts={"field": cohort}, grids={"g": Grid(field.store.shape, 4.0)})
    written = sum(path.stat().st_size for path in (field.store.folder / "volumes").glob("*.npy"))
    assert disk(Forecast(config, Costs([]))).store == written


def test_weights_of_a_training_take_no_more_than_was_said(field: Prepared, tmp_path: Path) -> None:
    entry = configured(trained()).methods["unet"]
    cohort = Cohort("gaussian-field", ("field",), norm="none", split=SplitRule(n_val=2, n_test=3), generate={"n_subjects": 14})
    config = replace(configured(trained()), cohorts={"field": cohort}, grids={"g": Grid(field.store.shape, 4.0)})
    config = replace(config, run=replace(config.run, methods=("unet",)))
    small = replace(entry, params={**entry.params, "steps": 1, "validate_every": 1, "volumes": 1})
    train("unet", small, field.store, field.split, tmp_path / "unet")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    most = disk(Forecast(config, Costs([]))).weights
    assert 0.5 * most < written <= most


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0 s"), (9.96, "10 s"), (59, "59 s"), (90, "1.5 min"), (5400, "1.5 h")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# The command --------------------------------------------------------------------------------------------------------

CONFIG = """
cohorts:
  field: {layout: gaussian-field, contrasts: [field], foreground: all, norm: none, split: {n_val: 2, n_test: 3},
          generate: {n_subjects: 10, seed: 1, shape: [4, 5, 12], spacing_mm: 4.0}}
grids: {g: {shape: [4, 5, 12], spacing_mm: 4.0}}
methods:
  gaussian: {module: baselines.trivial, params: {kind: gaussian}, mem_mb: 900}
  gaussian_local: {module: baselines.gaussian_local, params: {cases: 24}, mem_mb: 900}
sweeps: {slices: {K: [4]}}
run: {cohorts: [field], grids: [g], methods: [gaussian, gaussian_local], sweeps: [slices]}
"""


def test_the_command_prints_jobs_totals_and_where_costs_are_from(
    table: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    path = table([r for r in ROWS if r["module"] != LOCAL])
    cli.main(["plan", "--config", str(tmp_path / "config.yaml"), "--costs", str(path), "--tsv", str(tmp_path / "plan.tsv")])
    out = capsys.readouterr().out
    told = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines() if line}
    found = [" ".join(line.split()) for line in out.splitlines()]
    assert "preprocess 20 s 300 no field g 10 subjects" in found
    assert "train ? 900* no gaussian_local@field g not measured: fit gaussian_local" in found
    assert "sample <= 9.8 s 700 no gaussian@field field g slices 1 points x 3 subjects" in found
    assert told["jobs"] == "jobs 9"
    # 20 preprocess, 7 fit, 9.75 + 1.5, and of gaussian_local 0.75 + 1.5
    assert told["wall time"].endswith("at least 40 s in one process")
    assert told["CPU-hours"] == "CPU-hours at least 0.01 (time x threads)"
    assert told["largest memory"] == "largest memory 900 MiB"
    assert f"costs: {path}: {CPU}, 2026-01-02" in found
    rows = list(csv.DictReader((tmp_path / "plan.tsv").open(), delimiter="\t"))
    assert sum(float(r["seconds"] or 0) for r in rows) == 40.5
    assert [r["missing"] for r in rows if r["complete"] == "False"][:2] == ["generate field", "fit gaussian_local"]


def test_the_command_says_what_would_measure_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "TIMING", tmp_path / "none")
    preset = PRESETS / "smoke.yaml"
    cli.main(["plan", str(preset)])
    out = capsys.readouterr().out
    assert f"python -m xdiff.bench {preset} --timing OUT.tsv" in out
    assert f"costs: none, {tmp_path / 'none'} holds no table" in out


def test_wrong_numbers_end_with_one_message() -> None:
    with pytest.raises(SystemExit, match="--cores, --piece: found 0, 10, expected at least one core"):
        cli.main(["plan", "--cores", "0"])
