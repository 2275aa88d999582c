"""Training killed with SIGKILL at random moments loses at most what came after the last checkpoint, and ends the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Prepared

from xdiff.checkpoint import read_weights

pytestmark = pytest.mark.slow  # a minute: every start imports torch and MONAI

# a checkpoint after every step, so that a training of seconds can be killed between two of them
RUN = "import sys, xdiff.model.training as t; t.CHECKPOINT_SECONDS = 0.0; from xdiff.train import main; main(sys.argv[1:])"
ENTRY = {"module": "xdiff.model.method", "params": {"channels": [8, 16], "steps": 60, "batch": 4, "validate_every": 20}}


def start(cohort: Prepared, out: Path) -> subprocess.Popen:
    arguments = ["--method", "xdiff", "--entry", json.dumps(ENTRY), "--data", cohort.store.folder]
    arguments += ["--split", cohort.split_file, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], cwd=REPOSITORY, env=environment)


def test_five_kills_end_in_the_weights_of_an_undisturbed_training(field: Prepared, tmp_path: Path) -> None:
    assert start(field, tmp_path / "whole").wait(timeout=300) == 0
    moments, killed = random.Random(4), 0
    for _ in range(5):
        process = start(field, tmp_path / "killed")
        seen = _checkpoint_time(tmp_path)
        deadline = time.monotonic() + 120
        while _checkpoint_time(tmp_path) == seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # until it has done a step of its own
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
    assert killed >= 3, f"{killed} of 5 kills came before the training had ended"
    assert start(field, tmp_path / "killed").wait(timeout=300) == 0
    (whole, _), (resumed, config) = (read_weights(tmp_path / name) for name in ("whole", "killed"))
    assert config["params"]["steps"] == 60
    assert set(whole) == set(resumed)
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def _checkpoint_time(folder: Path) -> int:
    return max((p.stat().st_mtime_ns for p in folder.glob("killed.checkpoints/*/checkpoint.safetensors")), default=0)
