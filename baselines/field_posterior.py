"""The closed-form posterior of the Gaussian-field cohort: the ceiling that any method can be checked against there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.gaussian_field import GaussianField
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError, NotSupported
from xdiff.observation import Observation


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Nothing is learned: keep the parameters that the cohort was drawn from."""
    source = Path(next(iter(store.sidecar(store.subjects[0])["sources"].values())))
    path = source.parents[2] / "gaussian_field.json"
    if not path.exists():
        raise InputError(path, "no such file", "the parameters of a gaussian-field cohort")
    field = json.loads(path.read_text())
    if tuple(field["shape"]) != store.shape:
        raise InputError(store.folder, f"grid {store.shape}", f"{tuple(field['shape'])}, the field's own")
    return {"field": np.array([field[k] for k in ("length", "slope", "mean", "std")])}


def load(weights: Path) -> FieldReconstructor:
    tensors, _ = read_weights(weights)
    return FieldReconstructor(tensors["field"])


class FieldReconstructor:
    """Posterior mean, standard deviation and exact draws of the field."""

    def __init__(self, parameters: np.ndarray) -> None:
        self.parameters = dict(zip(("length", "slope", "mean", "std"), parameters.tolist(), strict=True))

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        if not all(plane.thin for plane in observation.planes):
            raise NotSupported("the closed form is for thin sections of array axes")
        posterior = GaussianField(observation.shape, **self.parameters).posterior(observation.planes)
        given = observation.evidence[0].astype(np.float64)
        if estimate == "mean":
            volume = posterior.mean(given)
        else:
            count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
            volume = np.mean([posterior.sample(given, generator) for _ in range(count)], axis=0)
        volume = np.where(observation.mask, observation.evidence[0], volume)[None].astype(np.float32)
        return volume, posterior.std()[None].astype(np.float32), 0
