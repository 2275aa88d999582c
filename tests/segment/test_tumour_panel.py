"""What is kept for the qualitative figure: a hidden section with tumour, the masks found in it, the control without an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from conftest import Prepared

from xdiff.metrics.evaluate import load_prediction
from xdiff.segment.panel import build_tumour_panels
from xdiff.tumour_panel import read_tumour_panels
from xdiff.volumes import write_volume


def tables(manifest: Path, tumours: Prepared, out: Path) -> list[Path]:
    """The truth as everybody's mask, but for the method `linear`, which finds nothing."""
    asked = pd.read_csv(manifest, sep="\t", dtype=str, keep_default_na=False)
    paths = []
    for method in ("linear", "truth", "mask_linear"):
        rows = asked.assign(method=method)
        rows["mask"] = [str(out / method / f"{s}.nii.gz") for s in rows["subject"]]
        for path, subject in zip(rows["mask"], rows["subject"], strict=True):
            labels = tumours.store.labels(subject) * (method != "linear")
            write_volume(Path(path), labels.astype(np.uint8), tumours.store.affine(subject))
        paths.append(out / f"{method}.tsv")
        rows.to_csv(paths[-1], sep="\t", index=False)
    return paths


def test_the_hidden_section_with_most_tumour_is_kept(linear_run: Path, tumours: Prepared, tmp_path: Path) -> None:
    assert build_tumour_panels(tables(linear_run, tumours, tmp_path), tmp_path / "t.npz", (5, 7)) == 1
    (panel,) = read_tumour_panels(tmp_path / "t.npz")
    asked = pd.read_csv(linear_run, sep="\t", dtype=str, keep_default_na=False)
    record = asked[asked["K"] == "5"].sort_values("subject").iloc[0].to_dict()
    assert panel.subject == record["subject"] and panel.K == 5 and panel.names == ["truth", "mask_linear", "linear"]
    store = tumours.store
    labels = store.labels(panel.subject) > 0
    given = {int(name.split(":")[1]) for name in record["given"].split(";")}
    hidden = [z for z in range(store.shape[2]) if z not in given]
    assert panel.section == max(hidden, key=lambda z: (labels[:, :, z].sum(), -z))
    np.testing.assert_array_equal(panel.truth, labels[:, :, panel.section].T[::-1])
    np.testing.assert_array_equal(panel.found[0], panel.truth)
    assert not panel.found[2].any() and np.isnan(panel.images[1]).all()
    shown = store.contrasts.index(panel.contrast)
    for image, volume in ((panel.images[0], store.volume(panel.subject)), (panel.images[2], load_prediction(record))):
        np.testing.assert_allclose(image, volume[shown][:, :, panel.section].T[::-1], atol=2e-3)


def test_a_tumour_that_no_section_hides_has_no_panel(linear_run: Path, tumours: Prepared, tmp_path: Path) -> None:
    paths = tables(linear_run, tumours, tmp_path)
    everything = ";".join(f"axial:{z}" for z in range(tumours.store.shape[2]))
    for path in paths:
        pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).assign(given=everything).to_csv(path, sep="\t", index=False)
    assert build_tumour_panels(paths, tmp_path / "t.npz", (5,)) == 0
    assert read_tumour_panels(tmp_path / "t.npz") == []
