"""50,000 subjects are split, divided into shards, indexed and listed in under 30 s and 2 GiB, and no volume is opened for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import REPOSITORY

from xdiff.config import Cohort, Grid, Labels
from xdiff.data.cohorts import Files
from xdiff.data.preprocess import key_of

pytestmark = pytest.mark.slow  # a minute, most of it to write the files

N, LIMIT_S, LIMIT_MIB = 50_000, 30.0, 2048.0
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
COHORT = Cohort("brats", CONTRASTS, labels=Labels("seg", {1: "NCR", 2: "ED", 3: "ET"}))
GRID = Grid((120, 120, 80), 2.0)
# In a process of its own, whose peak is that of the steps. Each is what the rule of its name runs; the files are empty, so that
# whatever opened one would fail. `shard` is one of 100 that would run side by side.
RUN = """
import json, sys, time
from pathlib import Path
from xdiff.data.__main__ import main
from xdiff.data.split import read_split
from xdiff.data.store import Store
from xdiff.ledger import forget_peak, peak_mib

root, out, entry, grid = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
shared = ["--entry", entry, "--root", str(root)]
place = [*shared, "--split", str(out / "split.tsv"), "--out", str(out / "2mm"), "--grid", grid, "--names", "many", "2mm"]
steps = {
    "split": lambda: main(["split", *shared, "--out", str(out / "split.tsv")]),
    "shard": lambda: main(["preprocess", *place, "--shard", "1/100"]),
    "index": lambda: main(["preprocess", *place]),
    "list": lambda: [len(Store(out / "2mm").subjects), *read_split(out / "split.tsv").table["side"].value_counts()],
}
seconds, forgotten = {}, forget_peak()
for name, step in steps.items():
    start = time.perf_counter()
    listed = step()
    seconds[name] = round(time.perf_counter() - start, 2)
print(json.dumps({"seconds": seconds, "mib": peak_mib(), "listed": listed}))
"""


def files_of(root: Path, number: int) -> Files:
    """A patient has two visits."""
    name = f"BraTS-GLI-{number // 2:05d}-{number % 2:03d}"
    stem = root / name / f"{name}-"
    return Files(name, {c: Path(f"{stem}{c}.nii.gz") for c in CONTRASTS}, Path(f"{stem}seg.nii.gz"))


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Path]:
    """Empty files of N subjects in `raw`, and in `data` what their preprocessing leaves, but for the arrays."""
    (tmp_path / "data/2mm/volumes").mkdir(parents=True)
    for number in range(N):
        files = files_of(tmp_path / "raw", number)
        files.labels.parent.mkdir(parents=True)
        for path in (*files.images.values(), files.labels):
            path.touch()
        done = {"key": key_of(files, COHORT, GRID, None), "subject": files.subject, "cropped": 0.0}
        done |= dict.fromkeys(("sha256", "images_sha256"), f"{number:064x}")
        (tmp_path / "data/2mm/volumes" / f"{files.subject}.json").write_text(json.dumps(done))
    yield tmp_path
    for folder in ("raw", "data"):  # pytest keeps the folders of three runs: half a million files
        shutil.rmtree(tmp_path / folder)


def test_fifty_thousand_subjects(many: Path) -> None:
    arguments = [many / "raw", many / "data", json.dumps(asdict(COHORT)), json.dumps(asdict(GRID))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    total = sum(found["seconds"].values())
    print(f"{N} subjects: {found['seconds']}, {total:.1f} s in all, peak {found['mib']:.0f} MiB")
    subjects, *sides = found["listed"]
    assert subjects == sum(sides) == N and min(sides) > 0.09 * N
    assert total < LIMIT_S and found["mib"] < LIMIT_MIB
