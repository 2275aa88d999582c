"""Who will be in a cohort, before its files are there: the split that a run will write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xdiff.bench import REPOSITORY
from xdiff.config import EMBEDDED, Config, source_folder
from xdiff.data.cohorts import find_subjects
from xdiff.data.gaussian_field import field_names
from xdiff.data.phantom_body import phantom_body_names
from xdiff.data.phantom_brain import phantom_names
from xdiff.data.phantom_knee import phantom_knee_names
from xdiff.data.split import Split, read_split, split_by_rule
from xdiff.data.ukb_names import find_archives
from xdiff.errors import InputError


def is_counted(config: Config, cohort: str, data_root: Path | None = None) -> bool:
    """Whether a cohort's subjects are known, not expected (plan.subjects): committed, embedded, or there."""
    entry = config.cohorts[cohort]
    return bool(entry.split.file) or entry.layout in EMBEDDED or source_folder(config, cohort, data_root).is_dir()


def planned_split(config: Config, cohort: str, data_root: Path | None = None) -> Split:
    """The split that a run will write: the committed one, or that of the names which an embedded cohort will have, or which the
    raw folder has; else one of as many made-up patients as plan.subjects expects, whose sides are about as large. Raises
    InputError that says which key or folder would tell where none does."""
    entry = config.cohorts[cohort]
    if entry.split.file:
        return read_split(REPOSITORY / entry.split.file)
    if entry.layout in EMBEDDED:
        names = [name for name in _embedded_names(cohort, entry.layout, entry.generate) if name not in entry.exclude]
        return split_by_rule(names, entry.split)
    root = source_folder(config, cohort, data_root)
    if not is_counted(config, cohort, data_root) and cohort in config.plan.subjects:
        return split_by_rule([f"sub-{number:06d}" for number in range(config.plan.subjects[cohort])], entry.split)
    if not root.is_dir():
        wanted = f"to count subjects: cohorts.{cohort}.split.file, plan.subjects.{cohort}, or the raw folder below --data-root"
        raise InputError(f"cohorts.{cohort}", f"no split.file and no folder {root}", wanted)
    if entry.layout == "ukb":  # not stitched yet
        return split_by_rule([one.subject for one in find_archives(root) if one.subject not in entry.exclude], entry.split)
    return split_by_rule([files.subject for files in find_subjects(entry, root)], entry.split)


def _embedded_names(cohort: str, layout: str, generate: dict[str, Any]) -> Sequence[str]:
    key = "n_subjects" if layout == "gaussian-field" else "n_patients"
    if key not in generate:
        raise InputError(f"cohorts.{cohort}.generate", f"no key {key!r}", "the number that is generated")
    if layout == "phantom-brain":
        return phantom_names(generate[key], *([generate["followups"]] if "followups" in generate else []))
    names = {"phantom-body": phantom_body_names, "phantom-knee": phantom_knee_names, "gaussian-field": field_names}
    return names[layout](generate[key])
