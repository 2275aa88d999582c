"""A volume from slices in hand: in their own space, with what it was made of, and refused where it should be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from displaced_heads import SHAPE, head
from PIL import Image
from slices_in_hand import AFFINE, GAUSSIAN, SPACING_MM, one_contrast, posed_gaussian, write_slices

import xdiff
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.data.centred import CentredStore
from xdiff.errors import InputError
from xdiff.given import Reading
from xdiff.out_of_distribution import calibrate
from xdiff.planes import shifted
from xdiff.pose_fit import fit_pose
from xdiff.reconstruction import Reconstruction, _summary, main, reconstruct
from xdiff.train import train
from xdiff.volumes import read_volume

SHIFT = (1, -2, 5)  # of the test head in its own array: nobody tells the model
HEIGHT = 16  # of the slice, voxels in that array


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`posed`, with a threshold from its own training volumes; `centred`, the same method without poses."""
    folder = tmp_path_factory.mktemp("models")
    prepared = one_contrast(folder)
    posed = posed_gaussian(prepared, folder / "posed")
    train("gaussian", MethodEntry(GAUSSIAN["module"], GAUSSIAN["params"]), prepared.store, prepared.split, folder / "centred")
    centred = CentredStore(prepared.store, prepared.split.side("train"))
    usual = calibrate(fit_pose(centred, prepared.split.side("train"), 60), ("T1w",), (SPACING_MM,) * 3)
    tensors, config = read_weights(posed)
    write_weights(posed, tensors, {**config, "name": "heads-t1", "out_of_distribution": usual})
    return {"posed": posed, "centred": folder / "centred"}


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """A head of nobody in training, in raw intensities, off the middle."""
    return 700 * head(40, SHIFT)[0]


@pytest.fixture(scope="module")
def slice_file(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("given") / "slice.nii.gz", truth, 2, [HEIGHT])


@pytest.fixture(scope="module")
def made(slice_file: Path, models: dict[str, Path]) -> Reconstruction:
    return reconstruct(slice_file, models["posed"])


def world_of(affine: np.ndarray, voxel: tuple) -> np.ndarray:
    return (affine @ [*voxel, 1.0])[:3]


def truth_on(made: Reconstruction, truth: np.ndarray) -> np.ndarray:
    """The hidden head on the voxels of a reconstruction, which lie on its own."""
    offset = (np.linalg.inv(AFFINE) @ made.affine)[:3, 3]
    np.testing.assert_allclose(offset, np.round(offset), atol=1e-6)
    return shifted(truth, (-np.round(offset)).astype(int).tolist())


# Where it lies --------------------------------------------------------------------------------------------------------


def test_given_pixels_come_back_at_their_world_coordinates(made: Reconstruction, slice_file: Path) -> None:
    from xdiff.volumes import read_sections

    given = read_sections(slice_file)
    pixels = np.argwhere(given.array > 0)
    world = pixels @ given.affine[:3, :3].T + given.affine[:3, 3]
    voxels = (world - made.affine[:3, 3]) @ np.linalg.inv(made.affine[:3, :3]).T
    np.testing.assert_allclose(voxels, np.round(voxels), atol=1e-4)
    found = made.volume[tuple(np.round(voxels).astype(int).T)]
    np.testing.assert_allclose(found, given.array[tuple(pixels.T)], rtol=1e-5)


def test_the_head_is_found_and_in_the_middle_of_the_array(made: Reconstruction) -> None:
    true = world_of(AFFINE, tuple((np.array(SHAPE) - 1) / 2 + SHIFT))
    found = world_of(made.affine, tuple((np.array(SHAPE) - 1) / 2))
    assert np.abs(found - true).max() <= 2 * SPACING_MM
    position = made.sidecar["position"]
    assert position["heights_mm"][0] == pytest.approx((HEIGHT - SHIFT[2] - 13.5) * SPACING_MM, abs=2 * SPACING_MM)
    assert len(position["std_mm"]) == 3


