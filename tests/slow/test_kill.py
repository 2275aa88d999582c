"""Training killed with SIGKILL at random moments loses at most what came after the last checkpoint, and ends the same."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from columns import prepare_columns
from conftest import REPOSITORY, Prepared

from xdiff.checkpoint import read_weights

pytestmark = pytest.mark.slow  # a minute: every start imports torch and MONAI

STEPS = 60
# A checkpoint after every step, so that a training of seconds can be killed between two of them, of a problem that is learned
# in these seconds.
RUN = """
import sys
sys.path.insert(0, "tests")
import columns, xdiff.checkpoint, xdiff.draws, xdiff.loop, xdiff.model.training, xdiff.train, xdiff.trained
xdiff.loop.CHECKPOINT_SECONDS = 0.0
xdiff.checkpoint.SHARD_MIB = 0.2  # a checkpoint of 0.6 million numbers is then in several files
xdiff.draws.Draws._planes, xdiff.trained.fit_core = columns.axial_planes, columns.plain_core
xdiff.train.main(sys.argv[1:])
"""
SMALL = {"channels": [8, 16], "trunk_channels": [8, 16], "features": 4, "sections": 4, "validate_subjects": 1}
SMALL |= {"draws": {"augment": {"warp": 0.0}}, "ema": 0.95}
ENTRY = {"module": "xdiff.model.method", "params": {**SMALL, "steps": STEPS, "learning_rate": 4e-3, "validate_every": 20}}


def start(cohort: Prepared, out: Path) -> subprocess.Popen:
    arguments = ["--method", "xdiff", "--entry", json.dumps(ENTRY), "--data", cohort.store.folder]
    arguments += ["--split", cohort.split_file, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], cwd=REPOSITORY, env=environment)


def test_five_kills_end_in_the_weights_of_an_undisturbed_training(tmp_path: Path) -> None:
    cohort = prepare_columns(tmp_path)
    assert start(cohort, tmp_path / "whole/xdiff").wait(timeout=300) == 0
    moments, killed = random.Random(4), 0
    for _ in range(5):
        process = start(cohort, tmp_path / "killed/xdiff")
        seen = _checkpoint_time(tmp_path)
        deadline = time.monotonic() + 120
        while _checkpoint_time(tmp_path) == seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # until it has done a step of its own
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
    assert killed >= 3, f"{killed} of 5 kills came before the training had ended"
    assert start(cohort, tmp_path / "killed/xdiff").wait(timeout=300) == 0
    (whole, _), (resumed, config) = (read_weights(tmp_path / name / "xdiff") for name in ("whole", "killed"))
    assert config["params"]["steps"] == STEPS
    assert set(whole) == set(resumed)
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    assert _step(tmp_path, "killed") == _step(tmp_path, "whole") == STEPS
    losses = {check["step"]: check["loss"] for check in _history(tmp_path / "killed/xdiff")}
    assert set(losses) == {0, 20, 40, 60} and all(math.isfinite(loss) for loss in losses.values())
    assert losses[60] < 0.8 * losses[20]
    checks = [
        {check["step"]: check["validation"] for check in _history(tmp_path / name / "xdiff")} for name in ("whole", "killed")
    ]
    assert checks[0] == checks[1]


def _history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def _step(folder: Path, name: str) -> int:
    (path,) = folder.glob(f"{name}/network-*.checkpoints/checkpoint.json")
    return json.loads(path.read_text())["counters"]["step"]


def _checkpoint_time(folder: Path) -> int:
    return max((p.stat().st_mtime_ns for p in folder.glob("killed/network-*.checkpoints/checkpoint.json")), default=0)
