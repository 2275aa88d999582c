"""Tables of many jobs as one: points that sweeps share, folds of a cohort, what is no such table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_tumours import long, row

from xdiff.errors import InputError
from xdiff.metrics.__main__ import collect
from xdiff.metrics.evaluate import COLUMNS


def written(rows: list[dict], path: Path) -> Path:
    long(rows)[COLUMNS].to_csv(path, sep="\t", index=False)
    return path


def test_folds_come_together_under_the_cohorts_name(tmp_path: Path) -> None:
    """Each with its own split; a model of one fold on the other cohort keeps its own name but for the fold's."""
    fold = [dict(cohort=f"tcga-lgg.fold{i}", trained_on=f"tcga-lgg.fold{i}", split=f"s{i}") for i in (1, 2)]
    paths = [written([row("xdiff", f"sub-{i}", 0.5, **change)], tmp_path / f"{i}.tsv") for i, change in enumerate(fold)]
    collect(paths, tmp_path / "all.tsv")
    table = pd.read_csv(tmp_path / "all.tsv", sep="\t")
    assert set(table["cohort"]) == set(table["trained_on"]) == {"tcga-lgg"}
    assert list(table["subject"]) == ["sub-0", "sub-1"] and list(table["split"]) == ["s1", "s2"]


def test_a_point_of_two_sweeps_is_kept_once(tmp_path: Path) -> None:
    paths = [written([row("xdiff", "sub-0", 0.5), row("xdiff", f"sub-{i}", 0.4)], tmp_path / f"{i}.tsv") for i in (1, 2)]
    collect(paths, tmp_path / "all.tsv")
    assert sorted(pd.read_csv(tmp_path / "all.tsv", sep="\t")["subject"]) == ["sub-0", "sub-1", "sub-2"]


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match=r"other\.tsv: found columns \['a', 'b'\]"):
        collect([tmp_path / "other.tsv"], tmp_path / "all.tsv")
