"""A bulk list fetched by stand-ins for UK Biobank's programs: in parallel, resumed, and with every way to go wrong."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from bulk_tools import Tools, cohort

from xdiff.config import Cohort
from xdiff.data import ukb_fetch
from xdiff.data.card import RECORD
from xdiff.data.download import CARD, FILES, download
from xdiff.data.ukb_fetch import damage
from xdiff.data.ukb_names import Bulk, find_archives, read_bulk
from xdiff.errors import InputError, ManyInputErrors

EIDS = ("1000011", "2345678", "3000033", "4000044")
NAMES = [f"{eid}_20201_2_0.zip" for eid in EIDS]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Both programs first on PATH, four archives, credentials, and waits of no length."""
    tools = Tools(tmp_path / "tools")
    tools.give(*NAMES)
    monkeypatch.setenv("PATH", f"{tools.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UKB_KEYFILE", str(tools.key))
    monkeypatch.setenv("UKB_PROJECT", "project-x")
    monkeypatch.setattr(ukb_fetch, "PATIENCE_S", (0, 0))
    return tools


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the cohort is to be; the bulk list lies beside it."""
    write_list(tmp_path / "mri.bulk", *EIDS)
    return tmp_path / "ukb"


def write_list(path: Path, *eids: str, data: str = "20201_2_0") -> None:
    path.write_text("".join(f"{eid} {data}\n" for eid in eids))


def there(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name not in (RECORD, FILES, CARD))


def refused(entry: Cohort, root: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        download(entry, root)
    assert "\n" not in str(caught.value) and not root.exists()
    return caught.value


def many(entry: Cohort, root: Path) -> dict[str, str]:
    with pytest.raises(ManyInputErrors) as caught:
        download(entry, root)
    assert not root.exists()
    return {error.where: error.found for error in caught.value.errors}


# What comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["ukbfetch", "dx"])
def test_every_file_of_the_list_comes_as_it_is(tools: Tools, root: Path, tool: str) -> None:
    download(cohort("mri.bulk", tool=tool), root)
    assert there(root) == NAMES and tools.asked() == NAMES
    for name in NAMES:
        assert (root / name).read_bytes() == (tools.folder / "store" / name).read_bytes()
    assert not root.with_name("ukb.partial").exists()
    record = json.loads((root / RECORD).read_text())
    assert record["files"] == 4 and record["parts"] == [{"url": "mri.bulk", "tool": tool, "zips": 4, "missing": {}}]
    card = (root / CARD).read_text()
    assert "- 4 visits of 4 participants" in card and f"- mri.bulk: 4 zips fetched by {tool}, the checksums" in card
    assert "0123456789abcdef" not in card + (root / RECORD).read_text() + (root / FILES).read_text()


def test_dx_is_asked_for_the_place_in_the_project(tools: Tools, root: Path) -> None:
    tools.give("2345678_20158_2_0.zip")
    write_list(root.with_name("dxa.bulk"), "2345678", data="20158_2_0")
    download(cohort("dxa.bulk", tool="dx", folder="/Bulk/Some folder/DXA"), root)
    assert there(root) == ["2345678_20158_2_0.zip"]
    write_list(root.with_name("one.bulk"), "2345678")
    download(cohort("one.bulk", tool="dx"), root.with_name("other"))
    calls = (tools.folder / "calls").read_text().splitlines()
    assert "download project-x:/Bulk/Some folder/DXA/23/2345678_20158_2_0.zip --no-progress -f" in calls[0]
    assert "download project-x:/Bulk/Whole Body MRI/Dixon/23/2345678_20201_2_0.zip --no-progress -f" in calls[1]


def test_no_more_transfers_at_once_than_allowed(tmp_path: Path, tools: Tools, root: Path, monkeypatch) -> None:
    slow = Tools(tmp_path / "slow", seconds=0.3)
    eids = [str(5000000 + i) for i in range(7)]
    slow.give(*(f"{eid}_20201_2_0.zip" for eid in eids))
    write_list(root.with_name("mri.bulk"), *eids)
    monkeypatch.setenv("PATH", f"{slow.bin}{os.pathsep}{os.environ['PATH']}")
    download(cohort("mri.bulk", parallel=3), root)
    assert len(there(root)) == 7 and slow.most_at_once() == 3


# What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "cut off in silence", "busy", "empty"])
def test_what_passes_is_tried_again(tools: Tools, root: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    tools.plan(NAMES[1], fault, fault)
    download(cohort("mri.bulk"), root)
    assert there(root) == NAMES and sorted(tools.asked()) == sorted([*NAMES, NAMES[1], NAMES[1]])
    said = {"cut": "connection reset", "cut off in silence": "no whole zip", "busy": "too many connections", "empty": "no file"}
    assert f"{NAMES[1]}: " in (out := capsys.readouterr().out) and said[fault] in out and "trying again in 0 s" in out


def test_one_file_that_never_comes_does_not_stop_the_others_and_is_fetched_alone_the_next_time(tools: Tools, root: Path) -> None:
    tools.plan(NAMES[1], *["cut"] * 3)
    errors = many(cohort("mri.bulk"), root)
    assert list(errors) == [NAMES[1]] and "exit status 1: Error: connection reset by peer" in errors[NAMES[1]]
    tools.asked()
    download(cohort("mri.bulk"), root)
    assert tools.asked() == [NAMES[1]] and there(root) == NAMES


@pytest.mark.parametrize("step", ["withdrawn", "gone"])
def test_what_uk_biobank_does_not_give_is_listed_with_its_reason(
    tools: Tools, root: Path, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.plan(NAMES[2], step)
    if step == "gone":
        (tools.folder / "store" / NAMES[2]).unlink()
    download(cohort("mri.bulk"), root)
    assert there(root) == [name for name in NAMES if name != NAMES[2]] and tools.asked().count(NAMES[2]) == 1
    reason = "withdrawn consent" if step == "withdrawn" else "no data found"
    missing = json.loads((root / RECORD).read_text())["parts"][0]["missing"]
    assert list(missing) == [NAMES[2]] and reason in missing[NAMES[2]]
    assert f"{NAMES[2]}: not given by UK Biobank (exit status 1: Error: " in capsys.readouterr().out
    assert f"- not given by UK Biobank: {NAMES[2]} (" in (root / CARD).read_text()


def test_a_list_of_which_nothing_is_given(tools: Tools, root: Path) -> None:
    for name in NAMES:
        tools.plan(name, "withdrawn")
    assert refused(cohort("mri.bulk"), root).found == "4 files, none of them given"


@pytest.mark.parametrize("tool", ["ukbfetch", "dx"])
def test_credentials_that_do_not_serve_stop_at_once(tools: Tools, root: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    write_list(root.with_name("mri.bulk"), *(str(6000000 + i) for i in range(20)))
    tools.key.write_text("999\nwrong\n")
    monkeypatch.setenv("UKB_PROJECT", "project-y")
    error = refused(cohort("mri.bulk", tool=tool), root)
    assert error.where == tool and "uthentication" in error.found and "https://www.ukbiobank.ac.uk/apply" in error.expected
    assert 3 <= len(tools.asked()) < 10
    assert "wrong" not in str(error)


def test_one_file_without_access_is_listed_where_others_come(tools: Tools, root: Path) -> None:
    tools.plan(NAMES[3], "denied")
    assert "exit status 1: Error: permission denied" in many(cohort("mri.bulk"), root)[NAMES[3]]
    assert tools.asked() == NAMES


def test_without_credentials_one_message_says_what_to_do(tools: Tools, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UKB_KEYFILE")
    message = str(refused(cohort("mri.bulk"), root))
    for part in ("apply for access at https://www.ukbiobank.ac.uk/apply", "set UKB_KEYFILE to the path of your key file"):
        assert part in message
    monkeypatch.delenv("UKB_PROJECT")
    assert "set UKB_PROJECT to your project" in str(refused(cohort("mri.bulk", tool="dx"), root))
    assert tools.asked() == [] and not root.with_name("ukb.partial").exists()


def test_a_key_file_that_is_not_there_is_named(tools: Tools, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UKB_KEYFILE", "/nowhere/.ukbkey")
    assert refused(cohort("mri.bulk"), root).found == "'/nowhere/.ukbkey', no such file"


@pytest.mark.parametrize("tool", ["ukbfetch", "dx"])
def test_a_missing_program_is_named(tools: Tools, root: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    monkeypatch.setenv("PATH", str(root))
    error = refused(cohort("mri.bulk", tool=tool), root)
    assert (error.where, error.found) == (tool, "no such program") and "on PATH" in error.expected


def test_a_field_without_a_known_folder_needs_one(tools: Tools, root: Path) -> None:
    write_list(root.with_name("dxa.bulk"), "2345678", data="20158_2_0")
    assert refused(cohort("dxa.bulk", tool="dx"), root).found == "no `folder` for field 20158"


# Lists and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000011 20201_2_0\n\n1000011 20201_3_0\n1000011 20201_2_0\n", "line 4: found 1000011_20201_2_0.zip, as in line 1"),
        ("1000011,20201_2_0\n", "line 1: found '1000011,20201_2_0', expected a line such as `1234567 20201_2_0`"),
        ("1000011 ../../etc\n", "line 1: found '1000011 ../../etc'"),
        ("-5 20201_2_0\n", "line 1: found '-5 20201_2_0'"),
        ("\n", "found no line"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.bulk").write_text(text)
    with pytest.raises(InputError) as caught:
        read_bulk(tmp_path / "x.bulk")
    assert message in str(caught.value)


def test_a_list_that_is_not_there(tools: Tools, root: Path) -> None:
    assert refused(cohort("other.bulk"), root).found == "no such file"


def test_archives_are_found_by_their_names(tmp_path: Path) -> None:
    for name in (
        "1000011_20201_3_0.zip",
        "1000011_20201_2_0.zip",
        "1000011_20158_2_0.zip",
        "notes.zip",
        "1000011_20201_2_0.zip.part",
    ):
        (tmp_path / name).touch()
    assert find_archives(tmp_path) == [Bulk("1000011", "20201", "2", "0"), Bulk("1000011", "20201", "3", "0")]
    assert find_archives(tmp_path)[0].subject == "1000011_2_0"


def test_a_zip_is_whole_when_every_checksum_is_right(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a.dcm", b"abc" * 1000)
    assert damage(path) == "" and damage(tmp_path / "y.zip") == "no file"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    assert damage(path) == "a damaged member a.dcm"
    path.write_bytes(data[:-30])
    assert "bytes that are no whole zip" in damage(path)


@pytest.mark.parametrize("change", [{"tool": "wget"}, {"tool": ""}, {"parallel": 11}, {"token_variable": ""}, {"kind": "http"}])
def test_an_entry_that_contradicts_itself(change: dict) -> None:
    with pytest.raises(InputError, match=r"download"):
        replace(cohort("mri.bulk").download, **change)