def test_it_is_nearer_to_the_truth_than_a_head_in_the_wrong_place(
    made: Reconstruction, truth: np.ndarray, models: dict[str, Path], slice_file: Path
) -> None:
    hidden = truth_on(made, truth)
    error = np.square(made.volume - hidden).mean()
    elsewhere = reconstruct(slice_file, models["centred"], at_mm=made.sidecar["position"]["heights_mm"][0] + 16)
    assert error < 0.5 * np.square(elsewhere.volume - truth_on(elsewhere, truth)).mean()
    assert made.std is not None and (made.std >= 0).all()
    inside = hidden > 0
    assert 0.3 < np.square(made.std)[inside].mean() / np.square(made.volume - hidden)[inside].mean() < 3


def test_a_stack_is_given_as_well_as_files_of_one(truth: np.ndarray, models: dict[str, Path], tmp_path: Path) -> None:
    stack = write_slices(tmp_path / "stack.nii.gz", truth, 1, [8, 12, 16])
    single = [write_slices(tmp_path / f"{i}.nii.gz", truth, 1, [i]) for i in (16, 8, 12)]
    thin = Reading(thickness_mm=SPACING_MM)
    one, several = (reconstruct(files, models["posed"], reading=thin) for files in (stack, single))
    assert one.sidecar["planes"] == several.sidecar["planes"] and len(one.sidecar["planes"]) == 3
    np.testing.assert_allclose(one.volume, several.volume, atol=1e-3)
    np.testing.assert_allclose(one.affine, several.affine, atol=1e-6)


def test_a_picture_of_the_slice_gives_the_same_volume_in_a_world_of_its_own(
    made: Reconstruction, truth: np.ndarray, models: dict[str, Path], tmp_path: Path
) -> None:
    section = np.round(50 * truth[:, :, HEIGHT]).astype(np.uint16)
    Image.fromarray(np.ascontiguousarray(section.T[::-1, ::-1])).save(tmp_path / "slice.png")
    pictured = reconstruct(tmp_path / "slice.png", models["posed"], reading=Reading(axis="axial", spacing_mm=SPACING_MM))
    assert pictured.sidecar["planes"] == made.sidecar["planes"]
    assert np.abs(pictured.volume / 50 - made.volume).max() < 0.01 * made.volume.max()
    assert pictured.sidecar["given"][0]["view"] == "radiological" and "made up" in pictured.sidecar["given"][0]["world"]


def test_without_poses_the_height_has_to_be_said(slice_file: Path, truth: np.ndarray, models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="--at MM"):
        reconstruct(slice_file, models["centred"])
    made = reconstruct(slice_file, models["centred"], at_mm=(HEIGHT - SHIFT[2] - 13.5) * SPACING_MM)
    assert made.sidecar["position"]["std_mm"] is None and made.sidecar["out_of_distribution"]["score"] is None
    hidden = truth_on(made, truth)
    assert np.square(made.volume - hidden).mean() < 0.2 * np.square(hidden).mean()


# What it says of itself -----------------------------------------------------------------------------------------------


