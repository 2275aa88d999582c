"""What a task took: pieces add up, work done again replaces, and a task that finds everything done says nothing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xdiff import ledger
from xdiff.budget import OutOfTime
from xdiff.ledger import measured, trace
from xdiff.report import read_ledger

SNAKEMAKE = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def lines(benchmark: Path) -> list[dict[str, str]]:
    return pd.read_csv(benchmark, sep="\t", dtype=str, keep_default_na=False).to_dict("records")


def work(folder: Path, text: str, settings: str | None = "a1", seconds: float = 0.0) -> list[dict[str, str]]:
    """One piece of work that writes `text`; the lines of its benchmark afterwards."""
    benchmark = folder / "benchmarks/train/heads/unet.tsv"
    (folder / "made").mkdir(exist_ok=True)
    with measured(benchmark, [folder / "made"], settings):
        time.sleep(seconds)
        (folder / "made" / "weights.json").write_text(text)
    return lines(benchmark)


def test_a_line_has_wall_and_processor_time_and_no_more_than_was_measured(tmp_path: Path) -> None:
    (line,) = work(tmp_path, "1", seconds=0.2)
    assert list(line)[:10] == SNAKEMAKE.split()
    assert 0.2 <= float(line["s"]) < 2 and line["h:m:s"] in ("0:00:00", "0:00:01")
    assert float(line["cpu_time"]) < 0.15  # asleep
    assert {line[name] for name in ("max_vms", "max_uss", "max_pss", "io_in", "io_out", "mean_load")} == {"NA"}


def test_pieces_of_the_same_work_add_up_and_count_as_one_job(tmp_path: Path) -> None:
    work(tmp_path, "1", seconds=0.1)
    pieces = work(tmp_path, "2", seconds=0.1)
    assert len(pieces) == 2
    (row,) = read_ledger(tmp_path / "benchmarks").itertuples(index=False)
    assert (row.rule, row.jobs) == ("train", 1) and row.seconds == pytest.approx(sum(float(p["s"]) for p in pieces))
    assert row.seconds >= 0.2


def test_other_settings_start_the_count_anew(tmp_path: Path) -> None:
    work(tmp_path, "1")
    assert [line["settings"] for line in work(tmp_path, "2", settings="b2")] == ["b2"]


def test_what_is_made_anew_as_a_whole_keeps_its_last_line(tmp_path: Path) -> None:
    work(tmp_path, "1", settings=None, seconds=0.2)
    (line,) = work(tmp_path, "2", settings=None)
    assert float(line["s"]) < 0.2


def test_a_task_that_finds_everything_done_changes_nothing(tmp_path: Path) -> None:
    work(tmp_path, "same")
    before = (tmp_path / "benchmarks/train/heads/unet.tsv").read_bytes()
    work(tmp_path, "same", seconds=0.05)  # written again, as it was
    assert (tmp_path / "benchmarks/train/heads/unet.tsv").read_bytes() == before


def test_a_task_that_never_did_anything_has_no_benchmark(tmp_path: Path) -> None:
    with measured(tmp_path / "b.tsv", [tmp_path / "made"], None):
        pass
    assert not (tmp_path / "b.tsv").exists()


def test_a_volume_written_again_is_work_even_where_it_came_out_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros(3))
    before = trace([tmp_path])
    time.sleep(0.01)
    np.save(tmp_path / "v.npy", np.zeros(3))
    assert trace([tmp_path]) != before


def test_a_budget_that_ends_in_a_task_leaves_its_piece_in_the_ledger(tmp_path: Path) -> None:
    benchmark, made = tmp_path / "b.tsv", tmp_path / "checkpoint.pt"
    for text in ("step 3", "step 3 of 9"):
        with pytest.raises(OutOfTime), measured(benchmark, [made], "a1"):
            made.write_text(text)
            raise OutOfTime(text)
    with pytest.raises(OutOfTime), measured(benchmark, [made], "a1"):
        raise OutOfTime("before its first step")
    assert len(lines(benchmark)) == 2


def test_lines_of_snakemake_stay_beside_the_pieces_that_go_on(tmp_path: Path) -> None:
    benchmark = tmp_path / "benchmarks/train/heads/unet.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(SNAKEMAKE + "100.5\t0:01:40\t900\t1\t1\t1\t1\t1\t99\t99.5\n")
    work(tmp_path, "1")
    pieces = work(tmp_path, "2")
    assert [line["s"] for line in pieces][0] == "100.5" and len(pieces) == 3
    assert read_ledger(tmp_path / "benchmarks")["max_rss_mb"].item() >= 900


def test_memory_is_the_tasks_own_peak_and_not_that_of_the_process_so_far(tmp_path: Path) -> None:
    if not ledger.forget_peak():
        pytest.skip("this system does not let a process forget its peak: max_rss is NA")
    peaks = []
    for name, mib in (("large", 300), ("small", 0)):
        with measured(tmp_path / f"{name}.tsv", [tmp_path / name], None):
            np.ones(mib << 17).sum()
            (tmp_path / name).write_text("done")
        peaks.append(float(lines(tmp_path / f"{name}.tsv")[0]["max_rss"]))
    assert 250 < peaks[0] - peaks[1] < 350


def test_memory_is_unknown_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "forget_peak", lambda: False)
    assert work(tmp_path, "1")[0]["max_rss"] == "NA"


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00:00"), (61, "0:01:01"), (90061, "25:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert ledger._clock(seconds) == text
