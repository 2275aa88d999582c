"""The page `Add a method in one file` of baselines/README.md, executed as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def _block(language: str) -> str:
    """The one code block of a language on the page."""
    page = (REPOSITORY / "baselines" / "README.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 1, f"{len(blocks)} {language} blocks, expected 1"
    return blocks[0]


def test_the_page_adds_a_method_that_is_trained_sampled_and_scored(tmp_path: Path) -> None:
    # the page says baselines/blur.py; a namespace of its own keeps the repository clean
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "blur.py").write_text(_block("python"))
    overlay = yaml.safe_load(_block("yaml"))
    assert overlay["methods"]["blur"]["module"] == "baselines.blur"
    overlay["methods"]["blur"]["module"] = "mine.blur"
    overlay["run"]["cohorts"] = ["phantom-brain"]
    (tmp_path / "blur.yaml").write_text(yaml.safe_dump(overlay))
    smoke = REPOSITORY / "workflow" / "presets" / "smoke.yaml"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "xdiff.bench", str(smoke), "blur.yaml", "--out", "results"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
    table = pd.read_csv(tmp_path / "results" / "metrics" / "all.tsv", sep="\t")
    psnr = table[(table["metric"] == "psnr") & (table["region"] == "unseen_masked") & table["x_name"].isna()]
    mean = psnr.groupby("method")["value"].mean()
    assert set(mean.index) == {"mean_template", "gaussian", "blur"}
    assert mean["blur"] != mean["mean_template"], "the blurred template scored as the template: blur.py was not what ran"
