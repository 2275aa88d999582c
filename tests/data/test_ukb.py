"""Archives of a cohort to stitched volumes that the pipeline reads: kept, made again where they must, refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from body_stations import EID, pack, psnr, stations, truth, write_archive, write_dxa, write_station

from xdiff.bench import tasks
from xdiff.config import Cohort, Config, Grid, MethodEntry, Projection, Run, Sweep, raw_folder
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.split import patient_of, split_by_fraction
from xdiff.data.ukb import stitch_cohort
from xdiff.errors import InputError, ManyInputErrors
from xdiff.forecast import planned_split
from xdiff.volumes import read_image, read_volume

COHORT = Cohort("ukb", ("water", "fat"), foreground="otsu", anatomy="body")
WITH_DXA = replace(COHORT, contrasts=("water", "fat", "dxa"), projection=Projection("dxa"))
COARSE = {"spacing_mm": 9.0, "gap_mm": 12.0, "sections": 9, "overlap": 3}
LENGTH_MM = 12.0 * (6 * 6 + 3)
NAME, SUBJECT = f"{EID}_20201_2_0.zip", f"{EID}_2_0"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits of one participant, the first with swaps and with its DXA."""
    root, work = tmp_path_factory.mktemp("ukb"), tmp_path_factory.mktemp("work")
    write_archive(root, work, **COARSE, swapped=(1, 4))
    write_archive(root, work, **COARSE, instance=3)
    write_dxa(root, work)
    return root


@pytest.fixture
def root(archives: Path, tmp_path: Path) -> Path:
    """The first visit alone, in a folder of its own."""
    folder = tmp_path / "ukb"
    folder.mkdir()
    os.link(archives / NAME, folder / NAME)
    return folder


