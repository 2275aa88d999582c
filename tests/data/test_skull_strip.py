"""Whole heads stripped by another program, a stand-in with its options and file names; deepbet itself where it is installed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from xdiff.config import Cohort, Labels
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.skull_strip import BRAIN_ML, skull_strip
from xdiff.errors import InputError, ManyInputErrors
from xdiff.volumes import read_volume, write_volume

COHORT = Cohort("bids", ("T1w", "FLAIR"), labels=Labels("seg", {1: "WT"}, optional=True), skull_strip="hd-bet")
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
AFFINE[:3, 3] = (80, 90, -70)
# options as in HD_BET/entry_point.py 2.0.1 and deepbet/ui/cli.py 1.0.2: unknown ones end the program
PROGRAM = """#!{python}
import argparse, glob, os, sys
import nibabel as nib, numpy as np
p = argparse.ArgumentParser()
p.add_argument("-i", "--input", required=True); p.add_argument("-o", "--output")
if os.path.basename(sys.argv[0]) == "hd-bet":
    p.add_argument("-device", default="cuda"); p.add_argument("--disable_tta", action="store_true")
    p.add_argument("--save_bet_mask", action="store_true"); p.add_argument("--no_bet_image", action="store_true")
    a = p.parse_args(); folder, end = a.output, "_bet.nii.gz"
    assert a.save_bet_mask and (a.device == "cpu") == a.disable_tta
else:
    p.add_argument("-m", "--mask_output"); p.add_argument("--no_gpu", action="store_true")
    a = p.parse_args(); folder, end = a.mask_output, ".nii.gz"
    assert os.path.isdir(a.output) and os.path.isdir(folder)
open({calls!r}, "a").write(" ".join(os.path.basename(f) for f in sorted(glob.glob(a.input + "/*"))) + "\\n")
for f in sorted(glob.glob(a.input + "/*.nii.gz")):
    image = nib.load(f)
    data = image.get_fdata()
    if data.max() > 990:
        print("Traceback: CUDA out of memory"); sys.exit(3)
    if data.max() > 890:
        continue
    mask = (data > (500 if data.max() < 800 else 750)).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), folder + "/" + os.path.basename(f)[:-7] + end)
"""


def head(top: float) -> np.ndarray:
    """Brain of 600 (or whatever the top is) in a skull of 100 under a scalp of 400, noise about it; 4 mm voxels, 1,200 ml."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (40, 44, 36)), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    tissue = np.select([radius < 0.82, radius < 0.9, radius < 1.0], [600, 100, 400], 0)
    image = tissue + np.random.default_rng(0).uniform(1, 9, tissue.shape)
    image[20, 22, 18] = top
    return image.astype(np.float32)


