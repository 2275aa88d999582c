"""The raw files of a cohort from where they are published: archives and files over HTTP, an S3 bucket, archives behind a gate,
UK Biobank's bulk files.

All is collected in `ROOT.partial` beside the folder ROOT, which it becomes by a rename: a cohort's folder is whole or not there,
one that the user has is never touched, and an interrupted download goes on from what ROOT.partial holds. No route was tried live
when this was written, without a network: the tests serve the same layouts from the machine they run on.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import urllib.parse
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from xdiff.config import Cohort, Download, Remote
from xdiff.data.archives import Placed, placed, unpack
from xdiff.data.card import RECORD, write_card
from xdiff.data.fetch import Fetched, fetch, md5_of, need_room, new_session
from xdiff.data.ukb_fetch import fetch_bulk
from xdiff.errors import InputError
from xdiff.plain import digest, write_json

FILES = "files.tsv"  # path, name at the source and bytes of every file
SYNAPSE_VARIABLE = "SYNAPSE_AUTH_TOKEN"  # the one that synapseclient reads
CARD = "CARD.md"
CREDENTIALS = {  # of a tool or a kind; of others a token
    "links": "the path of a text file with the links that you are mailed",
    "ukbfetch": "the path of your key file",
    "dx": "your project (project-... or its name), after `dx login`",
}


def download(cohort: Cohort, root: Path, record: Path | None = None) -> None:
    """Bring a cohort's raw files to `root`, with `download.json`, `files.tsv` and a data card beside them.

    Nothing is done where the folder is there already. Raises InputError on a gated set without credentials before anything else
    is tried; the same command goes on after any error. `record`: a file that then says where the folder is.
    """
    if is_there(root):
        print(f"{root}: there already, left as it is")
    else:
        _bring(cohort, root)
        print(f"{root}: whole; its card is {root / CARD}")
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"folder": str(root), "by_xdiff": (root / RECORD).exists()}) + "\n")


def _bring(cohort: Cohort, root: Path) -> None:
    route = cohort.download
    if route is None:
        raise InputError(root, "no such folder, and no `download` in the cohort's entry", "one of both")
    _check_gate(route, root)
    work = Work(root, route)
    try:
        with FileLock(work.folder / ".lock", timeout=0):
            work.start()
            for part in route.parts:
                if part.url not in work.state["parts"]:
                    files = COLLECT[route.kind](part, work)
                    work.note("parts", part.url, files)
                    work.clear()
            _check_counts(route, work.files)
            _publish(cohort, root, work)
    except Timeout as error:
        raise InputError(work.folder, "another download at work", "one at a time") from error


def is_there(root: Path) -> bool:
    """Whether the user has, or an earlier download has made, a cohort's folder: one that is not empty."""
    return root.is_dir() and any(root.iterdir())


class Work:
    """`ROOT.partial`: `files` becomes the cohort's folder, `archives` is for what is fetched, `state.json` says what is done."""

    def __init__(self, root: Path, route: Download) -> None:
        self.folder = root.with_name(f"{root.name}.partial")
        self.files, self.archives = self.folder / "files", self.folder / "archives"
        self.route = route
        self.key = digest([route.kind, [part.url for part in route.parts], route.place])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(self.folder, f"no folder ({error.strerror})", "a place that can be written to") from error

    def start(self) -> None:
        """Read what is done; start clean where it was another route, whose files must not stay among the new ones."""
        record = self.folder / "state.json"
        state = json.loads(record.read_text()) if record.exists() else {}
        if state and state["key"] != self.key:
            print(f"{self.folder}: begun by another route, starting clean")
            shutil.rmtree(self.files)
            shutil.rmtree(self.archives)
        self.state = state if state.get("key") == self.key else {"key": self.key, "fetched": {}, "parts": {}}
        for folder in (self.files, self.archives):
            folder.mkdir(exist_ok=True)
        done = {*self.state["parts"], *self.state["fetched"]}
        size = sum(part.size_mb for part in self.route.parts if part.url not in done) * 10**6
        here = sum(path.stat().st_size for path in self.archives.rglob("*") if path.is_file())
        need_room(self.folder, size - here, "the download, without what unpacking takes")

    def note(self, kind: str, url: str, what: object) -> None:
        """Remember that something is done, atomically."""
        self.state[kind][url] = what
        write_json(self.folder / "state.json", self.state)

    def clear(self) -> None:
        """Remove what a finished part has left; not before it is noted, or a kill in between would cost the whole transfer."""
        shutil.rmtree(self.archives)
        self.archives.mkdir()


