"""A server on this machine for tests of downloads: whole files, ranges, a bucket's listing, and every way to go wrong."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import urllib.parse
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

LISTING = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'


class Web:
    """What is served and what was asked for. `faults`: one per request to come, None for a good answer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: deque[Callable[[BaseHTTPRequestHandler], None] | None] = deque()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ranges = self.if_range = True  # whether Range and If-Range are heeded
        self.mark: Callable[[bytes], dict[str, str]] = lambda body: {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        self.page = 1000  # entries of one page of a listing
        self.url = ""

    def find(self, path: str) -> bytes | None:
        address = urllib.parse.urlparse(path)
        query = dict(urllib.parse.parse_qsl(address.query))
        if query.get("list-type") == "2":
            return self.listing(address.path, query)
        return self.files.get(urllib.parse.unquote(address.path))

    def listing(self, bucket: str, query: Mapping[str, str]) -> bytes:
        """As ListObjectsV2 answers: keys in order, an opaque token where there are more."""
        names = sorted(name.removeprefix(f"{bucket}/") for name in self.files if name.startswith(f"{bucket}/{query['prefix']}"))
        start = int(query.get("continuation-token", "token-0").removeprefix("token-"))
        entries = []
        for name in names[start : start + self.page]:
            body = self.files[f"{bucket}/{name}"]
            etag = f"&quot;{hashlib.md5(body).hexdigest()}&quot;"
            entries.append(f"<Contents><Key>{escape(name)}</Key><ETag>{etag}</ETag><Size>{len(body)}</Size></Contents>")
        more = start + self.page < len(names)
        token = f"<NextContinuationToken>token-{start + self.page}</NextContinuationToken>" if more else ""
        return LISTING.format(f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(entries)}").encode()


class Handler(BaseHTTPRequestHandler):
    web: Web

    def do_GET(self) -> None:
        self.web.asked.append((self.path, dict(self.headers)))
        fault = self.web.faults.popleft() if self.web.faults else None
        if fault:
            fault(self)
        elif (body := self.web.find(self.path)) is None:
            answer(self, 404, b"not here", {"Content-Type": "text/plain"})
        else:
            answer(self, *self.part_of(body))

    def part_of(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        mark = self.web.mark(body)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = not self.web.if_range or self.headers.get("If-Range", "") in ("", *mark.values())
        if not (wanted and self.web.ranges and same):
            return 200, body, mark
        start = int(wanted[1])
        if start >= len(body):
            return 416, b"<html>range</html>", {"Content-Type": "text/html", "Content-Range": f"bytes */{len(body)}"}
        return 206, body[start:], {**mark, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}

    def log_message(self, *args: object) -> None:
        pass


def answer(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str], sent: int | None = None
) -> None:
    """All of an answer or, where `sent` is given, only so many bytes of a body that is announced whole."""
    handler.send_response(status)
    for key, value in {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body[:sent])


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: answer(handler, code, b"no", {k.replace("_", "-"): v for k, v in headers.items()})


def dies_after(n: int) -> Callable[[Handler], None]:
    """A connection that is closed after n bytes of what was asked for."""
    return lambda handler: answer(handler, *handler.part_of(handler.web.find(handler.path)), n)


def page(body: bytes, kind: str = "text/html; charset=utf-8") -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: answer(handler, 200, body, {"Content-Type": kind})


@contextmanager
def serving(wrap: Callable | None = None) -> Iterator[Web]:
    """A running server; `wrap` makes its socket one of TLS."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"web": web}))
    if wrap:
        server.socket = wrap(server.socket)
    web.url = f"{'https' if wrap else 'http'}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tar_of(members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    """A tar archive of files, in the given order; a TarInfo stands for itself."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(content, tarfile.TarInfo):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return packed.getvalue()


def zip_of(members: Mapping[str | zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
