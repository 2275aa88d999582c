"""From masks to long rows, in the columns of metrics/all.tsv: agreement by region, in the whole volume and where nothing was
given, and lesion by lesion, those that a given section crosses apart from those that none does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.evaluate import COLUMNS, COPIED, parse_given
from xdiff.planes import distance_mm
from xdiff.seen import counts_as_given
from xdiff.segment.regions import region_mask, regions_of
from xdiff.segment.scores import LesionScores, dice, hd95_mm, score_lesions
from xdiff.volumes import read_volume


def evaluate_masks(table: Path) -> pd.DataFrame:
    """Long rows (COLUMNS) of every mask of a table that masks.make_masks wrote.

    Regions as they are called (WT, TC, ET): dice, hd95 (mm), lesion_dice, lesion_hd95, recall, false_lesions, volume_ml of what
    is predicted; the first two also in REGION_unseen, the voxels that were not given, where the truth has some there. Lesions of
    the first region, numbered (x_name `lesion`), in regions lesion_seen and lesion_unseen: lesion_dice, found (0 or 1),
    distance_mm to the nearest given section, size_ml.
    """
    if not table.exists():
        raise InputError(table, "no such file", "a table of masks (xdiff segment masks)")
    records = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False).to_dict("records")
    numbers = ("K", "gap_mm", "thickness_mm", "steps", "seed", "train_seed")
    rows = []
    for record in records:
        copied = {c: float(record[c] or "nan") if c in numbers else record[c] for c in COPIED}
        copied |= {c: int(copied[c]) for c in ("K", "steps", "seed", "train_seed")}
        rows += [{**copied, **row} for row in _rows(record)]
    return pd.DataFrame(rows, columns=COLUMNS)


def write_scores(masks: Path, out: Path) -> None:
    """evaluate_masks, into a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    evaluate_masks(masks).to_csv(out, sep="\t", index=False)


def _rows(record: Mapping[str, Any]) -> Iterator[dict]:
    store, subject = Store(record["target"]), record["subject"]
    labels = store.labels(subject)
    if labels is None:
        raise InputError(store.folder, f"no labels of {subject}", "a cohort with labels")
    predicted, spacing = read_volume(record["mask"]).array.astype(np.uint8), store.spacing_mm(subject)
    if predicted.shape != labels.shape:
        raise InputError(record["mask"], f"shape {predicted.shape}", f"{labels.shape} as {store.folder}")
    planes = parse_given(record["given"])
    hidden, distance = ~counts_as_given(planes, store.shape), distance_mm(planes, store.shape, spacing)
    regions = regions_of(store.label_names)
    for number, (region, values) in enumerate(regions.items()):
        found, truth = region_mask(predicted, values), region_mask(labels, values)
        lesions = score_lesions(found, truth, spacing)
        yield from _by_region(region, found, truth, lesions, spacing)
        if (truth & hidden).any():
            yield _row(f"{region}_unseen", "dice", dice(found & hidden, truth & hidden))
            yield _row(f"{region}_unseen", "hd95", hd95_mm(found & hidden, truth & hidden, spacing))
        if number == 0:
            yield from _by_lesion(lesions, hidden, distance)


def _by_region(
    region: str, found: np.ndarray, truth: np.ndarray, lesions: LesionScores, spacing: tuple[float, float, float]
) -> Iterator[dict]:
    yield _row(region, "dice", dice(found, truth))
    yield _row(region, "hd95", hd95_mm(found, truth, spacing))
    yield _row(region, "lesion_dice", lesions.dice)
    yield _row(region, "lesion_hd95", lesions.hd95_mm)
    yield _row(region, "recall", lesions.recall)
    yield _row(region, "false_lesions", lesions.false_lesions)
    yield _row(region, "volume_ml", found.sum() * np.prod(spacing) / 1000)


def _by_lesion(lesions: LesionScores, hidden: np.ndarray, distance: np.ndarray) -> Iterator[dict]:
    for number, lesion in enumerate(lesions.counted, 1):
        region = "lesion_seen" if (lesion.voxels & ~hidden).any() else "lesion_unseen"
        values = {
            "lesion_dice": lesion.dice,
            "found": float(lesion.found),
            "distance_mm": distance[lesion.voxels].min(),
            "size_ml": lesion.volume_mm3 / 1000,
        }
        for metric, value in values.items():
            yield _row(region, metric, value, "lesion", number)


def _row(region: str, metric: str, value: float, x_name: str = "", x: float = math.nan) -> dict:
    named = {"contrast": "all", "region": region, "metric": metric, "x_name": x_name, "x": x}
    return {**named, "value": float(f"{float(value):.6g}")}
