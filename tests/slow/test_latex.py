"""The LaTeX document of every committed reference compiles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from xdiff.redraw import redraw

REFERENCES = sorted(t.parent for t in (Path(__file__).resolve().parents[2] / "results/reference").glob("*/metrics.tsv.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES, ids=lambda folder: folder.name)
def test_the_document_of_a_reference_compiles(reference: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-extra): the document was checked for balance only")
    redraw(reference, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 50_000
