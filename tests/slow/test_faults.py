"""What goes wrong on any machine: processes killed at any moment, a full disk, results that cannot be written, two at once.

A workflow of seven jobs on a tiny cohort, with a method that sleeps while it trains: tests/paced.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import PRESETS, REPOSITORY, snakemake

pytestmark = pytest.mark.slow  # four minutes: each of some thirty starts of Snakemake takes seconds

STEPS, PAUSE_S, CHECKPOINT_STEPS = 60, 0.2, 5  # paced.CHECKPOINT_SECONDS / PAUSE_S
KILLS = 20
OVERLAY = f"""
cohorts:
  gaussian-field: {{only: {{methods: [paced]}}}}
methods:
  paced: {{module: paced, params: {{steps: {STEPS}, pause_s: {PAUSE_S}}}}}
sweeps:
  slices: {{K: [1], policy: [uniform]}}
run:
  cohorts: [gaussian-field]
  grids: [field16]
  methods: [paced]
  sweeps: [slices]
"""
TABLE = "results/metrics/all.tsv"
MODEL = "results/models/gaussian-field/field16/paced"
MEASURED = ("seconds", "peak_mib")  # metrics that no two runs share


@pytest.fixture(autouse=True)
def paced_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    path = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def arguments(folder: Path) -> list[str | Path]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overlay.yaml").write_text(OVERLAY)
    return ["--configfile", PRESETS / "smoke.yaml", folder / "overlay.yaml", "--rerun-incomplete", "--", TABLE]


def start(folder: Path) -> subprocess.Popen:
    """The workflow, without waiting for it."""
    command = ["snakemake", "--cores", "2", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder, *arguments(folder)]
    with (folder / "snakemake.log").open("w") as log:
        return subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT)


def finish(folder: Path) -> None:
    unlock(folder)
    done = snakemake(folder, *arguments(folder))
    logs = "\n".join(path.read_text()[-600:] for path in (folder / "results/logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + logs


def unlock(folder: Path) -> None:
    """As the README says to, after a kill -9 of Snakemake itself."""
    if any((folder / ".snakemake/locks").glob("*")):
        assert snakemake(folder, "--unlock", *arguments(folder)[:3]).returncode == 0


def fingerprint(folder: Path) -> str:
    """Of all numbers that are not times: of training checks, of scores."""
    table = pd.read_csv(folder / TABLE, sep="\t", dtype=str, keep_default_na=False)
    table = table[~table["metric"].isin(MEASURED)]
    assert len(table) > 20
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def steps_done(folder: Path) -> Counter[int]:
    (notes,) = (folder / f"{MODEL}.checkpoints").glob("*/steps.txt")
    return Counter(map(int, notes.read_text().split()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        path = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        finish(folder)
    return folder


def wait_until(condition: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within its time"
        time.sleep(0.1)


# Killed -----------------------------------------------------------------------------------------------------------


def kill_one(process: subprocess.Popen, chosen: random.Random) -> str:
    """SIGKILL to Snakemake or to one process below it, and to all that the victim has started; its name, or nothing where the run
    had ended before. (What lives on when its parent is killed, and a run that starts beside it: the last test of this file.)"""
    if process.poll() is not None:
        return ""
    snakemake_itself = psutil.Process(process.pid)
    victim = chosen.choice([snakemake_itself, *snakemake_itself.children(recursive=True)])
    with suppress(psutil.NoSuchProcess):
        name = "snakemake" if victim == snakemake_itself else victim.name()
        for one in [victim, *victim.children(recursive=True)]:
            one.send_signal(signal.SIGKILL)
        process.wait(timeout=120)
        return name
    process.wait(timeout=120)
    return ""


def test_twenty_kills_cost_what_came_after_a_checkpoint_and_nothing_else(tmp_path: Path, whole: Path) -> None:
    chosen, killed = random.Random(7), []
    for number in range(KILLS):
        unlock(tmp_path)
        process = start(tmp_path)
        if number % 2:  # every other one while a job is at work, however long Snakemake takes to start
            wait_until(lambda: process.poll() is not None or psutil.Process(process.pid).children())  # noqa: B023
        time.sleep(chosen.uniform(0.5, 8))
        killed.append(kill_one(process, chosen))
        if (tmp_path / TABLE).exists():
            (tmp_path / MODEL / "weights.safetensors").unlink()  # all done: there is more to kill in another training
    finish(tmp_path)
    print(f"killed: {Counter(killed)}")
    assert len([name for name in killed if name]) >= KILLS - 2 and len(set(killed) - {""}) >= 2
    assert fingerprint(tmp_path) == fingerprint(whole)
    done = steps_done(tmp_path)
    assert set(done) == set(range(STEPS))
    assert sum(done.values()) - STEPS <= KILLS * (CHECKPOINT_STEPS + 1)


# No room ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, mounted on `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for made in ("samples", "metrics"):
        shutil.rmtree(folder / "results" / made)
    trained = (folder / MODEL / "weights.safetensors").stat().st_mtime_ns
    with small_disk(folder / "results/samples", "size=16k"):
        said = snakemake(folder, *arguments(folder))
        text = said.stdout + "\n".join(path.read_text() for path in (folder / "results/logs").rglob("*.log"))
        assert said.returncode != 0 and "No space left on device" in text and "Traceback" not in text
        (line,) = {line for line in text.splitlines() if line.startswith("error: ")}
        assert line.startswith("error: results/samples/gaussian-field/field16/paced@gaussian-field/slices/")
    finish(folder)
    assert fingerprint(folder) == fingerprint(whole)
    assert (folder / MODEL / "weights.safetensors").stat().st_mtime_ns == trained


def test_results_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "results", "ro"):
        said = snakemake(tmp_path, *arguments(tmp_path))
    assert said.returncode != 0
    assert "Read-only file system" in said.stdout and "results" in said.stdout.split("Read-only file system", 1)[1][:200]


# Two at once ------------------------------------------------------------------------------------------------------


def test_a_second_snakemake_says_that_there_is_a_first(tmp_path: Path) -> None:
    first = start(tmp_path)
    try:
        wait_until(lambda: any((tmp_path / ".snakemake/locks").glob("*")))
        second = snakemake(tmp_path, *arguments(tmp_path))
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=120)
    assert second.returncode != 0 and "Directory cannot be locked" in second.stdout


def test_of_two_trainings_at_once_the_second_waits_and_does_nothing_again(tmp_path: Path, whole: Path) -> None:
    data = whole / "results/data/gaussian-field"
    entry = json.dumps({"module": "paced", "params": {"steps": 20, "pause_s": 0.2}})
    command = [sys.executable, "-m", "xdiff.train", "--method", "paced", "--entry", entry]
    command += ["--data", data / "field16", "--split", data / "split.tsv", "--out", tmp_path / "paced"]
    both = [subprocess.Popen([*map(str, command)], cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    (notes,) = tmp_path.glob("paced.checkpoints/*/steps.txt")
    assert Counter(map(int, notes.read_text().split())) == Counter(range(20))
