"""Unpacking what somebody else has packed: everything is looked at before the first byte is written.

Python's own filter "data" (tarfile, PEP 706) refuses devices and what leaves the folder. It makes absolute names relative, lets
links inside the folder through, and knows no limits of size and nothing of zip files. Archives of MRI hold regular files: all
else is refused here.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from xdiff.data.fetch import CHUNK, need_room, no_full_disk, progress
from xdiff.errors import InputError

MAX_FILES = 200_000
MAX_NAME = 240  # bytes of a part of a path: systems take 255, and files have a longer name until they are whole
MAX_RATIO = 20  # unpacked to packed; volumes inside are compressed already, plain ones shrink to a tenth
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
BLOCK = 512  # of a tar file, which ends with blocks of zeros
MAX_PADDING = 2**20  # and more of them than files have bytes, where it is small


class Member(NamedTuple):
    """A regular file in an archive: its name there and its size in bytes unpacked."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


class Placed(NamedTuple):
    """A file below the cohort's folder, what it was called where it came from, and its size in bytes."""

    path: str
    source: str
    size: int


def unpack(archive: Path, out: Path, place: Mapping[str, str]) -> list[Placed]:
    """Put the files of a tar or zip archive below `out`, where `place` says (see `placed`).

    A file that is there whole from an interrupted run is kept. Raises InputError on a damaged archive, on names that lead
    elsewhere, links, devices, two files for one place, more than MAX_FILES files or MAX_RATIO times the archive's size: before
    anything is written, except for damage within a file of a zip archive.
    """
    with _members(archive) as members:
        listed = _listed(archive, members, place)
        missing = [(path, member) for path, member in listed if not _is_whole(out / path, member.size)]
        need_room(out, sum(member.size for _, member in missing), f"unpacking {archive.name}")
        with no_full_disk(out), progress(f"unpacking {archive.name}", sum(m.size for _, m in missing)) as bar:
            for path, member in missing:
                _write(archive, member, out / path)
                bar.update(member.size)
    return [Placed(path, member.name, member.size) for path, member in listed]


def placed(place: Mapping[str, str], name: str, where: Path | str) -> str | None:
    """The path that a name in an archive or bucket gets, relative and with forward slashes; None where it is left out.

    The first pattern of `place` that fits the whole name gives the path; an empty `place` keeps names. What macOS adds (`._*`,
    `__MACOSX`, `.DS_Store`) is left out: it would be taken for volumes. Raises InputError on a name that is not safe to write.
    """
    name = safe(name, where)
    if PurePosixPath(name).name.startswith(("._", ".DS_Store")) or name.startswith("__MACOSX/"):
        return None
    if not place:
        return name
    fits = (re.fullmatch(pattern, name) for pattern in place)
    found = next(((match, path) for match, path in zip(fits, place.values(), strict=True) if match), None)
    return found and safe(found[0].expand(found[1]), where)


def safe(name: str, where: Path | str) -> str:
    """The name without `./`; raises InputError where it would lead out of a folder, here or on another system."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    odd = re.search(r"[\x00-\x1f\\]", name) or re.match(r"[A-Za-z]:", name)
    too_long = any(len(part.encode()) > MAX_NAME for part in parts)
    if name.startswith("/") or ".." in parts or odd or too_long or not parts:
        expected = f"relative names within the archive, of {MAX_NAME} bytes at most"
        raise InputError(where, f"a file named {name[:MAX_NAME]!r}", expected)
    return "/".join(parts)


def _is_whole(path: Path, size: int) -> bool:
    """Files get their names when they are whole."""
    return path.is_file() and path.stat().st_size == size


def _listed(archive: Path, members: Iterator[Member], place: Mapping[str, str]) -> list[tuple[str, Member]]:
    """Where each file goes, with all checks that need no unpacking; one by one, so that a bomb is not listed to its end."""
    limit, total, seen = MAX_RATIO * archive.stat().st_size, 0, 0
    listed: dict[str, tuple[str, Member]] = {}
    for member in members:
        seen, total = seen + 1, total + member.size
        if seen > MAX_FILES or total > limit:
            expected = f"at most {MAX_FILES} files and {limit} bytes, {MAX_RATIO} times the archive's size"
            raise InputError(archive, f"{seen} files of {total} bytes or more", expected)
        path = placed(place, member.name, archive)
        if path is None:
            continue
        if path.lower() in listed:  # macOS and Windows take a.nii and A.nii for one file
            both = f"{listed[path.lower()][1].name!r} and {member.name!r}"
            raise InputError(archive, f"{both} for {path}", "one file for each place")
        listed[path.lower()] = (path, member)
    for path, member in listed.values():
        if any(str(parent).lower() in listed for parent in PurePosixPath(path).parents):
            raise InputError(archive, f"{member.name!r} below a file", "one file for each place")
    if not listed:
        raise InputError(archive, f"{seen} files, none to be used", f"names like {list(place)}" if place else "at least one file")
    return list(listed.values())


@contextlib.contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    """The regular files of a tar or zip archive; InputError where it is damaged or holds anything else but folders."""
    kind = zipfile.ZipFile if zipfile.is_zipfile(archive) else tarfile.open
    list_members = _zip_members if kind is zipfile.ZipFile else _tar_members
    with _whole(archive), kind(archive) as opened:
        yield list_members(opened, archive)


@contextlib.contextmanager
def _whole(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        found = f"a damaged archive ({' '.join(str(error).split())[:160]})"
        raise InputError(archive, found, "a whole tar or zip file; remove it, and the same command fetches it anew") from error


def _tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    if not hasattr(tarfile, "data_filter"):
        raise InputError("Python", "a tarfile without filters", "3.11.4 or later, which refuses archives that write elsewhere")
    for info in tar:
        if info.isdir():  # folders are made for the files in them alone
            continue
        safe(info.name, archive)
        if not info.isreg() or info.issparse():
            raise InputError(archive, f"{info.name!r}, a link, device or sparse file", "regular files and folders")
        try:
            tarfile.data_filter(info, str(archive.parent))  # a second opinion
        except tarfile.FilterError as error:
            raise InputError(archive, str(error), "regular files within the archive") from error
        yield Member(info.name, info.size, lambda info=info: tar.extractfile(info))
    # tarfile takes a file that is cut between two members for a whole one
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError("cut off: no end mark")
    # a compressed one compares its checksum at its very end only
    while tar.fileobj.read(CHUNK):
        if tar.fileobj.tell() > MAX_RATIO * archive.stat().st_size + MAX_PADDING:
            raise tarfile.ReadError("no end after the end mark")


def _zip_members(archived: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    for info in archived.infolist():
        if info.is_dir():
            continue
        safe(info.filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise InputError(archive, f"{info.filename!r}, a link, device or encrypted file", "regular files and folders")
        yield Member(info.filename, info.file_size, lambda info=info: archived.open(info))


def _write(archive: Path, member: Member, target: Path) -> None:
    """Under another name until it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with member.open() as source, temporary.open("wb") as handle:
        left = member.size
        while left and (piece := source.read(min(CHUNK, left))):
            handle.write(piece)
            left -= len(piece)
        # for zip files the checksum is compared at the end of the stream only
        if left or source.read(1):
            raise InputError(archive, f"{member.name!r} of another size than listed", f"{member.size} bytes")
    os.replace(temporary, target)
