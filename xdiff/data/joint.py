"""Several cohorts as one training set: the first cohort's split, to which the others add their training sides alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from xdiff.data.split import SEPARATOR, Split, make_split, patient_of, read_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.plain import digest

_SAME = ("grid", "shape", "spacing_mm", "native_axis", "frame", "norm", "contrasts")


class JointStore(Store):
    """Read access to several stores as to one; a subject's name is `COHORT:SUBJECT`, so that equal names do not collide.

    `cohort` is the names joined by `+`, `fingerprint` the digest of all; everything else is the stores' own, and must agree.
    `splits`: cohort -> sha256 of the split that its training side was taken from.
    Raises InputError where grid, shape, spacing, native axis, frame, norm or contrasts differ, or a cohort is there twice.
    """

    def __init__(self, stores: Sequence[Store], splits: Sequence[Split]) -> None:
        first = stores[0]
        for other in stores[1:]:
            for key in _SAME:
                if other.info[key] != first.info[key]:
                    raise InputError(other.folder, f"{key} {other.info[key]}", f"{first.info[key]} as {first.folder}")
        self.parts = {store.cohort: store for store in stores}
        if len(self.parts) < len(stores):
            raise InputError(first.folder, f"cohorts {[s.cohort for s in stores]}", "each cohort once")
        self.splits = {store.cohort: split.sha for store, split in zip(stores, splits, strict=True)}
        self.folder = Path(" + ".join(str(store.folder) for store in stores))  # for messages: there is no such folder
        self.cohort = "+".join(self.parts)
        self.fingerprint = digest([[name, store.fingerprint] for name, store in self.parts.items()])
        self.info = {**first.info, "cohort": self.cohort, "fingerprint": self.fingerprint}
        self.grid, self.frame, self.norm = first.grid, first.frame, first.norm
        self.contrasts, self.shape = first.contrasts, first.shape

    @cached_property
    def index(self) -> pd.DataFrame:
        """As Store.index, of all cohorts under their joint names."""
        tables = [store.index.assign(subject=[_joint(name, s) for s in store.subjects]) for name, store in self.parts.items()]
        return pd.concat(tables).set_index("subject", drop=False)

    def _path(self, subject: str, kind: str) -> Path:
        cohort, _, own = subject.partition(SEPARATOR)
        if cohort not in self.parts:
            raise InputError(self.folder, f"subject {subject}", f"COHORT:SUBJECT with a cohort of {list(self.parts)}")
        return self.parts[cohort]._path(own, kind)


def join(stores: Sequence[Store], splits: Sequence[Split]) -> tuple[JointStore, Split]:
    """The stores as one, and its split: the first one's three sides, and the others' training sides on the training side.

    Raises InputError where the stores do not fit, and where a volume or a patient that one cohort trains on is on the
    validation or test side of another (see _identities).
    """
    store = JointStore(stores, splits)
    pairs = list(zip(stores, splits, strict=True))
    for own, split in pairs:
        for other, other_split in pairs:
            if own is not other:
                _refuse_leak(own, split.side("train"), other, [*other_split.side("val"), *other_split.side("test")])
    return store, join_splits([own.cohort for own in stores], splits, store.folder)


def join_splits(cohorts: Sequence[str], splits: Sequence[Split], where: Path | str = "split") -> Split:
    """The first cohort's three sides, and the others' training sides on the training side, under their joint names."""
    rows = []
    for i, (cohort, split) in enumerate(zip(cohorts, splits, strict=True)):
        for subject, _, side in split.table.itertuples(index=False, name=None):
            if i == 0 or side == "train":
                name = _joint(cohort, subject)
                rows.append((name, patient_of(name), side))
    return make_split(rows, where)


def open_data(folders: Sequence[Path], split_files: Sequence[Path]) -> tuple[Store, Split]:
    """Store and split of one cohort, or of several joined in this order. Raises InputError where their numbers differ."""
    if len(folders) != len(split_files):
        raise InputError(
            "--data, --split", f"{len(folders)} and {len(split_files)}", "one split for each cohort, in the same order"
        )
    stores, splits = [Store(folder) for folder in folders], [read_split(path) for path in split_files]
    return (stores[0], splits[0]) if len(stores) == 1 else join(stores, splits)


def _joint(cohort: str, subject: str) -> str:
    return f"{cohort}{SEPARATOR}{subject}"


def _refuse_leak(own: Store, trained: Sequence[str], other: Store, held_out: Sequence[str]) -> None:
    hidden = {mark: subject for subject in held_out for mark in _identities(other, subject)}
    for subject in trained:
        for mark in _identities(own, subject) & hidden.keys():
            raise InputError(
                own.folder,
                f"training subject {subject}, the same {mark.split(' ')[0]} as {hidden[mark]} of {other.cohort}",
                "no training on the validation or test side of a cohort it is joined with",
            )


def _identities(store: Store, subject: str) -> set[str]:
    """What two cohorts' subjects are recognised by: the stored volume, its source files, and names that are unique to a patient
    (BraTS). `sub-01` of one BIDS cohort and `sub-01` of another are two people."""
    marks = {f"volume {store.index.loc[subject, 'sha256']}"}
    marks |= {f"file {path}" for path in store.sidecar(subject)["sources"].values()}
    return marks | ({f"patient {patient_of(subject)}"} if subject.startswith("BraTS-") else set())
