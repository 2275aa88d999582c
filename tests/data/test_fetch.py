"""One file over HTTP against a server on this machine: resumed, tried again, refused, and never spliced from two versions."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from web import Handler, Web, dies_after, md5, page, serving, status

from xdiff.data import fetch as fetching
from xdiff.data.fetch import fetch
from xdiff.errors import InputError

BODY = np.random.default_rng(5).bytes(3 * 2**20 + 17)
OTHER = np.random.default_rng(6).bytes(len(BODY))
HALF = 2**20 + 2**19
PORTAL = b"<!DOCTYPE html><html><head><title>Sign in to\n the guest network</title></head></html>"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as running:
        running.files["/big.tar"] = BODY
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, which are not waited."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def refused(web: Web, target: Path, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(f"{web.url}/big.tar", target, **options)
    assert not target.exists() and "\n" not in str(caught.value)
    return caught.value


def asked_from(web: Web) -> list[str]:
    """The Range of every request, `` where there was none."""
    return [headers.get("Range", "") for _, headers in web.asked]


def interrupt(web: Web, target: Path, after: int = HALF) -> None:
    """What a killed process leaves behind: a part and the record of its version, by the code under test."""
    web.faults += [dies_after(after), *[status(404)]]
    refused(web, target)
    assert 0 < target.with_name("big.tar.part").stat().st_size <= after
    web.asked.clear()


def test_a_file_arrives_whole_with_its_marks(web: Web, tmp_path: Path) -> None:
    done = fetch(f"{web.url}/big.tar", tmp_path / "big.tar", md5=md5(BODY), size=len(BODY))
    assert (tmp_path / "big.tar").read_bytes() == BODY
    assert (done.size, done.md5, done.etag) == (len(BODY), md5(BODY), f'"{md5(BODY)}"')
    assert [p.name for p in tmp_path.iterdir()] == ["big.tar"]
    assert web.asked[0][1]["Accept-Encoding"] == "identity"


def test_a_server_that_dies_in_the_middle_is_asked_for_the_rest(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults += [dies_after(2**20), dies_after(2**20)]
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in asked_from(web)[1:]]
    assert len(starts) == 2 and 2**19 < starts[0] <= 2**20 < starts[1] <= 2**21
    assert waits == [1, 1]  # each try brought something new


def test_a_later_run_goes_on_where_an_earlier_one_stopped(web: Web, tmp_path: Path, waits: list[float]) -> None:
    interrupt(web, tmp_path / "big.tar")
    here = (tmp_path / "big.tar.part").stat().st_size
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar", md5=md5(BODY))
    assert (tmp_path / "big.tar").read_bytes() == BODY
    assert asked_from(web) == [f"bytes={here}-"] and web.asked[0][1]["If-Range"] == f'"{md5(BODY)}"'


def test_a_killed_process_is_taken_up_by_the_next(web: Web, tmp_path: Path) -> None:
    """SIGKILL while the server keeps a connection open without a word, as the real thing does."""
    stuck = dies_after(2**20)
    web.faults += [lambda handler: (stuck(handler), handler.wfile.flush(), time.sleep(30))]
    code = "import sys; from pathlib import Path; from xdiff.data.fetch import fetch; fetch(sys.argv[1], Path(sys.argv[2]))"
    arguments = [sys.executable, "-c", code, f"{web.url}/big.tar", tmp_path / "big.tar"]
    child = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    part = tmp_path / "big.tar.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 2**18):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    here = part.stat().st_size
    web.asked.clear()
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar", md5=md5(BODY))
    assert (tmp_path / "big.tar").read_bytes() == BODY and asked_from(web) == [f"bytes={here}-"]


@pytest.mark.parametrize("mark", ["etag", "last modified"])
@pytest.mark.parametrize("if_range", [True, False], ids=["heeded", "not heeded"])
def test_a_file_that_changed_on_the_server_is_not_spliced(
    web: Web, tmp_path: Path, waits: list[float], mark: str, if_range: bool
) -> None:
    """Of the same size, so that only its mark tells; of another where the server gives no ETag and does not heed If-Range."""
    new = OTHER
    if mark == "last modified":
        web.mark = lambda body: {
            "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT" if body is BODY else "Tue, 02 Jan 2024 00:00:00 GMT"
        }
        new = OTHER if if_range else OTHER[:-1]
    interrupt(web, tmp_path / "big.tar")
    web.files["/big.tar"], web.if_range = new, if_range
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == new


@pytest.mark.parametrize("mark", [{}, {"ETag": 'W/"weak"'}], ids=["none", "weak"])
def test_without_a_mark_that_tells_versions_apart_a_file_starts_anew(
    web: Web, tmp_path: Path, waits: list[float], mark: dict
) -> None:
    web.mark = lambda body: mark
    interrupt(web, tmp_path / "big.tar")
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and asked_from(web) == [""]


def test_a_server_without_ranges_starts_anew(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.ranges = False
    interrupt(web, tmp_path / "big.tar")
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and asked_from(web)[0].startswith("bytes=") and len(web.asked) == 1


def test_a_part_of_another_address_is_not_taken_up(web: Web, tmp_path: Path, waits: list[float]) -> None:
    interrupt(web, tmp_path / "big.tar")
    web.files["/mirror/big.tar"] = OTHER
    fetch(f"{web.url}/mirror/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == OTHER and asked_from(web) == [""]


def test_an_answer_of_unknown_length_that_ends_early_is_not_the_end(web: Web, tmp_path: Path, waits: list[float]) -> None:
    """The rest of a file, its length told by Content-Range alone: nothing in the transport itself says that it was cut."""
    interrupt(web, tmp_path / "big.tar")
    here = (tmp_path / "big.tar.part").stat().st_size

    def cut(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {here}-{len(BODY) - 1}/{len(BODY)}")
        handler.end_headers()
        handler.wfile.write(BODY[here : here + 1000])

    web.faults += [cut]
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and asked_from(web) == [f"bytes={here}-", f"bytes={here + 1000}-"]


def test_a_part_longer_than_the_file_starts_anew(web: Web, tmp_path: Path, waits: list[float]) -> None:
    interrupt(web, tmp_path / "big.tar")
    (tmp_path / "big.tar.part").write_bytes(BODY + b"more")
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY


def test_a_part_that_is_whole_is_not_asked_for_again(web: Web, tmp_path: Path, waits: list[float]) -> None:
    interrupt(web, tmp_path / "big.tar")
    (tmp_path / "big.tar.part").write_bytes(BODY)
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and web.asked == []


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_passing_fault_is_waited_for_ever_longer(web: Web, tmp_path: Path, waits: list[float], code: int) -> None:
    web.faults += [status(code)] * 3
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and waits == [1, 2, 4]


def test_a_server_may_ask_for_a_longer_wait_up_to_a_limit(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults += [status(503, Retry_After="77"), status(503, Retry_After="99999"), status(503, Retry_After="Wed, 21 Oct 2026")]
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert waits == [77, 120, 4]


def test_a_lasting_fault_ends_after_seven_tries_and_keeps_what_is_here(web: Web, tmp_path: Path, waits: list[float]) -> None:
    web.faults += [dies_after(HALF), *[status(500)] * 7]
    error = refused(web, tmp_path / "big.tar")
    here = (tmp_path / "big.tar.part").stat().st_size
    assert f"HTTP status 500 (7 times, nothing new), expected a whole file; the {here} bytes that arrived are kept" in str(error)
    assert waits == [1, 1, 2, 4, 8, 16, 32] and here > 2**20


def test_dying_at_the_same_place_for_ever_ends(web: Web, tmp_path: Path, waits: list[float]) -> None:
    """A server without ranges sends the same beginning again and again: bytes, but none that is new."""
    web.ranges = False
    web.faults += [dies_after(HALF)] * 50
    assert "the connection failed" in str(refused(web, tmp_path / "big.tar"))
    assert len(web.asked) == 8


def test_nobody_answers(tmp_path: Path, waits: list[float]) -> None:
    with serving() as web:
        pass
    assert "the connection failed" in str(refused(web, tmp_path / "big.tar")) and len(waits) == 6


@pytest.mark.parametrize(
    ("code", "words"), [(403, "access refused"), (404, "no such file"), (410, "no such file"), (418, "teapot")]
)
def test_what_waiting_does_not_help_is_not_tried_again(
    web: Web, tmp_path: Path, waits: list[float], code: int, words: str
) -> None:
    web.faults += [status(code)]
    error = refused(web, tmp_path / "big.tar")
    assert error.where == f"{web.url}/big.tar" and f"HTTP status {code}" in error.found and words in error.found.lower()
    assert len(web.asked) == 1 and waits == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"], ids=["by type", "by content"])
def test_an_html_page_is_named_and_costs_nothing_that_is_here(web: Web, tmp_path: Path, waits: list[float], kind: str) -> None:
    interrupt(web, tmp_path / "big.tar")
    before = (tmp_path / "big.tar.part").read_bytes()
    web.faults += [page(PORTAL, kind)]
    error = refused(web, tmp_path / "big.tar")
    assert "an HTML page titled 'Sign in to the guest network' in place of the file" in error.found and "login" in error.expected
    assert (tmp_path / "big.tar.part").read_bytes() == before and len(web.asked) == 1
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY


def test_a_wrong_checksum_is_named_and_the_next_run_starts_anew(web: Web, tmp_path: Path) -> None:
    web.files["/big.tar"] = OTHER
    error = refused(web, tmp_path / "big.tar", md5=md5(BODY))
    assert md5(OTHER) in error.found and md5(BODY) in error.expected and "removed" in error.expected
    assert list(tmp_path.iterdir()) == []
    web.files["/big.tar"] = BODY
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar", md5=md5(BODY))
    assert (tmp_path / "big.tar").read_bytes() == BODY


def test_a_file_that_is_cut_on_the_server_is_told_by_its_size(web: Web, tmp_path: Path) -> None:
    web.files["/big.tar"] = BODY[:HALF]
    error = refused(web, tmp_path / "big.tar", size=len(BODY))
    assert f"{HALF} bytes" in error.found and f"{len(BODY)} bytes" in error.expected


def test_a_disk_without_room_is_told_before_a_byte_is_written(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, int(1.5 * len(BODY))))
    error = refused(web, tmp_path / "big.tar", room=2)  # room for the archive, none to unpack it
    assert "0.00 GB free" in error.found and "0.01 GB" in error.expected and list(tmp_path.iterdir()) == []
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar", room=1)
    assert (tmp_path / "big.tar").read_bytes() == BODY


def test_a_disk_that_fills_up_meanwhile_keeps_what_is_here(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetching._append

    def fills_up(path: Path, pieces: Iterator[bytes], offset: int, size: int) -> None:
        real(path, iter([next(pieces), next(pieces), next(pieces)]), offset, size)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_append", fills_up)
        assert "no space left" in refused(web, tmp_path / "big.tar").found
    here = (tmp_path / "big.tar.part").stat().st_size
    assert here > 0 and json.loads((tmp_path / "big.tar.part.json").read_text())["size"] == len(BODY)
    fetch(f"{web.url}/big.tar", tmp_path / "big.tar")
    assert (tmp_path / "big.tar").read_bytes() == BODY and asked_from(web)[-1] == f"bytes={here}-"


def test_a_truly_full_disk(web: Web, tmp_path: Path) -> None:
    """/dev/full: every write fails with ENOSPC, as the kernel itself says it."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full: only Linux has it")
    with pytest.raises(InputError, match="no space left"), fetching.no_full_disk(tmp_path), open("/dev/full", "wb") as full:
        full.write(BODY)


def test_https_needs_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl: no such command to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with serving(lambda socket: context.wrap_socket(socket, server_side=True)) as web:
        web.files["/big.tar"] = BODY
        error = refused(web, tmp_path / "big.tar")
        assert "no trusted connection" in error.found and "REQUESTS_CA_BUNDLE" in error.expected and waits == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        fetch(f"{web.url}/big.tar", tmp_path / "big.tar", md5=md5(BODY))
    assert (tmp_path / "big.tar").read_bytes() == BODY