def write(root: Path, i: int, top: float = 700) -> Path:
    stem = f"sub-{i:02d}/anat/sub-{i:02d}"
    for suffix, scale in (("T1w", 1.0), ("FLAIR", 2.0)):
        write_volume(root / f"{stem}_{suffix}.nii.gz", head(top) * scale, AFFINE)
    return root / f"{stem}_T1w.nii.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three whole heads of two contrasts, one of them with a mask, and a participants.tsv."""
    root = tmp_path / "heads"
    for i in range(3):
        write(root, i)
    labels = np.zeros((40, 44, 36), np.uint8)
    labels[18:22, 18:22, 18:22] = 1
    write_volume(root / "sub-01/anat/sub-01_seg.nii.gz", labels, AFFINE)
    (root / "participants.tsv").write_text("participant_id\nsub-00\nsub-01\nsub-02\n")
    return root


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The stand-ins first on PATH; gives the files that each call was given."""
    record = tmp_path / "calls"
    for name in ("hd-bet", "deepbet-cli"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM.format(python=sys.executable, calls=str(record)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return lambda: record.read_text().splitlines() if record.exists() else []


def state(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("tool", ["hd-bet", "deepbet"])
def test_every_contrast_is_stripped_and_the_originals_stay(root: Path, tmp_path: Path, calls, tool: str) -> None:
    before, cohort = state(root), replace(COHORT, skull_strip=tool)
    skull_strip(cohort, root, tmp_path / "out")
    assert state(root) == before
    assert len(calls()) == 1
    for files in find_subjects(cohort, tmp_path / "out"):
        subject = read_subject(files, cohort)  # which refuses a whole head
        whole = np.stack([read_volume(root / p.relative_to(tmp_path / "out")).array for p in files.images.values()])
        brain = whole[0] > 500
        np.testing.assert_array_equal(subject.images, np.where(brain, whole, 0))
        assert (subject.labels is not None) == (files.subject == "sub-01")
    with pytest.raises(InputError, match="a whole head"):
        read_subject(find_subjects(cohort, root)[0], cohort)
    assert not (tmp_path / "out/.skull_strip").exists()


def test_only_what_is_new_or_changed_is_stripped_again(root: Path, tmp_path: Path, calls) -> None:
    out = tmp_path / "out"
    skull_strip(COHORT, root, out)
    skull_strip(COHORT, root, out)
    assert len(calls()) == 1
    write(root, 1, top=710)
    skull_strip(COHORT, root, out)
    assert [len(call.split()) for call in calls()] == [3, 1]
    assert read_volume(out / "sub-01/anat/sub-01_T1w.nii.gz").array.max() == 710


def test_one_bad_subject_does_not_take_the_others_along(root: Path, tmp_path: Path, calls) -> None:
    no_mask, tiny = write(root, 0, top=900), write(root, 2, top=850)
    with pytest.raises(ManyInputErrors) as caught:
        skull_strip(COHORT, root, tmp_path / "out")
    found = {error.where: error.found for error in caught.value.errors}
    assert found[str(no_mask)] == "no brain mask (the tool gave none)"
    assert found[str(tiny)] == "a brain mask of 0 ml"
    assert BRAIN_ML[0] > 0
    assert (tmp_path / "out/sub-01/anat/sub-01_T1w.nii.gz").exists()
    assert not (tmp_path / "out/sub-00").exists()
    write(root, 0)
    write(root, 2)
    skull_strip(COHORT, root, tmp_path / "out")
    assert [len(call.split()) for call in calls()] == [3, 2]


def test_a_program_that_fails_is_quoted(root: Path, tmp_path: Path, calls) -> None:
    write(root, 0, top=1000)
    with pytest.raises(InputError, match="hd-bet: found exit status 3: .*CUDA out of memory"):
        skull_strip(COHORT, root, tmp_path / "out")


def test_a_program_that_is_not_installed_is_named_with_its_extra(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"deepbet-cli: found no such program.*xdiff\[skull-strip\]"):
        skull_strip(replace(COHORT, skull_strip="deepbet"), root, tmp_path / "out")


@pytest.mark.parametrize("change", [{"foreground": "otsu"}, {"layout": "phantom-brain"}, {"skull_strip": "scissors"}])
def test_an_entry_that_contradicts_itself(change: dict) -> None:
    with pytest.raises(InputError, match="skull_strip"):
        replace(COHORT, **change)


DATA = Path(os.environ.get("XDIFF_DATA_ROOT", REPOSITORY.parent / "shared" / "data")) / "tcga-lgg"


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(shutil.which("deepbet-cli") is None, reason="deepbet is not installed (extra skull-strip)")
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_deepbet_itself_on_three_real_heads(tmp_path: Path) -> None:
    """FLAIR of tumour patients, which it was not made for; a brain must come out that the whole-head rule accepts."""
    for subject in sorted(DATA.glob("sub-*"))[:3]:
        shutil.copytree(subject, tmp_path / "heads" / subject.name)
    cohort = Cohort("bids", ("FLAIR",), labels=Labels("FLAIR_mask", {1: "WT"}), skull_strip="deepbet")
    skull_strip(cohort, tmp_path / "heads", tmp_path / "out")
    for files in find_subjects(cohort, tmp_path / "out"):
        subject = read_subject(files, cohort)
        assert (subject.foreground[subject.labels > 0]).mean() > 0.9
