"""Shards and processes change how long preprocessing takes and nothing of what it writes; the good work of each is kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import HEADS, write_heads

from xdiff.config import Grid
from xdiff.data import preprocess as module
from xdiff.data.__main__ import main
from xdiff.data.preprocess import find_centres, preprocess, preprocess_shard
from xdiff.data.split import Split, make_split, write_split
from xdiff.data.store import Store
from xdiff.errors import InputError, ManyInputErrors

N = 7
NAMES = ("heads", "16")
GRIDS = {frame: Grid((16, 16, 14), 3.0, frame=frame) for frame in ("centred", "scanner")}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_heads(folder, N)
    return folder


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Raw heads: the second, on the training side, lacks its second contrast; the seventh, on the test side, its first."""
    write_heads(tmp_path / "raw", N)
    (tmp_path / "raw/sub-01/anat/sub-01_T2w.nii.gz").unlink()
    (tmp_path / "raw/sub-06/anat/sub-06_T1w.nii.gz").unlink()
    return tmp_path / "raw"


@pytest.fixture(scope="module")
def split() -> Split:
    return make_split([(f"sub-{i:02d}", f"sub-{i:02d}", "train" if i < 5 else "test") for i in range(N)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stored(folder: Path) -> set[str]:
    return {p.stem for p in (folder / "volumes").glob("*.json")}


@pytest.mark.parametrize("frame", GRIDS)
@pytest.mark.parametrize(("shards", "workers"), [(1, 3), (3, 1), (3, 2)])
def test_every_file_is_the_same_however_the_work_is_divided(
    raw: Path, split: Split, tmp_path: Path, frame: str, shards: int, workers: int
) -> None:
    arguments = (HEADS, GRIDS[frame], NAMES, raw, split)
    preprocess(*arguments, tmp_path / "one")
    for i in range(shards, 0, -1) if shards > 1 else ():
        assert preprocess_shard(*arguments, tmp_path / "many", f"{i}/{shards}", workers) == []
        assert not (tmp_path / "many/dataset.json").exists()
    preprocess(*arguments, tmp_path / "many", workers)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert len(one) == 3 * N + 2 + (5 if frame == "scanner" else 0)
    assert one == many


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the subjects that this process reads, in order."""
    names: list[str] = []

    def reading(files, cohort):
        names.append(files.subject)
        return original(files, cohort)

    original = module.read_subject
    monkeypatch.setattr(module, "read_subject", reading)
    return names


def test_what_shards_have_done_is_not_read_again(raw: Path, split: Split, tmp_path: Path, read: list[str]) -> None:
    """Centres first: each subject once more for its centre, and a shard never another shard's."""
    arguments, out = (HEADS, GRIDS["scanner"], NAMES, raw, split), tmp_path / "out"
    assert find_centres(HEADS, raw, split, out, "1/2") == find_centres(HEADS, raw, split, out, "2/2") == []
    assert read == ["sub-00", "sub-02", "sub-04", "sub-01", "sub-03"]
    read.clear()
    preprocess_shard(*arguments, out, "1/2")
    assert read == ["sub-00", "sub-02", "sub-04", "sub-06"]
    preprocess_shard(*arguments, out, "2/2")
    read.clear()
    preprocess(*arguments, out)
    assert read == [] and Store(out).subjects == split.table["subject"].tolist()


def test_bad_subjects_of_all_shards_are_reported_together_by_the_join(spoilt: Path, split: Split, tmp_path: Path) -> None:
    arguments = (HEADS, GRIDS["centred"], NAMES, spoilt, split, tmp_path / "out")
    bad = [error.where for i in (1, 2) for error in preprocess_shard(*arguments, f"{i}/2", 2)]
    assert [Path(where).name for where in bad] == ["sub-06_T1w.nii.gz", "sub-01_T2w.nii.gz"]
    assert stored(tmp_path / "out") == {"sub-00", "sub-02", "sub-03", "sub-04", "sub-05"}
    with pytest.raises(ManyInputErrors, match="finished work of 5 other") as caught:
        preprocess(*arguments, 2)
    assert [e.where for e in caught.value.errors] == bad[::-1]  # in the order of subjects


def test_nothing_is_placed_before_every_training_subject_is_found(spoilt: Path, split: Split, tmp_path: Path) -> None:
    """A mean position without one of them would put all the others elsewhere."""
    arguments = (HEADS, GRIDS["scanner"], NAMES, spoilt, split, tmp_path / "out")
    assert [Path(e.where).name for e in find_centres(HEADS, spoilt, split, tmp_path / "out", "2/2")] == ["sub-01_T2w.nii.gz"]
    for call in (lambda: preprocess_shard(*arguments, "1/2"), lambda: preprocess(*arguments)):
        with pytest.raises(ManyInputErrors, match=r"(?s)work of 5 other subject.*sub-01_T2w.*sub-06_T1w") as caught:
            call()
        assert len(caught.value.errors) == 2 and not stored(tmp_path / "out")


def test_a_subject_that_kills_its_process_is_named_and_the_others_are_kept(
    raw: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory runs out. The patch reaches the processes because they are forked."""
    original = module.read_subject

    def dying(files, cohort):
        if files.subject == "sub-03":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(files, cohort)

    monkeypatch.setattr(module, "read_subject", dying)
    arguments = (HEADS, GRIDS["centred"], NAMES, raw, split, tmp_path / "out", 2)
    with pytest.raises(ManyInputErrors, match="sub-03: found a worker process that ended with signal 9") as caught:
        preprocess(*arguments)
    assert len(caught.value.errors) == 1 and stored(tmp_path / "out") == {f"sub-{i:02d}" for i in range(N) if i != 3}
    monkeypatch.setattr(module, "read_subject", original)
    preprocess(*arguments)
    assert Store(tmp_path / "out").subjects == split.table["subject"].tolist()


def test_the_command_line_says_which_subjects_of_a_shard_are_bad(spoilt: Path, split: Split, tmp_path: Path, capsys) -> None:
    write_split(split, tmp_path / "split.tsv")
    entry, grid = json.dumps({"layout": "bids", "contrasts": ["T1w", "T2w"]}), json.dumps({"shape": [8, 8, 8], "spacing_mm": 6})
    command = ["preprocess", "--entry", entry, "--grid", grid, "--names", "heads", "8", "--root", str(spoilt)]
    command += ["--split", str(tmp_path / "split.tsv"), "--out", str(tmp_path / "out")]
    main([*command, "--shard", "2/3", "--workers", "2"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("shard 2/3: 1 input") and "sub-01_T2w.nii.gz: found no such file" in told[1] and len(told) == 2
    assert stored(tmp_path / "out") == {"sub-04"}
    for wrong in ("4/3", "0/3", "second"):
        with pytest.raises(InputError, match=f"--shard: found {wrong}, expected i/n"):
            main([*command, "--shard", wrong])
    with pytest.raises(InputError, match="--workers: found 0"):
        main([*command, "--workers", "0"])
