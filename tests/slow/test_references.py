"""All committed references are drawn again by one command, without torch, and their LaTeX documents compile."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, hide_torch, snakemake

pytestmark = pytest.mark.slow  # a minute and a half

REFERENCES = sorted(table.parent.name for table in REPOSITORY.glob("results/reference/*/metrics.tsv.gz"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder results of `snakemake reference_figures`."""
    folder = tmp_path_factory.mktemp("references")
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_torch(folder, monkeypatch)
        done = snakemake(folder / "run", "--", "reference_figures")
    logs = "\n".join(p.read_text()[-800:] for p in (folder / "run/results/logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + logs
    yield folder / "run/results"


def test_all_are_drawn_and_nothing_else_is_made(drawn: Path) -> None:
    for name in REFERENCES:
        assert len(list((drawn / "reference_figures" / name / "figures").glob("*.png"))) >= 2
        assert (drawn / "reference_figures" / name / "tables/main.md").stat().st_size > 200
    assert {p.name for p in (drawn / "logs").iterdir()} == {"reference_figures.log"}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_document_of_a_reference_compiles(drawn: Path, name: str) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-recommended): the document was checked for balance only")
    folder = drawn / "reference_figures" / name
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "main.pdf").stat().st_size > 50_000
