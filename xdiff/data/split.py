"""Splits by patient, never by file: ordered or thresholded by sha256(seed:patient), written as a TSV with its own sha256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from xdiff.config import SplitRule
from xdiff.errors import InputError

SIDES = ("train", "val", "test")
COLUMNS = ["subject", "patient", "side"]
SEPARATOR = ":"  # COHORT:SUBJECT where cohorts are joined (joint.py)
_COHORT = rf"(?:.*{SEPARATOR})?"
VISITS = re.compile(rf"({_COHORT}BraTS-[A-Za-z]+-\d+)-\d+|({_COHORT}\d{{7}})_\d+_\d+")
T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Which subject is on which side. `sha` is the sha256 of the canonical TSV; every result row carries its first 12 digits."""

    table: pd.DataFrame
    sha: str

    def side(self, name: str) -> list[str]:
        return self.table.loc[self.table["side"] == name, "subject"].tolist()

    def with_training(self, patients: int) -> Split:
        """The same with so many training patients only, those of the lowest ranks; all of them where `patients` is 0."""
        if not patients:
            return self
        training = sorted(set(self.table.loc[self.table["side"] == "train", "patient"]), key=lambda p: rank(0, p))
        if patients > len(training):
            raise InputError("methods.*.params.patients", patients, f"at most the {len(training)} training patients")
        dropped = self.table["patient"].isin(training[patients:])
        return make_split(list(self.table[~dropped].itertuples(index=False, name=None)))


def patient_of(subject: str) -> str:
    """The patient a subject (one visit) belongs to.

    BraTS-GLI-00503-001 -> BraTS-GLI-00503 (the last block counts visits), sub-02_ses-1 -> sub-02, 1234567_2_0 -> 1234567 (UK
    Biobank's instance and array), anything else is itself;
    the name of a cohort before a colon stays.
    """
    counted = VISITS.fullmatch(subject)
    if counted:
        return counted.group(1) or counted.group(2)
    return subject.split("_ses-")[0]


def visit_name(patient: str, visit: str, where: Path | str = "patient") -> str:
    """The name under which a visit is a subject: one that `patient_of` gives `patient` back from.

    That is the visit's own name, or PATIENT_ses-VISIT where nothing in its own says whose it is: a name carries its patient
    through every table. Raises InputError where no name does.
    """
    name = visit if patient_of(visit) == patient else f"{patient}_ses-{visit}"
    if patient_of(name) != patient:
        raise InputError(where, f"patient {patient!r} of {visit}", f"{patient_of(name)!r}: no visit in a patient's name")
    return name


def rank(seed: int, patient: str) -> float:
    """A number in [0, 1) that depends on seed and patient only, so that a split does not change when patients are added."""
    return int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest(), 16) / 2**256


def split_by_fraction(subjects: Sequence[str], seed: int, val: float, test: float) -> Split:
    """Each patient to the side its rank falls in; for large cohorts (80/10/10)."""

    def side(patient: str) -> str:
        r = rank(seed, patient)
        return "test" if r < test else "val" if r < test + val else "train"

    return make_split([(s, patient_of(s), side(patient_of(s))) for s in subjects])


def split_by_count(subjects: Sequence[str], seed: int, n_val: int, n_test: int) -> Split:
    """Exactly n_test and n_val patients, lowest ranks first; for small cohorts, whose split is committed as a file."""
    patients = sorted({patient_of(s) for s in subjects}, key=lambda p: rank(seed, p))
    if n_val + n_test > len(patients):
        raise InputError("split", f"{len(patients)} patients", f"at least {n_val + n_test} (val {n_val} + test {n_test})")
    sides = {p: "test" if i < n_test else "val" if i < n_test + n_val else "train" for i, p in enumerate(patients)}
    return make_split([(s, patient_of(s), sides[patient_of(s)]) for s in subjects])


def split_by_rule(subjects: Sequence[str], rule: SplitRule) -> Split:
    """By numbers of patients where the rule has them, else by fractions; its committed file is another matter (read_split)."""
    if rule.n_test or rule.n_val:
        return split_by_count(subjects, rule.seed, rule.n_val, rule.n_test)
    return split_by_fraction(subjects, rule.seed, rule.val, rule.test)


def make_split(rows: Sequence[tuple[str, str, str]], where: Path | str = "split") -> Split:
    """Check (subject, patient, side) rows and put them in canonical order."""
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("subject", ignore_index=True)
    unknown = sorted(set(table["side"]) - set(SIDES))
    if unknown:
        raise InputError(where, f"sides {unknown}", f"only {list(SIDES)}")
    repeated = table.loc[table["subject"].duplicated(), "subject"].tolist()
    if repeated:
        raise InputError(where, f"subjects listed twice: {repeated[:5]}", "each subject once")
    sides = table.groupby("patient")["side"].nunique()
    torn = sides[sides > 1].index.tolist()
    if torn:
        raise InputError(where, f"patients on two sides: {torn[:5]}", "every patient on one side only")
    return Split(table, hashlib.sha256(_text(table).encode()).hexdigest())


def write_split(split: Split, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# sha256 {split.sha}\n{_text(split.table)}")


def read_split(path: Path) -> Split:
    """Read a split TSV; raises InputError on a missing column, a patient on two sides or a sha256 that does not fit."""
    if not path.exists():
        raise InputError(path, "no such file", "a split TSV with columns " + ", ".join(COLUMNS))
    try:
        table = pd.read_csv(path, sep="\t", comment="#", dtype=str)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise InputError(path, f"no table ({' '.join(str(error).split())})", f"columns {COLUMNS}") from error
    if list(table.columns) != COLUMNS:
        raise InputError(path, f"columns {list(table.columns)}", COLUMNS)
    wrong = [s for s, p in zip(table["subject"], table["patient"], strict=True) if patient_of(s) != p]
    if wrong:
        raise InputError(path, f"patient of {wrong[0]} given otherwise", patient_of(wrong[0]))
    split = make_split(list(table.itertuples(index=False, name=None)), path)
    first = path.read_text().splitlines()[0]
    if first.startswith("# sha256 ") and first.split()[2] != split.sha:
        raise InputError(path, f"sha256 {first.split()[2][:12]} in its first line", f"{split.sha[:12]}, the hash of its rows")
    return split


def unlisted(split: Split, subjects: Sequence[str], where: Path | str) -> list[str]:
    """Subjects at hand that a committed split does not list (they stay unused); a listed one that is absent is an error."""
    absent = sorted(set(split.table["subject"]) - set(subjects))
    if absent:
        raise InputError(
            where,
            f"{len(absent)} listed subject(s) missing from the cohort: {absent[:5]}",
            "every listed subject on disk",
        )
    return sorted(set(subjects) - set(split.table["subject"]))


def shard_of(items: Sequence[T], shard: str) -> list[T]:
    """Every n-th item from the i-th, of a shard written i/n. Raises InputError unless 1 <= i <= n."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError("--shard", shard, "i/n with 1 <= i <= n")
    return list(items[int(match[1]) - 1 :: int(match[2])])


def _text(table: pd.DataFrame) -> str:
    return table[COLUMNS].to_csv(sep="\t", index=False, lineterminator="\n")
