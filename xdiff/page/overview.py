"""The first section: what was run, and what came out of it in a sentence per family, computed from the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from xdiff.config import BESIDE
from xdiff.layout import base_setting, chosen_ks, families, in_setting, k_name, row_labels, span
from xdiff.page.blocks import facts, paragraph
from xdiff.stats import ROW, one_step_count, without_ablations


def overview(numbers: pd.DataFrame, paired: pd.DataFrame, provenance: Mapping) -> str:
    """`numbers`, `paired`: main.tsv and paired.tsv as tables.py reads them; `provenance`: as xdiff/provenance.py gives it."""
    return _facts(numbers, provenance) + "".join(paragraph(text, "headline") for text in headlines(numbers, paired))


def _facts(numbers: pd.DataFrame, provenance: Mapping) -> str:
    devices = sorted({name for joined in numbers["device"] if joined for name in joined.split(" + ")})
    patients = numbers.groupby("cohort")["n"].max()
    cohorts = ", ".join(f"{cohort} ({n})" for cohort, n in patients.items())
    pairs = [
        ("cohorts (test patients)", cohorts),
        ("methods", str(len(set(numbers["method"]) - set(BESIDE)))),
        ("given slices", f"K = {', '.join(str(k) for k in sorted(set(numbers['K'])) if k)}"),
        ("devices", "; ".join(devices) or "not timed"),
        ("commit", str(provenance.get("commit", ""))[:12] or "unknown"),
        ("configuration", str(provenance.get("config_sha256", ""))[:12] or "not recorded"),
    ]
    return facts(pairs)


def headlines(numbers: pd.DataFrame, paired: pd.DataFrame) -> Iterator[str]:
    """For every family and up to two K: the row with the highest PSNR in `unseen`, and what it gains on the gaussian row."""
    shown = without_ablations(one_step_count(numbers))
    shown = shown[~shown["method"].isin(BESIDE)]
    labels = row_labels(shown)
    for title, family in families(shown[(shown["metric"] == "psnr") & (shown["region"] == "unseen")]):
        base = base_setting(family)
        here = family[in_setting(family, base) & np.isfinite(family["mean"])].reset_index(drop=True)
        for k in chosen_ks(here):
            yield _headline(title, str(base), k, here[here["K"] == k], paired, labels)


def _headline(title: str, base: str, k: int, here: pd.DataFrame, paired: pd.DataFrame, labels: dict) -> str:
    best = here.loc[here["mean"].idxmax()]
    equal = [key for key in here[ROW].itertuples(index=False, name=None) if key != tuple(best[ROW])]
    equal = [key for key in equal if _printed(here, key) == f"{best['mean']:.2f}"]
    also = f" (as {', '.join(labels[key] for key in equal)})" if equal else ""
    text = (
        f"{title}, {k_name(k)} ({base}): of {len(here)} rows {labels[tuple(best[ROW])]}{also} is closest to the truth, PSNR "
        f"{_amount(best)} in what was not given"
    )
    same = [c for c in here.columns if c in paired.columns and c not in ("metric", "mean", "lo", "hi", "p", "n", "region")]
    gain = paired[(paired["reference"] == "gaussian") & (paired["region"] == "unseen")]
    gain = gain[(gain[same] == best[same]).all(axis=1)]
    if len(gain):
        text += f", {_amount(gain.iloc[0], signed=True)} above the gaussian row, which needs no network"
    return f"{text}; {span(here['n'])} test patients."


def _printed(here: pd.DataFrame, key: tuple) -> str:
    return f"{here.loc[(here[ROW] == list(key)).all(axis=1), 'mean'].iloc[0]:.2f}"


def _amount(row: pd.Series, signed: bool = False) -> str:
    number = f"{row['mean']:+.2f} dB" if signed else f"{row['mean']:.2f} dB"
    return f"{number} [{row['lo']:.2f}, {row['hi']:.2f}]" if np.isfinite(row["lo"]) else number
