"""What a training tells: the history, event files, and a bar."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from lines import GAINS, SETTINGS, UNTRAINED, WANTED, Line, history, on_cpu, same, state  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xdiff import loop
from xdiff.budget import OutOfTime, time_budget
from xdiff.loop import Trainer, fit


def test_history_has_one_record_per_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Line([UNTRAINED, *GAINS]), SETTINGS, tmp_path)
    records = history(tmp_path)
    keys = {"step", "seconds", "check_seconds", "learning_rate", "score", "best", "validation", "loss", "waiting", "steps_per_s"}
    assert all(set(r) == keys for r in records)  # on a CPU nothing of a GPU
    assert [r["score"] for r in records] == GAINS[:3]
    assert [r["step"] for r in records] == [4, 8, 12] and [r["best"] for r in records] == [True, True, False]
    assert records[1]["validation"] == {"1": {"psnr": 15.5, "gaussian": 15.0}, "5": {"psnr": 17.5, "gaussian": 17.0}}
    assert all(r["loss"] > 0 and 0 <= r["waiting"] <= 1 for r in records)
    seconds = [r["seconds"] for r in records]
    assert seconds == sorted(seconds)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines[1:] == records  # in the log as well
    assert lines[0]["step"] == 0 and lines[0]["score"] == UNTRAINED and lines[0]["loss"] > 0


def test_loss_of_a_record_is_the_mean_since_the_check_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: (losses.append(update(self, batch)), losses[-1])[1])
    fit(Line(), SETTINGS, tmp_path)
    assert [r["loss"] for r in history(tmp_path)] == pytest.approx([sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)], abs=1e-5)


def test_event_files_are_readable_and_hold_no_step_twice_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Trainer.update

    def killed(self: Trainer, batch: object) -> float:
        if self.step == 7:
            raise KeyboardInterrupt
        return update(self, batch)

    save = Trainer.save
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", killed)
        patch.setattr(Trainer, "save", lambda self, path: save(self, path) if self.step <= 5 else None)
        fit(Line([UNTRAINED, *GAINS]), SETTINGS, tmp_path)
    assert state(tmp_path).step == 5  # steps 6 and 7 are lost, their losses were written
    fit(Line(GAINS[1:]), SETTINGS, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "gain_db/validation/K1", "gain_db/validation/K5"}
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
    gains = [(event.step, round(event.value, 4)) for event in events.Scalars("gain_db/validation/K5")]
    assert gains == [(0, -1.0), (4, 0.1), (8, 0.5), (12, 0.4)]


def test_training_goes_on_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(Line(), SETTINGS, tmp_path)
    assert "no TensorBoard event files" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()


def test_progress_bar_tells_rate_time_left_loss_and_waiting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = r"\[\d\d:\d\d<\d\d:\d\d, +[\d.]+(step/s|s/step), loss \d+\.\d{3}, waiting for data \d+\.\d%\]"
    with pytest.raises(OutOfTime), time_budget(0):
        fit(Line(), SETTINGS, tmp_path)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"8%\|.*\| 1/12 " + left, bar), bar
    fit(Line(), SETTINGS, tmp_path)
    bars = capsys.readouterr().err.split("\r")
    assert "| 1/12 " in bars[1]  # goes on where it stopped
    assert re.search(r"100%\|.*\| 12/12 " + left, bars[-1]), bars[-1]
