"""To the grid and back: world positions kept, sections untouched where spacing allows, good work kept when a subject is bad."""

from __future__ import annotations

import gzip
import json
import runpy
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from xdiff.config import Cohort, Grid, Labels
from xdiff.data import __main__ as cli
from xdiff.data.cohorts import Subject
from xdiff.data.preprocess import preprocess, to_grid
from xdiff.data.split import make_split, patient_of
from xdiff.data.store import Store
from xdiff.errors import ManyInputErrors

SHAPE = (20, 24, 18)
COHORT = Cohort(layout="bids", contrasts=("T1w", "T2w"), labels=Labels("seg", {1: "WT"}))
GRID = Grid((16, 16, 16), 3.0)
NAMES = ("toy", "16")


def ellipsoid(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij"))
    return (grid**2).sum(axis=0) < 1


def tilted(spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), angle: float = 0.2) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(angle, -angle / 2, angle / 3) @ np.diag(spacing)
    affine[:3, 3] = (-30.0, 12.5, 7.25)
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, tilted() if affine is None else affine), path)


def write_subject(root: Path, name: str, seed: int = 0) -> Path:
    """A good subject of COHORT; returns its folder of images."""
    rng, inside = np.random.default_rng(seed), ellipsoid()
    folder = root / name / "anat"
    for contrast, level in (("T1w", 100), ("T2w", 900)):
        save(folder / f"{name}_{contrast}.nii.gz", np.where(inside, level * (1 + 0.1 * rng.random(SHAPE)), 0).astype(np.float32))
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[8:12, 9:14, 6:10] = 1
    save(folder / f"{name}_seg.nii.gz", labels)
    return folder


def split_of(*names: str):
    return make_split([(n, patient_of(n), "train") for n in names])


# Geometry ---------------------------------------------------------------------------------------------------------


def ramp_subject(spacing: tuple[float, float, float]) -> Subject:
    """Three contrasts that hold the world coordinates of every voxel, in mm."""
    affine = tilted(spacing)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    world = nib.affines.apply_affine(affine, voxels)
    return Subject("s", np.moveaxis(world, -1, 0).astype(np.float64), affine, None, ellipsoid())


@pytest.mark.parametrize("frame", ["centred", "scanner"])
@pytest.mark.parametrize(
    ("spacing", "native"), [((2.0, 2.0, 2.0), ""), ((1.0, 1.3, 2.2), ""), ((0.9, 0.9, 4.0), "axial"), ((3.0, 3.0, 3.0), "")]
)
def test_a_point_in_the_grid_is_where_it_was_in_the_source(spacing: tuple, native: str, frame: str) -> None:
    """Resampled world coordinates must equal those that the grid's affine states, to 1e-3 mm."""
    grid = Grid((10, 10, 8), 2.0, native_axis=native)
    centre_mm = None if frame == "centred" else nib.affines.apply_affine(tilted(spacing), [10.3, 11.1, 9.4])
    images, _, _, affine, _ = to_grid(ramp_subject(spacing), grid, centre_mm)
    voxels = np.argwhere(np.ones(grid.shape, dtype=bool))
    stated = nib.affines.apply_affine(affine, voxels)
    source = nib.affines.apply_affine(np.linalg.inv(tilted(spacing)), stated)
    # the smoothing before a downsampling reaches up to 4 sigma: only there is a ramp no ramp any more
    reach = 1 + 4 * np.maximum((2.0 / np.array(spacing)) ** 2 - 1, 0) ** 0.5 / 2.3548
    inner = ((source > reach) & (source < np.array(SHAPE) - 1 - reach)).all(axis=1)
    assert inner.sum() > 30
    np.testing.assert_allclose(images.reshape(3, -1).T[inner], stated[inner], atol=1e-3)


def test_equal_spacing_moves_whole_voxels_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    image = rng.random(SHAPE).astype(np.float32)
    subject = Subject("s", image[None], tilted(), np.ones(SHAPE, np.uint8), ellipsoid())
    images, labels, mask, affine, cropped = to_grid(subject, Grid((30, 16, 18), 2.0), None)
    start = np.round(nib.affines.apply_affine(np.linalg.inv(tilted()) @ affine, [0, 0, 0])).astype(int)
    np.testing.assert_allclose(affine[:3, :3], tilted()[:3, :3])
    for x, y, z in np.ndindex(images.shape[1:]):
        source = start + (x, y, z)
        inside = ((source >= 0) & (source < SHAPE)).all()
        assert images[0, x, y, z] == (image[tuple(source)] if inside else 0)
        assert labels[x, y, z] == inside
    assert 0 < cropped < 0.3  # 16 of the 20 rows that the ellipsoid has along y