@pytest.fixture(scope="module")
def done(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    stitch_cohort(replace(COHORT, contrasts=("water", "fat", "in", "opp")), archives, out)
    return out


def repacked(root: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The archive with other members."""
    with zipfile.ZipFile(root / NAME) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    change(members)
    (root / NAME).unlink()
    with zipfile.ZipFile(root / NAME, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, body in members.items():
            opened.writestr(name, body)


def refused(root: Path, tmp_path: Path, cohort: Cohort = COHORT) -> InputError:
    with pytest.raises(ManyInputErrors) as caught:
        stitch_cohort(cohort, root, tmp_path / "out")
    (error,) = caught.value.errors
    assert "\n" not in str(error) and error.where.startswith(str(root / NAME)), error
    assert [path.name for path in (tmp_path / "out").iterdir()] == []  # nothing half done is left
    return error


# What comes out ---------------------------------------------------------------------------------------------------


def test_volumes_of_every_contrast_the_body_and_what_was_done(done: Path, archives: Path) -> None:
    names = {"water", "fat", "in", "opp", "body", "dxa", "dxa_bone"}
    assert {p.name for p in (done / SUBJECT).iterdir()} == {
        *(f"{SUBJECT}_{name}.nii.gz" for name in names),
        f"{SUBJECT}.json",
    }
    record = json.loads((done / SUBJECT / f"{SUBJECT}.json").read_text())
    assert [row["swapped"] for row in record["stations"]] == [False, True, False, False, True, False]
    assert record["swaps_repaired"] == 2 and len(record["overlaps"]) == 5 and record["spacing_mm"] == 9
    assert record["sources"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (archives / NAME, archives / f"{EID}_20158_2_0.zip")
    }
    assert record["dxa"]["spacing_from"] == "ExposedArea"
    body = read_volume(done / SUBJECT / f"{SUBJECT}_body.nii.gz")
    assert list(body.shape) == record["shape"] and set(np.unique(body.array)) == {0, 1}


def test_the_volumes_are_the_body_that_was_cut(done: Path) -> None:
    for contrast in ("water", "fat"):
        found = read_volume(done / SUBJECT / f"{SUBJECT}_{contrast}.nii.gz")
        true = truth(found.shape, found.affine, LENGTH_MM)[contrast]
        assert psnr(found.array, true) > 30  # 31.9 and 31.6 measured; 12.9 and 11.5 with the swaps left in
        np.testing.assert_array_equal(found.array, np.rint(found.array))


def test_opposed_phase_is_not_touched_by_a_swap(done: Path) -> None:
    images = {c: read_volume(done / SUBJECT / f"{SUBJECT}_{c}.nii.gz").array for c in ("water", "fat", "opp")}
    inside = np.abs(images["water"] - images["fat"]) > 100
    off = np.abs(images["opp"] - np.abs(images["water"] - images["fat"]))[inside]
    assert np.median(off) < 10


def test_a_visit_without_dxa_says_so(done: Path) -> None:
    record = json.loads((done / f"{EID}_3_0" / f"{EID}_3_0.json").read_text())
    assert record["dxa"] is None and not list((done / f"{EID}_3_0").glob("*dxa*"))


def test_the_dxa_image_is_there_for_a_projection(done: Path) -> None:
    files = find_subjects(WITH_DXA, done)[0]
    image = read_image(files.images["dxa"])
    assert image.shape == (36, 1, 90) and image.affine[2, 2] == pytest.approx(22)


def test_the_pipeline_reads_them_and_keeps_a_participants_visits_on_one_side(done: Path) -> None:
    subjects = find_subjects(COHORT, done)
    assert [files.subject for files in subjects] == [SUBJECT, f"{EID}_3_0"]
    subject = read_subject(subjects[0], COHORT)
    assert subject.images.shape[0] == 2 and subject.foreground.any()
    assert {patient_of(files.subject) for files in subjects} == {EID} == {patient_of(f"{EID}_2_0")}
    assert patient_of(f"ukb:{EID}_3_0") == f"ukb:{EID}" and patient_of("12345678_2_0") == "12345678_2_0"
    assert len({side for _, _, side in split_by_fraction([f.subject for f in subjects], 0, 0.4, 0.4).table.values}) == 1


# Again ------------------------------------------------------------------------------------------------------------


def test_only_what_is_new_or_changed_is_stitched_again(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    record = out / SUBJECT / f"{SUBJECT}.json"
    stitch_cohort(COHORT, root, out)
    assert (
        f"{SUBJECT}: 37x25x52 voxels; fat and water swapped back in station 2, 5 (from below); no DXA" in capsys.readouterr().out
    )
    first = record.stat().st_mtime_ns
    stitch_cohort(COHORT, root, out)
    assert record.stat().st_mtime_ns == first
    stitch_cohort(replace(COHORT, stitch_spacing_mm=12.0), root, out)
    assert record.stat().st_mtime_ns > first and json.loads(record.read_text())["spacing_mm"] == 12
    assert not (out / SUBJECT / f"{SUBJECT}_opp.nii.gz").exists()


def test_a_bad_visit_does_not_take_the_others_along(root: Path, archives: Path, tmp_path: Path) -> None:
    os.link(archives / f"{EID}_20201_3_0.zip", root / f"{EID}_20201_3_0.zip")
    repacked(root, lambda members: members.pop(f"{stations(**COARSE)[0].series['water']}.4.dcm"))
    with pytest.raises(ManyInputErrors, match=r"1 input\(s\) could not be used; the finished work of 1 other"):
        stitch_cohort(COHORT, root, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{EID}_3_0"]
    stitch_cohort(replace(COHORT, exclude=(SUBJECT,)), root, tmp_path / "out")


def test_shards_share_the_visits_and_leave_errors_to_the_last_step(root: Path, archives: Path, tmp_path: Path) -> None:
    os.link(archives / f"{EID}_20201_3_0.zip", root / f"{EID}_20201_3_0.zip")
    (root / NAME).unlink()
    (root / NAME).write_bytes(b"no zip")
    assert len(stitch_cohort(COHORT, root, tmp_path / "out", "1/2")) == 1
    assert stitch_cohort(COHORT, root, tmp_path / "out", "2/2", workers=2) == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{EID}_3_0"]


# Bad archives -----------------------------------------------------------------------------------------------------


def test_a_truncated_archive(root: Path, tmp_path: Path) -> None:
    data = (root / NAME).read_bytes()
    (root / NAME).unlink()
    (root / NAME).write_bytes(data[: len(data) // 2])
    assert "a damaged archive" in refused(root, tmp_path).found


def test_an_archive_that_writes_elsewhere(root: Path, tmp_path: Path) -> None:
    repacked(root, lambda members: members.update({"../../evil.dcm": b"x"}))
    error = refused(root, tmp_path)
    assert error.found == "a file named '../../evil.dcm'" and not list(tmp_path.rglob("evil.dcm"))


def test_an_archive_that_swells(root: Path, tmp_path: Path) -> None:
    repacked(root, lambda members: members.update({"bomb.dcm": bytes(2 * 10**8)}))
    assert "20 times the archive's size" in refused(root, tmp_path).expected


def test_a_damaged_section_is_named_within_its_archive(root: Path, tmp_path: Path) -> None:
    name = f"{stations(**COARSE)[2].series['fat']}.3.dcm"
    repacked(root, lambda members: members.update({name: members[name][:-60]}))
    error = refused(root, tmp_path)
    assert error.where == f"{root / NAME}/{name}" and "beyond the end" in error.found


def test_two_participants_in_one_archive(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    for i, station in enumerate(stations(**COARSE)):
        write_station(folder, station, patient=EID if i < 5 else "7654321")
    (root / NAME).unlink()
    pack(folder, root / NAME)
    error = refused(root, tmp_path)
    assert error.found == "PatientID '7654321'" and error.where.startswith(f"{root / NAME}/1.2.826")


def test_a_missing_station_is_named_with_its_archive(root: Path, tmp_path: Path) -> None:
    gone = stations(**COARSE)[3].series.values()
    repacked(root, lambda members: [members.pop(n) for n in list(members) if n.rsplit(".", 2)[0] in gone])
    error = refused(root, tmp_path)
    assert error.where == str(root / NAME) and "5 stations with a gap of 36 mm, from 246 to 282 mm" in error.found


def test_a_dxa_archive_without_a_whole_body(root: Path, tmp_path: Path) -> None:
    write_dxa(root, tmp_path / "work", protocols=("AP Spine",))
    with pytest.raises(ManyInputErrors, match=rf"{EID}_20158_2_0.zip: found 0 grey whole-body images"):
        stitch_cohort(COHORT, root, tmp_path / "out")


def test_a_visit_without_dxa_where_it_is_a_contrast(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ManyInputErrors, match=rf"{EID}_20158_2_0\.zip: found no such file, expected beside {NAME}: dxa is a"):
        stitch_cohort(WITH_DXA, root, tmp_path / "out")


def test_no_archive_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.zip").touch()
    with pytest.raises(InputError, match=r"found no archive, expected files such as 1234567_20201_2_0\.zip"):
        stitch_cohort(COHORT, tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        stitch_cohort(COHORT, tmp_path / "nowhere", tmp_path / "out")


# The entry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"contrasts": ("T1w",)},
        {"contrasts": ("water", "dxa")},
        {"stitch_spacing_mm": -1.0},
        {"layout": "bids", "stitch_spacing_mm": 2.0},
        {"skull_strip": "hd-bet"},
    ],
)
def test_an_entry_that_contradicts_itself(change: dict) -> None:
    with pytest.raises(InputError, match=r"cohorts\.\*"):
        replace(COHORT, **change)


def test_a_run_without_snakemake_stitches_first_and_a_plan_counts_the_archives(root: Path, tmp_path: Path) -> None:
    run = Run(("ukb",), ("g",), ("m",), ("s",))
    methods = {"m": MethodEntry("baselines.interpolation", {"kind": "linear"}, min_k=2, learns=False)}
    config = Config({"ukb": COHORT}, {"g": Grid((8, 8, 8), 4.0)}, methods, {"s": Sweep(K=(2,))}, run)
    names = [task.name for task in tasks(config, tmp_path / "out", root.parent)]
    assert names[:3] == ["stitch ukb", "split ukb", "preprocess ukb g"]
    assert raw_folder(config, "ukb", tmp_path / "out", root.parent) == tmp_path / "out/raw/ukb"
    assert list(planned_split(config, "ukb", root.parent).table["subject"]) == [SUBJECT]
