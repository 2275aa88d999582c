"""Unit costs at tiny sizes: what is counted, what is measured once, what does not fit, and where a budget stops."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import nn

from xdiff import clocks, sizes, timing
from xdiff.clocks import NetworkClock
from xdiff.config import Config, MethodEntry, load_config
from xdiff.errors import InputError, NotSupported
from xdiff.sizes import Size, prepare, rows_at, size_of, untrained, volume, weights_at
from xdiff.timing import COLUMNS, Table, measure, row_of
from xdiff.unit_costs import Wanted, read_costs

TINY = Size("24", (24, 24, 24), 8.0)


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([REPOSITORY / "config.yaml", REPOSITORY / "workflow/presets/smoke.yaml"])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


@pytest.fixture(scope="module")
def measured(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows of three methods at 24^3."""
    out = tmp_path_factory.mktemp("timing") / "timing.tsv"
    assert measure(config, ["24"], ["linear", "unet", "xdiff"], out, repeats=3)
    return out


def test_a_method_that_keeps_no_core_is_measured_too(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KS": (3,), "STEPS": 3, "TRAIN_STEPS": 2}.items():
        monkeypatch.setattr(timing, name, value)
    params = {**config.methods["xdiff"].params, "channels": [8, 16], "sections": 4, "check_steps": 2}
    params = {k: v for k, v in params.items() if k in ("core", "channels", "sections", "check_steps", "seed")}
    entry = MethodEntry("baselines.tpdm", params, estimates=("sample",), stepped=True)
    changed = replace(config, methods={**config.methods, "tpdm": entry})
    assert measure(changed, ["24"], ["tpdm"], tmp_path / "timing.tsv", repeats=3)
    rows = [row for row in read(tmp_path / "timing.tsv") if row["method"] == "tpdm"]
    assert {row["what"] for row in rows} == {"reconstruct", "network", "train_step", "train_data", "train_network"}
    assert all(float(row["median_s"]) > 0 for row in rows)
    assert {int(row["evaluations"]) for row in rows if row["what"] == "reconstruct"} == {24 * (2 + 1 + 2)}


# Volumes and weights ------------------------------------------------------------------------------------------------


def test_volumes_are_heads_in_an_empty_array_and_all_different() -> None:
    size = Size("s", (20, 24, 18), 2.0, 2)
    one, other = volume(size, 0), volume(size, 1)
    assert one.shape == (2, 20, 24, 18) and one.dtype == np.float32
    np.testing.assert_array_equal(one, volume(size, 0))
    assert (one > 0).mean() == pytest.approx(4 / 3 * np.pi * 0.38**3, abs=0.03)
    assert one[one > 0].mean() == pytest.approx(1, abs=0.1) and one.min() == 0
    assert not np.array_equal(one, other) and not np.array_equal(one[0], one[1])


def test_a_cohort_is_preprocessed_as_any_is(tmp_path: Path) -> None:
    made = prepare(TINY, 2, tmp_path)
    assert made.store.shape == TINY.shape and made.seconds > 0
    assert len(made.split.side("train")) == 2 and len(made.split.side("test")) == 1
    raw = volume(TINY, int(made.split.side("test")[0][-3:]))
    stored = made.store.volume(made.split.side("test")[0])
    assert np.corrcoef(stored.ravel(), raw.ravel())[0, 1] > 0.97


def test_training_volumes_are_as_many_as_memory_lets_in(config: Config) -> None:
    core = config.methods["gaussian_local"]
    assert rows_at(core, TINY) == rows_at(config.methods["gaussian"], TINY) == sizes.ROWS
    warped = replace(core, params={**core.params, "warped_rows": 3})
    assert rows_at(warped, TINY) == 4 * sizes.ROWS
    assert rows_at(replace(core, params={**core.params, "warped_rows": 30}), TINY) == 400  # max_volumes
    brats = sizes.SIZES["brats"]
    assert 2 * 2 * brats.values * rows_at(warped, brats) <= sizes.MAX_ROWS_MIB * 2**20 < 2 * 2 * brats.values * 16


def test_weights_of_another_size_keep_the_network(config: Config, tmp_path: Path) -> None:
    work = timing.Timing(config, ["xdiff"], Table(tmp_path / "t.tsv"), 3, tmp_path)
    small = work.small_weights("xdiff", 1)
    size = Size("other", (20, 28, 24), 3.0)
    grown, described = sizes.read_weights(weights_at(size, small, config.methods["xdiff"], tmp_path / "grown"))
    before, _ = sizes.read_weights(small)
    assert described["shape"] == [20, 28, 24] and described["grid"] == "other"
    assert grown["rows"].shape == (sizes.ROWS, 1, 20, 28, 24) and before["rows"].shape[2:] == (24, 24, 24)
    for name in before:
        if name != "rows":
            np.testing.assert_array_equal(grown[name], before[name])


def test_an_untrained_entry_keeps_the_size_of_its_network(config: Config) -> None:
    for name in ("unet", "xdiff"):
        entry, short = config.methods[name], untrained(config.methods[name])
        own, cut = sizes.settings_of(entry), sizes.settings_of(short)
        assert cut.steps == cut.minutes == cut.validate_subjects == 0 and cut.channels == own.channels
        assert cut.core.width == own.core.width and cut.core.warped_rows == 0
    assert untrained(config.methods["linear"]) == config.methods["linear"]


def test_sizes_are_known_by_name(config: Config) -> None:
    assert size_of("brats", config).contrasts == 4 and size_of("24", config).shape == (24, 24, 24)
    with pytest.raises(InputError, match="--sizes: found '3mm', expected some of 64, 2mm"):
        size_of("3mm", config)


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_kind_of_row_is_there(measured: Path) -> None:
    rows = read(measured)
    assert list(rows[0]) == COLUMNS
    kinds = {(row["what"], row["method"]) for row in rows}
    once = {("preprocess", ""), ("read_write", ""), ("evaluate", "")}
    networks = {
        (what, name)
        for what in ("reconstruct", "network", "train_step", "train_data", "train_network")
        for name in ("unet", "xdiff")
    }
    assert kinds == once | networks | {("reconstruct", "linear")}
    for row in rows:
        assert float(row["median_s"]) > 0 and float(row["q25_s"]) <= float(row["median_s"]) <= float(row["q75_s"])
        assert row["shape"] == "24x24x24" and row["device"] and row["torch"] == torch.__version__
        assert row["note"].endswith("waiting for data") if row["what"] == "train_step" else not row["note"]


@pytest.mark.slow
def test_evaluations_are_counted_and_networks_take_a_part_of_the_time(measured: Path) -> None:
    rows = {(r["what"], r["method"], r["K"], r["estimate"]): r for r in read(measured)}
    for k in ("1", "5"):
        mean, draw = rows["reconstruct", "xdiff", k, "mean"], rows["reconstruct", "xdiff", k, "sample"]
        assert mean["evaluations"] == "72" and mean["steps"] == "1"  # all sections of three axes
        assert draw["evaluations"] == str(8 * 72) and draw["steps"] == "8"
        assert rows["reconstruct", "unet", k, "mean"]["rows"] == str(sizes.ROWS)
        for method in ("unet", "xdiff"):
            whole, part = (rows[what, method, k, "mean"] for what in ("reconstruct", "network"))
            assert float(part["median_s"]) < float(whole["median_s"])
    assert ("reconstruct", "linear", "1", "mean") not in rows  # min_k: 2
    assert rows["reconstruct", "linear", "5", "mean"]["rows"] == "0"
    for method, seen in (("unet", "2"), ("xdiff", "4")):  # volumes; sections of one volume
        assert rows["train_step", method, "", ""]["evaluations"] == seen
    assert rows["train_step", "xdiff", "", ""]["batch"] == "1"


@pytest.mark.slow
def test_what_is_there_is_not_measured_again(config: Config, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured.read_text()

    def never(*_: Any) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(timing, "seconds_of", never)
    monkeypatch.setattr(timing, "timed", never)
    assert measure(config, ["24"], ["linear", "unet", "xdiff"], measured, repeats=3)
    assert measured.read_text() == before


def test_another_network_is_measured_beside_the_first(config: Config, tmp_path: Path) -> None:
    table, entry = Table(tmp_path / "t.tsv"), config.methods["xdiff"]
    row = row_of("reconstruct", TINY, "xdiff", entry, K=1, estimate="mean", steps=1)
    assert not table.has(row)
    table.add(row, [1.0, 2.0, 4.0], peak_mib=5)
    assert table.has(row) and Table(tmp_path / "t.tsv").has(row)
    wider = row_of(
        "reconstruct", TINY, "xdiff", replace(entry, params={**entry.params, "channels": [16, 32]}), K=1, estimate="mean", steps=1
    )
    assert not table.has(wider)
    written = read(tmp_path / "t.tsv")[0]
    assert (written["median_s"], written["q25_s"], written["q75_s"], written["repeats"]) == ("2", "1.5", "3", "3")


def test_a_spent_budget_stops_before_the_next_row_and_the_same_call_goes_on(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "timing.tsv"
    assert not measure(config, ["24"], ["linear"], out, repeats=3, budget_min=0)
    assert not out.exists()
    assert measure(config, ["24"], ["linear"], out, repeats=3)
    assert {row["what"] for row in read(out)} == {"preprocess", "read_write", "evaluate", "reconstruct"}


@pytest.mark.parametrize("error", [MemoryError("too large"), torch.OutOfMemoryError("too large"), NotSupported("not this")])
def test_what_does_not_fit_is_a_note_and_the_rest_goes_on(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error
) -> None:
    class Large:
        def reconstruct(self, *_: Any) -> None:
            raise error

    monkeypatch.setattr("baselines.trivial.load", lambda weights: Large())
    assert measure(config, ["24"], ["zeros", "linear"], tmp_path / "t.tsv", repeats=3)
    rows = {row["method"]: row for row in read(tmp_path / "t.tsv") if row["what"] == "reconstruct"}
    assert type(error).__name__ in rows["zeros"]["note"] and rows["zeros"]["median_s"] == ""
    assert float(rows["linear"]["median_s"]) > 0 and rows["linear"]["note"] == ""
    assert read_costs([tmp_path / "t.tsv"]).find(Wanted("reconstruct", TINY.shape, 1, "zeros", "baselines.trivial")) is None


def test_bad_requests_are_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--methods: found .'nothing'."):
        measure(config, ["24"], ["nothing"], tmp_path / "t.tsv")
    with pytest.raises(InputError, match="--repeats: found 2"):
        measure(config, ["24"], ["linear"], tmp_path / "t.tsv", repeats=2)
    (tmp_path / "t.tsv").write_text("a\tb\n")
    with pytest.raises(InputError, match="t.tsv: found columns"):
        measure(config, ["24"], ["linear"], tmp_path / "t.tsv")


def test_the_clock_of_a_network_adds_up_its_parts_until_it_is_removed() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.sections = nn.Linear(500, 500), nn.Linear(500, 500)

    network, clock = (made := Both()), NetworkClock(made)
    network.trunk(torch.ones(500, 500))
    network.sections(torch.ones(500, 500))
    assert len(clock.marks) == 2
    spans = [b - a for a, b in clock.marks]
    assert min(spans) > 0 and clock.take() == pytest.approx(sum(spans)) and clock.take() == 0
    clock.remove()
    network.trunk(torch.ones(500, 500))
    assert clock.take() == 0


def test_a_method_that_fits_no_core_has_none() -> None:
    assert sizes.core_of(MethodEntry("baselines.interpolation", {"kind": "linear"})) is None


def test_a_fit_and_a_training_that_do_not_fit_are_noted_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tried = timing.train, []

    def full(name: str, *rest: Any) -> None:
        if name == "nearest":  # of `evaluate`
            return whole(name, *rest)
        tried.append(name)
        raise MemoryError("no room")

    monkeypatch.setattr(timing.Timing, "_reconstruct", lambda *_: None)
    monkeypatch.setattr(timing, "train", full)
    for _ in range(2):
        assert measure(config, ["24"], ["gaussian", "unet"], tmp_path / "t.tsv", repeats=3)
    noted = [(r["what"], r["method"]) for r in read(tmp_path / "t.tsv") if "no room" in r["note"] and not r["median_s"]]
    assert noted == [("fit", "gaussian"), ("train_step", "unet"), ("train_data", "unet"), ("train_network", "unet")]
    assert tried == ["gaussian", "unet"]


def test_draws_of_many_are_not_measured(config: Config, tmp_path: Path) -> None:
    zeros = replace(config.methods["zeros"], estimates=("mean", "mean_of_16"))
    more = replace(config, methods={**config.methods, "zeros": zeros})
    assert measure(more, ["24"], ["zeros"], tmp_path / "t.tsv", repeats=3)
    assert {r["estimate"] for r in read(tmp_path / "t.tsv") if r["method"] == "zeros"} == {"mean"}


@pytest.mark.parametrize(("left", "count"), [(float("inf"), 9), (18.0, 9), (10.0, 5), (5.0, 3), (0.0, 3)])
def test_a_budget_cuts_repeats_to_no_fewer_than_three(monkeypatch: pytest.MonkeyPatch, left: float, count: int) -> None:
    monkeypatch.setattr(clocks, "seconds_of", lambda call: 2.0)
    monkeypatch.setattr(clocks, "time_left_s", lambda: left)
    assert clocks.timed(lambda: None, 9) == [2.0] * count


def test_the_timed_loop_of_training_is_begun_once_after_data_of_whole_draws(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, begun, used = [], [], []

    def loop(problem: Any, first: int, steps: int, device: torch.device) -> Any:
        begun.append(first)
        yield from ((step, 0.0) for step in range(first, steps))

    monkeypatch.setattr(timing, "batches", loop)
    settings = SimpleNamespace(draws=SimpleNamespace(repeats=5), steps=10**6)
    trainer = SimpleNamespace(settings=settings, device=torch.device("cpu"), update=used.append, flush=lambda: None)
    trainer.problem = SimpleNamespace(batch=asked.append)
    work = timing.Timing(config, ["zeros"], Table(tmp_path / "t.tsv"), 3, tmp_path)
    work._loop(trainer, [row_of(what, TINY) for what in ("train_step", "train_data", "train_network")])
    assert asked == [0, *range(20), *range(20, 35)]  # 3 draws of 5 steps each, after 4 x 5 that fill the places
    assert begun == [35] and [step for step in used if step is not None] == list(range(35, 35 + 5 * timing.TRAIN_STEPS))
    assert [r["note"] for r in read(tmp_path / "t.tsv")] == ["0% waiting for data", "", ""]