def test_native_axis_keeps_the_acquired_sections_apart() -> None:
    """Axial sections 4 mm apart: each grid section is made of one acquired section alone."""
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    image[:, :, :, 9] = 1
    subject = Subject("s", image, tilted((1.5, 1.5, 4.0)), None, ellipsoid())
    images, _, _, affine, _ = to_grid(subject, Grid((14, 14, 20), 2.0, native_axis="axial"), None)
    sums = images[0].sum(axis=(0, 1))
    assert (sums > 0).sum() == 1
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2.0, 2.0, 4.0])


def test_centred_puts_the_foreground_box_in_the_middle() -> None:
    inside = np.zeros(SHAPE, dtype=bool)
    inside[3:9, 2:12, 10:16] = True
    subject = Subject("s", inside[None].astype(np.float32), tilted(), None, inside)
    _, _, mask, _, cropped = to_grid(subject, Grid((16, 16, 16), 2.0), None)
    box = np.argwhere(mask)
    np.testing.assert_allclose((box.min(axis=0) + box.max(axis=0)) / 2, 7.5, atol=0.5)
    assert (mask.sum(), cropped) == (inside.sum(), 0.0)


def test_smoothing_before_downsampling_makes_up_for_the_larger_voxel() -> None:
    """A checkerboard at the source's Nyquist frequency must not alias: three times larger voxels see its mean."""
    board = np.indices((30, 30, 30)).sum(axis=0) % 2
    subject = Subject("s", board[None].astype(np.float32), np.eye(4), None, np.ones((30, 30, 30), bool))
    images, *_ = to_grid(subject, Grid((6, 6, 6), 3.0), None)
    np.testing.assert_allclose(images, 0.5, atol=0.02)


# The store --------------------------------------------------------------------------------------------------------


def test_what_is_stored_gives_raw_intensities_back(tmp_path: Path) -> None:
    folder = write_subject(tmp_path / "raw", "sub-01")
    grid = Grid(SHAPE, 2.0)
    preprocess(COHORT, grid, NAMES, tmp_path / "raw", split_of("sub-01"), tmp_path / "out")
    store = Store(tmp_path / "out")
    raw = np.stack([np.asarray(nib.load(folder / f"sub-01_{c}.nii.gz").dataobj) for c in COHORT.contrasts])
    found = store.volume("sub-01") * store.scale("sub-01")[:, None, None, None]
    np.testing.assert_allclose(found, raw, rtol=6e-4)  # float16
    positive = store.volume("sub-01")[store.volume("sub-01") > 0]
    assert 0.95 < np.percentile(positive, 99.5) < 1.05
    np.testing.assert_allclose(store.affine("sub-01"), tilted(), atol=1e-5)
    np.testing.assert_allclose(store.spacing_mm("sub-01"), 2.0, atol=1e-5)
    assert store.labels("sub-01").sum() == 4 * 5 * 4
    assert (store.cohort, store.grid, store.contrasts, store.subjects) == (*NAMES, ("T1w", "T2w"), ["sub-01"])


def test_norm_none_keeps_values_and_precision(tmp_path: Path) -> None:
    cohort = Cohort(layout="bids", contrasts=("T1w",), norm="none", foreground="all")
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    save(tmp_path / "raw/sub-01/anat/sub-01_T1w.nii.gz", values)
    preprocess(cohort, Grid(SHAPE, 2.0), NAMES, tmp_path / "raw", split_of("sub-01"), tmp_path / "out")
    np.testing.assert_array_equal(Store(tmp_path / "out").volume("sub-01")[0], values)


