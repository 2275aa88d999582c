"""Anatomy of real and of generated bodies as long rows, in the columns of metrics/all.tsv.

Beside the methods stand `truth`, what is measured in the real volume, and `population_mean`, the control: for everybody, the mean
over the real volumes of the training subjects. Neither is shown to a method: what is measured here is scored, never sampled from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.config import WATER_FAT
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.anatomy import measure
from xdiff.plain import digest, write_json
from xdiff.stats import ANATOMY, CONTROL, FOUND, TRUTH

COLUMNS = ["subject", "side", *ANATOMY]
VERSION = 1  # raise when the same bodies measure otherwise
MOST_TRAINING = 200  # their mean is then known to 7 % of the spread between people, and its error to 0.3 %
_OF_NO_METHOD = {"estimate": "mean", "steps": 1, "seed": 0, "train_seed": 0, "weights": "", "device": ""}
_POINT = ("subject", "K", "axis", "indices", "policy", "contrasts_given", "thickness_mm")


def anatomy_of(volume: np.ndarray, store: Store, subject: str) -> dict[str, float]:
    """ANATOMY of a volume (C, X, Y, Z) in units of the subject's scale; NaN where there is no body, or no spine in it."""
    if not set(WATER_FAT) <= set(store.contrasts):
        raise InputError(store.folder, f"contrasts {', '.join(store.contrasts)}", f"both of {', '.join(WATER_FAT)}")
    # the scale is of each contrast; a fraction of the two needs their common unit back
    raw = {name: volume[i] * store.scale(subject)[i] for i, name in enumerate(store.contrasts)}
    return measure(raw["water"], raw["fat"], store.spacing_mm(subject))


def measure_real(store: Store, split: Split) -> pd.DataFrame:
    """One row of subject, side and ANATOMY per real volume: of the test side, and of the training side MOST_TRAINING at most,
    evenly from all of it."""
    training = split.side("train")
    chosen = training[:: math.ceil(len(training) / MOST_TRAINING) or 1]
    sides = [*((subject, "train") for subject in chosen), *((subject, "test") for subject in split.side("test"))]
    rows = [{"subject": s, "side": side, **anatomy_of(store.volume(s), store, s)} for s, side in sides]
    return pd.DataFrame(rows, columns=COLUMNS)


def write_real(store: Store, split: Split, out: Path) -> None:
    """measure_real, into a file; nothing is done where it is there for the same volumes, split and VERSION (key in out.json)."""
    key, record = digest([VERSION, store.fingerprint, split.sha]), out.with_suffix(".json")
    if out.exists() and record.exists() and json.loads(record.read_text()) == key:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    measure_real(store, split).to_csv(out, sep="\t", index=False, float_format="%.6g")
    write_json(record, key)


def read_real(path: Path | str) -> pd.DataFrame:
    """What measure_real gave, from its file, by subject. Raises InputError on another table."""
    if not Path(path).exists():
        raise InputError(path, "no such file", "a table of real bodies (xdiff metrics anatomy)")
    table = pd.read_csv(path, sep="\t", dtype={"subject": str})
    if list(table.columns) != COLUMNS:
        raise InputError(path, f"columns {list(table.columns)}", COLUMNS)
    return table.set_index("subject")


def population_mean(tables: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Of ANATOMY, over the training subjects of one cohort or several; of each, over those in whom it could be measured."""
    together = pd.concat(tables)
    return together.loc[together["side"] == "train", list(ANATOMY)].mean().to_dict()


def rows_beside(
    records: Sequence[Mapping[str, Any]], real: pd.DataFrame, mean: Mapping[str, float], where: Path
) -> Iterator[dict]:
    """Rows of TRUTH and CONTROL at every point of a manifest's records, once per subject, whatever was drawn there.

    real: as read_real gives it, from file `where`. Raises InputError where a subject is missing.
    """
    seen = set()
    for record in records:
        point = tuple(record[name] for name in _POINT)
        if point in seen:
            continue
        seen.add(point)
        if record["subject"] not in real.index:
            raise InputError(where, f"no row of {record['subject']}", "every test subject")
        for method, values in ((TRUTH, real.loc[record["subject"]]), (CONTROL, mean)):
            yield from ({**record, **_OF_NO_METHOD, "method": method, **row} for row in rows_of(values))


def rows_of(values: Mapping[str, float]) -> Iterator[dict]:
    """One row per measure, NaN where it could not be taken, and whether (1 or 0) a body and a spine were found."""
    for metric in ANATOMY:
        yield _row(metric, values[metric])
    for measures, metric in FOUND.items():
        yield _row(metric, float(not np.isnan(values[measures[0]])))


def _row(metric: str, value: float) -> dict:
    named = {"contrast": "all", "region": "body", "metric": metric, "x_name": "", "x": math.nan}
    return {**named, "value": float(f"{float(value):.6g}")}
