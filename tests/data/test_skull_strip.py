"""Whole heads stripped by another program, a stand-in with its options and file names; deepbet itself where it is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from strippers import AFFINE, write_head, write_strippers

from xdiff.bench import tasks
from xdiff.config import Cohort, Config, Grid, Labels, MethodEntry, Run, Sweep, raw_folder, source_folder
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.skull_strip import BRAIN_ML, skull_strip
from xdiff.errors import InputError, ManyInputErrors
from xdiff.volumes import read_volume, write_volume

COHORT = Cohort("bids", ("T1w", "FLAIR"), labels=Labels("seg", {1: "WT"}, optional=True), skull_strip="hd-bet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three whole heads of two contrasts, one of them with a mask, and a participants.tsv."""
    root = tmp_path / "heads"
    for i in range(3):
        write_head(root, i)
    labels = np.zeros((40, 44, 36), np.uint8)
    labels[18:22, 18:22, 18:22] = 1
    write_volume(root / "sub-01/anat/sub-01_seg.nii.gz", labels, AFFINE)
    (root / "participants.tsv").write_text("participant_id\nsub-00\nsub-01\nsub-02\n")
    return root


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The stand-ins first on PATH; gives the files that each call was given."""
    monkeypatch.setenv("PATH", f"{write_strippers(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    record = tmp_path / "bin" / "calls"
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
    write_head(root, 1, top=710)
    skull_strip(COHORT, root, out)
    assert [len(call.split()) for call in calls()] == [3, 1]
    assert read_volume(out / "sub-01/anat/sub-01_T1w.nii.gz").array.max() == 710


def test_one_bad_subject_does_not_take_the_others_along(root: Path, tmp_path: Path, calls) -> None:
    no_mask, tiny = write_head(root, 0, top=900), write_head(root, 2, top=850)
    with pytest.raises(ManyInputErrors) as caught:
        skull_strip(COHORT, root, tmp_path / "out")
    found = {error.where: error.found for error in caught.value.errors}
    assert found[str(no_mask)] == "no brain mask (the tool gave none)"
    assert found[str(tiny)] == "a brain mask of 0 ml"
    assert BRAIN_ML[0] > 0
    assert (tmp_path / "out/sub-01/anat/sub-01_T1w.nii.gz").exists()
    assert not (tmp_path / "out/sub-00").exists()
    write_head(root, 0)
    write_head(root, 2)
    skull_strip(COHORT, root, tmp_path / "out")
    assert [len(call.split()) for call in calls()] == [3, 2]


def test_a_program_that_fails_is_quoted(root: Path, tmp_path: Path, calls) -> None:
    write_head(root, 0, top=1000)
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


def test_a_run_without_snakemake_strips_first(root: Path, tmp_path: Path) -> None:
    entry = replace(COHORT, labels=None)
    run = Run(("heads",), ("g",), ("m",), ("s",))
    methods = {"m": MethodEntry("baselines.interpolation", {"kind": "linear"}, min_k=2, learns=False)}
    config = Config({"heads": entry}, {"g": Grid((8, 8, 8), 4.0)}, methods, {"s": Sweep(K=(2,))}, run)
    names = [task.name for task in tasks(config, tmp_path / "out", root.parent)]
    assert names[:3] == ["skull_strip heads", "split heads", "preprocess heads g"]
    assert raw_folder(config, "heads", tmp_path / "out", root.parent) == tmp_path / "out/raw/heads"
    assert source_folder(config, "heads", root.parent) == root


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
