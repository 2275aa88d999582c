"""Stand-ins for ukbfetch and dx, with the real ones' arguments and names of files, and a plan of what goes wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from web import zip_of

from xdiff.config import Cohort, Download, Remote

KEY = "1234\n0123456789abcdef\n"
# what each call of a file does, one after the other; `whole` when the plan has nothing more
PROGRAM = """#!{python}
import json, os, pathlib, re, sys, time
here = pathlib.Path({folder!r})
if os.path.basename(sys.argv[0]) == "ukbfetch":
    flags = {{text[:2]: text[2:] for text in sys.argv[1:]}}
    assert set(flags) == {{"-e", "-d", "-a"}}, sys.argv  # no space between a flag and its value
    granted = pathlib.Path(flags["-a"]).read_text().split()[0] == "1234"
    name = flags["-e"] + "_" + flags["-d"] + ".zip"
else:
    verb, place, *options = sys.argv[1:]
    assert verb == "download" and options == ["--no-progress", "-f"], sys.argv
    project, path = place.split(":", 1)
    granted, name = project == "project-x", path.rsplit("/", 1)[1]
    assert path.rsplit("/", 2)[1] == name[:2], path
with open(here / "calls", "a") as calls:
    calls.write(" ".join([name, *sys.argv[1:]]) + "\\n")
assert not os.listdir(), os.listdir()  # nothing of an earlier call
running = here / "running" / name
running.mkdir(parents=True)
with open(here / "most", "a") as most:
    most.write(str(len(list(running.parent.iterdir()))) + "\\n")
time.sleep({seconds})
running.rmdir()
if not granted:
    sys.exit("Error: application failed authentication" if "-e" in sys.argv[1] else "dxpy: InvalidAuthentication: not logged in")
plan = here / "plan" / name
steps = json.loads(plan.read_text()) if plan.exists() else []
step = steps.pop(0) if steps else "whole"
if plan.exists():
    plan.write_text(json.dumps(steps))
source = here / "store" / name
if step == "busy":
    sys.exit("Error: too many connections from this application, try later")
if step == "denied":
    sys.exit("Error: permission denied")
if step == "withdrawn" or not source.exists():
    sys.exit("Error: participant has withdrawn consent" if step == "withdrawn" else "Error: no data found for " + name)
if step == "empty":
    sys.exit(0)
body = source.read_bytes()
if step in ("cut", "cut off in silence"):
    pathlib.Path(name).write_bytes(body[: len(body) * 2 // 3])
    sys.exit("Error: connection reset by peer" if step == "cut" else 0)
pathlib.Path(name).write_bytes(body)
print("fetched", name)
"""


class Tools:
    """A folder with both programs (for PATH), what they give, what they were asked for, and what is to go wrong."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.bin = folder, folder / "bin"
        for name in ("bin", "store", "plan"):
            (folder / name).mkdir(parents=True)
        for name in ("ukbfetch", "dx"):
            (self.bin / name).write_text(PROGRAM.format(python=sys.executable, folder=str(folder), seconds=seconds))
            (self.bin / name).chmod(0o755)
        self.key = folder / ".ukbkey"
        self.key.write_text(KEY)

    def give(self, *names: str) -> None:
        for name in names:
            (self.folder / "store" / name).write_bytes(
                zip_of({f"{name}.dcm": name.encode() * 500, "manifest.cvs": b"filename\n"})
            )

    def plan(self, name: str, *steps: str) -> None:
        (self.folder / "plan" / name).write_text(json.dumps(steps))

    def asked(self) -> list[str]:
        """The names that were asked for since the last time."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def most_at_once(self) -> int:
        return max(int(line) for line in (self.folder / "most").read_text().split())


def cohort(*lists: str, tool: str = "ukbfetch", parallel: int = 1, folder: str = "") -> Cohort:
    parts = tuple(Remote(name, folder=folder) for name in lists)
    variable = "UKB_KEYFILE" if tool == "ukbfetch" else "UKB_PROJECT"
    gate = {"token_variable": variable, "apply_at": "https://www.ukbiobank.ac.uk/apply", "by_hand": "EID_20201_2_0.zip"}
    route = Download("ukb", parts, "on application", "UK Biobank", tool=tool, parallel=parallel, **gate)
    return Cohort("ukb", ("water", "fat"), foreground="otsu", source="UK Biobank", download=route)