def _check_gate(route: Download, root: Path) -> None:
    variable = route.token_variable
    if variable and not os.environ.get(variable):
        given = CREDENTIALS.get(route.tool or route.kind, "your access token")
        apply = f"apply for access at {route.apply_at}, then set {variable} to {given} and run the same command"
        expected = f"one of two. Either {apply}; or put the files there by hand: {root}/{route.by_hand}. Licence: {route.licence}"
        raise InputError(root, f"no data there and no credentials in {variable}", expected)


def _from_http(part: Remote, work: Work) -> list[Placed]:
    """One archive, fetched, checked and unpacked."""
    archive = work.archives / Path(urllib.parse.urlparse(part.url).path).name
    if not (archive.exists() and part.url in work.state["fetched"]):
        work.note("fetched", part.url, asdict(fetch(part.url, archive, part.md5, room=2)))
    return unpack(archive, work.files, work.route.place)


def _from_file(part: Remote, work: Work) -> list[Placed]:
    """One file as it is, placed by the last part of its address."""
    name = Path(urllib.parse.urlparse(part.url).path).name
    path = placed(work.route.place, name, part.url)
    if path is None:
        raise InputError(part.url, f"a file named {name!r}", f"a name like {list(work.route.place)}")
    fetched = fetch(part.url, work.archives / name, part.md5)
    target = work.files / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work.archives / name, target)
    work.note("fetched", part.url, asdict(fetched))
    return [Placed(path, name, fetched.size)]


def _from_links(part: Remote, work: Work) -> list[Placed]:
    """One archive whose address was mailed; then as over HTTP. The address is a secret for as long as it holds: it is neither
    printed nor recorded, and another one for the same archive goes on with what has arrived."""
    archive = work.archives / part.url
    if not (archive.exists() and part.url in work.state["fetched"]):
        address, _, query = _link(part.url, work.route).partition("?")
        session = new_session()
        session.params = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        try:
            fetched = fetch(address, archive, part.md5, session=session, room=2)
        except InputError as error:
            if "access refused" not in error.found:
                raise
            expected = f"a link that still holds; they are mailed anew from {work.route.apply_at}"
            raise InputError(address, error.found, expected) from error
        work.note("fetched", part.url, asdict(fetched))
    return unpack(archive, work.files, work.route.place)


def _link(name: str, route: Download) -> str:
    """The address of the archive `name` among the links in the user's file, which may be the whole mail."""
    source = Path(os.environ[route.token_variable])
    if not source.is_file():
        raise InputError(route.token_variable, f"{str(source)!r}, no such file", "a text file with the links that were mailed")
    links = re.findall(r"https?://[^\s\"'<>]+", source.read_text(errors="replace"))
    found = [link for link in links if Path(urllib.parse.urlparse(link).path).name == name]
    if not found:
        raise InputError(source, f"{len(links)} links, none to {name}", f"the link to {name}, mailed by {route.apply_at}")
    return found[-1]


def _from_s3(part: Remote, work: Work) -> list[Placed]:
    """The files below a prefix of an open bucket that `place` names, with the size and the md5 that its listing has for each."""
    session = new_session()
    server, bucket, prefix = _bucket(part.url)
    files, missing = [], []
    for key, size, md5 in _listing(f"{server}/{bucket}", prefix, work):
        path = None if key.endswith("/") else placed(work.route.place, key.removeprefix(prefix), part.url)
        if path is not None:
            files.append(Placed(path, key, size))
            target = work.files / path
            if not (target.is_file() and target.stat().st_size == size):
                missing.append((key, size, md5, target))
    if not files:
        raise InputError(part.url, "no such file in the bucket", f"names like {list(work.route.place)}")
    need_room(work.files, sum(size for _, size, _, _ in missing), part.url)
    for key, size, md5, target in missing:
        arrived = work.archives / target.name
        fetch(f"{server}/{bucket}/{urllib.parse.quote(key)}", arrived, md5, size, session)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived, target)
    return files


def _bucket(url: str) -> tuple[str, str, str]:
    """SERVER, BUCKET, PREFIX of an address SERVER/BUCKET/PREFIX."""
    address = urllib.parse.urlparse(url)
    bucket, _, prefix = address.path.lstrip("/").partition("/")
    if not (address.netloc and bucket and prefix):
        raise InputError("cohorts.*.download.parts", url, "SERVER/BUCKET/PREFIX of an open S3 bucket")
    return f"{address.scheme}://{address.netloc}", bucket, prefix


