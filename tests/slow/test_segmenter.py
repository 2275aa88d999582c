"""nnU-Net itself on a few small heads: it trains, goes on, finds what it was shown, and reads volumes the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Prepared

from xdiff.segment import nnunet
from xdiff.segment.nnunet import INDEX, Segmenter, Settings
from xdiff.segment.regions import region_mask
from xdiff.segment.scores import dice

pytestmark = pytest.mark.slow  # two minutes on two cores


@pytest.fixture(scope="module")
def trained(tumours: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: pip install -c constraints.txt -e '.[segment]'")
    out = tmp_path_factory.mktemp("nnunet")
    nnunet.train(tumours.store, tumours.split, Settings("cpu", epochs=4, iterations=25), out)
    return out


def test_a_trained_segmenter_finds_the_tumours_of_new_patients(tumours: Prepared, trained: Path) -> None:
    """The labels lie at much the same place in every head, in its front half, missed by a volume read the wrong way round."""
    segmenter, store = Segmenter(trained), tumours.store
    for subject in tumours.split.side("test"):
        found = segmenter.segment(store.volume(subject), store.spacing_mm(subject))
        truth = store.labels(subject)
        assert found.shape == truth.shape and found.dtype == np.uint8 and set(np.unique(found)) <= {0, 1, 2, 3}
        right = dice(region_mask(found, (1, 2, 3)), truth > 0)
        mirrored = dice(region_mask(found, (1, 2, 3)), truth[:, ::-1] > 0)
        assert right > 0.4 > 0.2 > mirrored


def test_the_same_command_again_trains_nothing(tumours: Prepared, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(nnunet, "_train_fold", never)
    nnunet.train(tumours.store, tumours.split, Settings("cpu", epochs=4, iterations=25), trained)


def test_an_interrupted_training_goes_on_from_its_last_epoch(
    tumours: Prepared, trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained / INDEX).unlink()
    final = next(trained.glob("nnUNet_results/*/*/fold_0/checkpoint_final.pth"))
    final.rename(final.with_name("checkpoint_latest.pth"))  # as an epoch before the end leaves it
    epochs = []
    monkeypatch.setattr(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer.on_epoch_start",
        lambda trainer: epochs.append(trainer.current_epoch),
    )
    nnunet.train(tumours.store, tumours.split, Settings("cpu", epochs=4, iterations=25), trained)
    assert "goes on at epoch 4 of 4" in capsys.readouterr().out and epochs == []
    assert (trained / INDEX).exists() and final.exists()
