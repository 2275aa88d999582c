"""Tables of unit costs: which row answers, how it is scaled, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plan_costs import CPU, GPU, ROWS, SMALL, TRIVIAL, XDIFF, row

from xdiff import plan
from xdiff.errors import InputError
from xdiff.plan import costs_of
from xdiff.unit_costs import Costs, Wanted, read_costs


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


def test_rows_of_other_kinds_are_not_read(table: Callable[..., Path]) -> None:
    other = row("official_unet", 1.0, shape="", contrasts="", device=GPU)
    assert read_costs([table([other, ROWS[0]])]).sources == [f"{table([other, ROWS[0]])}: {CPU}, 2026-01-02"]
    assert read_costs([table([other])]).sources == []
