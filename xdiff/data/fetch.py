"""One file over HTTP: continued where it stopped, tried again where that can help, checked before it is used.

The transport is requests. What it leaves open is here, because what exists serves less. Snakemake's storage plugin for http (read
at 0ee923d) asks the server for every file whenever a workflow is planned, so that nothing can be planned without a network, and
copies once, without a range, a checksum or a second try. MONAI 1.6's downloader checks the hash before it unpacks, but it fetches
into the system's temporary folder, starts anew after every drop, and takes any folder that is not empty for one it has unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from xdiff import __version__
from xdiff.errors import InputError
from xdiff.plain import write_json

CHUNK = 2**18
TIMEOUT_S = (20, 60)  # to connect, and between two pieces of an answer
PATIENCE_S = (1, 2, 4, 8, 16, 32)  # waits between tries that bring nothing new; after the last one it is an error
LONGEST_WAIT_S = 120  # of those that a server asks for
PASSING = (408, 425, 429)  # beside 5xx: what a server says when the same request may do later
PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
MEANING = {401: "access refused", 403: "access refused", 404: "no such file on the server", 410: "no such file any more"}


class Dropped(Exception):
    """What may go better the next time. wait_s: how long the server asked to wait, or 0."""

    def __init__(self, reason: str, wait_s: int = 0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Fetched:
    """What was transferred: sizes in bytes, md5 of what lies on disk, and the server's marks of that version."""

    url: str
    size: int
    md5: str
    etag: str = ""
    last_modified: str = ""


class Partial:
    """The part of a file that is here already (`NAME.part`) and which version it is part of (`NAME.part.json`)."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.record = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, url: str) -> dict:
        """url, etag, last_modified, size (-1: the server did not say); empty where there is no part of this address."""
        known = json.loads(self.record.read_text()) if self.record.exists() and self.path.exists() else {}
        return known if known.get("url") == url else {}

    def start(self, version: dict) -> None:
        """Forget what is here: a file of this version begins."""
        self.record.unlink(missing_ok=True)
        self.path.write_bytes(b"")
        write_json(self.record, version)

    def discard(self) -> None:
        self.record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def fetch(
    url: str, target: Path, md5: str = "", size: int = 0, session: requests.Session | None = None, room: float = 1.0
) -> Fetched:
    """Download `url` to `target`, going on from what an earlier run left.

    md5, size (bytes): what the file must have, where known. room: free space to ask for, in multiples of what is transferred
    (2 for an archive that is unpacked beside itself). Raises InputError on what waiting does not help (4xx, an HTML page, a full
    disk, a wrong checksum) and after PATIENCE_S; except for a wrong checksum, what has arrived is kept.
    """
    partial = Partial(target)
    session = session or new_session()
    failures, best = 0, partial.size
    while True:
        try:
            _go_on(session, url, partial, room)
            break
        except Dropped as dropped:
            # a server that starts anew and always dies at the same place makes no progress: only a new byte counts
            failures, best = (0, partial.size) if partial.size > best else (failures + 1, best)
            if failures > len(PATIENCE_S):
                kept = f"a whole file; the {partial.size} bytes that arrived are kept, and the same command goes on"
                raise InputError(url, f"{dropped} ({failures} times, nothing new)", kept) from dropped
            wait_s = min(max(PATIENCE_S[max(failures - 1, 0)], dropped.wait_s), LONGEST_WAIT_S)
            print(f"{url}: {dropped}; {partial.size} bytes are here, trying again in {wait_s} s", flush=True)
            time.sleep(wait_s)
    return _finish(url, partial, target, md5, size)


def new_session() -> requests.Session:
    """Proxies and certificates as the environment says (HTTPS_PROXY, REQUESTS_CA_BUNDLE)."""
    session = requests.Session()
    # identity: a byte range of something compressed on the way is a range of something else
    session.headers.update({"User-Agent": f"xdiff/{__version__}", "Accept-Encoding": "identity"})
    return session


@contextlib.contextmanager
def _answer(session: requests.Session, url: str, **options: object) -> Iterator[requests.Response]:
    """GET. Raises Dropped on what may pass, InputError on what will not, and on an HTML page in place of data."""
    try:
        with session.get(url, stream=True, timeout=TIMEOUT_S, **options) as response:
            _check_status(url, response)
            yield response
    except requests.exceptions.SSLError as error:
        expected = "a certificate that is trusted (REQUESTS_CA_BUNDLE names another file of authorities)"
        raise InputError(url, f"no trusted connection ({_short(error)})", expected) from error
    except PASSING_ERRORS as error:
        raise Dropped(f"the connection failed ({_short(error)})") from error
    except requests.RequestException as error:
        raise InputError(url, _short(error), "an address that can be read") from error


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status >= 500 or status in PASSING:
        asked = response.headers.get("Retry-After", "")
        raise Dropped(f"HTTP status {status}", int(asked) if asked.isdigit() else 0)
    if status not in (200, 206, 416):
        raise InputError(url, f"HTTP status {status}, {MEANING.get(status, response.reason)}", "a file, status 200")
    if status != 416 and "html" in response.headers.get("Content-Type", "").lower():
        _refuse_page(url, next(response.iter_content(CHUNK), b""))


def _refuse_page(url: str, start: bytes) -> None:
    title = re.search(rb"<title[^>]*>(.*?)</title>", start, re.IGNORECASE | re.DOTALL)
    named = f" titled {' '.join(title.group(1).decode(errors='replace').split())!r}" if title else ""
    expected = "data (is it a login page, or that of a network to sign in to?)"
    raise InputError(url, f"an HTML page{named} in place of the file", expected)


def _go_on(session: requests.Session, url: str, partial: Partial, room: float) -> None:
    """Ask for what is missing and append it, or for the whole where the server does not take up the same version."""
    known, offset = partial.version(url), partial.size
    if known and offset == known["size"]:
        return
    # If-Range: only a strong mark says that two answers are the same bytes; without one the file starts anew
    etag = known.get("etag", "")
    mark = etag if etag and not etag.startswith("W/") else known.get("last_modified")
    asked = {"Range": f"bytes={offset}-", "If-Range": mark} if mark and offset else {}
    with _answer(session, url, headers=asked) as response:
        if response.status_code == 416 or (response.status_code == 206 and not _continues(response, known, offset)):
            partial.discard()
            raise Dropped("the file on the server is another one than before, so it starts anew")
        pieces = response.raw.stream(CHUNK, decode_content=False)
        first = next(pieces, b"")
        if response.status_code == 200:
            if re.match(rb"\s*<(!doctype html|html)", first, re.IGNORECASE):
                _refuse_page(url, first)
            if offset:
                print(f"{url}: the server sends the whole file, not the rest of {offset} bytes", flush=True)
            known, offset = _version(url, response), 0
        rest = known["size"] - offset
        need_room(partial.path.parent, int(max(rest, 0) + (room - 1) * max(known["size"], 0)), url)
        with no_full_disk(partial.path.parent):
            if not offset:
                partial.start(known)
            _append(partial.path, itertools.chain([first], pieces), offset, known["size"])
    if 0 <= known["size"] != partial.size:
        raise Dropped(f"the answer ended at {partial.size} of {known['size']} bytes")


def _version(url: str, response: requests.Response) -> dict:
    length = response.headers.get("Content-Length", "")
    marks = {"etag": response.headers.get("ETag", ""), "last_modified": response.headers.get("Last-Modified", "")}
    return {"url": url, **marks, "size": int(length) if length.isdigit() else -1}


def _continues(response: requests.Response, known: dict, offset: int) -> bool:
    """Whether a partial answer is the rest of what is here; some servers heed Range and not If-Range."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    same_mark = response.headers.get("ETag", known.get("etag")) == known.get("etag")
    return bool(found and known) and int(found[1]) == offset and int(found[2]) == known["size"] and same_mark


