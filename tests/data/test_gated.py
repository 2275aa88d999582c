"""Sets given on application: BraTS 2023 through a stand-in for Synapse's client, and what is said without credentials."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from routes import COHORTS, brats, files_below, refused, synapse

from xdiff.config import Cohort
from xdiff.data.card import RECORD
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.download import CARD, FILES, download


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """BraTS 2023 as its preset says, but for the numbers; a stand-in for Synapse's client on the PATH."""
    monkeypatch.setenv("PATH", f"{synapse(tmp_path, sys.executable)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "good-token")
    part = dataclasses.replace(COHORTS["brats"].download.parts[0], size_mb=0)
    route = dataclasses.replace(COHORTS["brats"].download, parts=(part,), expect={"BraTS-GLI-*/*-seg.nii.gz": 2})
    return dataclasses.replace(COHORTS["brats"], download=route)


@contextlib.contextmanager
def typed(text: bytes) -> Iterator[None]:
    """Something to read on the standard input of this process and of those that it starts."""
    kept, (end, start) = os.dup(0), os.pipe()
    os.write(start, text)
    os.close(start)
    os.dup2(end, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(end)


def test_brats_comes_through_synapses_client(gated: Cohort, tmp_path: Path) -> None:
    root = tmp_path / "data" / "brats"
    with typed(b"a password\n"):
        download(gated, root)
    assert files_below(root) == {name.split("/", 1)[1]: body for name, body in brats().items()}
    subject = read_subject(find_subjects(gated, root)[1], gated)
    assert (
        subject.name == "BraTS-GLI-00001-000"
        and subject.images.shape == (4, 10, 12, 8)
        and set(subject.labels.ravel()) == {0, 1, 2, 3}
    )
    assert (tmp_path / "log").read_text() == "syn51514132\n"
    assert "good-token" not in "".join(p.read_text() for p in (root / RECORD, root / CARD, root / FILES))


def test_without_credentials_one_message_says_what_to_do(gated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNAPSE_AUTH_TOKEN")
    message = str(refused(gated, tmp_path / "data" / "brats"))
    for part in (
        "https://www.synapse.org/#!Synapse:syn51156910",
        "set SYNAPSE_AUTH_TOKEN",
        f"{tmp_path}/data/brats/BraTS-GLI-00503-000",
    ):
        assert part in message
    assert not (tmp_path / "data").exists() and not (tmp_path / "log").exists()  # nothing else was tried


@pytest.mark.parametrize("fault", ["bad token", "no access"])
def test_credentials_that_do_not_serve_lead_to_the_same_page(
    gated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    if fault == "bad token":
        monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "old-token")
    else:
        shutil.move(tmp_path / "store/syn51514132", tmp_path / "elsewhere")
    error = refused(gated, tmp_path / "data" / "brats")
    assert error.where == "syn51514132" and "status 1" in error.found
    assert "syn51156910" in error.expected and "SYNAPSE_AUTH_TOKEN" in error.expected and "old-token" not in str(error)
    assert ("401" if fault == "bad token" else "403") in capfd.readouterr().err


def test_a_missing_client_is_named(gated: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "store"))
    assert "pipx install synapseclient" in refused(gated, tmp_path / "data" / "brats").expected


def test_a_download_from_synapse_is_not_repeated_for_a_damaged_disk(gated: Cohort, tmp_path: Path) -> None:
    """Unpacking fails once; the archive is there, and the second run starts with it."""
    usage = namedtuple("usage", "total used free")
    with pytest.MonkeyPatch.context() as patch:
        answers = iter([10**9, 10**9, 0])
        patch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, next(answers)))
        assert "unpacking ASNR" in str(refused(gated, tmp_path / "data" / "brats"))
    download(gated, tmp_path / "data" / "brats")
    assert (tmp_path / "log").read_text() == "syn51514132\n"


def test_the_card_of_a_gated_set_names_its_gate(gated: Cohort, tmp_path: Path) -> None:
    download(gated, tmp_path / "data" / "brats")
    card = (tmp_path / "data" / "brats" / CARD).read_text()
    assert "| gate | on application at https://www.synapse.org/#!Synapse:syn51156910 |" in card and "no redistribution" in card
    assert "- 2 subjects of 2 patients" in card and "- labels: 2 maps" in card and "none to compare with" in card
