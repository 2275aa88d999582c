"""Every public route from its preset's own entry to subjects that can be read: real layouts on a server here, tiny volumes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from routes import COHORTS, IXI, files_below, ixi, msd, nifti, openneuro, refused, served
from web import Web, dies_after, md5, page, serving, status, tar_of, zip_of

from xdiff.config import Cohort, Download, Remote
from xdiff.data import __main__ as data_main
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.download import CARD, FILES, RECORD, download
from xdiff.errors import InputError
from xdiff.plain import from_dict, to_json

REAL = {
    "msd-brats": ["https://msd-for-monai.s3-us-west-2.amazonaws.com/Task01_BrainTumour.tar 240a19d752f0d9e9101544901065d872"],
    "openneuro-ds002748": ["https://s3.amazonaws.com/openneuro.org/ds002748/ "],
    "ixi-t1": ["http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI-T1.tar 34901a0593b41dd19c1a1f746eac2d58"],
    "ixi-t2-pd": [
        "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI-T2.tar e3140d78730ecdd32ba92da48c0a9aaa",
        "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/IXI-PD.tar 88ecd9d1fa33cb4a2278183b42ffd749",
    ],
    "brats": ["syn51514132 "],
}


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serving() as running:
        yield running


def test_the_presets_name_the_published_addresses_and_sums() -> None:
    found = {name: [f"{part.url} {part.md5}" for part in cohort.download.parts] for name, cohort in COHORTS.items()}
    assert found == REAL


# Routes -----------------------------------------------------------------------------------------------------------


def test_msd_gives_the_task_folder_without_what_macos_added(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "msd-brats", imagesTr=3, labelsTr=3, imagesTs=1)
    download(cohort, tmp_path / "msd-brats")
    wanted = {name.removeprefix("Task01_BrainTumour/"): body for name, body in msd().items() if "/" in name and "._" not in name}
    assert files_below(tmp_path / "msd-brats") == wanted
    assert [p.name for p in tmp_path.iterdir()] == ["msd-brats"]


def test_openneuro_gives_the_t1w_volumes_of_the_bucket_in_bids_form(web: Web, tmp_path: Path) -> None:
    cohort, web.page = served(web, "openneuro-ds002748", T1w=4), 3  # 15 keys: five pages
    root = tmp_path / "openneuro-ds002748"
    download(cohort, root)
    wanted = {
        k: v for k, v in openneuro().items() if k.endswith("_T1w.nii.gz") or k in ("participants.tsv", "dataset_description.json")
    }
    assert files_below(root) == wanted
    subjects = find_subjects(cohort, root)
    assert [files.subject for files in subjects] == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert read_subject(subjects[0], cohort).images.shape == (1, 12, 14, 10)
    assert not [path for path, _ in web.asked if "func" in path.split("?")[0]]


def test_ixi_t1_gets_bids_names_and_its_table_keeps_the_old_ones(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    download(cohort, tmp_path / "ixi-t1")
    subjects = find_subjects(cohort, tmp_path / "ixi-t1")
    assert [files.subject for files in subjects] == [f"sub-{name.split('-')[0]}" for name in IXI]
    assert subjects[0].images["T1w"].read_bytes() == ixi("T1")["IXI002-Guys-0828-T1.nii.gz"]
    assert read_subject(subjects[0], cohort).images.shape == (1, 12, 14, 10)
    rows = [line.split("\t") for line in (tmp_path / "ixi-t1" / FILES).read_text().splitlines()]
    size = str(len(ixi("T1")["IXI002-Guys-0828-T1.nii.gz"]))
    assert rows[:2] == [["path", "source", "size"], ["sub-IXI002/anat/sub-IXI002_T1w.nii.gz", "IXI002-Guys-0828-T1.nii.gz", size]]


def test_ixi_t2_and_pd_come_from_two_archives_into_one_cohort(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t2-pd")
    download(cohort, tmp_path / "ixi-t2-pd")
    subjects = find_subjects(cohort, tmp_path / "ixi-t2-pd")
    assert len(subjects) == len(IXI) and read_subject(subjects[1], cohort).images.shape == (2, 12, 14, 10)
    assert subjects[1].images["PDw"].read_bytes() == ixi("PD")["IXI012-HH-1211-PD.nii.gz"]


# What is there already --------------------------------------------------------------------------------------------


def test_a_folder_of_the_users_is_never_touched(web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = served(web, "ixi-t1")
    (tmp_path / "ixi-t1").mkdir()
    (tmp_path / "ixi-t1/mine.txt").write_text("mine")
    download(cohort, tmp_path / "ixi-t1", tmp_path / "done.json")
    assert [p.name for p in (tmp_path / "ixi-t1").iterdir()] == ["mine.txt"] and web.asked == []
    assert json.loads((tmp_path / "done.json").read_text()) == {"folder": str(tmp_path / "ixi-t1"), "by_xdiff": False}
    assert "left as it is" in capsys.readouterr().out


def test_a_finished_download_is_not_repeated(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    download(cohort, tmp_path / "ixi-t1")
    before = files_below(tmp_path / "ixi-t1")
    web.asked.clear()
    download(cohort, tmp_path / "ixi-t1", tmp_path / "done.json")
    assert files_below(tmp_path / "ixi-t1") == before and web.asked == []
    assert json.loads((tmp_path / "done.json").read_text())["by_xdiff"] is True


def test_an_empty_folder_is_filled(web: Web, tmp_path: Path) -> None:
    (tmp_path / "ixi-t1").mkdir()
    download(served(web, "ixi-t1"), tmp_path / "ixi-t1")
    assert (tmp_path / "ixi-t1/sub-IXI002").is_dir()


def test_two_at_once_do_not_mix(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    (tmp_path / "ixi-t1.partial").mkdir()
    with FileLock(tmp_path / "ixi-t1.partial/.lock"):
        assert "another download at work" in refused(cohort, tmp_path / "ixi-t1").found
    download(cohort, tmp_path / "ixi-t1")


# Interrupted ------------------------------------------------------------------------------------------------------


def test_the_second_archive_fails_and_the_first_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t2-pd")
    web.faults += [None, status(404)]
    assert "IXI-PD.tar" in refused(cohort, tmp_path / "ixi").where
    assert len(list((tmp_path / "ixi.partial/files").glob("sub-*/anat/*_T2w.nii.gz"))) == len(IXI)
    web.asked.clear()
    download(cohort, tmp_path / "ixi")
    assert [Path(path).name for path, _ in web.asked] == ["IXI-PD.tar"]
    assert len((tmp_path / "ixi" / FILES).read_text().splitlines()) == 1 + 2 * len(IXI)


def test_an_archive_that_could_not_be_unpacked_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        answers = iter([10**9, 10**9, 0])  # for the entry's size, the transfer, the unpacking
        patch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, next(answers)))
        assert "unpacking IXI-T1.tar" in refused(cohort, tmp_path / "ixi").expected
    web.asked.clear()
    download(cohort, tmp_path / "ixi")
    assert web.asked == [] and len(find_subjects(cohort, tmp_path / "ixi")) == len(IXI)


def test_an_archive_goes_on_where_the_server_died(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "msd-brats")
    path = next(iter(web.files))
    web.files[path] = tar_of({**msd(), "Task01_BrainTumour/imagesTr/BRATS_009.nii.gz": nifti(60, 70, 50, 4)})
    route = dataclasses.replace(cohort.download, parts=(Remote(web.url + path, md5(web.files[path])),))
    cohort = dataclasses.replace(cohort, download=route)
    web.faults += [dies_after(300_000), status(403)]
    assert "access refused" in refused(cohort, tmp_path / "msd").found
    web.asked.clear()
    download(cohort, tmp_path / "msd")
    assert (tmp_path / "msd/imagesTr/BRATS_009.nii.gz").exists() and web.asked[0][1]["Range"].startswith("bytes=")


def test_files_of_a_bucket_that_are_here_are_not_fetched_again(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "openneuro-ds002748", T1w=4)
    web.faults += [None, None, None, status(403)]
    refused(cohort, tmp_path / "ds")
    web.asked.clear()
    download(cohort, tmp_path / "ds")
    assert len([path for path, _ in web.asked if "?" not in path]) == 4  # of six, two were here


def test_another_route_does_not_mix_with_what_an_earlier_one_left(web: Web, tmp_path: Path) -> None:
    web.faults += [None, status(404)]
    refused(served(web, "ixi-t2-pd"), tmp_path / "ixi")
    download(served(web, "ixi-t1"), tmp_path / "ixi")
    assert {name[-10:] for name in files_below(tmp_path / "ixi")} == {"T1w.nii.gz"}


# Bad answers ------------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_unpacks_nothing(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    web.files = {path: tar_of({**ixi("T1"), "IXI999-HH-0001-T1.nii.gz": b"x"}) for path in web.files}
    assert "md5" in refused(cohort, tmp_path / "ixi").found
    assert not list((tmp_path / "ixi.partial/files").iterdir())


def test_an_archive_without_a_sum_that_is_cut_on_the_server_is_told(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    part = dataclasses.replace(cohort.download.parts[0], md5="")
    cohort = dataclasses.replace(cohort, download=dataclasses.replace(cohort.download, parts=(part,)))
    web.files = {path: body[: len(body) // 2] for path, body in web.files.items()}
    assert "a damaged archive" in refused(cohort, tmp_path / "ixi").found


def test_another_number_of_files_than_published_is_told(web: Web, tmp_path: Path) -> None:
    error = refused(served(web, "openneuro-ds002748", T1w=72), tmp_path / "ds")
    assert error.found == "4 files sub-*/anat/*_T1w.nii.gz" and error.expected.startswith("72")


def test_a_page_in_place_of_a_listing_is_told(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "openneuro-ds002748")
    web.faults += [page(b"<html><title>Sign in</title></html>")]
    assert "HTML page titled 'Sign in'" in refused(cohort, tmp_path / "ds").found
    web.faults += [page(b"{}", "application/json")]
    assert "no listing" in refused(cohort, tmp_path / "ds").found


def test_keys_of_a_bucket_cannot_lead_out_of_the_folder(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "openneuro-ds002748")
    web.files["/openneuro.org/ds002748/sub-01/anat/../../../../escaped_T1w.nii.gz"] = b"x"
    assert "relative names" in refused(cohort, tmp_path / "data/ds").expected
    assert not list(tmp_path.rglob("*escaped*"))


def test_an_object_that_is_not_what_the_listing_says_is_told(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "openneuro-ds002748")
    key = "/openneuro.org/ds002748/sub-02/anat/sub-02_T1w.nii.gz"
    web.faults += [None, None, None, None, page(bytes(len(web.files[key])), "application/gzip")]
    assert "sub-02_T1w" in refused(cohort, tmp_path / "ds").where
    assert not (tmp_path / "ds.partial/files/sub-02").exists()


def test_no_room_for_what_the_entry_announces(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    part = dataclasses.replace(cohort.download.parts[0], size_mb=10**9)
    cohort = dataclasses.replace(cohort, download=dataclasses.replace(cohort.download, parts=(part,)))
    assert "1000000.00 GB for the download" in refused(cohort, tmp_path / "ixi").expected and web.asked == []


def test_a_place_that_cannot_be_written_to_is_told(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a place that can be written to"):
        download(served(web, "ixi-t1"), tmp_path / "file" / "ixi")


# Entry, record, card ----------------------------------------------------------------------------------------------

ROUTE = {"kind": "http", "parts": [{"url": "https://example.org/a.tar"}], "licence": "CC0", "citation": "none"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"kind": "ftp"}, "'ftp'"),
        ({"parts": []}, "an empty list"),
        ({"place": {"(": "x"}}, "'('"),
        ({"token_variable": "TOKEN"}, "token_variable TOKEN"),
        ({"kind": "synapse"}, "no token_variable"),
        ({"kind": "s3"}, ""),
    ],
)
def test_a_wrong_route_is_refused_when_the_configuration_is_read(tmp_path: Path, change: dict, found: str) -> None:
    with pytest.raises(InputError) as caught:
        route = from_dict(Download, {**ROUTE, **change})
        download(Cohort("bids", ("T1w",), download=route), tmp_path / "a")  # a bucket without a prefix
    assert found in caught.value.found and "download" in caught.value.where


def test_card_and_record_say_what_was_done_and_what_was_not(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "openneuro-ds002748", T1w=4)
    download(cohort, tmp_path / "ds")
    record = json.loads((tmp_path / "ds" / RECORD).read_text())
    assert record["files"] == 6 and record["bytes"] == sum(map(len, files_below(tmp_path / "ds").values()))
    card = (tmp_path / "ds" / CARD).read_text()
    for part in (
        "# ds\n",
        "| licence | CC0 |",
        "10.1155/2021/8846097",
        "| gate | none |",
        "- 4 subjects of 4 patients",
        "- T1w: 4 volumes",
    ):
        assert part in card
    assert "number of files sub-*/anat/*_T1w.nii.gz: 4, as expected" in card and "was not tried when it was written" in card


def test_the_card_of_a_folder_that_the_user_brought_claims_nothing(web: Web, tmp_path: Path) -> None:
    cohort = served(web, "ixi-t1")
    path = tmp_path / "ixi-t1/sub-1/anat/sub-1_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(nifti(4, 4, 4))
    arguments = ["--entry", to_json(cohort), "--root", str(tmp_path / "ixi-t1"), "--out", str(tmp_path / "card.md")]
    data_main.main(["card", *arguments])
    card = (tmp_path / "card.md").read_text()
    assert "- 1 subjects of 1 patients" in card and "Not downloaded by xdiff" in card and "as published" not in card


def test_the_verb_takes_an_entry_and_a_folder(web: Web, tmp_path: Path) -> None:
    data_main.main(["download", "--entry", to_json(served(web, "ixi-t1")), "--root", str(tmp_path / "ixi-t1")])
    assert len(find_subjects(COHORTS["ixi-t1"], tmp_path / "ixi-t1")) == len(IXI)


def test_zip_archives_come_over_http_too(web: Web, tmp_path: Path) -> None:
    web.files["/a.zip"] = zip_of({"sub-1/anat/sub-1_T1w.nii.gz": nifti(6, 6, 6)})
    route = from_dict(Download, {**ROUTE, "parts": [{"url": f"{web.url}/a.zip?version=2"}]})
    download(Cohort("bids", ("T1w",), download=route), tmp_path / "a")
    assert len(find_subjects(Cohort("bids", ("T1w",)), tmp_path / "a")) == 1
