"""The rules that download, and `card`, as a user meets them: interrupted and taken up, gated, or not needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import PRESETS, job_counts, snakemake
from routes import served
from web import serving, status

from xdiff.plain import to_json

RUN = "grids: {small: {shape: [12, 14, 10], spacing_mm: 2.0}}\nrun: {grids: [small], methods: [linear], sweeps: [slices]"


def test_an_interrupted_download_is_taken_up_and_never_repeated(tmp_path: Path) -> None:
    overlay = tmp_path / "ixi.yaml"
    with serving() as web:
        entry = json.loads(to_json(served(web, "ixi-t2-pd")))
        entry |= {"only": {}, "split": {"n_val": 1, "n_test": 1}}
        overlay.write_text(f"cohorts: {{ixi: {json.dumps(entry)}}}\n{RUN}, cohorts: [ixi]}}\n")
        arguments = ["--configfile", overlay, "--config", f"data_root={tmp_path / 'raw'}"]
        web.faults += [None, status(403)]
        failed = snakemake(tmp_path, *arguments, "--", "cards")
        assert failed.returncode != 0 and "IXI-PD.tar: found HTTP status 403, access refused" in failed.stdout
        assert not (tmp_path / "raw/ixi").exists() and "Traceback" not in failed.stdout
        assert "missing" not in failed.stdout.split("access refused")[1]  # the command failed, not only its output is missing
        web.asked.clear()
        done = snakemake(tmp_path, *arguments, "--", "cards")
        assert done.returncode == 0, done.stdout[-3000:]
        assert [Path(path).name for path, _ in web.asked] == ["IXI-PD.tar"]
    assert "- 4 subjects of 4 patients" in (tmp_path / "results/data/ixi/card.md").read_text()
    again = job_counts(snakemake(tmp_path, *arguments, "--dry-run", "--", "data", "cards").stdout)
    assert again == {"data": 1, "split": 1, "preprocess": 1, "total": 3}  # neither the download nor the card again


@pytest.mark.parametrize(
    ("preset", "target", "where", "variable", "by_hand"),
    [
        ("brats", "data", "https://www.synapse.org/#!Synapse:syn51156910", "SYNAPSE_AUTH_TOKEN", "brats/BraTS-GLI-00503-000"),
        (
            "knee",
            "results/raw/fastmri-knee/downloaded.json",
            "https://fastmri.med.nyu.edu",
            "FASTMRI_LINKS",
            "fastmri-knee/multicoil",
        ),
    ],
    ids=["brats", "knee"],
)
def test_a_gated_set_without_credentials_says_where_to_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, target: str, where: str, variable: str, by_hand: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    arguments = ["--configfile", PRESETS / f"{preset}.yaml", "--config", f"data_root={tmp_path / 'raw'}", "--", target]
    failed = snakemake(tmp_path, *arguments)
    assert failed.returncode != 0 and not (tmp_path / "raw").exists() and "Traceback" not in failed.stdout
    messages = [line for line in failed.stdout.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, failed.stdout[-2000:]
    for part in (where, variable, f"{tmp_path / 'raw'}/{by_hand}"):
        assert part in messages[0]


def test_a_folder_that_is_there_is_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / "brats/BraTS-GLI-00000-000").mkdir(parents=True)
    arguments = ["--configfile", PRESETS / "brats.yaml", "--config", f"data_root={tmp_path}", "--dry-run", "--", "data"]
    counts = job_counts(snakemake(tmp_path, *arguments).stdout)
    assert counts["preprocess"] == 1 and not set(counts) & {"download", "download_brats"}
