"""What a user gets wrong: keys, names, folders, one bad file among good ones. One clear message each, and no lost work."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PRESETS, REPOSITORY, job_counts, snakemake, write_heads

from xdiff.config import load_config
from xdiff.data.split import split_by_count
from xdiff.data.store import Store
from xdiff.errors import InputError

HEADS = """
cohorts:
  heads:
    layout: bids
    contrasts: [T1w]
    source: https://example.org/heads (CC0)
    split: {n_val: 1, n_test: 1}
grids:
  small: {shape: [14, 16, 12], spacing_mm: 4.0}
run:
  cohorts: [heads]
  grids: [small]
  methods: [linear]
  sweeps: [slices]
"""

MISTAKES = {
    "top-level key": ("swweps: {}", "swweps"),
    "key of an entry": ("methods: {xdiff: {parms: {steps: 3}}}", "parms"),
    "method in run": ("run: {methods: [xdifusion]}", "xdifusion"),
    "type": ("grids: {'24': {spacing_mm: wide}}", "wide"),
    "choice": ("sweeps: {slices: {policy: [unform]}}", "unform"),
}


@pytest.mark.parametrize(("overlay", "named"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_in_the_configuration_is_named(overlay: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(overlay)
    with pytest.raises(InputError) as refused:
        load_config([REPOSITORY / "config.yaml", PRESETS / "smoke.yaml", path])
    assert named in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("mistake", ["key of an entry", "method in run"])
def test_snakemake_names_the_same_mistake_and_starts_nothing(mistake: str, tmp_path: Path) -> None:
    overlay, named = MISTAKES[mistake]
    (tmp_path / "overlay.yaml").write_text(overlay)
    refused = snakemake(tmp_path, "--configfile", PRESETS / "smoke.yaml", tmp_path / "overlay.yaml", "--", "all")
    assert refused.returncode != 0 and named in refused.stdout
    assert "Traceback" not in refused.stdout and not (tmp_path / "results").exists()


def test_missing_cohort_folder_names_folder_source_and_remedy(tmp_path: Path) -> None:
    overlay = tmp_path / "heads.yaml"
    overlay.write_text(HEADS)
    arguments = ["--configfile", overlay, "--config", f"data_root={tmp_path / 'nowhere'}", "--", "data"]
    failed = snakemake(tmp_path, *arguments)
    assert failed.returncode != 0
    log = (tmp_path / "results/logs/split/heads.log").read_text()
    assert "results/logs/split/heads.log" in failed.stdout
    for part in (str(tmp_path / "nowhere/heads"), "https://example.org/heads (CC0)", "data_root", "XDIFF_DATA_ROOT"):
        assert part in log
    assert "Traceback" not in log


def test_one_bad_subject_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    overlay = tmp_path / "heads.yaml"
    overlay.write_text(HEADS)
    write_heads(tmp_path / "data/heads", n=5)
    bad = tmp_path / "data/heads/sub-02/anat/sub-02_T1w.nii.gz"
    good = nib.load(bad)
    broken = np.asarray(good.dataobj).copy()
    broken[10:12, 10, 10] = np.nan
    nib.save(nib.Nifti1Image(broken, good.affine), bad)
    arguments = ["--configfile", overlay, "--config", f"data_root={tmp_path / 'data'}", "--", "data"]

    assert snakemake(tmp_path, *arguments).returncode != 0
    log = (tmp_path / "results/logs/preprocess/heads/small.log").read_text()
    assert f"{bad}: found 2 NaN or infinite voxels" in log and "4 other subject(s) is kept" in log
    assert log.count(".nii.gz") == 1 and "Traceback" not in log
    volumes = tmp_path / "results/data/heads/small/volumes"
    kept = {p.name: p.stat().st_mtime_ns for p in volumes.glob("sub-*")}
    assert {name[:6] for name in kept} == {"sub-00", "sub-01", "sub-03", "sub-04"}
    assert not (volumes.parent / "dataset.json").exists()

    nib.save(good.__class__(np.nan_to_num(broken), good.affine), bad)
    mended = snakemake(tmp_path, *arguments)
    assert mended.returncode == 0, mended.stdout[-2000:]
    after = {p.name: p.stat().st_mtime_ns for p in volumes.glob("sub-*")}
    assert {name: after[name] for name in kept} == kept
    assert {name[:6] for name in set(after) - set(kept)} == {"sub-02"}


def test_a_bad_subject_keeps_no_shard_from_its_good_ones(tmp_path: Path) -> None:
    """In frame `scanner`, whose grid all training subjects place: the bad one is the test subject."""
    overlay = tmp_path / "heads.yaml"
    overlay.write_text(HEADS.replace("4.0}", "4.0, frame: scanner}") + "  data_shards: 2\n")
    write_heads(tmp_path / "data/heads", n=5)
    names = {p.name for p in (tmp_path / "data/heads").iterdir()}
    (bad,) = split_by_count(sorted(names), 0, 1, 1).side("test")
    path = tmp_path / f"data/heads/{bad}/anat/{bad}_T1w.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    arguments = ["--configfile", overlay, "--config", f"data_root={tmp_path / 'data'}", "--", "data"]

    assert snakemake(tmp_path, *arguments).returncode != 0
    folder, logs = tmp_path / "results/data/heads/small", tmp_path / "results/logs"
    log = (logs / "preprocess/heads/small.log").read_text()
    assert f"{path}: found" in log and "unreadable file" in log and "4 other subject(s) is kept" in log
    assert {p.stem for p in (folder / "volumes").glob("*.json")} == names - {bad}
    assert {p.name for p in (folder / "shards").iterdir()} == {
        f"{s}-{i}-of-2.done" for s in ("centres", "volumes") for i in (1, 2)
    }
    kept = {p: p.stat().st_mtime_ns for p in (folder / "volumes").iterdir()}

    path.write_bytes(whole)
    mended = snakemake(tmp_path, *arguments)
    assert mended.returncode == 0, mended.stdout[-2000:]
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert job_counts(mended.stdout) == {"data": 1, "preprocess": 1, "total": 2}
    assert set(Store(folder).subjects) == names
