"""The paper's own training learns from the slice that it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from columns import SHAPE, plain_core, prepare_columns
from conftest import Prepared
from paper_weights import PAPER

from baselines import xdiff_paper
from baselines.xdiff_paper import SliceDiffusion
from xdiff.config import MethodEntry
from xdiff.draws import Draws
from xdiff.metrics.core import psnr
from xdiff.observation import observe
from xdiff.planes import Plane
from xdiff.train import train


def test_training_learns_what_the_given_slice_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of volumes that are constant along z an axial slice says all: draws come nearer to the truth than those of another
    patient's slice, and than the untrained network's."""
    monkeypatch.setattr(Draws, "_planes", lambda self, rng, *_: [Plane(2, int(rng.integers(SHAPE[2])))])
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    columns = prepare_columns(tmp_path)
    params = {**PAPER, "orientations": 1, "learning_rate": 4e-3, "ema": 0.95, "draws": {"augment": {"warp": 0.0}}, "seed": 1}
    entry = MethodEntry("baselines.xdiff_paper", {**params, "steps": 100, "validate_every": 100})
    train("paper", entry, columns.store, columns.split, tmp_path / "paper")
    lines = (tmp_path / "paper/history.jsonl").read_text().splitlines()
    untrained, trained = (json.loads(line) for line in lines)
    assert trained["score"] > 10  # dB of the noise that is left; 15 when this was written
    assert trained["validation"]["1"]["psnr"] > untrained["validation"]["1"]["psnr"] + 4
    own, other = _quality(columns, xdiff_paper.load(tmp_path / "paper"))
    assert own > other + 1.5


def _quality(columns: Prepared, paper: SliceDiffusion) -> tuple[float, float]:
    """PSNR (dB) of draws of the first two test subjects from their own slice, and from each other's."""
    store, own, other = columns.store, [], []
    truths = [store.volume(subject) for subject in columns.split.side("test")[:2]]
    for truth, stranger in (truths, truths[::-1]):
        for shown, scores in ((truth, own), (stranger, other)):
            observation = observe(shown, [Plane(2, 5)], store.contrasts, (4.0,) * 3, store.frame, store.norm)
            volume, _, _ = paper.reconstruct(observation, 10, "sample", np.random.default_rng(0))
            scores.append(psnr(float(((volume - truth) ** 2).mean())))
    return float(np.mean(own)), float(np.mean(other))
