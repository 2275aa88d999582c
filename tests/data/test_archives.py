"""Archives that other people packed: what may be written where, what is refused before a byte is written, what is left out."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from web import tar_of, zip_of

from xdiff.data import archives
from xdiff.data.archives import Placed, placed, safe, unpack
from xdiff.errors import InputError

NOISE = np.random.default_rng(3).bytes(40_000)
FILES = {"Task/imagesTr/a.nii.gz": NOISE, "Task/labelsTr/a.nii.gz": b"labels", "Task/dataset.json": b"{}"}


def info(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def linked_zip(name: str, target: str) -> bytes:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zip_of({member: target.encode(), "a": b"a"})


def encrypted_zip() -> bytes:
    """The flag of encryption set in both headers of a plain file."""
    packed = bytearray(zip_of({"a": b"a"}))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def saved(folder: Path, data: bytes, name: str = "archive") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(folder: Path, data: bytes, place: dict | None = None) -> str:
    """The message; nothing is written, inside or outside of the folder."""
    out = folder / "out"
    out.mkdir()
    archive = saved(folder, data)
    with pytest.raises(InputError) as caught:
        unpack(archive, out, place or {})
    assert list(out.iterdir()) == [] and sorted(p.name for p in folder.iterdir()) == ["archive", "out"]
    assert not Path("/tmp/xdiff-escaped").exists()
    return str(caught.value)


@pytest.mark.parametrize("pack", [tar_of, lambda files: tar_of(files, "w:gz"), zip_of], ids=["tar", "tar.gz", "zip"])
def test_files_come_out_as_they_went_in(tmp_path: Path, pack: Callable) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = unpack(saved(tmp_path, pack(FILES)), out, {})
    assert {p.path: (out / p.path).read_bytes() for p in found} == FILES
    assert found[0] == Placed("Task/imagesTr/a.nii.gz", "Task/imagesTr/a.nii.gz", len(NOISE))
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(out / name for name in FILES)


def test_folders_of_an_archive_are_no_matter(tmp_path: Path) -> None:
    """`tar -cf x.tar .` begins with `./`, and every name with it; a folder that leads elsewhere is not made."""
    out = tmp_path / "out"
    out.mkdir()
    folders = {name: info(name, tarfile.DIRTYPE) for name in ("./", "./Task", "../elsewhere")}
    unpack(saved(tmp_path, tar_of({**folders, "./Task/a.nii": b"a"})), out, {})
    assert (out / "Task/a.nii").read_bytes() == b"a" and sorted(p.name for p in tmp_path.iterdir()) == ["archive", "out"]


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    extra = {"._Task": b"x", "Task/imagesTr/._a.nii.gz": b"x", "__MACOSX/Task/a.nii.gz": b"x", "Task/.DS_Store": b"x"}
    found = unpack(saved(tmp_path, tar_of({**extra, **FILES})), out, {})
    assert [p.path for p in found] == list(FILES)
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(out / name for name in FILES)


def test_names_are_given_places_and_the_rest_is_left_out() -> None:
    place = {r"(IXI\d+)-[A-Za-z]+-\d+-T1\.nii\.gz": r"sub-\1/anat/sub-\1_T1w.nii.gz", r"docs/(.+)": r"\1"}
    assert placed(place, "IXI002-Guys-0828-T1.nii.gz", "x") == "sub-IXI002/anat/sub-IXI002_T1w.nii.gz"
    assert placed(place, "./docs/readme.txt", "x") == "readme.txt"
    assert placed(place, "IXI002-Guys-0828-T1.nii.gz.bak", "x") is None  # whole names only
    assert placed({}, "./a//b/./c", "x") == "a/b/c"
    with pytest.raises(InputError, match=r"\.\./up"):
        placed({r"(.+)": r"../\1"}, "up", "x")  # not even a place of our own may lead out


ESCAPES = [
    "../escaped",
    "a/../../escaped",
    "/tmp/xdiff-escaped",
    "//tmp/xdiff-escaped",
    "C:/escaped",
    "a\\..\\b",
    "a\nb",
    "",
    ".",
    "x" * 256,
]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="relative names within the archive"):
        safe(name, "archive")


@pytest.mark.parametrize("pack", [tar_of, zip_of], ids=["tar", "zip"])
@pytest.mark.parametrize("name", ["../escaped", "Task/../../escaped", "/tmp/xdiff-escaped"])
def test_an_archive_with_such_a_name_writes_nothing(tmp_path: Path, pack: Callable, name: str) -> None:
    """The bad name comes last, after good files."""
    assert repr(name) in refused(tmp_path, pack({**FILES, name: b"x"}))


@pytest.mark.parametrize(
    "member",
    [
        info("Task/link", tarfile.SYMTYPE, "/etc/passwd"),
        info("Task/link", tarfile.SYMTYPE, "dataset.json"),
        info("Task/link", tarfile.LNKTYPE, "../../outside"),
        info("Task/link", tarfile.LNKTYPE, "Task/dataset.json"),
        info("Task/device", tarfile.CHRTYPE),
        info("Task/pipe", tarfile.FIFOTYPE),
    ],
    ids=["symlink out", "symlink inside", "hard link out", "hard link inside", "device", "pipe"],
)
def test_links_and_devices_are_refused_wherever_they_lead(tmp_path: Path, member: tarfile.TarInfo) -> None:
    assert f"{member.name!r}, a link, device or sparse file" in refused(tmp_path, tar_of({**FILES, member.name: member}))


def test_a_symlink_and_a_file_through_it_write_nothing(tmp_path: Path) -> None:
    """The classic: a link to a folder outside, then a file below the link."""
    assert "'d', a link" in refused(tmp_path, tar_of({"d": info("d", tarfile.SYMTYPE, "/tmp"), "d/xdiff-escaped": b"x"}))


@pytest.mark.parametrize("data", [linked_zip("link", "/etc/passwd"), encrypted_zip()], ids=["symlink", "encrypted"])
def test_zip_files_with_links_or_passwords_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "a link, device or encrypted file" in refused(tmp_path, data)


@pytest.mark.parametrize("pack", [lambda files: tar_of(files, "w:gz"), zip_of], ids=["tar.gz", "zip"])
def test_a_decompression_bomb_is_refused_by_what_it_announces(tmp_path: Path, pack: Callable) -> None:
    bomb = pack({f"{i}.nii": bytes(2**20) for i in range(8)})
    assert len(bomb) * 20 < 8 * 2**20
    assert "20 times the archive's size" in refused(tmp_path, bomb)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 50)
    assert "51 files" in refused(tmp_path, tar_of({f"{i}": b"x" for i in range(60)}))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """A terabyte that takes a block of the archive: made by GNU tar's old header, as tarfile writes none."""
    member = tarfile.TarInfo("huge.nii")
    member.size = 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\x00%011o\x00" % (0, 512)  # one piece: offset, bytes
    header[483:495] = b"%011o\x00" % (8 * 2**30 - 1)  # size unpacked
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    assert "a link, device or sparse file" in refused(tmp_path, bytes(header) + bytes(512) + bytes(1024))


