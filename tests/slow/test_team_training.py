"""Training in two processes is training in one: the same losses and weights but for rounding, resumed by any number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from columns import prepare_columns
from conftest import REPOSITORY, Prepared

from xdiff.checkpoint import read_weights
from xdiff.train import UNFINISHED

pytestmark = pytest.mark.slow  # a minute: every process imports torch and MONAI

STEPS = 24
SMALL = {"channels": [8, 16], "trunk_channels": [8, 16], "features": 4, "sections": 4, "validate_subjects": 1, "volumes": 4}
SMALL |= {"core": {"cases": 40, "voxels": 200, "steps": 30, "width": 16}, "draws": {"augment": {"warp": 0.0}}}
PARAMS = {**SMALL, "steps": STEPS, "learning_rate": 2e-3, "validate_every": 8}
OF_XDIFF = ("trunk_channels", "features", "sections")
ENTRIES = {
    "xdiff": {"module": "xdiff.model.method", "params": PARAMS},
    "unet": {"module": "baselines.unet", "params": {k: v for k, v in PARAMS.items() if k not in OF_XDIFF}},
}


def train(cohort: Prepared, method: str, out: Path, processes: int, *more: str) -> int:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    arguments = ["--method", method, "--entry", json.dumps(ENTRIES[method]), "--data", cohort.store.folder]
    command = [sys.executable, *launcher, "-m", "xdiff.train", *arguments, "--split", cohort.split_file, "--out", out, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1, UNFINISHED), done.stderr[-3000:]
    return done.returncode


def checks(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def assert_alike(one: Path, other: Path) -> None:
    for first, second in zip(checks(one), checks(other), strict=True):
        assert first["step"] == second["step"]
        assert second["loss"] == pytest.approx(first["loss"], rel=2e-3)
        assert second["score"] == pytest.approx(first["score"], abs=2e-2)
    (whole, _), (shared, _) = read_weights(one), read_weights(other)
    assert set(whole) == set(shared)
    trained = [name for name in whole if name.startswith("network.")]
    off = np.sqrt(sum(float(((whole[n] - shared[n]) ** 2).sum()) for n in trained))
    size = np.sqrt(sum(float((whole[n] ** 2).sum()) for n in trained))
    assert off < 1e-2 * size


@pytest.mark.parametrize("method", ENTRIES)
def test_two_processes_train_what_one_trains(method: str, tmp_path: Path) -> None:
    cohort = prepare_columns(tmp_path)
    assert train(cohort, method, tmp_path / "one" / method, 1) == 0
    assert train(cohort, method, tmp_path / "two" / method, 2) == 0
    assert checks(tmp_path / "one" / method)[-1]["step"] == STEPS
    assert_alike(tmp_path / "one" / method, tmp_path / "two" / method)


def test_another_number_of_processes_resumes(tmp_path: Path) -> None:
    cohort = prepare_columns(tmp_path)
    assert train(cohort, "unet", tmp_path / "whole/unet", 1) == 0
    out = tmp_path / "parts/unet"
    assert train(cohort, "unet", out, 2, "--budget", "0.0001") == 1  # of torchrun, whatever its process ended with
    assert train(cohort, "unet", out, 1, "--budget", "0.0001") == UNFINISHED
    step = json.loads(next(tmp_path.glob("parts/unet.checkpoints/*/checkpoint.json")).read_text())["counters"]["step"]
    assert 1 <= step < STEPS
    assert train(cohort, "unet", out, 2) == 0
    assert_alike(tmp_path / "whole/unet", out)