def _append(path: Path, pieces: Iterator[bytes], offset: int, size: int) -> None:
    with path.open("ab") as handle, progress(path.name.removesuffix(".part"), size, offset) as bar:
        for piece in pieces:
            handle.write(piece)
            bar.update(len(piece))


def _finish(url: str, partial: Partial, target: Path, md5: str, size: int) -> Fetched:
    """Compare size and checksum, then give the file its name."""
    known, found_size = partial.version(url), partial.size
    found = md5_of(partial.path)
    if (size and size != found_size) or (md5 and md5 != found):
        partial.discard()
        expected = " and ".join([f"{size} bytes"] * bool(size) + [f"md5 {md5}"] * bool(md5))
        remedy = "the file is removed, and the same command fetches it anew"
        raise InputError(url, f"{found_size} bytes, md5 {found}", f"{expected}; {remedy}")
    os.replace(partial.path, target)
    partial.record.unlink()
    return Fetched(url, found_size, found, known["etag"], known["last_modified"])


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def progress(name: str, size: int, done: int = 0) -> tqdm:
    """A bar in bytes; into a log file a line now and then, on a terminal a bar that moves."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    options = {"unit": "B", "unit_scale": True, "mininterval": interval, "maxinterval": interval}
    return tqdm(desc=name, total=size if size > 0 else None, initial=done, **options)


def need_room(folder: Path, size: int, what: str) -> None:
    """Raise InputError unless `size` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(folder, f"{free / 1e9:.2f} GB free", f"{size / 1e9:.2f} GB for {what}; what is here is kept")


@contextlib.contextmanager
def no_full_disk(folder: Path) -> Iterator[None]:
    """A disk that fills up meanwhile is an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        expected = "room for what is downloaded and unpacked; what is here is kept, and the same command goes on"
        raise InputError(folder, f"no space left ({error.strerror})", expected) from error


def _short(error: Exception) -> str:
    """Its text on one line, without what may be a signature in an address."""
    return re.sub(r"\?[^\s'\")]+", "?...", " ".join(str(error).split()))[:160] or type(error).__name__