def test_files_and_sidecar(slice_file: Path, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "volume.nii.gz"
    main(["--given", str(slice_file), "--model", str(models["posed"]), "--out", str(out)])
    said = capsys.readouterr().out
    names = ["volume.nii.gz", "volume_std.nii.gz", "volume.png", "volume.json"]
    assert [path in said for path in names] == [True] * 4
    sidecar = json.loads((tmp_path / "volume.json").read_text())
    config = json.loads((models["posed"] / "config.json").read_text())
    assert sidecar["synthetic"] is True and sidecar["files"] == names
    assert (sidecar["model"]["name"], sidecar["model"]["sha256"]) == ("heads-t1", config["sha256"])
    assert (sidecar["estimate"], sidecar["axis"], sidecar["given"][0]["sections"]) == ("mean", "axial", 1)
    assert sidecar["out_of_distribution"]["threshold"] == config["out_of_distribution"]["threshold"]
    assert sidecar["out_of_distribution"]["score"] <= sidecar["out_of_distribution"]["threshold"]
    assert sidecar["out_of_distribution"]["doubts"] == [] and sidecar["out_of_distribution"]["forced"] is False
    volume, std = read_volume(out), read_volume(tmp_path / "volume_std.nii.gz")
    assert volume.shape == std.shape == SHAPE
    np.testing.assert_allclose(volume.affine, std.affine)
    with Image.open(tmp_path / "volume.png") as picture:
        assert picture.size[0] > 500 and np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(("std_mm", "warned"), [([34.2, 2.5, 2.9], True), ([2.1, 2.7, 3.9], False), (None, False)])
def test_an_unclear_place_is_warned_of(std_mm: list[float] | None, warned: bool, made: Reconstruction) -> None:
    about = {**made.sidecar, "position": {"heights_mm": [-30.0], "std_mm": std_mm}}
    assert any("--at MM" in line for line in _summary(about)) is warned


def test_samples_differ_by_seed_and_by_nothing_else(slice_file: Path, models: dict[str, Path]) -> None:
    first, again, other = (reconstruct(slice_file, models["posed"], "sample", seed=s).volume for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_reconstruct_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, xdiff; assert 'xdiff.train' not in sys.modules; print(xdiff.reconstruct.__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.split() == ["reconstruct", "False"], done.stderr
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = xdiff.nothing_here


# What it refuses ------------------------------------------------------------------------------------------------------


def inverted(section: np.ndarray) -> np.ndarray:
    return np.where(section > 0, section.max() + 30 - section, 0)


def whole_head(section: np.ndarray) -> np.ndarray:
    """The brain inside a bright rim that fills the picture."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in section.shape[:2]), indexing="ij")
    rim = (np.hypot(x, y) < 1) & (np.hypot(x, y) > 0.85)
    return np.where(rim[..., None], 900.0, section)


@pytest.mark.parametrize(("spoilt", "reason"), [(inverted, "another contrast"), (whole_head, "a whole head")])
def test_what_the_model_never_saw_is_refused_unless_forced(
    spoilt: object, reason: str, truth: np.ndarray, models: dict[str, Path], tmp_path: Path
) -> None:
    volume = spoilt(truth[:, :, [HEIGHT]]).repeat(SHAPE[2], axis=2)
    path = write_slices(tmp_path / "slice.nii.gz", volume, 2, [HEIGHT])
    with pytest.raises(InputError, match=f"slice.nii.gz: .*score 0.*{reason}.*--force"):
        reconstruct(path, models["posed"])
    forced = reconstruct(path, models["posed"], force=True).sidecar["out_of_distribution"]
    assert forced["forced"] is True and reason in forced["doubts"][0] and forced["score"] > forced["threshold"]


def test_a_head_upside_down_is_refused(truth: np.ndarray, models: dict[str, Path], tmp_path: Path) -> None:
    path = write_slices(tmp_path / "slice.nii.gz", np.ascontiguousarray(truth[:, :, ::-1]), 1, [13])
    with pytest.raises(InputError, match="coronal slices that fit better as coronal ones, top to bottom"):
        reconstruct(path, models["posed"])


def test_axial_slices_said_to_be_coronal_are_refused(truth: np.ndarray, models: dict[str, Path], tmp_path: Path) -> None:
    path = write_slices(tmp_path / "slice.nii.gz", np.moveaxis(truth, 2, 1), 1, [HEIGHT])
    with pytest.raises(InputError, match="coronal slices that fit better as axial ones"):
        reconstruct(path, models["posed"])


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"estimate": "median"}, "mean, sample or mean_of_N"),
        ({"estimate": "mean_of_1"}, "mean, sample or mean_of_N"),
        ({"steps": 0}, "1 to 1000"),
        ({"model": "nowhere"}, "a weights folder"),
        ({"at_mm": 300.0}, "within 56 mm about the middle"),
    ],
)
def test_a_wrong_argument_is_named(wrong: dict, expected: str, slice_file: Path, models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=expected):
        reconstruct(slice_file, **{"model": models["posed"], **wrong})


def test_a_name_that_is_no_volume_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.nii or \.nii\.gz"):
        main(["--given", "a.nii.gz", "--model", "m", "--out", str(tmp_path / "volume.mgz")])


@pytest.mark.parametrize(
    ("other", "expected"), [({"contrasts": ["T1w", "T2w"]}, "a model of one contrast"), ({"norm": "none"}, "norm p99.5")]
)
def test_a_model_of_another_kind_is_refused(
    other: dict, expected: str, slice_file: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    tensors, config = read_weights(models["posed"])
    write_weights(tmp_path / "other", tensors, {**config, **other})
    with pytest.raises(InputError, match=expected):
        reconstruct(slice_file, tmp_path / "other")
