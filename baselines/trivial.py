"""Rows that need no network: zeros, the mean template, retrieval and the linear-Gaussian estimate.

One module, one `kind` each. A method that does not beat these has shown nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdiff.checkpoint import Tensors, read_weights
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.gaussian import LinearGaussian, Posterior
from xdiff.gaussian_fit import fit, from_tensors, to_tensors, training_rows, with_mirror
from xdiff.observation import Observation
from xdiff.planes import project

KINDS = ("zeros", "mean_template", "retrieval", "gaussian")


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Keep the training volumes, as float16 (the store's own precision); for `gaussian` also fit its hyperparameters."""
    kind = _kind(params)
    if kind == "zeros":
        return {}
    if kind == "gaussian":
        return to_tensors(fit(store, split, params.get("max_volumes", 400)))
    rows, _ = training_rows(store, split.side("train"), params.get("max_volumes", 400))
    half = rows[: len(rows) // 2]
    return {"mean": rows.mean(axis=0, dtype=np.float32)} if kind == "mean_template" else {"rows": half}


def load(weights: Path) -> Trivial:
    tensors, config = read_weights(weights)
    return Trivial(_kind(config["params"]), tensors)


class Trivial:
    """One of the trivial rows, ready to reconstruct."""

    def __init__(self, kind: str, tensors: Tensors) -> None:
        self.kind, self.tensors = kind, tensors
        if kind in ("retrieval", "gaussian"):
            fitted = {"lambdas", "lengths_mm", "inflation"} <= set(tensors)
            rows = tensors["rows"]
            self.model = from_tensors(tensors) if fitted else LinearGaussian(with_mirror(rows))

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale, standard deviation or None, 0 section evaluations."""
        if estimate != "mean" and self.kind != "gaussian":
            raise ValueError(f"{self.kind} is deterministic: estimate is {estimate!r}, expected 'mean'")
        if self.kind == "zeros":
            return np.zeros((len(observation.contrasts), *observation.shape), dtype=np.float32), None, 0
        if self.kind == "mean_template":
            return project(self.tensors["mean"], observation.sections, observation.planes, observation.given), None, 0
        if self.kind == "retrieval":
            return self._retrieve(observation), None, 0
        return (*_gaussian(self.model.posterior(observation), estimate, generator), 0)

    def _retrieve(self, observation: Observation) -> np.ndarray:
        """The training volume (or mirror image) whose sections are nearest to the given ones, with these put in."""
        squares = np.diag(self.model.gram(observation.planes, observation.given))
        nearest = int(np.argmin(squares - 2 * self.model.inner(observation)))
        return project(self.model.rows[nearest].astype(np.float32), observation.sections, observation.planes, observation.given)


def _gaussian(posterior: Posterior, estimate: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Volume and standard deviation of the truth: the posterior's, or for mean_of_N that of the draws."""
    if estimate == "mean":
        return posterior.mean, posterior.std()
    if estimate == "sample":
        return posterior.sample(generator), posterior.std()
    count = int(estimate.removeprefix("mean_of_"))
    draws = np.stack([posterior.sample(generator) for _ in range(count)])
    observation = posterior.observation
    # a mean of equal float32 values is not exactly that value
    mean = project(draws.mean(axis=0), observation.sections, observation.planes, observation.given)
    return mean, draws.std(axis=0, ddof=1) if count > 1 else posterior.std()


def _kind(params: dict) -> str:
    kind = params.get("kind")
    if kind not in KINDS:
        raise ValueError(f"methods.*.params.kind is {kind!r}, expected one of {KINDS}")
    return kind
