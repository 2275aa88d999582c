"""A training that is interrupted, in whatever way, ends where an undisturbed one does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from lines import GAINS, SETTINGS, UNTRAINED, WANTED, Line, history, on_cpu, same, state  # noqa: F401

from xdiff import loop
from xdiff.budget import OutOfTime, time_budget
from xdiff.errors import InputError
from xdiff.loop import Trainer, fit


def test_a_killed_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step; the eighth one is never written."""
    whole = fit(Line(), SETTINGS, tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    save = Trainer.save

    def killed(self: Trainer, path: Path) -> None:
        if self.step == 8:
            raise KeyboardInterrupt
        save(self, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", killed)
        fit(Line(), SETTINGS, tmp_path / "killed")
    problem = Line()
    assert same(fit(problem, SETTINGS, tmp_path / "killed"), whole)
    assert problem.asked == list(range(7, 12))
    ends = [state(tmp_path / name) for name in ("whole", "killed")]
    assert [t.step for t in ends] == [12, 12]
    # not only the best weights: network, average and the optimiser's moments at the end are the same too
    for part in ("network", "average"):
        assert same(*(getattr(t, part).state_dict() for t in ends))
    moments = [t.optimiser.state_dict()["state"] for t in ends]
    assert set(moments[0]) == {0, 1} and all(same(moments[0][i], moments[1][i]) for i in (0, 1))
    assert (ends[0].best_step, ends[0].best_score) == (ends[1].best_step, ends[1].best_score)


def test_a_finished_training_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    first = fit(Line(), SETTINGS, tmp_path)
    problem = Line()
    assert same(fit(problem, SETTINGS, tmp_path), first)
    assert problem.asked == [] and problem.seen == []


def test_many_small_budgets_end_where_one_training_does(tmp_path: Path) -> None:
    """A spent budget still allows one step, so that any budget gets on."""
    whole = fit(Line(), SETTINGS, tmp_path / "whole")
    stops = []
    for _ in range(11):
        with pytest.raises(OutOfTime) as stop, time_budget(0):
            fit(Line(), SETTINGS, tmp_path / "pieces")
        stops.append(str(stop.value))
        assert state(tmp_path / "pieces").step == len(stops)
    assert stops[0] == "step 1 of 12" and stops[-1] == "step 11 of 12"
    with time_budget(0):
        assert same(fit(Line(), SETTINGS, tmp_path / "pieces"), whole)
    assert state(tmp_path / "pieces").step == 12
    whole_checks, checks = history(tmp_path / "whole"), history(tmp_path / "pieces")
    assert [(r["step"], r["validation"]) for r in checks] == [(r["step"], r["validation"]) for r in whole_checks]


def test_seconds_add_up_over_resumptions(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(OutOfTime), time_budget(0):
            fit(Line(), SETTINGS, tmp_path)
    before = state(tmp_path).seconds
    fit(Line(), SETTINGS, tmp_path)
    assert 0 < before < state(tmp_path).seconds


def test_a_checkpoint_that_could_not_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.json"
    problem = Line()
    trainer = Trainer(problem, SETTINGS)
    trainer.update(problem.batch(0))
    trainer.save(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    trainer.update(problem.batch(1))

    def disk_full(source: Path, target: Path) -> None:
        Path(source).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr(os, "replace", disk_full)
        trainer.save(path)
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items()) and state(tmp_path).step == 1
    trainer.save(path)
    assert state(tmp_path).step == 2 and len(list(tmp_path.iterdir())) == 2  # index and shard: nothing half written is left
