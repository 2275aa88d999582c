"""What a training tells while it runs: a progress bar, history.jsonl and TensorBoard event files."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from xdiff import team
from xdiff.checkpoint import HISTORY
from xdiff.cuda import Queue


class Told(Protocol):
    """What is told of: schedule is (done, whole) in steps or, where `by_clock`, in trained seconds."""

    step: int
    seconds: float
    queue: Queue
    by_clock: bool

    @property
    def schedule(self) -> tuple[float, float]: ...


class Progress:
    """Progress bar, history.jsonl and TensorBoard event files of one run; of several processes (team.py) the first one tells."""

    def __init__(self, trainer: Told, workdir: Path) -> None:
        self.trainer, self.workdir = trainer, workdir
        self.waited = 0.0
        self.before = (trainer.step, trainer.seconds, trainer.queue.busy_s)  # at the last check

    def __enter__(self) -> Progress:
        # into a log file a line now and then, on a terminal a bar that moves
        interval = 0.5 if sys.stderr.isatty() else 30.0
        done, whole = (int(part) for part in self.trainer.schedule)
        unit = "s" if self.trainer.by_clock else "step"
        tells = team.is_first()
        self.bar = tqdm(total=whole, initial=done, unit=unit, mininterval=interval, maxinterval=interval, disable=not tells)
        self.board = _tensorboard(self.workdir / "tensorboard", self.trainer.step + 1) if tells else None
        self.started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.board:
            self.board.close()

    @property
    def waiting(self) -> float:
        """Share of this run's time spent waiting for data."""
        return self.waited / max(time.perf_counter() - self.started, 1e-9)

    def after_step(self, loss: float | None, waited: float) -> None:
        """loss: None where nobody looked at it."""
        self.waited += waited
        if loss is not None:
            place = f"step {self.trainer.step}, " if self.trainer.by_clock else ""
            self.bar.set_postfix_str(f"{place}loss {loss:.3f}, waiting for data {self.waiting:.1%}", refresh=False)
            if self.board:
                self.board.add_scalar("loss", loss, self.trainer.step)
        self.bar.update(int(self.trainer.schedule[0]) - self.bar.n)

    def after_check(self, record: dict[str, Any], loss: float) -> None:
        record = {**record, "loss": round(loss, 5), "waiting": round(self.waiting, 4), **self._speed()}
        if not team.is_first():
            return
        with (self.workdir / HISTORY).open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        tqdm.write(json.dumps(record), file=sys.stdout)
        sys.stdout.flush()
        for side in ("validation", "training"):
            for k, score in record.get(side, {}).items():
                if self.board:
                    self.board.add_scalar(f"gain_db/{side}/K{k}", score["psnr"] - score["gaussian"], record["step"])

    def _speed(self) -> dict[str, float]:
        """Of the steps since the last check: steps per second and, on a GPU, the share of their time in which it was busy with
        them (Queue); and the most memory so far. The time is that of training, waiting for data included, checks not."""
        queue = self.trainer.queue
        now = (self.trainer.step, self.trainer.seconds, queue.busy_s)
        steps, seconds, busy_s = (b - a for a, b in zip(self.before, now, strict=True))
        self.before = now
        if not steps:
            return {}
        speed = {"steps_per_s": round(steps / seconds, 3)}
        return speed | ({"busy": round(busy_s / seconds, 4), "peak_mib": round(queue.peak_mib(), 1)} if queue.real else {})


def _tensorboard(folder: Path, first: int) -> Any:
    """A writer of event files, or None, and a word, where the package is missing (a machine without a network).

    Steps from `first` on that a killed run wrote after its last checkpoint are hidden.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f"no TensorBoard event files: {error}")
        return None
    return SummaryWriter(folder, purge_step=first)
