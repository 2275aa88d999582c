"""Snakemake's share of a run and that of imports, from a run whose times are known."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from xdiff.errors import InputError
from xdiff.overhead import covered_s, import_s, main, overhead, overhead_text

BEGUN_S = 1_700_000_000.0


def write_run(folder: Path) -> Path:
    """40 s of Snakemake: train from second 5 to 25 and, beside it, data from 5 to 11; tables from 28 to 38."""
    (folder / ".snakemake/metadata").mkdir(parents=True)
    (folder / ".snakemake/log").mkdir()
    jobs = {
        "weights": ("train", "OMP_NUM_THREADS=1 python -m xdiff.train --out a > log 2>&1", 5, 25),
        "config": ("train", "OMP_NUM_THREADS=1 python -m xdiff.train --out a > log 2>&1", 5, 25.1),
        "split": ("split", "python -m xdiff.data split --out b", 5, 11),
        "main": ("tables", "(python -m xdiff.tables --out c && python -m xdiff.figures --out d)", 28, 38),
    }
    for name, (rule, command, start_s, end_s) in jobs.items():
        record = {"rule": rule, "shellcmd": command, "starttime": BEGUN_S + start_s, "endtime": BEGUN_S + end_s}
        (folder / ".snakemake/metadata" / name).write_text(json.dumps(record))
    write_log(folder, BEGUN_S, BEGUN_S + 40)
    write_log(folder, BEGUN_S + 1000, BEGUN_S + 1003)  # one that found nothing to do
    return folder


def write_log(folder: Path, begun_s: float, ended_s: float) -> None:
    name = datetime.fromtimestamp(begun_s).strftime("%Y-%m-%dT%H%M%S.%f")
    log = folder / f".snakemake/log/{name}.snakemake.log"
    log.touch()
    os.utime(log, (ended_s, ended_s))


IMPORTS_S = {"snakemake.cli": 2.0, "xdiff.train": 4.0, "xdiff.data": 1.0, "xdiff.tables": 0.5, "xdiff.figures": 1.5}


def test_shares_of_a_known_run(tmp_path: Path) -> None:
    found = overhead(write_run(tmp_path), IMPORTS_S.__getitem__)
    assert found.whole == pytest.approx(2 + 40)  # one of two logs has no job in it
    assert found.alone == pytest.approx(2 + 40 - 20 - 10)  # what runs side by side counts once
    assert found.jobs == pytest.approx(20 + 6 + 10)  # and here twice; two outputs of one job are one job
    assert found.imports == {module: (1, s) for module, s in IMPORTS_S.items() if module.startswith("xdiff")}
    assert found.importing == 7


def test_the_table_has_both_shares(tmp_path: Path) -> None:
    lines = [line.split() for line in overhead_text(overhead(write_run(tmp_path), IMPORTS_S.__getitem__)).splitlines()]
    assert ["Snakemake", "alone,", "no", "job", "running", "12.0", "28.6%"] in lines
    assert ["imports", "7.0", "19.4%"] in lines
    assert ["xdiff.train:", "1", "x", "4.00", "s", "4.0", "11.1%"] in lines


def test_a_job_of_whose_run_no_log_is_left_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path)
    record = {"rule": "train", "shellcmd": "python -m xdiff.train --out b", "starttime": BEGUN_S - 900, "endtime": BEGUN_S - 100}
    (tmp_path / ".snakemake/metadata/older").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"found no log of the run of 1 job\(s\)"):
        overhead(tmp_path, IMPORTS_S.__getitem__)


@pytest.mark.parametrize(("spans", "expected"), [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 1)], 2), ([(0, 9), (1, 2)], 9)])
def test_covered_time_counts_once(spans: list[tuple[float, float]], expected: float) -> None:
    assert covered_s(spans) == expected


def test_an_import_takes_the_time_it_takes() -> None:
    assert 0.005 < import_s("json.tool") < 5 and import_s("xdiff.tables") > import_s("json.tool")


def test_a_folder_without_a_run_and_a_record_of_another_kind_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record of a job"):
        main(["--run", str(tmp_path)])
    write_run(tmp_path)
    (tmp_path / ".snakemake/metadata/odd").write_text("{}")
    with pytest.raises(InputError, match="odd: found KeyError"):
        main(["--run", str(tmp_path)])