def test_only_listed_subjects_are_stored_and_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    for i, name in enumerate(("sub-01", "sub-02", "sub-03")):
        write_subject(tmp_path / "raw", name, i)
    prints = []
    for listed in (("sub-01", "sub-02"), ("sub-01", "sub-03"), ("sub-01", "sub-02")):
        out = tmp_path / f"out{len(prints)}"
        preprocess(COHORT, GRID, NAMES, tmp_path / "raw", split_of(*listed), out)
        assert Store(out).subjects == list(listed)
        prints.append(Store(out).fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_the_scanner_frame_knows_the_training_side_only(tmp_path: Path) -> None:
    """A test subject moved by 9 mm must not move the frame; a training subject does."""
    grid = Grid((16, 16, 16), 3.0, frame="scanner")
    centres = []
    for moved in (None, "sub-02", "sub-01"):
        raw, out = tmp_path / f"raw-{moved}", tmp_path / f"out-{moved}"
        for i, name in enumerate(("sub-01", "sub-02")):
            folder = write_subject(raw, name, i)
            for path in folder.glob("*.nii.gz") if name == moved else ():
                image = nib.load(path)
                shifted = image.affine.copy()
                shifted[0, 3] += 9.0
                save(path, np.asarray(image.dataobj), shifted)
        split = make_split([("sub-01", "sub-01", "train"), ("sub-02", "sub-02", "test")])
        preprocess(COHORT, grid, NAMES, raw, split, out)
        centres.append(Store(out).info["centre_mm"])
    assert centres[0] == centres[1]
    np.testing.assert_allclose(np.subtract(centres[2], centres[0]), [9, 0, 0], atol=1e-2)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_scan_under_two_names_is_refused_once_all_is_stored(tmp_path: Path, labelled: bool) -> None:
    """Even where a mask lies beside one of the two only: it would be trained on and tested on."""
    cohort = replace(COHORT, labels=replace(COHORT.labels, optional=True))
    for i, name in enumerate(("sub-01", "sub-02", "sub-03")):
        folder = write_subject(tmp_path / "raw", name, i % 2)
    if not labelled:
        (folder / "sub-03_seg.nii.gz").unlink()
    arguments = cohort, GRID, NAMES, tmp_path / "raw"
    with pytest.raises(ManyInputErrors) as caught:
        preprocess(*arguments, split_of("sub-01", "sub-02", "sub-03"), tmp_path / "out")
    (error,) = caught.value.errors
    assert error.where == str(folder / "sub-03_T1w.nii.gz")
    assert error.found == "the voxels of subject sub-01 again, as subject sub-03"
    assert not (tmp_path / "out/index.tsv").exists()
    preprocess(*arguments, split_of("sub-01", "sub-02"), tmp_path / "out")
    assert Store(tmp_path / "out").subjects == ["sub-01", "sub-02"]


# Bad input: one message, the others' work stays, and a rerun goes on -------------------------------------------------


def _truncate(folder: Path) -> Path:
    path = folder / "sub-02_T2w.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return path


def _not_nifti(folder: Path) -> Path:
    (folder / "sub-02_T1w.nii.gz").write_text("scanner log")
    return folder / "sub-02_T1w.nii.gz"


def _voxel(value: float) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        path = folder / "sub-02_T1w.nii.gz"
        array = np.asarray(nib.load(path).dataobj).copy()
        array[5, 5, 5] = value
        save(path, array)
        return path

    return spoil


def _image(array: np.ndarray) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        save(folder / "sub-02_T1w.nii.gz", array)
        return folder / "sub-02_T1w.nii.gz"

    return spoil


def _missing(folder: Path) -> Path:
    (folder / "sub-02_T2w.nii.gz").unlink()
    return folder / "sub-02_T2w.nii.gz"


def _mask(shape: tuple[int, ...] = SHAPE, value: int = 1, shift_mm: float = 0.0) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        path = folder / "sub-02_seg.nii.gz"
        affine = tilted()
        affine[2, 3] += shift_mm
        save(path, np.full(shape, value, dtype=np.uint8), affine)
        return path

    return spoil


def _spacing(value: float) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        path = folder / "sub-02_T1w.nii.gz"
        data = bytearray(gzip.decompress(path.read_bytes()))
        data[80:84] = struct.pack("<f", value)  # pixdim[1]
        path.write_bytes(gzip.compress(bytes(data)))
        return path

    return spoil


def _two_poses(folder: Path) -> Path:
    path = folder / "sub-02_T1w.nii.gz"
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    image.set_sform(tilted(), code=1)
    image.set_qform(tilted(angle=0.4), code=1)
    nib.save(image, path)
    return path


BAD = {
    "truncated": (_truncate, "unreadable file", "a complete NIfTI volume"),
    "non-nifti": (_not_nifti, "unreadable file", "a complete NIfTI volume"),
    "nan": (_voxel(np.nan), "1 NaN or infinite voxels", "finite voxels only"),
    "infinite": (_voxel(np.inf), "1 NaN or infinite voxels", "finite voxels only"),
    "4d": (_image(np.ones((*SHAPE, 2), np.float32)), "4 dimensions (20, 24, 18, 2)", "3 dimensions"),
    "missing modality": (_missing, "no such file", "contrast T2w of sub-02"),
    "mask shape": (_mask(shape=(20, 24, 17)), "a mask of shape (20, 24, 17)", "(20, 24, 18) as sub-02_T1w.nii.gz"),
    "mask affine": (_mask(shift_mm=2.0), "a mask with affine", "as sub-02_T1w.nii.gz"),
    "label": (_mask(value=9), "label values [9.0]", "only [0, 1]"),
    "zero spacing": (_spacing(0.0), "voxel spacing [0.0, 2.0, 2.0] mm", "positive, finite spacing"),
    "negative spacing": (_spacing(-2.0), "voxel spacing [-2.0, 2.0, 2.0] mm", "positive, finite spacing"),
    "two poses": (_two_poses, "that disagree", "one pose"),
    "zeros": (_image(np.zeros(SHAPE, np.float32)), "only zeros", "an image"),
    "whole head": (_image(5 + 90 * ellipsoid().astype(np.float32)), "100.0% non-zero voxels", "a skull-stripped volume"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_subject_costs_the_others_nothing(tmp_path: Path, case: str) -> None:
    """One message with file, found, expected; the good subjects are stored; after mending only the bad one is made."""
    spoil, found, expected = BAD[case]
    names = ("sub-01", "sub-02", "sub-03")
    folders = [write_subject(tmp_path / "raw", name, i) for i, name in enumerate(names)]
    bad = spoil(folders[1])
    arguments = (COHORT, GRID, NAMES, tmp_path / "raw", split_of(*names), tmp_path / "out")
    with pytest.raises(ManyInputErrors) as caught:
        preprocess(*arguments)
    (error,) = caught.value.errors
    assert error.where == str(bad)
    assert found in error.found
    assert expected in error.expected
    assert str(caught.value).count(str(bad)) == 1
    assert "finished work of 2 other subject(s) is kept" in str(caught.value)
    assert not (tmp_path / "out/dataset.json").exists()

    volumes = tmp_path / "out/volumes"
    kept = {p: p.stat().st_mtime_ns for p in volumes.iterdir()}
    assert {p.name.split("_")[0].split(".")[0] for p in kept} == {"sub-01", "sub-03"}
    write_subject(tmp_path / "raw", "sub-02", 1)
    preprocess(*arguments)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert Store(tmp_path / "out").subjects == list(names)


def test_every_bad_subject_is_reported_at_once(tmp_path: Path) -> None:
    names = ("sub-01", "sub-02", "sub-03")
    folders = [write_subject(tmp_path / "raw", name) for name in names]
    (folders[0] / "sub-01_T2w.nii.gz").unlink()
    _image(np.zeros(SHAPE, np.float32))(folders[1])
    with pytest.raises(ManyInputErrors) as caught:
        preprocess(COHORT, GRID, NAMES, tmp_path / "raw", split_of(*names), tmp_path / "out")
    assert [Path(e.where).name for e in caught.value.errors] == ["sub-01_T2w.nii.gz", "sub-02_T1w.nii.gz"]
    assert str(caught.value).startswith("2 input(s) could not be used; the finished work of 1 other subject(s)")


def test_a_changed_source_is_made_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    names = ("sub-01", "sub-02")
    folders = [write_subject(tmp_path / "raw", name, i) for i, name in enumerate(names)]
    arguments = (COHORT, GRID, NAMES, tmp_path / "raw", split_of(*names), tmp_path / "out")
    preprocess(*arguments)
    store = Store(tmp_path / "out")
    before = {n: (tmp_path / f"out/volumes/{n}.npy").stat().st_mtime_ns for n in names}
    first = store.fingerprint
    _voxel(500.0)(folders[1])
    preprocess(*arguments)
    after = {n: (tmp_path / f"out/volumes/{n}.npy").stat().st_mtime_ns for n in names}
    assert after["sub-01"] == before["sub-01"]
    assert after["sub-02"] > before["sub-02"]
    assert Store(tmp_path / "out").fingerprint != first


def test_the_command_line_prints_one_error_and_no_traceback(tmp_path: Path, monkeypatch, capsys) -> None:
    entry = json.dumps({"layout": "bids", "contrasts": ["T1w"]})
    argv = ["xdiff.data", "split", "--entry", entry, "--root", str(tmp_path / "absent"), "--out", str(tmp_path / "s.tsv")]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(cli.__file__, run_name="__main__")
    assert str(caught.value.code).startswith(f"error: {tmp_path / 'absent'}: found no such folder, expected a folder")
