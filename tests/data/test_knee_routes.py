"""Knees by the routes of their preset, from a server here: mridata.org's files, and fastMRI's archives by mailed links."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import PRESETS, REPOSITORY
from hdf5_files import coils, knee, kspace_of, phantom, write_fastmri, write_kspace
from routes import refused
from web import Web, dies_after, page, serving, status, tar_of

from xdiff.config import Cohort, Remote, load_config
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.download import CARD, FILES, RECORD, download

COHORTS = load_config([REPOSITORY / "config.yaml", PRESETS / "knee.yaml"]).cohorts
IDS = ("52c2fd53-d233-4444-8bfd-7c454240d314", "b65b9167-a0d0-4295-9dd5-74641b3dd7e6")
ARCHIVE = "knee_multicoil_val.tar.xz"
SECRET = "AWSAccessKeyId=AKIAEXAMPLE&Signature=a%2Bb%2Fc%3D&Expires=1751847184"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serving() as running:
        yield running


def test_the_preset_names_the_published_addresses() -> None:
    parts = [part.url for part in COHORTS["mridata-knee"].download.parts]
    address = r"https://mridata\.org/download/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert len(set(parts)) == 20 and all(re.fullmatch(address, url) for url in parts)
    archives = [part.url for part in COHORTS["fastmri-knee"].download.parts]
    assert archives == [*(f"knee_multicoil_train_batch_{i}.tar.xz" for i in range(5)), ARCHIVE]


# mridata.org ------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(web: Web, tmp_path: Path) -> Cohort:
    """The preset's entry with two of its files, small."""
    for i, name in enumerate(IDS):
        path = write_kspace(tmp_path / "made" / f"{i}.h5", kspace_of(np.roll(phantom(), i, axis=0) * coils((16, 12, 10))))
        web.files[f"/download/{name}"] = path.read_bytes()
    parts = tuple(Remote(f"{web.url}/download/{name}") for name in IDS)
    route = dataclasses.replace(COHORTS["mridata-knee"].download, parts=parts, expect={"*.h5": 2})
    return dataclasses.replace(COHORTS["mridata-knee"], download=route)


def test_files_that_are_no_archives_are_placed_by_their_ids(raw: Cohort, web: Web, tmp_path: Path) -> None:
    root = tmp_path / "data/mridata-knee"
    download(raw, root)
    subjects = find_subjects(raw, root)
    assert [files.subject for files in subjects] == list(IDS)
    assert (root / f"{IDS[0]}.h5").read_bytes() == web.files[f"/download/{IDS[0]}"]
    assert read_subject(subjects[0], raw).images.shape[0] == 1
    rows = (root / FILES).read_text().splitlines()
    assert rows[1] == f"{IDS[0]}.h5\t{IDS[0]}\t{len(web.files[f'/download/{IDS[0]}'])}"
    assert "- 2 subjects of 2 patients" in (root / CARD).read_text()


def test_an_interrupted_file_goes_on_and_a_finished_one_is_not_fetched_again(raw: Cohort, web: Web, tmp_path: Path) -> None:
    web.faults += [None, dies_after(20_000), status(403)]
    assert IDS[1] in refused(raw, tmp_path / "knee").where
    web.asked.clear()
    download(raw, tmp_path / "knee")
    assert [path for path, _ in web.asked] == [f"/download/{IDS[1]}"] and web.asked[0][1]["Range"] == "bytes=20000-"


def test_a_page_in_place_of_a_file_is_told(raw: Cohort, web: Web, tmp_path: Path) -> None:
    web.faults += [page(b"<html><title>mridata.org</title></html>")]
    assert "HTML page titled 'mridata.org'" in refused(raw, tmp_path / "knee").found


def test_a_name_that_the_entry_does_not_place_is_told(raw: Cohort, tmp_path: Path) -> None:
    route = dataclasses.replace(raw.download, place={"knee.*": "x"})
    assert refused(dataclasses.replace(raw, download=route), tmp_path / "knee").found == f"a file named {IDS[0]!r}"


