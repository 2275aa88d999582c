"""The rules `download_ukb`, `stitch_shard` and `stitch`: from a bulk list to a split, with a stand-in for ukbfetch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from body_stations import EID, write_archive
from bulk_tools import Tools
from conftest import PRESETS, job_counts, snakemake

COARSE = {"spacing_mm": 9.0, "gap_mm": 12.0, "sections": 9, "overlap": 3}
TARGET = "results/data/ukb/split.tsv"
CARD = "results/data/ukb/card.md"


def test_a_bulk_list_becomes_stitched_volumes_and_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools(tmp_path / "tools")
    archive = write_archive(tools.folder / "store", tmp_path / "work", **COARSE, swapped=(2,))
    shutil.copy(archive, archive.with_name("7654321_20201_2_0.zip"))  # a file of another participant's name: refused
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "ukb-mri.bulk").write_text(f"{EID} 20201_2_0\n7654321 20201_2_0\n")
    monkeypatch.setenv("PATH", f"{tools.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UKB_KEYFILE", str(tools.key))
    overlay = tmp_path / "more.yaml"
    overlay.write_text("run: {data_shards: 2}\n")
    arguments = ["--configfile", PRESETS / "ukb.yaml", overlay, "--config", f"data_root={raw}", "--", TARGET]
    failed = snakemake(tmp_path, *arguments)
    assert failed.returncode != 0 and "Traceback" not in failed.stdout
    assert sorted(tools.asked()) == [archive.name, "7654321_20201_2_0.zip"]
    said = (tmp_path / "results/logs/stitch/ukb.log").read_text()
    assert f"7654321_20201_2_0.zip: found PatientID {EID}, expected 7654321" in said
    out = tmp_path / "results/raw/ukb"
    assert (out / f"{EID}_2_0/{EID}_2_0_water.nii.gz").exists() and not (out / "7654321_2_0").exists()
    (raw / "ukb/7654321_20201_2_0.zip").unlink()
    done = snakemake(tmp_path, *arguments, CARD)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / TARGET).read_text().splitlines()[2:] == [f"{EID}_2_0\t{EID}\ttrain"] and tools.asked() == []
    card = (tmp_path / CARD).read_text()
    assert "- 1 visits of 1 participants" in card and "- ukb-mri.bulk: 2 zips fetched by ukbfetch" in card
    assert not job_counts(snakemake(tmp_path, *arguments[:-1], "--dry-run", "--", TARGET).stdout)


def test_without_a_key_file_one_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UKB_KEYFILE", raising=False)
    arguments = ["--configfile", PRESETS / "ukb.yaml", "--config", f"data_root={tmp_path / 'raw'}", "--", TARGET]
    failed = snakemake(tmp_path, *arguments)
    messages = [line for line in failed.stdout.splitlines() if line.startswith("error: ")]
    assert failed.returncode != 0 and len(messages) == 1 and "Traceback" not in failed.stdout
    assert (
        "set UKB_KEYFILE to the path of your key file" in messages[0] and f"{tmp_path}/raw/ukb/1234567_20201_2_0" in messages[0]
    )


def test_archives_put_there_by_hand_are_stitched_without_a_download(tmp_path: Path) -> None:
    (tmp_path / "ukb").mkdir()
    (tmp_path / "ukb" / f"{EID}_20201_2_0.zip").touch()
    arguments = ["--configfile", PRESETS / "ukb.yaml", "--config", f"data_root={tmp_path}", "--dry-run", "--", "data"]
    counts = job_counts(snakemake(tmp_path, *arguments).stdout)
    assert counts == {"data": 1, "stitch": 1, "split": 1, "preprocess": 1, "total": 4}