@pytest.mark.parametrize(
    "names", [("a.nii", "./a.nii"), ("a.nii", "A.nii"), ("a", "a/b")], ids=["same", "same on macOS and Windows", "below"]
)
def test_two_files_for_one_place_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    assert "one file for each place" in refused(tmp_path, tar_of(dict.fromkeys(names, b"x")))


def test_an_archive_without_a_file_of_use_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, tar_of(FILES), {r"IXI\d+.*": "x"})
    assert "3 files, none to be used" in message and r"IXI\\d+" in message


@pytest.mark.parametrize("cut", ["within a file", "between two files", "before its end mark", "within a header"])
def test_a_truncated_tar_is_told_before_anything_is_written(tmp_path: Path, cut: str) -> None:
    whole = tar_of(FILES)
    first = 512 + 40_448  # a header and 79 blocks
    at = {
        "within a file": 20_000,
        "between two files": first,
        "before its end mark": first + 4 * 512,
        "within a header": first + 99,
    }
    assert "a damaged archive" in refused(tmp_path, whole[: at[cut]])


@pytest.mark.parametrize("pack", [lambda files: tar_of(files, "w:gz"), zip_of], ids=["tar.gz", "zip"])
def test_a_truncated_compressed_archive_is_told(tmp_path: Path, pack: Callable) -> None:
    whole = pack(FILES)
    assert "a damaged archive" in refused(tmp_path, whole[: len(whole) // 2])


@pytest.mark.parametrize("data", [b"", b"not an archive", NOISE, b"<html>sign in</html>"], ids=["empty", "text", "noise", "page"])
def test_what_is_no_archive_is_told(tmp_path: Path, data: bytes) -> None:
    assert "a damaged archive" in refused(tmp_path, data)


def test_damage_within_a_zipped_file_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.nii.gz": NOISE}))
    data[20_000] ^= 1
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="a damaged archive"):
        unpack(saved(tmp_path, bytes(data)), tmp_path / "out", {})
    assert not (tmp_path / "out/a.nii.gz").exists()


def test_one_wrong_bit_of_a_compressed_tar_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """In noise, which is stored as it is: only the checksum at the end of the stream tells."""
    data = bytearray(tar_of(FILES, "w:gz"))
    data[20_000] ^= 1
    assert "a damaged archive" in refused(tmp_path, bytes(data))


def test_zeros_without_end_behind_the_end_mark_are_refused(tmp_path: Path) -> None:
    assert "no end after the end mark" in refused(tmp_path, gzip.compress(tar_of(FILES) + bytes(8 * 2**20)))


def test_an_interrupted_unpacking_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "Task/labelsTr").mkdir(parents=True)
    (out / "Task/labelsTr/a.nii.gz").write_bytes(b"kept!!")  # whole by its size: not written again
    (out / "Task/dataset.json").write_bytes(b"{")  # of another size
    unpack(saved(tmp_path, tar_of(FILES)), out, {})
    assert (out / "Task/labelsTr/a.nii.gz").read_bytes() == b"kept!!"
    assert (out / "Task/dataset.json").read_bytes() == b"{}" and (out / "Task/imagesTr/a.nii.gz").read_bytes() == NOISE


def test_room_is_asked_for_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    archive = saved(tmp_path, tar_of(FILES))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, len(NOISE)))
    with pytest.raises(InputError, match="unpacking archive"):
        unpack(archive, out, {})
    assert list(out.iterdir()) == []
    (out / "Task/imagesTr").mkdir(parents=True)
    (out / "Task/imagesTr/a.nii.gz").write_bytes(NOISE)
    unpack(archive, out, {})
    assert (out / "Task/dataset.json").read_bytes() == b"{}"


def test_unpacked_files_are_the_users_own(tmp_path: Path) -> None:
    """Owner, mode and time of the archive are not taken over: no file that is set-user-id or unreadable."""
    member = tarfile.TarInfo("a.nii")
    member.size, member.mode, member.uid = 3, 0o4000, 0
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(member, io.BytesIO(b"abc"))
    (tmp_path / "out").mkdir()
    unpack(saved(tmp_path, packed.getvalue()), tmp_path / "out", {})
    found = (tmp_path / "out/a.nii").stat()
    assert found.st_uid == os.getuid() and found.st_mode & 0o4600 == 0o600
