"""Several processes see the parts of one global batch, agree where they must, and without torchrun there is only one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from xdiff import team
from xdiff.errors import InputError

# What two processes tell of themselves, a line of JSON each in a file of its own.
TOLD = """
import json, sys, os
import torch
from pathlib import Path
from xdiff import team
from xdiff.checkpoint import keep_once
import numpy as np
calls = []
def make():
    calls.append(1)
    assert keep_once(Path(sys.argv[1]) / "inner", lambda: {"a": np.ones(1)})["a"] == 1  # what is kept inside what is kept
    return {"a": np.full(2, 7.0)}
with team.team():
    generator = torch.Generator().manual_seed(3)
    noise = team.own_noise(lambda *s: torch.randn(*s, generator=generator), 2, 2, 3)
    gradient = [torch.full((2,), float(team.rank())), torch.tensor(10.0 * team.rank())]
    team.average_(gradient)
    kept = keep_once(Path(sys.argv[1]) / "kept", make)["a"].tolist()
    agreed = lambda: {"a": np.array([float(team.from_first(team.rank() + 5))])}
    together = keep_once(Path(sys.argv[1]) / "together", agreed, together=True)["a"].tolist()
    told = {"rank": team.rank(), "own": team.own(list("abcd")), "noise": noise.tolist()}
    told |= {"mean": [g.tolist() for g in gradient], "first": team.from_first(team.rank() + 40)}
    told |= {"kept": kept, "calls": len(calls), "together": together}
    with team.alone() if team.is_first() else open(os.devnull):
        told["alone"] = team.from_first("mine") if team.is_first() else None
    team.wait()
assert team.size() == 1
(Path(sys.argv[1]) / f"{told['rank']}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("team")
    script = folder / "told.py"
    script.write_text(TOLD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_every_place_of_a_batch_is_one_processs(told: list[dict]) -> None:
    assert [one["own"] for one in told] == [["a", "c"], ["b", "d"]]


def test_their_noise_is_that_of_one_process(told: list[dict]) -> None:
    whole = torch.randn(8, 3, generator=torch.Generator().manual_seed(3)).reshape(2, 4, 3)
    for rank, one in enumerate(told):
        torch.testing.assert_close(torch.tensor(one["noise"]), whole[:, rank::2].reshape(4, 3))


def test_gradients_are_averaged(told: list[dict]) -> None:
    assert all(one["mean"] == [[0.5, 0.5], 5.0] for one in told)


def test_the_first_decides(told: list[dict]) -> None:
    assert [one["first"] for one in told] == [40, 40]
    assert told[0]["alone"] == "mine"


def test_what_is_kept_is_made_once_and_read_by_all(told: list[dict]) -> None:
    assert [one["kept"] for one in told] == [[7.0, 7.0]] * 2
    assert [one["calls"] for one in told] == [1, 0]
    assert [one["together"] for one in told] == [[5.0]] * 2


def test_one_process_has_everything_and_waits_for_nobody() -> None:
    with team.team():
        assert (team.size(), team.rank(), team.is_first()) == (1, 0, True)
        assert team.own("abc") == "abc" and team.from_first(3) == 3
        noise = team.own_noise(lambda *shape: torch.arange(12.0).reshape(shape), 2, 2, 3)
        assert torch.equal(noise, torch.arange(12.0).reshape(4, 3))
        values = torch.ones(2)
        team.average_([values])
        team.wait()
        assert values.tolist() == [1, 1]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "_size", 2)
    with pytest.raises(InputError, match="3 for 2 processes"):
        team.own([1, 2, 3])
