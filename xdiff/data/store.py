"""The store: one memory-mapped .npy per subject on a common grid, an index and a description, written by preprocess."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from xdiff.config import Projection
from xdiff.errors import InputError


class Store:
    """Read access to `results/data/{cohort}/{grid}`.

    Values are in units of the volume's own scale (its 99.5th percentile over positive voxels = 1, or raw where norm is
    none); `scale` gives raw units back.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "dataset.json").exists():
            raise InputError(self.folder / "dataset.json", "no such file", "a preprocessed cohort (rule preprocess)")
        self.info = json.loads((self.folder / "dataset.json").read_text())
        self.cohort, self.grid, self.frame, self.norm = (self.info[k] for k in ("cohort", "grid", "frame", "norm"))
        self.contrasts: tuple[str, ...] = tuple(self.info["contrasts"])
        self.shape: tuple[int, int, int] = tuple(self.info["shape"])
        self.fingerprint: str = self.info["fingerprint"]

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per subject: subject, cropped (fraction of the foreground outside the grid), sha256."""
        return pd.read_csv(self.folder / "index.tsv", sep="\t", dtype={"subject": str}).set_index("subject", drop=False)

    @property
    def label_names(self) -> dict[int, str]:
        """Label value -> its meaning; empty where the cohort has no labels."""
        return {int(value): name for value, name in self.info["labels"].items()}

    @property
    def projection(self) -> Projection | None:
        """Which contrast is a projection, constant along its axis; None where all are volumes."""
        found = self.info.get("projection")
        return Projection(**found) if found else None

    @property
    def volumes(self) -> list[int]:
        """Which contrasts are volumes: all but a projection, which is given wherever there is one."""
        projected = self.projection.contrast if self.projection else ""
        return [c for c, name in enumerate(self.contrasts) if name != projected]

    @property
    def anatomy(self) -> str:
        """brain, body or knee; stores of older code hold brains."""
        return self.info.get("anatomy", "brain")

    @property
    def known_as(self) -> tuple[str, ...]:
        """The contrasts under the names that models of other cohorts know them by."""
        names = self.info.get("read_as", {})
        return tuple(names.get(contrast, contrast) for contrast in self.contrasts)

    @property
    def subjects(self) -> list[str]:
        return self.index["subject"].tolist()

    def _path(self, subject: str, kind: str) -> Path:
        return self.folder / "volumes" / f"{subject}{kind}"

    def sidecar(self, subject: str) -> dict:
        return json.loads(self._path(subject, ".json").read_text())

    def volume(self, subject: str) -> np.ndarray:
        """(C, X, Y, Z) float32 in units of the volume's scale."""
        return np.load(self._path(subject, ".npy"), mmap_mode="r").astype(np.float32)

    def foreground(self, subject: str) -> np.ndarray:
        """(X, Y, Z) bool."""
        return np.load(self._path(subject, "_foreground.npy"), mmap_mode="r").astype(bool)

    def labels(self, subject: str) -> np.ndarray | None:
        """(X, Y, Z) uint8, or None where the cohort has none."""
        path = self._path(subject, "_labels.npy")
        return np.load(path) if path.exists() else None

    def affine(self, subject: str) -> np.ndarray:
        """(4, 4): grid voxel to the subject's own RAS mm, so that a result can be written back into its space."""
        return np.array(self.sidecar(subject)["affine"])

    def spacing_mm(self, subject: str) -> tuple[float, float, float]:
        return tuple(self.sidecar(subject)["spacing_mm"])

    def scale(self, subject: str) -> np.ndarray:
        """(C,) raw intensity of 1.0."""
        return np.array(self.sidecar(subject)["scale"], dtype=np.float32)