def _listing(bucket: str, prefix: str, work: Work) -> Iterator[tuple[str, int, str]]:
    """Key, size in bytes and md5 (empty where the object was uploaded in pieces) of all objects below a prefix.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    token = ""
    while True:
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        url = f"{bucket}?{urllib.parse.urlencode(query)}"
        page = work.archives / "listing.xml"
        fetch(url, page)
        try:
            tree = ET.parse(page).getroot()
        except ET.ParseError as error:
            raise InputError(url, f"no listing ({error})", "a ListBucketResult in XML") from error
        for entry in tree.iterfind("{*}Contents"):
            etag = entry.findtext("{*}ETag", "").strip('"')
            is_md5 = len(etag) == 32 and "-" not in etag
            yield entry.findtext("{*}Key", ""), int(entry.findtext("{*}Size", "0")), etag if is_md5 else ""
        token = tree.findtext("{*}NextContinuationToken", "")
        if not token:
            return


def _from_synapse(part: Remote, work: Work) -> list[Placed]:
    """One archive through `synapse get`, which resumes and compares the md5 that Synapse has; then as over HTTP.

    The command, not the module: pip finds no versions of what synapseclient 4.14 shares with us (wrapt) that suit both, so it
    lives in an environment of its own (`pipx install synapseclient`).
    """
    folder = work.archives / part.url
    if part.url not in work.state["fetched"]:
        work.note("fetched", part.url, asdict(_synapse_get(part, folder, work.route)))
    return unpack(_only_archive(folder, part.url), work.files, work.route.place)


def _synapse_get(part: Remote, folder: Path, route: Download) -> Fetched:
    command = shutil.which("synapse")
    if command is None:
        raise InputError("synapse", "no such command", "Synapse's client: pipx install synapseclient")
    need_room(folder.parent, 2 * part.size_mb * 10**6, f"{part.url}, packed and unpacked")
    folder.mkdir(exist_ok=True)
    # in the environment, not on the command line, where others could read it; no input: it would ask for a password
    environment = {**os.environ, SYNAPSE_VARIABLE: os.environ[route.token_variable]}
    arguments = [command, "get", part.url, "--downloadLocation", str(folder)]
    status = subprocess.run(arguments, env=environment, stdin=subprocess.DEVNULL).returncode
    if status:
        access = f"an account that was given access at {route.apply_at}, its token in {route.token_variable}"
        raise InputError(part.url, f"`synapse get` ended with status {status}, its message is above", access)
    archive = _only_archive(folder, part.url)
    found = md5_of(archive)
    if part.md5 and part.md5 != found:
        shutil.rmtree(folder)
        raise InputError(part.url, f"md5 {found}", f"{part.md5}; it is removed, and the same command fetches it anew")
    return Fetched(part.url, archive.stat().st_size, found)


def _only_archive(folder: Path, url: str) -> Path:
    found = (
        [path for path in folder.iterdir() if path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))] if folder.is_dir() else []
    )
    if len(found) != 1:
        raise InputError(folder, f"{[path.name for path in found]}", f"the one archive of {url}")
    return found[0]


def _from_ukb(part: Remote, work: Work) -> list[Placed]:
    """The zips of a bulk list, each as it is; those that UK Biobank does not give are noted with the reason."""
    bulk = work.folder.parent / Path(part.url).expanduser()
    placed, missing = fetch_bulk(bulk, part.folder, work.route, work.files, work.archives)
    work.note("fetched", part.url, {"url": part.url, "tool": work.route.tool, "zips": len(placed), "missing": missing})
    return placed


COLLECT = {
    "http": _from_http,
    "file": _from_file,
    "s3": _from_s3,
    "synapse": _from_synapse,
    "links": _from_links,
    "ukb": _from_ukb,
}


def _check_counts(route: Download, files: Path) -> None:
    for pattern, expected in route.expect.items():
        found = sum(1 for _ in files.glob(pattern))
        if found != expected:
            remedy = f"{expected} (where the source has changed: set download.expect of the cohort, {{}} for no such check)"
            raise InputError(files, f"{found} files {pattern}", remedy)


def _publish(cohort: Cohort, root: Path, work: Work) -> None:
    """Records and card among the files, then the folder gets its name."""
    rows = [Placed(*row) for part in cohort.download.parts for row in work.state["parts"][part.url]]
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if twice:
        raise InputError(work.files, f"two files for {twice[0]}", "one file for each place (download.place of the cohort)")
    with (work.files / FILES).open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerows([Placed._fields, *rows])
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": cohort.download.kind,
        "parts": [work.state["fetched"].get(part.url, {"url": part.url}) for part in cohort.download.parts],
        "files": len(rows),
        "bytes": sum(row.size for row in rows),
    }
    (work.files / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    write_card(cohort, work.files, work.files / CARD, root.name)
    root.parent.mkdir(parents=True, exist_ok=True)
    os.rename(work.files, root)
    shutil.rmtree(work.folder)
