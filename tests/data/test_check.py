"""`xdiff check FOLDER` says what is there, names what is wrong, and its cohort entry is one that the pipeline accepts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import HEAD_AFFINE, REPOSITORY, write_heads, write_tumours
from dicom_files import write_slice
from jsonschema import Draft202012Validator

from xdiff.cli import main as xdiff
from xdiff.config import Grid, load_config
from xdiff.data import check as module
from xdiff.data.check import Findings, as_data, check
from xdiff.data.check_text import text_of
from xdiff.data.cohorts import find_subjects
from xdiff.data.preprocess import preprocess
from xdiff.data.recognise import recognise
from xdiff.data.split import split_by_rule
from xdiff.errors import InputError
from xdiff.volumes import read_volume, write_volume


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight heads in BIDS layout, two contrasts, stored as LPS, 2 mm, and a mask of values 0 to 3."""
    folder = tmp_path_factory.mktemp("check") / "my heads"
    write_heads(folder)
    write_tumours(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "my heads"))


def t1w(folder: Path, i: int, suffix: str = "T1w") -> Path:
    return folder / f"sub-{i:02d}/anat/sub-{i:02d}_{suffix}.nii.gz"


def use(findings: Findings, out: Path) -> list[str]:
    """Take the entry as a user would: schema, configuration, split and preprocessing. The subjects that were put on the grid."""
    overlay = out / "mine.yaml"
    overlay.write_text(yaml.safe_dump(as_data(findings)["config"]))
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/config.schema.yaml").read_text())
    base = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    entry = as_data(findings)["config"]["cohorts"]
    Draft202012Validator(schema).validate({**base, "cohorts": json.loads(json.dumps(entry))})
    (name,) = entry
    cohort = load_config([REPOSITORY / "config.yaml", overlay]).cohorts[name]
    root = findings.folder.parent / (cohort.root or name)
    split = split_by_rule([files.subject for files in find_subjects(cohort, root)], cohort.split)
    assert all(split.side(side) for side in ("train", "val", "test"))
    preprocess(cohort, Grid((24, 28, 22), 2.0), (name, "2mm"), root, split, out / "store")
    return sorted(split.table["subject"])


# What is there ----------------------------------------------------------------------------------------------------


def test_a_good_folder(good: Path, tmp_path: Path) -> None:
    findings = check(good)
    data = as_data(findings)
    assert (data["layout"], data["subjects"], data["patients"], data["files"]) == ("bids", 8, 8, 24)
    assert list(data["images"]) == ["T1w", "T2w"]
    for image in data["images"].values():
        assert image["subjects"] == 8
        assert image["shapes"] == {"22x26x20": 8}
        assert image["spacings_mm"] == {"2 x 2 x 2": 8}
        assert image["orientations"] == {"LPS": 8}
        assert image["dtypes"] == {"float32": 8}
        assert image["heads"] == {"skull-stripped": 8}
    top = max(read_volume(t1w(good, i)).array.max() for i in range(8))
    assert data["images"]["T1w"]["intensities"] == [0, pytest.approx(top)]
    assert (data["masks"], data["mask_values"]) == ({"seg": 8}, {"0": 8, "1": 8, "2": 8, "3": 8})
    assert (data["problems"], data["stops"]) == ([], False)
    assert data["split"] == {"train": 6, "val": 1, "test": 1}
    assert use(findings, tmp_path) == [f"sub-{i:02d}" for i in range(8)]


def test_the_page_says_it_in_words(good: Path) -> None:
    text = text_of(as_data(check(good, voxels=3)))
    for line in (
        "layout bids, 8 visits of 8 patients, 24 files",
        "headers of all, voxels of 3 subjects",
        "T1w: 8 of 8",
        "orientation  LPS x 8",
        "head         skull-stripped x 3",
        "masks: seg x 8; values in voxels: 0 x 3, 1 x 3, 2 x 3, 3 x 3",
        "problems: none",
        "root: my heads",
        f"--configfile mine.yaml --config data_root={good.parent}",
    ):
        assert line in text, line


