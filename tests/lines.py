"""What tests of the training loop share: a problem of five weights, learned in no time, always on the CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xdiff import cuda
from xdiff.loop import LoopSettings, Scores, Trainer

SETTINGS = LoopSettings(steps=12, learning_rate=0.05, weight_decay=0.01, ema=0.9, validate_every=4, patience=0, seed=3)
WANTED = torch.tensor([1.0, -2.0, 0.5, 3.0])
UNTRAINED, GAINS = -1.0, [0.1, 0.5, 0.4, 0.3, 0.9, 0.8]


class Line:
    """Four slopes and an offset from noisy points. gains: what the checks find, else the true fit; delay_s: of a batch."""

    def __init__(self, gains: Iterable[float] | None = None, delay_s: float = 0.0) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = nn.Linear(4, 1)
        self.gains = None if gains is None else iter(gains)
        self.delay_s = delay_s
        self.asked: list[int] = []
        self.seen: list[dict[str, Tensor]] = []

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append(step)
        time.sleep(self.delay_s)
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return x, x @ WANTED[:, None]

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        x, y = batch
        device = next(network.parameters()).device
        noise = 0.1 * torch.randn(y.shape, generator=generator)  # so that a wrong generator shows in the weights
        return ((network(x.to(device)) - (y + noise).to(device)) ** 2).mean()

    def validate(self, network: nn.Module) -> tuple[float, Scores]:
        self.seen.append({k: v.clone() for k, v in network.state_dict().items()})
        gain = -float(((network.weight.detach().cpu() - WANTED) ** 2).sum()) if self.gains is None else next(self.gains)
        scores = {"validation": {k: {"psnr": base + gain, "gaussian": base} for k, base in ((1, 15.0), (5, 17.0))}}
        return np.float64(gain), scores


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a)


def history(folder: Path) -> list[dict]:
    """The records of checks made in training, without that of the untrained network."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [record for record in records if record["step"] > 0]


def state(folder: Path) -> Trainer:
    """What the checkpoint of a folder holds."""
    trainer = Trainer(Line(), SETTINGS)
    trainer.resume(folder / "checkpoint.json")
    return trainer


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU: bits are the same on a CPU only. Imported where it is wanted."""
    monkeypatch.setattr(cuda, "training_device", lambda: torch.device("cpu"))
