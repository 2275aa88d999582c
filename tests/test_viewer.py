"""What the viewer is given: panels on one array, truth brought to it, bad input named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lopsided import SHAPE, lopsided, oblique_affine, write_flipped

from xdiff.errors import InputError
from xdiff.planes import Plane
from xdiff.viewer.__main__ import from_sidecar, main
from xdiff.viewer.panels import given_mask, make_panels, on_voxels_of
from xdiff.volumes import Volume, read_volume, write_volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_volume(tmp_path / "volume.nii.gz", lopsided(), oblique_affine())
    return tmp_path


def test_a_truth_stored_the_other_way_round_gives_no_difference(folder: Path) -> None:
    write_flipped(folder / "truth.nii.gz", lopsided(), oblique_affine())
    panels = make_panels(read_volume(folder / "volume.nii.gz"), read_volume(folder / "truth.nii.gz"), None)
    assert [p.label for p in panels] == ["Truth", "Reconstruction", "Difference"]
    assert not panels[2].array.any() and panels[0].note == "acquired"
    assert (panels[0].low, panels[0].high) == (panels[1].low, panels[1].high)


def test_a_truth_on_other_voxels_is_moved_and_the_panel_says_so(folder: Path) -> None:
    affine = oblique_affine()
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [3, 4, 2]
    write_volume(folder / "truth.nii.gz", lopsided()[3:, 4:, 2:], moved)
    panels = make_panels(read_volume(folder / "volume.nii.gz"), read_volume(folder / "truth.nii.gz"), None)
    assert "resampled" in panels[0].note
    assert np.abs(panels[2].array[4:, 5:, 3:]).max() < 1


def blob(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A smooth spot at (22, 10, -8) mm, of 14 mm, whatever the voxels."""
    mm = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
    away = (mm - np.array([22.0, 10.0, -8.0])[:, None, None, None]) / 14
    return (1000 * np.exp(-(away**2).sum(axis=0) / 2)).astype(np.float32)


def test_a_truth_with_other_axes_is_turned_and_the_panel_says_by_how_much(folder: Path) -> None:
    straight = np.diag([2.0, 2.0, 2.0, 1.0])
    straight[:3, 3] = [-70, -88, -64]
    write_volume(folder / "truth.nii.gz", blob((72, 88, 64), straight), straight)
    write_volume(folder / "blob.nii.gz", blob(SHAPE, oblique_affine()), oblique_affine())
    panels = make_panels(read_volume(folder / "blob.nii.gz"), read_volume(folder / "truth.nii.gz"), None)
    assert panels[0].note == "acquired, resampled to the voxels shown, turned 17.0°"
    assert np.abs(panels[2].array).max() < 40  # from a voxel of 2 mm to one of 4 mm the top is blurred by a little


def test_a_truth_elsewhere_is_refused(folder: Path) -> None:
    far = oblique_affine()
    far[:3, 3] += 900
    with pytest.raises(InputError, match="elsewhere"):
        on_voxels_of(read_volume(folder / "volume.nii.gz"), Volume(lopsided(), far, Path("truth.nii.gz")))


def test_a_std_that_is_negative_or_on_other_voxels_is_refused(folder: Path) -> None:
    volume = read_volume(folder / "volume.nii.gz")
    for std in (lopsided() - 1, lopsided()[1:]):
        with pytest.raises(InputError, match=r"std\.nii"):
            make_panels(volume, None, Volume(std, volume.affine, Path("std.nii")))


def test_given_slices_are_marked_and_one_outside_is_refused() -> None:
    marked = given_mask([Plane(2, 5), Plane(0, 7)], SHAPE)
    assert marked[:, :, 5].all() and marked[7].all() and marked.sum() == 36 * 44 + 44 * 32 - 44
    with pytest.raises(InputError, match="axial:40"):
        given_mask([Plane(2, 40)], SHAPE)


def test_a_sidecar_names_its_volumes_slices_and_model(folder: Path) -> None:
    about = {"files": ["volume.nii.gz", "volume_std.nii.gz", "volume.png"], "planes": ["axial:12"], "estimate": "mean"}
    about |= {"model": {"name": "posed <b>", "sha256": "ab" * 32}, "out_of_distribution": {"doubts": ["unlike"]}}
    write_volume(folder / "volume_std.nii.gz", lopsided() / 9, oblique_affine())
    (folder / "volume.json").write_text(json.dumps(about))
    shown = from_sidecar(folder / "volume.json")
    assert shown.planes == (Plane(2, 12),) and shown.std == folder / "volume_std.nii.gz"
    main([str(folder / "volume.json"), "--no-browser"])
    head = (folder / "volume.html").read_text(encoding="utf-8")[:9000]
    for text in ("K = 1 given slice ", "Model posed &lt;b&gt; (abababababab)", "WARNING: unlike", "default-src 'none'"):
        assert text in head


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": [], "planes": [], "model": {}, "estimate": "mean"}'])
def test_another_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        from_sidecar(tmp_path / "a.json")
