"""Long rows of a few patients, by hand, for the statements of trust cards: of constant differences, intervals are points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from synthetic_metrics import write_metrics
from test_tumours import long, row

from xdiff.stats import read_metrics
from xdiff.trust.card import Card, make_card
from xdiff.trust.evidence import Trial, gather, models, trials_of
from xdiff.trust.wording import Statement

WHERE = "tcga-lgg; axial, uniform, centred, thin"


def rows_of(
    method: str, k: int, values: Sequence[float], metric: str = "psnr", region: str = "unseen", **change: object
) -> list[dict]:
    """One row per patient."""
    named = dict(K=k, indices=str(k), metric=metric, region=region, contrast="T1w") | change
    return [row(method, f"sub-{i}", value, **named) for i, value in enumerate(values)]


def against(rival: str, differences: Mapping[int, Sequence[float]], **change: object) -> list[dict]:
    """PSNR of xdiff and of a rival with xdiff - rival = differences[K][patient]; the rival has 10, 11, ... dB."""
    out = []
    for k, own in differences.items():
        out += rows_of(rival, k, [10.0 + i for i in range(len(own))], **change)
        out += rows_of("xdiff", k, [10.0 + i + value for i, value in enumerate(own)], **change)
    return out


BETTER = against("gaussian", {1: [1.0, 1.0, 1.0]})


def trials(rows: Sequence[dict], folder: Path, method: str = "xdiff") -> list[Trial]:
    """Through a file and its checks, as the command reads it."""
    evidence = gather(read_metrics(write_metrics(long(rows), folder / "all.tsv")))
    (model,) = [m for m in models(evidence, [method]) if m.trained_on == "tcga-lgg"]
    return trials_of(evidence, model)


def trial(rows: Sequence[dict], folder: Path, method: str = "xdiff") -> Trial:
    return trials(rows, folder, method)[0]


def card(table: pd.DataFrame, folder: Path, method: str = "xdiff") -> Card:
    evidence = gather(read_metrics(write_metrics(table, folder / "all.tsv")))
    return make_card(trials_of(evidence, models(evidence, [method])[0]))


def claim(statements: Sequence[Statement], topic: str) -> Statement:
    """The one whose topic begins so."""
    (found,) = [s for s in statements if s.topic.startswith(topic)]
    return found