# fastMRI ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mailed(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """The preset's entry with one archive of two files, and the mail with the links."""
    members = {}
    for i in range(2):
        path = write_fastmri(tmp_path / "made" / f"file{i}.h5", knee(i), patient=f"{i}" * 64)
        members[f"multicoil_val/file100000{i}.h5"] = path.read_bytes()
    web.files[f"/v2.0/{ARCHIVE}"] = tar_of(members, "w:xz")
    links = [f'curl -C - "{web.url}/v2.0/{name}?{SECRET}" --output {name}' for name in ("knee_singlecoil_val.tar.xz", ARCHIVE)]
    (tmp_path / "mail.txt").write_text("Dear all,\n\n" + "\n".join(links) + "\n")
    monkeypatch.setenv("FASTMRI_LINKS", str(tmp_path / "mail.txt"))
    route = dataclasses.replace(COHORTS["fastmri-knee"].download, parts=(Remote(ARCHIVE),), expect={"multicoil_*/*.h5": 2})
    return dataclasses.replace(COHORTS["fastmri-knee"], download=route)


def kept(folder: Path) -> str:
    """All that lies below a folder, as text."""
    return "".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_an_archive_comes_by_its_mailed_link_which_is_kept_nowhere(
    mailed: Cohort, web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data/fastmri-knee"
    download(mailed, root)
    assert [path for path, _ in web.asked] == [f"/v2.0/{ARCHIVE}?{SECRET}"]
    assert [files.subject for files in find_subjects(mailed, root)] == [
        "000000000000_ses-file1000000",
        "111111111111_ses-file1000001",
    ]
    said = kept(tmp_path / "data") + "".join(capfd.readouterr())
    assert "Signature" not in said and "AKIA" not in said and (root / RECORD).exists()
    assert "| gate | on application at https://fastmri.med.nyu.edu |" in (root / CARD).read_text()


def test_a_new_link_goes_on_where_the_old_one_ended(
    mailed: Cohort, web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    web.faults += [dies_after(1000), status(403)]
    error = refused(mailed, tmp_path / "knee")
    assert "access refused" in error.found and "mailed anew from https://fastmri.med.nyu.edu" in error.expected
    said = str(error) + kept(tmp_path / "knee.partial") + "".join(capfd.readouterr())
    assert "Signature" not in said and "AKIA" not in said
    mail = tmp_path / "mail.txt"
    mail.write_text(mail.read_text().replace("AKIAEXAMPLE", "AKIAOTHER"))
    web.asked.clear()
    download(mailed, tmp_path / "knee")
    ((path, headers),) = web.asked
    assert "AKIAOTHER" in path and headers["Range"] == "bytes=1000-"


def test_a_server_that_cannot_be_reached_betrays_no_signature(mailed: Cohort, web: Web, tmp_path: Path, capfd) -> None:
    mail = tmp_path / "mail.txt"
    mail.write_text(mail.read_text().replace(web.url, "http://localhost:1"))
    error = refused(mailed, tmp_path / "knee")
    said = str(error) + "".join(capfd.readouterr())
    assert "the connection failed" in said and "Signature" not in said and "AKIA" not in said


def test_what_is_missing_of_the_links_is_told(mailed: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mail.txt").write_text("see https://fastmri.med.nyu.edu")
    error = refused(mailed, tmp_path / "knee")
    assert error.found == f"1 links, none to {ARCHIVE}" and error.where == str(tmp_path / "mail.txt")
    monkeypatch.setenv("FASTMRI_LINKS", str(tmp_path / "nowhere"))
    error = refused(mailed, tmp_path / "knee")
    assert error.where == "FASTMRI_LINKS" and "no such file" in error.found
    monkeypatch.delenv("FASTMRI_LINKS")
    message = str(refused(mailed, tmp_path / "knee"))
    for text in ("set FASTMRI_LINKS to the path of a text file with the links", "knee/multicoil_train/file1000001.h5"):
        assert text in message
