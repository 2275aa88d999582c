"""Splits by patient: independent of order and of who joins, with a sha256 of their own, and nobody on two sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdiff.data.split import make_split, patient_of, rank, read_split, split_by_count, split_by_fraction, unlisted, write_split
from xdiff.errors import InputError

COMMITTED = sorted((Path(__file__).parents[1] / "workflow/splits").glob("*.tsv"))
MANY = [f"BraTS-GLI-{i:05d}-{visit:03d}" for i in range(300) for visit in range(1 + (i % 7 == 0))]
SIZES = {
    "openneuro-ds002748": {"train": 41, "val": 9, "test": 12},
    "ixi-2mm.train": {"train": 108, "val": 12, "test": 0},
    "ixi-2mm.test": {"train": 0, "val": 0, "test": 120},
}


def sides(split) -> dict[str, str]:
    return dict(zip(split.table["subject"], split.table["side"], strict=True))


@pytest.mark.parametrize(
    ("subject", "patient"),
    [
        ("BraTS-GLI-00503-000", "BraTS-GLI-00503"),
        ("BraTS-GLI-00503-001", "BraTS-GLI-00503"),
        ("BraTS-MEN-00012-003", "BraTS-MEN-00012"),
        ("sub-02_ses-1", "sub-02"),
        ("sub-02_ses-10", "sub-02"),
        ("sub-02", "sub-02"),
        ("sub-IXI013", "sub-IXI013"),
    ],
)
def test_patient_of(subject: str, patient: str) -> None:
    assert patient_of(subject) == patient


@pytest.mark.parametrize("make", [lambda s: split_by_fraction(s, 3, 0.1, 0.1), lambda s: split_by_count(s, 3, 20, 30)])
def test_order_does_not_matter(make) -> None:
    shuffled = sorted(MANY, key=lambda s: rank(99, s))
    assert shuffled != MANY
    assert sides(make(shuffled)) == sides(make(MANY))
    assert make(shuffled).sha == make(MANY).sha


@given(st.sets(st.sampled_from(MANY), min_size=1), st.integers(0, 5))
def test_a_fraction_split_does_not_change_when_patients_are_added(some: set[str], seed: int) -> None:
    everyone, part = sides(split_by_fraction(MANY, seed, 0.1, 0.1)), sides(split_by_fraction(sorted(some), seed, 0.1, 0.1))
    assert part == {s: everyone[s] for s in some}


def test_fractions_are_about_what_was_asked() -> None:
    split = split_by_fraction([f"sub-{i}" for i in range(4000)], 0, 0.1, 0.2)
    assert len(split.side("val")) == pytest.approx(400, abs=5 * 19)
    assert len(split.side("test")) == pytest.approx(800, abs=5 * 26)


def test_counts_are_exact_and_of_patients() -> None:
    split = split_by_count(MANY, 0, 20, 30)
    patients = {side: {patient_of(s) for s in split.side(side)} for side in ("train", "val", "test")}
    assert {side: len(p) for side, p in patients.items()} == {"train": 250, "val": 20, "test": 30}
    with pytest.raises(InputError, match=r"found 300 patients, expected at least 301 \(val 1 \+ test 300\)"):
        split_by_count(MANY, 0, 1, 300)


@pytest.mark.parametrize("make", [lambda s: split_by_fraction(s, 0, 0.2, 0.3), lambda s: split_by_count(s, 0, 60, 90)])
def test_all_visits_of_a_patient_are_on_one_side(make) -> None:
    split = make(MANY)
    assert (split.table.groupby("patient")["side"].nunique() == 1).all()
    assert (split.table.groupby("patient").size() == 2).sum() == 43


def test_another_seed_is_another_split() -> None:
    assert split_by_count(MANY, 0, 20, 30).sha != split_by_count(MANY, 1, 20, 30).sha


def test_rank_is_pinned() -> None:
    """A changed hash would move patients between the sides of every committed result."""
    assert rank(0, "sub-02") == pytest.approx(0.39373652476556315, abs=1e-15)
    sha = "3fac66f93b77256380a9250dc10eca9c4cdc180680061e399a47e91c6e6dbab0"
    assert split_by_count([f"sub-{i:02d}" for i in range(20)], 0, 3, 4).sha == sha


# Files ------------------------------------------------------------------------------------------------------------


def test_writing_and_reading_give_the_same_split(tmp_path: Path) -> None:
    split = split_by_count(MANY, 0, 20, 30)
    write_split(split, tmp_path / "a/split.tsv")
    again = read_split(tmp_path / "a/split.tsv")
    assert again.sha == split.sha
    assert again.table.equals(split.table)
    write_split(again, tmp_path / "b.tsv")
    assert (tmp_path / "b.tsv").read_bytes() == (tmp_path / "a/split.tsv").read_bytes()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_splits_are_sound(path: Path) -> None:
    split = read_split(path)
    assert path.read_text().startswith(f"# sha256 {split.sha}\n")
    assert (split.table.groupby("patient")["side"].nunique() == 1).all()
    if path.stem in SIZES:
        assert {side: len(split.side(side)) for side in ("train", "val", "test")} == SIZES[path.stem]


def test_the_small_cohorts_have_a_committed_split() -> None:
    assert {p.stem for p in COMMITTED} >= {*SIZES, "tcga-lgg.fold1", "tcga-lgg.fold2"}


def test_the_two_folds_test_every_lgg_patient_once() -> None:
    folds = [read_split(p) for p in COMMITTED if p.stem.startswith("tcga-lgg.fold")]
    tested = [s for fold in folds for s in fold.side("test")]
    assert len(tested) == 30
    assert set(tested) == set(folds[0].table["subject"]) == set(folds[1].table["subject"])


def refused(path: Path, text: str, found: str, expected: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_split(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)
    assert re.search(found, caught.value.found), caught.value.found
    assert re.search(expected, caught.value.expected), caught.value.expected


HEADER = "subject\tpatient\tside\n"


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        (HEADER + "sub-1_ses-1\tsub-1\ttrain\nsub-1_ses-2\tsub-1\ttest\n", r"two sides: \['sub-1'\]", "one side only"),
        (HEADER + "sub-1_ses-1\tsub-1a\ttrain\n", "patient of sub-1_ses-1 given otherwise", "sub-1$"),
        (HEADER + "sub-1\tsub-1\ttrain\nsub-1\tsub-1\ttrain\n", r"listed twice: \['sub-1'\]", "once"),
        (HEADER + "sub-1\tsub-1\tholdout\n", r"sides \['holdout'\]", "train.*val.*test"),
        ("subject\tside\nsub-1\ttrain\n", r"columns \['subject', 'side'\]", "patient"),
        ("", "no table", "subject"),
        (f"# sha256 {'0' * 64}\n{HEADER}sub-1\tsub-1\ttrain\n", "sha256 000000000000", "the hash of its rows"),
    ],
    ids=["two sides", "wrong patient", "twice", "unknown side", "columns", "empty", "sha256"],
)
def test_a_bad_split_file(tmp_path: Path, text: str, found: str, expected: str) -> None:
    refused(tmp_path / "split.tsv", text, found, expected)


def test_an_edited_split_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "split.tsv"
    write_split(split_by_count(MANY, 0, 20, 30), path)
    text = path.read_text()
    subject = split_by_count(MANY, 0, 20, 30).side("test")[0]
    moved = re.sub(rf"({subject[:15]}-\d+\t\S+\t)test", r"\1train", text)
    assert moved != text
    refused(path, moved, "sha256 .* in its first line", "hash of its rows")


def test_a_missing_split_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.tsv: found no such file, expected a split TSV"):
        read_split(tmp_path / "absent.tsv")


def test_a_listed_subject_that_is_absent_is_an_error_and_an_unlisted_one_is_unused() -> None:
    split = make_split([("sub-1", "sub-1", "train"), ("sub-2", "sub-2", "test")])
    assert unlisted(split, ["sub-1", "sub-2", "sub-9"], "f.tsv") == ["sub-9"]
    with pytest.raises(InputError, match=r"f\.tsv: found 1 listed subject\(s\) missing from the cohort: \['sub-2'\]"):
        unlisted(split, ["sub-1"], "f.tsv")
