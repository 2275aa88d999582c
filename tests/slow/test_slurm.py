"""The workflow on a real SLURM by its profile: an array, a GPU, jobs killed for memory and at their wall time, a dead node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import PRESETS, REPOSITORY
from slurm_cluster import Cluster, cluster, missing, run, wait_for

from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.train import train

REASON = missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]  # three minutes, most of them waiting

STEPS = 100
# What is trained sleeps for some 20 s; `hungry` needs more memory than it asks for, `long` has its time taken away.
OVERLAY = f"""
cohorts:
  gaussian-field: {{only: {{methods: [paced]}}}}
methods:
  paced: {{module: paced, params: {{steps: {STEPS}, pause_s: 0.2}}, gpu: 1, mem_mb: 2000, runtime_min: 10}}
  hungry: {{module: paced, params: {{steps: 2, pause_s: 0.1, hog_mib: 700}}, mem_mb: 900, runtime_min: 10}}
  long: {{module: paced, params: {{steps: {STEPS}, pause_s: 0.3}}, mem_mb: 2000, runtime_min: 10}}
sweeps:
  slices: {{K: [1], policy: [uniform]}}
run:
  cohorts: [gaussian-field]
  grids: [field16]
  methods: [paced]
  sweeps: [slices]
  data_shards: 2
