"""nnU-Net's raw folder as it should be, its settings, and errors; none of it needs nnU-Net itself."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Prepared

from xdiff.errors import InputError
from xdiff.segment import nnunet
from xdiff.segment.nnunet import TIERS, Segmenter, Settings, export
from xdiff.segment.regions import region_mask, regions_of
from xdiff.volumes import read_volume

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def test_regions_of_brats_are_nested_whatever_their_numbers() -> None:
    assert regions_of({1: "NCR", 2: "ED", 3: "ET"}) == REGIONS
    assert regions_of({1: "ED", 2: "NCR", 3: "ET"}) == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
    assert regions_of({1: "WT"}) == {"WT": (1,)} and regions_of({1: "bone", 2: "cartilage"}) == {"bone": (1,), "cartilage": (2,)}
    assert region_mask(np.array([0, 1, 2, 3]), (1, 3)).tolist() == [False, True, False, True]
    for values in ({}, {1: "NCR", 4: "ET"}, {2: "WT"}):
        with pytest.raises(InputError, match="numbered from 1 without gaps"):
            regions_of(values)


def test_the_raw_folder_holds_training_and_validation_subjects_alone(tumours: Prepared, tmp_path: Path) -> None:
    export(tumours.store, tumours.split, REGIONS, tmp_path)
    known = set(tumours.split.side("train") + tumours.split.side("val"))
    assert {p.name.removesuffix(".nii.gz") for p in (tmp_path / "labelsTr").iterdir()} == known
    images = sorted(p.name for p in (tmp_path / "imagesTr").iterdir())
    assert images == sorted(f"{s}_{c:04d}.nii.gz" for s in known for c in range(2))
    subject = tumours.split.side("train")[0]
    for c in range(2):
        written = read_volume(tmp_path / "imagesTr" / f"{subject}_{c:04d}.nii.gz")
        np.testing.assert_array_equal(written.array, tumours.store.volume(subject)[c])
        np.testing.assert_allclose(written.affine, tumours.store.affine(subject), atol=1e-4)
    labels = read_volume(tmp_path / "labelsTr" / f"{subject}.nii.gz")
    np.testing.assert_array_equal(labels.array, tumours.store.labels(subject))
    np.testing.assert_allclose(labels.affine, tumours.store.affine(subject), atol=1e-4)


def test_the_dataset_says_regions_and_what_is_written_over_what(tumours: Prepared, tmp_path: Path) -> None:
    export(tumours.store, tumours.split, REGIONS, tmp_path)
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3}
    assert dataset["regions_class_order"] == [2, 1, 3]
    assert dataset["channel_names"] == {"0": "T1w", "1": "T2w"} and dataset["numTraining"] == 6
    export(tumours.store, tumours.split, {"WT": (1,), "ED": (2,), "ET": (3,)}, tmp_path / "plain")
    plain = json.loads((tmp_path / "plain/dataset.json").read_text())
    assert plain["labels"] == {"background": 0, "WT": 1, "ED": 2, "ET": 3} and "regions_class_order" not in plain


def test_a_cohort_without_labels_is_refused(heads: Prepared, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labels of sub-.*a cohort with labels"):
        export(heads.store, heads.split, {"WT": (1,)}, tmp_path)


def test_settings_fill_in_the_tier() -> None:
    assert Settings().plan == TIERS["cpu"] and TIERS["full"].folds == (0, 1, 2, 3, 4) and TIERS["full"].epochs == 1000
    changed = Settings("gpu", epochs=3, iterations=7).plan
    assert (changed.epochs, changed.iterations, changed.configuration) == (3, 7, "3d_fullres")
    with pytest.raises(InputError, match="segment.tier: found 'tpu', expected one of cpu, gpu, full"):
        Settings("tpu")
    with pytest.raises(InputError, match="segment.epochs"):
        Settings(epochs=-1)


def test_a_missing_nnunet_is_named_with_what_installs_it(
    tumours: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match="nnunetv2: found not installed, expected pip install"):
        nnunet.train(tumours.store, tumours.split, Settings(), tmp_path)


def test_folders_are_nnunets_inside_and_what_they_were_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def variable(name: str) -> str | None:
        return dict(os.environ).get(name)

    monkeypatch.setenv("nnUNet_raw", "before")
    monkeypatch.delenv("nnUNet_results", raising=False)
    with nnunet.folders(tmp_path, loaders=1):
        assert variable("nnUNet_raw") == str(tmp_path / "nnUNet_raw") and variable("nnUNet_n_proc_DA") == "1"
        assert (tmp_path / "nnUNet_results").is_dir()
    assert variable("nnUNet_raw") == "before" and variable("nnUNet_results") is None


# The background -------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for nnU-Net's predictor: keeps what it is shown."""

    def __init__(self, masked: bool) -> None:
        self.configuration_manager = SimpleNamespace(use_mask_for_norm=[masked, masked])

    def predict_single_npy_array(self, array: np.ndarray, properties: dict) -> np.ndarray:
        self.shown, self.spacing = array, properties["spacing"]
        return np.zeros(array.shape[1:], np.uint8)


@pytest.mark.parametrize("masked", [True, False])
def test_a_background_that_is_nearly_zero_is_zero_where_nnunet_normalises_by_zeros(masked: bool) -> None:
    """A brain of 0.5 to 1 in a haze of 0.02; a hole in it, dark as the haze, is no background."""
    x, y, z = np.meshgrid(*(np.linspace(-1.6, 1.6, n) for n in (16, 20, 18)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    volume = np.where(radius < 1, 0.75 + 0.25 * np.sin(3 * x), 0.02).astype(np.float32)[None].repeat(2, axis=0)
    volume[:, radius < 0.3] = 0.02
    segmenter = object.__new__(Segmenter)
    segmenter.predictor = Recorder(masked)
    found = segmenter.segment(volume, (1.0, 2.0, 3.0))
    shown = segmenter.predictor.shown.transpose(0, 3, 2, 1)
    assert found.shape == (16, 20, 18) and segmenter.predictor.spacing == [3.0, 2.0, 1.0]
    np.testing.assert_array_equal(shown[:, radius < 0.9], volume[:, radius < 0.9])
    assert (shown[:, radius > 1.4] == (0 if masked else np.float32(0.02))).all()
