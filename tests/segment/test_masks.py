"""Masks of a manifest: the control by hand, what is made again and what is not, and what every table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Prepared

from xdiff.data.store import Store
from xdiff.errors import InputError, NotSupported
from xdiff.planes import Plane
from xdiff.segment import masks
from xdiff.segment.masks import interpolated, make_masks
from xdiff.segment.nnunet import INDEX
from xdiff.volumes import read_volume

VALUES = {1: "NCR", 2: "ED", 3: "ET"}


class Threshold:
    """Stands for a trained network: label 2 where the first contrast is bright. Counts its calls."""

    calls = 0

    def __init__(self, folder: Path) -> None:
        assert (folder / INDEX).exists()

    def segment(self, volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        type(self).calls += 1
        return np.where(volume[0] > 0.7, 2, 0).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / INDEX).write_text(json.dumps({"key": "one"}))
    monkeypatch.setattr(masks, "Segmenter", Threshold)
    monkeypatch.setattr(Threshold, "calls", 0)
    return tmp_path / "model"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"subject": str}, keep_default_na=False)


# The control ---------------------------------------------------------------------------------------------------------


def test_the_control_keeps_what_at_least_half_of_the_interpolation_has() -> None:
    """Between a section that shows the label and one that does not, the nearer half of the way and its middle."""
    labels = np.zeros((5, 5, 11), np.uint8)
    labels[1:4, 1:4, 2] = 1
    found = interpolated(labels, [Plane(2, 2), Plane(2, 6), Plane(2, 9)], {1: "WT"})
    assert [int(found[2, 2, z]) for z in range(11)] == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not found[0].any() and not found[4].any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_control_is_exact_on_given_sections_and_nothing_beyond_them(axis: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (9, 9, 9)).astype(np.uint8)
    found = interpolated(labels, [Plane(axis, 6), Plane(axis, 2)], VALUES)
    for i in (2, 6):
        np.testing.assert_array_equal(np.take(found, i, axis), np.take(labels, i, axis))
    assert not np.take(found, [0, 1, 7, 8], axis).any()
    alone = interpolated(labels, [Plane(axis, 4)], VALUES)
    np.testing.assert_array_equal(np.take(alone, 4, axis), np.take(labels, 4, axis))
    assert not np.delete(alone, 4, axis).any()


def test_the_control_interpolates_regions_not_labels() -> None:
    """Enhancing tumour on one side and core on the other: in the middle it is tumour core, which both sections show."""
    labels = np.zeros((3, 3, 5), np.uint8)
    labels[:, :, 0], labels[:, :, 4] = 3, 1
    found = interpolated(labels, [Plane(2, 0), Plane(2, 4)], VALUES)
    assert found[1, 1].tolist() == [3, 3, 3, 1, 1]


def test_the_control_refuses_what_it_cannot_interpolate() -> None:
    labels = np.zeros((5, 5, 5), np.uint8)
    for planes in ([Plane(0, 1), Plane(1, 3)], [Plane(2, 2, 3.0)]):
        with pytest.raises(NotSupported, match="thin sections of one axis"):
            interpolated(labels, planes, VALUES)


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", masks.KINDS)
def test_every_volume_gets_a_mask_in_its_own_space(linear_run: Path, model: Path, tmp_path: Path, kind: str) -> None:
    make_masks(kind, [linear_run], model, tmp_path / "out" / "masks.tsv")
    found, asked = read(tmp_path / "out" / "masks.tsv"), read(linear_run)
    assert list(found.columns) == [*asked.columns, "mask"] and len(found) == len(asked) == 4
    expected = {"prediction": "linear", "truth": "truth", "control": "mask_linear"}[kind]
    assert set(found["method"]) == {expected}
    for row in found.to_dict("records"):
        store, mask = Store(row["target"]), read_volume(row["mask"])
        np.testing.assert_allclose(mask.affine, store.affine(row["subject"]), atol=1e-4)
        assert mask.array.shape == store.shape and set(np.unique(mask.array)) <= {0, 1, 2, 3} and mask.array.any()
    if kind == "truth":  # the same at every point
        assert found["mask"].nunique() == 2 and Threshold.calls == 2
    else:
        assert found["mask"].nunique() == 4


def test_a_mask_is_of_the_prediction_in_units_of_the_store(linear_run: Path, model: Path, tmp_path: Path) -> None:
    make_masks("prediction", [linear_run], model, tmp_path / "masks.tsv")
    row = read(tmp_path / "masks.tsv").iloc[0]
    raw = read_volume(row["prediction"]).array / Store(row["target"]).scale(row["subject"])[0]
    np.testing.assert_array_equal(read_volume(row["mask"]).array, np.where(raw > 0.7, 2, 0))


def test_masks_are_made_once_and_again_where_something_changed(linear_run: Path, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "masks.tsv"
    make_masks("prediction", [linear_run], model, table)
    assert Threshold.calls == 4
    before = table.read_text()
    make_masks("prediction", [linear_run], model, table)
    assert Threshold.calls == 4 and table.read_text() == before
    Path(read(table)["mask"][0]).unlink()
    make_masks("prediction", [linear_run], model, table)
    assert Threshold.calls == 5
    (model / INDEX).write_text(json.dumps({"key": "another"}))
    make_masks("prediction", [linear_run], model, table)
    assert Threshold.calls == 9


def test_a_missing_segmenter_is_named(linear_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="segmenter.json: found no such file"):
        make_masks("prediction", [linear_run], tmp_path, tmp_path / "masks.tsv")


def test_a_cohort_without_labels_is_refused(heads: Prepared, linear_run: Path, model: Path, tmp_path: Path) -> None:
    table = pd.read_csv(linear_run, sep="\t", dtype=str, keep_default_na=False)
    table["target"], table["subject"] = str(heads.store.folder), heads.split.side("test")[0]
    table.to_csv(tmp_path / "manifest.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="no labels of"):
        make_masks("control", [tmp_path / "manifest.tsv"], model, tmp_path / "masks.tsv")
