"""The LaTeX document: every table and figure in it, every special character printable, nothing opened that is not closed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from xdiff import printed_table
from xdiff.document import document, main
from xdiff.errors import InputError
from xdiff.markup import to_latex

CAPTION = "50 % of _all_ {voxels} & #1 cost $2 ~ ^ \\ <3"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for name in ("tables", "figures", "paper"):
        (tmp_path / name).mkdir()
    (tmp_path / "tables/main.tex").write_text("% a comment\n" + to_latex(printed_table.table(), "tab:0-0"))
    (tmp_path / "tables/paper.tex").write_text(to_latex(printed_table.table(), "tab:paper"))
    (tmp_path / "figures/psnr_vs_k.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "figures/captions.json").write_text(json.dumps({"psnr_vs_k": CAPTION}))
    return tmp_path


def text_of(folder: Path) -> str:
    main(["--tables", str(folder / "tables"), "--figures", str(folder / "figures"), "--out", str(folder / "paper/main.tex")])
    return (folder / "paper/main.tex").read_text()


def test_all_tables_and_figures_are_in_it_and_found_from_where_it_lies(made: Path) -> None:
    text = text_of(made)
    assert text.count(r"\begin{table}") == 2 and text.count(r"\begin{figure}") == 1
    (path,) = re.findall(r"\\detokenize\{(.*?)\}", text)
    assert (made / "paper" / path).resolve() == (made / "figures/psnr_vs_k.pdf").resolve()
    assert r"50 \% of \_all\_ \{voxels\} \& \#1 cost \$2" in text


def test_what_is_opened_is_closed_in_order(made: Path) -> None:
    text = re.sub(r"(?m)(?<!\\)%.*$", "", text_of(made))
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert open_environments == []
    bare = re.sub(r"\\[\\{}%_&#$]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0


@pytest.mark.parametrize("missing", ["tables/main.tex", "tables/paper.tex", "figures/captions.json", "figures/psnr_vs_k.pdf"])
def test_what_is_missing_is_named(made: Path, missing: str) -> None:
    (made / missing).unlink()
    with pytest.raises(InputError, match=Path(missing).name.replace(".", r"\.") + ": found no such file"):
        document(made / "tables", made / "figures", made / "paper/main.tex")