"""
# The profile as it is, but for what this cluster has not (accounts) and for waits that a shared one needs.
HERE = "--slurm-status-command squeue --slurm-no-account --slurm-init-seconds-before-status-checks 2"
HERE += " --seconds-between-status-checks 2 --latency-wait 5 --jobs 8"
MODELS = "results/models/gaussian-field/field16"
LIMIT_S = 420


class Run(NamedTuple):
    """A finished run: its folder, its cluster, and what Snakemake said."""

    folder: Path
    cluster: Cluster
    said: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run with everything that goes wrong in it: the node on which `paced` trains dies, while the others train."""
    folder = tmp_path_factory.mktemp("slurm")
    with cluster(folder / "cluster") as started:
        process = start(folder, started)
        try:
            wait_for(lambda: step_of(folder, "paced") >= 10 or process.poll() is not None, "a checkpoint of paced", LIMIT_S)
            assert process.poll() is None, said(folder)
            (job,) = (job for job in started.jobs("paced") if job["JobState"] == "RUNNING")
            started.break_node(job["NodeList"])
            # requeued jobs wait two minutes, in case the node has only lost its network
            wait_for(lambda: start_at_once(started, job["JobId"]), "the job in the queue again", 60)
            wait_for(lambda: state_of(started, job["JobId"]) == "RUNNING", "the job on the other node", 60)
            started.mend_node(job["NodeList"])
            wait_for(lambda: step_of(folder, "long") >= 10, "a checkpoint of long", LIMIT_S)
            end_time_of(started, "long")
            process.wait(timeout=LIMIT_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, said(folder)
        yield Run(folder, started, said(folder))


def start(folder: Path, started: Cluster) -> subprocess.Popen:
    """Snakemake as a user would start it on a login node, without waiting for it."""
    (folder / "overlay.yaml").write_text(OVERLAY)
    path = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**started.environment, "PYTHONPATH": os.pathsep.join(path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["snakemake", "--profile", REPOSITORY / "workflow/profiles/slurm", *HERE.split()]
    command += ["--snakefile", REPOSITORY / "Snakefile", "--directory", folder]
    command += ["--configfile", PRESETS / "smoke.yaml", folder / "overlay.yaml", "--"]
    command += ["results/metrics/all.tsv", *(f"{MODELS}/{name}/weights.safetensors" for name in ("hungry", "long"))]
    with (folder / "snakemake.log").open("w") as log:
        return subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=subprocess.STDOUT)


def said(folder: Path) -> str:
    return (folder / "snakemake.log").read_text()


def end_time_of(started: Cluster, method: str) -> None:
    """Its job's wall time is over at SLURM's next look, within half a minute; the shortest that can be asked for is a minute."""
    (job,) = (job for job in started.jobs(method) if job["JobState"] == "RUNNING")
    run("scontrol", "update", f"JobId={job['JobId']}", "EndTime=now")


def state_of(started: Cluster, number: str) -> str:
    return next(job["JobState"] for job in started.jobs("") if job["JobId"] == number)


def start_at_once(started: Cluster, number: str) -> bool:
    """Whether the job waits; if so all that wait need not any more."""
    if state_of(started, number) != "PENDING":
        return False
    for job in started.jobs("rule_train"):
        if job["JobState"] == "PENDING":
            run("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now")
    return True


def step_of(folder: Path, method: str) -> int:
    """The step of the last checkpoint, 0 where there is none."""
    found = list((folder / MODELS / f"{method}.checkpoints").glob("*/checkpoint.json"))
    return json.loads(found[0].read_text())["counters"]["step"] if found else 0


def steps_done(folder: Path, method: str) -> Counter[int]:
    """Step -> how often it was done, over all attempts."""
    (notes,) = (folder / MODELS / f"{method}.checkpoints").glob("*/steps.txt")
    return Counter(map(int, notes.read_text().split()))


def assert_went_on(folder: Path, method: str, before: int = 0) -> None:
    """All steps were done, and few of them twice: never from the beginning, but `before` times before there was a checkpoint."""
    done = steps_done(folder, method)
    assert set(done) == set(range(STEPS)) and done[0] <= 1 + before
    assert sum(done.values()) - STEPS <= (1 + before) * STEPS // 3


def test_the_workflow_runs_to_its_long_table(done: Run) -> None:
    table = pd.read_csv(done.folder / "results/metrics/all.tsv", sep="\t")
    scores = table[(table["metric"] == "psnr") & (table["region"] == "unseen_masked")]
    assert set(scores["method"]) == {"paced"} and np.isfinite(scores["value"]).all()
    rules = {job["Comment"].split("_wildcards_")[0].removeprefix("rule_") for job in done.cluster.jobs("")}
    assert rules >= {"generate", "split", "preprocess", "train", "sample", "evaluate", "collect"}
    assert {job["NodeList"] for job in done.cluster.jobs("")} == {"node1", "node2"}


def test_shards_are_one_array(done: Run) -> None:
    shards = done.cluster.jobs("preprocess_shard")
    assert len({job["ArrayJobId"] for job in shards}) == 1
    assert {job["ArrayTaskId"] for job in shards} == {"1", "2"}
    assert len(list((done.folder / "results/data/gaussian-field/field16/shards").glob("volumes-*.done"))) == 2


def test_a_gpu_is_asked_for_where_the_method_does(done: Run) -> None:
    for said_by in ("train", "sample"):
        (job,) = (job for job in done.cluster.jobs(said_by) if "paced" in job["Comment"])
        assert "gpu:1" in job["TresPerJob"]
    assert all("TresPerJob" not in job for job in done.cluster.jobs("evaluate") + done.cluster.jobs("long"))


def test_a_job_killed_for_memory_comes_back_with_more(done: Run) -> None:
    jobs = done.cluster.jobs("hungry")
    assert [job["MinMemoryNode"] for job in jobs] == ["900M", "1800M"]
    assert jobs[0]["JobState"] != "COMPLETED" == jobs[1]["JobState"]
    assert "memory limit" in "".join(path.read_text() for path in (done.folder / "cluster").glob("slurmd-*.log"))


def test_training_on_a_node_that_dies_goes_on_elsewhere_from_its_checkpoint(done: Run) -> None:
    (job,) = (job for job in done.cluster.jobs("paced") if "train" in job["Comment"])
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")  # SLURM's doing: Snakemake has submitted it once
    assert_went_on(done.folder, "paced")


def test_training_killed_at_its_wall_time_goes_on_in_the_next_job(done: Run) -> None:
    jobs = done.cluster.jobs("long")
    assert [job["JobState"] for job in jobs] == ["TIMEOUT", "COMPLETED"]
    # it may have begun on the node that died, in the seconds before its first checkpoint
    assert_went_on(done.folder, "long", before=int(jobs[0]["Restarts"]))


@pytest.mark.parametrize("method", ["paced", "long"])
def test_interrupted_trainings_end_in_the_weights_of_an_undisturbed_one(method: str, done: Run, tmp_path: Path) -> None:
    data = done.folder / "results/data/gaussian-field"
    entry = MethodEntry("paced", {"steps": STEPS, "pause_s": 0.0})
    train(method, entry, Store(data / "field16"), read_split(data / "split.tsv"), tmp_path / method)
    expected, found = read_weights(tmp_path / method)[0], read_weights(done.folder / MODELS / method)[0]
    assert set(found) == set(expected) == {"level"} and abs(found["level"]).min() > 0.01
    np.testing.assert_array_equal(found["level"], expected["level"])
