"""Rows of masks: perfect and empty ones, what is unseen, lesions apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Prepared

from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.evaluate import COLUMNS, KEY, parse_given
from xdiff.planes import distance_mm
from xdiff.segment.evaluate import evaluate_masks
from xdiff.segment.scores import MISSING_MM, dice, score_lesions
from xdiff.volumes import write_volume


def masks_of(manifest: Path, out: Path, change) -> Path:
    """A table of masks, each `change(labels)` of the truth."""
    table = pd.read_csv(manifest, sep="\t", dtype=str, keep_default_na=False)
    paths = []
    for i, row in enumerate(table.to_dict("records")):
        store = Store(row["target"])
        paths.append(out / f"{i}.nii.gz")
        write_volume(paths[-1], change(store.labels(row["subject"])), store.affine(row["subject"]))
    table.assign(mask=[str(p) for p in paths]).to_csv(out / "masks.tsv", sep="\t", index=False)
    return out / "masks.tsv"


def values(rows: pd.DataFrame, region: str, metric: str) -> list[float]:
    return rows.loc[(rows["region"] == region) & (rows["metric"] == metric), "value"].tolist()


def test_the_truth_itself_is_perfect(linear_run: Path, tmp_path: Path) -> None:
    rows = evaluate_masks(masks_of(linear_run, tmp_path, lambda labels: labels))
    assert list(rows.columns) == COLUMNS and not rows.duplicated(KEY).any()
    for region in ("WT", "TC", "ET"):
        best = {"dice": 1, "hd95": 0, "lesion_dice": 1, "lesion_hd95": 0, "recall": 1, "false_lesions": 0}
        for metric, value in best.items():
            assert values(rows, region, metric) == [value] * 4, (region, metric)
        assert values(rows, f"{region}_unseen", "dice") == [1] * 4
    assert set(rows["method"]) == {"linear"} and set(rows["K"]) == {3, 5}


def test_nothing_found_is_the_worst(linear_run: Path, tmp_path: Path) -> None:
    rows = evaluate_masks(masks_of(linear_run, tmp_path, np.zeros_like))
    assert values(rows, "WT", "dice") == [0] * 4 and values(rows, "WT", "hd95") == [MISSING_MM] * 4
    assert values(rows, "WT", "recall") == [0] * 4 and values(rows, "WT", "volume_ml") == [0] * 4
    assert not any(values(rows, "lesion_seen", "found") + values(rows, "lesion_unseen", "found"))


def test_unseen_is_what_no_section_covers(linear_run: Path, tmp_path: Path) -> None:
    """Right on the given axial sections alone: some Dice in the volume, none where nothing was given."""
    table = masks_of(linear_run, tmp_path, lambda labels: labels)
    records = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
    for row in records.to_dict("records"):
        store = Store(row["target"])
        labels = store.labels(row["subject"])
        kept = np.zeros_like(labels)
        for plane in parse_given(row["given"]):
            kept[:, :, plane.index] = labels[:, :, plane.index]
        write_volume(row["mask"], kept, store.affine(row["subject"]))
    rows = evaluate_masks(table)
    assert values(rows, "WT_unseen", "dice") == [0] * 4
    assert all(0 < v < 1 for v in values(rows, "WT", "dice"))


def test_regions_are_those_of_brats(tumours: Prepared, linear_run: Path, tmp_path: Path) -> None:
    """Oedema taken away: the whole tumour is its core."""
    rows = evaluate_masks(masks_of(linear_run, tmp_path, lambda labels: np.where(labels == 2, 0, labels)))
    assert values(rows, "TC", "dice") == values(rows, "ET", "dice") == [1] * 4
    store, subject = tumours.store, tumours.split.side("test")[0]
    labels = store.labels(subject)
    mine = rows[(rows["subject"] == subject) & (rows["region"] == "WT") & (rows["metric"] == "dice")]["value"]
    assert mine.tolist() == pytest.approx([dice(np.isin(labels, (1, 3)), labels > 0)] * 2, rel=1e-4)


def test_lesions_are_told_apart_by_whether_a_section_crosses_them(linear_run: Path, tmp_path: Path) -> None:
    rows = evaluate_masks(masks_of(linear_run, tmp_path, lambda labels: labels))
    table = pd.read_csv(linear_run, sep="\t", dtype=str, keep_default_na=False)
    seen_something = set()
    for row in table.to_dict("records"):
        store = Store(row["target"])
        truth, spacing = store.labels(row["subject"]) > 0, store.spacing_mm(row["subject"])
        distance = distance_mm(parse_given(row["given"]), store.shape, spacing)
        lesions = score_lesions(truth, truth, spacing).counted
        own = rows[(rows["subject"] == row["subject"]) & (rows["K"] == int(row["K"])) & (rows["x_name"] == "lesion")]
        for number, lesion in enumerate(lesions, 1):
            nearest = distance[lesion.voxels].min()
            region = "lesion_seen" if nearest == 0 else "lesion_unseen"
            seen_something.add(region)
            found = own[own["x"] == number].set_index("metric")
            assert set(found["region"]) == {region}
            assert found.loc["distance_mm", "value"] == pytest.approx(nearest, rel=1e-4)
            assert found.loc["size_ml", "value"] == pytest.approx(lesion.volume_mm3 / 1000, rel=1e-4)
            assert found.loc["found", "value"] == found.loc["lesion_dice", "value"] == 1
        assert own["x"].nunique() == len(lesions)
    assert "lesion_seen" in seen_something


def test_a_mask_of_another_shape_is_refused(linear_run: Path, tmp_path: Path) -> None:
    table = masks_of(linear_run, tmp_path, lambda labels: labels[:-1])
    with pytest.raises(InputError, match="0.nii.gz: found shape"):
        evaluate_masks(table)


def test_one_section_has_no_gap(linear_run: Path, tmp_path: Path) -> None:
    """A manifest leaves the gap empty at K = 1."""
    table = masks_of(linear_run, tmp_path, lambda labels: labels)
    pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False).assign(gap_mm="").to_csv(table, sep="\t", index=False)
    rows = evaluate_masks(table)
    assert rows["gap_mm"].isna().all() and rows["K"].isin([3, 5]).all()


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"masks\.tsv: found no such file"):
        evaluate_masks(tmp_path / "masks.tsv")
