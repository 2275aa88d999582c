"""A view of a store in which every head lies in the middle: for training on heads whose place in the array is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.plain import digest
from xdiff.planes import shifted


class CentredStore(Store):
    """The volumes of `subjects`, moved by whole voxels so that the foreground's box is in the middle of the array (to half a
    voxel); of a store of frame `centred`, in which they are there already, not moved. No other subject can be read: where a test
    head lies is what is to be found. Its fingerprint is its own."""

    def __init__(self, store: Store, subjects: Sequence[str]) -> None:
        super().__init__(store.folder)
        self._readable = sorted(subjects)
        self._places: dict[str, np.ndarray] = {}
        self._still = store.frame == "centred"  # half a voxel must not become a whole one, away from weights of that store
        self.frame = "centred"
        self.fingerprint = digest([store.fingerprint, "centred", self._readable])
        self.info = {**self.info, "frame": self.frame, "fingerprint": self.fingerprint}

    @cached_property
    def index(self) -> pd.DataFrame:
        return Store(self.folder).index.loc[self._readable]

    def place(self, subject: str) -> np.ndarray:
        """Voxels (3,), halves included, from the middle of the array to that of the foreground's box."""
        if subject not in self._readable:
            raise InputError(self.folder, f"{subject} asked for", "a training or validation subject: others stay unread")
        if subject not in self._places:
            voxels = np.argwhere(super().foreground(subject))
            self._places[subject] = (voxels.min(axis=0) + voxels.max(axis=0)) / 2 - (np.array(self.shape) - 1) / 2
        return self._places[subject]

    def moved_by(self, subject: str) -> tuple[int, int, int]:
        """Whole voxels that this view moves a subject by."""
        return (0, 0, 0) if self._still else tuple((-np.floor(self.place(subject) + 0.5)).astype(int).tolist())

    def sidecar(self, subject: str) -> dict:
        by, record = self.moved_by(subject), super().sidecar(subject)
        affine = np.array(record["affine"])
        affine[:3, 3] -= affine[:3, :3] @ by
        return {**record, "affine": affine.tolist()}

    def volume(self, subject: str) -> np.ndarray:
        by = self.moved_by(subject)
        return shifted(super().volume(subject), by)

    def foreground(self, subject: str) -> np.ndarray:
        by = self.moved_by(subject)
        return shifted(super().foreground(subject), by)

    def labels(self, subject: str) -> np.ndarray | None:
        by, labels = self.moved_by(subject), super().labels(subject)
        return None if labels is None else shifted(labels, by)