def test_voxels_are_read_of_the_sample_alone(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(module, "read_volume", lambda path: read.append(path) or read_volume(path))
    check(good, voxels=3)
    assert sorted({path.parents[1].name for path in read}) == ["sub-00", "sub-04", "sub-07"]
    read.clear()
    findings = check(good, voxels=0)
    assert read == []
    assert as_data(findings)["images"]["T1w"]["intensities"] is None


def test_whole_heads_get_otsu(folder: Path, tmp_path: Path) -> None:
    for i in range(8):
        for suffix in ("T1w", "T2w"):
            path = t1w(folder, i, suffix)
            volume = read_volume(path)
            noise = np.random.default_rng(i).rayleigh(4, volume.shape).astype(np.float32)
            write_volume(path, volume.array + noise, volume.affine)
    findings = check(folder)
    assert as_data(findings)["images"]["T2w"]["heads"] == {"whole head": 8}
    assert findings.cohort.foreground == "otsu"
    assert not findings.stops
    assert len(use(findings, tmp_path)) == 8


def test_brats_and_its_visits(tmp_path: Path) -> None:
    for patient, visit in ((0, 0), (0, 1), (1, 0), (2, 0)):
        name = f"BraTS-GLI-{patient:05d}-{visit:03d}"
        image = np.zeros((12, 14, 10), np.float32)
        image[3:9, 3:11, 2:8] = 50 + 20 * patient + 5 * visit
        for suffix in ("t1n", "t2f"):
            write_volume(tmp_path / "brats" / name / f"{name}-{suffix}.nii.gz", image + (image > 0) * int(suffix[1]), HEAD_AFFINE)
        write_volume(tmp_path / "brats" / name / f"{name}-seg.nii.gz", (image > 0).astype(np.uint8) * 2, HEAD_AFFINE)
    findings = check(tmp_path / "brats")
    data = as_data(findings)
    assert (data["layout"], data["subjects"], data["patients"]) == ("brats", 4, 3)
    assert data["problems"] == []
    assert data["config"]["cohorts"]["brats"]["labels"]["values"] == {1: "NCR", 2: "ED", 3: "ET"}


# The other layouts ------------------------------------------------------------------------------------------------


def brain(i: int) -> np.ndarray:
    """An ellipsoid of 22 x 26 x 20 voxels with some texture."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in (22, 26, 20)), indexing="ij"))
    noise = np.random.default_rng(i).uniform(200, 400, grid.shape[1:])
    return np.where((grid**2).sum(axis=0) < 1, noise, 0).astype(np.float32)


def write_brats_2020(root: Path) -> None:
    for i in range(4):
        name = f"BraTS20_Training_{i:03d}"
        for suffix in ("t1", "t1ce", "t2", "flair"):
            write_volume(root / name / f"{name}_{suffix}.nii.gz", brain(i) * (1 + len(suffix) + suffix.count("2")), HEAD_AFFINE)
        write_volume(root / name / f"{name}_seg.nii.gz", (brain(i) > 300).astype(np.uint8) * 4, HEAD_AFFINE)


def write_msd(root: Path) -> None:
    for i in range(4):
        for part, array in (("imagesTr", np.stack([brain(i)] * 4, axis=-1)), ("labelsTr", (brain(i) > 300).astype(np.uint8) * 3)):
            (root / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, HEAD_AFFINE), root / part / f"BRATS_{i:03d}.nii.gz")


def write_tsv(root: Path) -> None:
    write_heads(root / "anywhere", 4)
    names = [(f"p{i}", *(f"anywhere/sub-{i:02d}/anat/sub-{i:02d}_{s}.nii.gz" for s in ("T1w", "T2w"))) for i in range(4)]
    (root / "subjects.tsv").write_text("\n".join("\t".join(row) for row in [("subject", "T1w", "T2w"), *names]) + "\n")


def write_dicom(root: Path) -> None:
    for i in range(4):
        for k in range(20):
            pixels, place = brain(i)[:, :, k].astype(np.int16), root / f"p{i}" / f"{k:03d}.dcm"
            more = {"spacing": (2, 2), "number": k, "series": f"1.2.{i + 1}", "patient": f"p{i}"}
            write_slice(place, pixels, (0, 0, 2.0 * k), (1, 0, 0, 0, 1, 0), **more)


@pytest.mark.parametrize(
    ("write", "layout", "contrasts"),
    [
        (write_brats_2020, "brats", ["t1c", "t1n", "t2f", "t2w"]),
        (write_msd, "msd", ["t1c", "t1n", "t2f", "t2w"]),
        (write_tsv, "tsv", ["T1w", "T2w"]),
        (write_dicom, "dicom", ["T1_MPRAGE_sag"]),
    ],
    ids=["brats2020", "msd", "tsv", "dicom"],
)
def test_the_other_layouts_are_told_and_their_entries_work(tmp_path: Path, write, layout: str, contrasts: list[str]) -> None:
    write(tmp_path / "mine")
    findings = check(tmp_path / "mine")
    data = as_data(findings)
    assert (data["layout"], list(data["images"]), data["patients"], data["problems"]) == (layout, contrasts, 4, [])
    for image in data["images"].values():
        (shape,) = image["shapes"]
        assert (image["subjects"], sorted(shape.split("x"))) == (4, ["20", "22", "26"])
        assert image["spacings_mm"] == {"2 x 2 x 2": 4}
        assert image["heads"] == {"skull-stripped": 4}
    if layout in ("brats", "msd"):
        assert findings.cohort.labels.values == {1: "NCR", 2: "ED", 3: "ET"}
        assert set(data["mask_values"]) == {"0", "3"}
    assert len(use(findings, tmp_path)) == 4


# What is wrong ----------------------------------------------------------------------------------------------------


def no_second_contrast(folder: Path) -> None:
    t1w(folder, 2, "T2w").unlink()


def cut(folder: Path) -> None:
    t1w(folder, 2, "T2w").write_bytes(t1w(folder, 2, "T2w").read_bytes()[:3000])


def empty(folder: Path) -> None:
    t1w(folder, 2, "T2w").write_bytes(b"")


def corrupt(folder: Path) -> None:
    data = bytearray(t1w(folder, 2, "T2w").read_bytes())
    data[3000:3040] = bytes(40)
    t1w(folder, 2, "T2w").write_bytes(data)


def moved(folder: Path) -> None:
    affine = HEAD_AFFINE.copy()
    affine[0, 3] += 9
    write_volume(t1w(folder, 2, "T2w"), read_volume(t1w(folder, 2, "T2w")).array, affine)


def not_a_number(folder: Path) -> None:
    volume = read_volume(t1w(folder, 2, "T2w"))
    volume.array[3, 4, 5] = np.nan
    write_volume(t1w(folder, 2, "T2w"), volume.array, volume.affine)


def zeros(folder: Path) -> None:
    volume = read_volume(t1w(folder, 2, "T2w"))
    write_volume(t1w(folder, 2, "T2w"), np.zeros_like(volume.array), volume.affine)


def whole_head(folder: Path) -> None:
    volume = read_volume(t1w(folder, 2, "T2w"))
    write_volume(t1w(folder, 2, "T2w"), volume.array + 5, volume.affine)


@pytest.mark.parametrize(
    ("damage", "found", "expected"),
    [
        (no_second_contrast, "no such file", "contrast T2w of sub-02"),
        (cut, "unreadable|truncated", "complete NIfTI volume|voxels"),
        (empty, "unreadable", "complete NIfTI volume"),
        (corrupt, "unreadable", "complete NIfTI volume"),
        (moved, "affine", r"as sub-02_T1w\.nii\.gz"),
        (not_a_number, "1 NaN or infinite", "finite"),
        (zeros, "no positive voxel", "positive intensities"),
        (whole_head, "a whole head .100.0% non-zero voxels", "skull-stripped"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_would_stop_the_pipeline_is_named_and_left_out(
    folder: Path, tmp_path: Path, damage, found: str, expected: str
) -> None:
    damage(folder)
    findings = check(folder)
    (problem,) = findings.problems
    assert problem.where == str(t1w(folder, 2, "T2w"))
    assert re.search(found, problem.found), problem.found
    assert re.search(expected, problem.expected), problem.expected
    assert findings.stops and findings.cohort.exclude == ("sub-02",)
    assert f"! {problem.where}: found" in text_of(as_data(findings))
    assert use(findings, tmp_path) == [f"sub-{i:02d}" for i in range(8) if i != 2]


def test_the_same_image_twice_is_named_and_does_not_stop(folder: Path) -> None:
    shutil.copy(t1w(folder, 1), t1w(folder, 5))
    findings = check(folder)
    (problem,) = findings.problems
    assert (problem.where, problem.found) == (str(t1w(folder, 5)), f"the same bytes as {t1w(folder, 1)}")
    assert not findings.stops


def test_a_participant_without_a_folder_is_left_out(folder: Path, tmp_path: Path) -> None:
    table = "participant_id\n" + "".join(f"sub-{i:02d}\n" for i in range(9))
    (folder / "participants.tsv").write_text(table)
    findings = check(folder)
    assert [problem.where for problem in findings.problems] == [str(folder / "participants.tsv")]
    assert findings.stops and findings.cohort.exclude == ("sub-08",)
    assert len(use(findings, tmp_path)) == 8


def test_too_few_patients(folder: Path) -> None:
    for i in range(2, 8):
        shutil.rmtree(folder / f"sub-{i:02d}")
    (problem,) = check(folder).problems
    assert (problem.found, problem.stops) == ("2 usable patient(s)", True)


def test_contrasts_that_few_have_are_not_taken_unless_named(folder: Path) -> None:
    for i in range(3, 8):
        t1w(folder, i, "T2w").unlink()
    data = as_data(check(folder))
    assert (list(data["images"]), data["other_suffixes"], data["problems"]) == (["T1w"], {"T2w": 3}, [])
    assert len(check(folder, contrasts=["T1w", "T2w"]).problems) == 5


def test_folders_that_are_none_of_the_layouts(tmp_path: Path) -> None:
    for folder, found in ((tmp_path / "absent", "no such folder"), (tmp_path, "no layout that is known .*empty")):
        with pytest.raises(InputError, match=found):
            recognise(folder)
    with pytest.raises(InputError, match="--layout: found 'nrrd', expected auto or one of bids, brats"):
        recognise(tmp_path, "nrrd")


def test_status_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record = tmp_path / "findings.json"
    xdiff(["check", str(folder), "--json", str(record)])
    assert json.loads(record.read_text())["subjects"] == 8
    empty(folder)
    with pytest.raises(SystemExit) as caught:
        xdiff(["check", str(folder), "--json", str(record)])
    assert caught.value.code == 1
    assert [p["subject"] for p in json.loads(record.read_text())["problems"]] == ["sub-02"]
    assert "problems: 1" in capsys.readouterr().out
