"""UK Biobank's bulk files, one zip after the other, by the program that an approved application comes with.

ukbfetch writes EID_FIELD_I_A.zip into the folder that it is started in; the values of its flags follow without a space
(https://biobank.ctsu.ox.ac.uk/crystal/ukb/docs/ukbfetch_instruct.html). On the Research Analysis Platform `dx download` takes
PROJECT:FOLDER/NN/EID_FIELD_I_A.zip, NN being the first two digits of the EID
(https://documentation.dnanexus.com/user/objects/uploading-and-downloading-files/small-sets-of-files/downloading-using-dx).

Neither server was ever tried here: the tests run stand-ins. What the programs say of a failure is not documented, so that it
decides no more than whether to try again: a file has come when its zip is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from xdiff.config import Download
from xdiff.data.archives import Placed
from xdiff.data.fetch import PATIENCE_S, need_room, progress
from xdiff.data.ukb_names import DIXON_FIELD, Bulk, read_bulk
from xdiff.errors import InputError, ManyInputErrors

FOLDERS = {DIXON_FIELD: "/Bulk/Whole Body MRI/Dixon"}  # of a project on the platform
SIZE_MB = {DIXON_FIELD: 70}  # about; for the check of free space
INSTALL = {
    "ukbfetch": "UK Biobank's program on PATH: https://biobank.ndph.ox.ac.uk/showcase/download.cgi",
    "dx": "DNAnexus's program on PATH: pipx install dxpy",
}
# in this order: what is of the credentials, and what is of the file; all else may pass
NO_ACCESS = re.compile(
    r"authenti|authori[sz]|credential|password|key ?file|permission ?denied|not logged in|invalid ?token", re.I
)
NOT_GIVEN = re.compile(
    r"withdr|consent|no (such )?(data|file|record)|not? (found|available|exist)|does not exist|unable to (find|resolve)", re.I
)
MOST_REFUSED = 3  # for lack of access, before anything has come: then it is not for the one file


class Refused(NamedTuple):
    """Why a file has not come. kind: `no access`, `not given` or `failed`."""

    kind: str
    reason: str


def fetch_bulk(bulk: Path, folder: str, route: Download, out: Path, work: Path) -> tuple[list[Placed], dict[str, str]]:
    """Fetch the files of a bulk list to `out`, `route.parallel` at a time; those that are there stay as they are.

    folder: of the project, with dx. work: a folder for what is not whole yet. Returns what is there and, by name, the reason of
    what UK Biobank does not give. Raises InputError without the program or access; ManyInputErrors, after all others have been
    fetched, for files that did not come after PATIENCE_S: the same command tries them again.
    """
    wanted = read_bulk(bulk)
    command = _command(route, folder)
    todo = [one for one in wanted if not (out / one.name).is_file()]
    need_room(out, sum(SIZE_MB.get(one.field, 0) for one in todo) * 10**6, f"{len(todo)} files of {bulk.name}")
    refused = _fetch_all(todo, command, route, out, work)
    missing = {one.name: why.reason for one, why in refused.items() if why.kind == "not given"}
    for name, reason in missing.items():
        print(f"{name}: not given by UK Biobank ({reason})")
    expected = "a whole zip; the same command tries again, and without its line in the bulk list it is not asked for"
    errors = [InputError(one.name, why.reason, expected) for one, why in refused.items() if why.kind != "not given"]
    placed = [Placed(one.name, one.name, (out / one.name).stat().st_size) for one in wanted if (out / one.name).is_file()]
    if errors:
        raise ManyInputErrors(errors, len(placed))
    if not placed:
        raise InputError(bulk, f"{len(missing)} files, none of them given", "at least one that is given")
    return placed, missing


def _command(route: Download, folder: str) -> Callable[[Bulk], list[str]]:
    """The arguments that fetch a file into the working folder."""
    program, value = shutil.which(route.tool), os.environ[route.token_variable]
    if program is None:
        raise InputError(route.tool, "no such program", INSTALL[route.tool])
    if route.tool == "ukbfetch":
        key = Path(value).expanduser().resolve()
        if not key.is_file():
            raise InputError(
                route.token_variable, f"{value!r}, no such file", "the path of the key file that UK Biobank has sent"
            )
        return lambda one: [program, f"-e{one.eid}", f"-d{one.data}", f"-a{key}"]

    def download(one: Bulk) -> list[str]:
        place = folder or FOLDERS.get(one.field)
        if not place:
            raise InputError("cohorts.*.download.parts", f"no `folder` for field {one.field}", "its folder in the project")
        return [program, "download", f"{value}:{place}/{one.eid[:2]}/{one.name}", "--no-progress", "-f"]

    return download


def _fetch_all(
    todo: Sequence[Bulk], command: Callable[[Bulk], list[str]], route: Download, out: Path, work: Path
) -> dict[Bulk, Refused]:
    """What has not come, and why. Raises InputError where the credentials serve for nothing."""
    refused: dict[Bulk, Refused] = {}
    come = any(out.iterdir())
    with ThreadPoolExecutor(route.parallel) as pool, progress("bulk files", 0) as bar:
        futures = {pool.submit(_fetch, one, command(one), out, work): one for one in todo}
        for future in as_completed(futures):
            result = future.result()
            if isinstance(result, int):
                come = True
                bar.update(result)
                continue
            refused[futures[future]] = result
            no_access = [why for why in refused.values() if why.kind == "no access"]
            if not come and len(no_access) == min(MOST_REFUSED, len(todo)):
                pool.shutdown(cancel_futures=True)
                access = f"an application that was given access at {route.apply_at}, its credentials in {route.token_variable}"
                raise InputError(route.tool, no_access[0].reason, access)
    return {one: refused[one] for one in todo if one in refused}


def _fetch(one: Bulk, command: list[str], out: Path, work: Path) -> int | Refused:
    """Bytes of the file, whole and in its place; or why not, after PATIENCE_S where that can help."""
    folder = work / one.name.removesuffix(".zip")
    for wait_s in (*PATIENCE_S, None):
        # a part of a file is of no use: neither program goes on from it
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT)
        fault = f"exit status {done.returncode}" if done.returncode else damage(folder / one.name)
        if not fault:
            size = (folder / one.name).stat().st_size
            os.replace(folder / one.name, out / one.name)
            shutil.rmtree(folder)
            return size
        said = " / ".join(done.stdout.decode(errors="replace").split("\n")[-4:]).strip(" /")[-200:]
        why = Refused(_kind(said), f"{fault}: {' '.join(said.split()) or 'no message'}")
        if why.kind != "failed" or wait_s is None:
            return why
        print(f"{one.name}: {why.reason}; trying again in {wait_s} s", flush=True)
        time.sleep(wait_s)
    raise AssertionError("the last wait is None")


def _kind(said: str) -> str:
    return "no access" if NO_ACCESS.search(said) else "not given" if NOT_GIVEN.search(said) else "failed"


def damage(path: Path) -> str:
    """What keeps a zip from being whole; empty where its members' checksums are right."""
    if not path.is_file():
        return "no file"
    try:
        with zipfile.ZipFile(path) as opened:
            bad = opened.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        return f"{path.stat().st_size} bytes that are no whole zip ({error})"
    return f"a damaged member {bad}" if bad else ""
