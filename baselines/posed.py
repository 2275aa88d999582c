"""Any other method, for heads of which nobody says where in the array they lie.

The method is trained on heads in the middle of the array. Given sections, their pose is estimated on its training volumes
(xdiff/pose.py), they are moved to where the method expects them, and what it makes of them is moved back: `mean` is the mean
over the likeliest poses, weighed by their probability; a `sample` draws its pose first.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from xdiff import gaussian_fit
from xdiff.checkpoint import Tensors, read_weights, write_weights
from xdiff.compact import expand
from xdiff.config import MethodEntry
from xdiff.data.centred import CentredStore
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.observation import Observation
from xdiff.plain import from_dict
from xdiff.planes import project, shifted
from xdiff.pose import PoseModel, moved_back
from xdiff.pose_fit import fit_pose, from_tensors, to_tensors
from xdiff.train import load_module

INNER, POSE = "inner.", "pose."  # in front of the tensors' names


@dataclass(frozen=True)
class Settings:
    """module and params: the method's; poses: how many of the likeliest `mean` goes over; max_volumes: most training volumes of
    the pose model. weights: folder of the method's own, trained on the same data, which are then taken instead of training it
    again; weights_sha256: theirs, so that others mean another training."""

    module: str
    params: dict[str, Any] = field(default_factory=dict)
    poses: int = 8
    max_volumes: int = 60
    weights: str = ""
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        if self.poses < 1:
            raise InputError("methods.*.params.poses", self.poses, "at least 1")

    def load_module(self) -> ModuleType:
        return load_module(MethodEntry(self.module, self.params))


def train(store: Store, split: Split, params: dict, workdir: Path) -> Tensors:
    """Train the method and fit the pose model on centred training and validation volumes; no other is read."""
    settings = from_dict(Settings, params, "methods.*.params")
    centred = CentredStore(store, split.side("train") + split.side("val"))
    inner = _inner(settings, store, centred, split, workdir)
    pose = fit_pose(centred, split.side("train"), settings.max_volumes)
    tensors = {**_named(INNER, inner), **_named(POSE, to_tensors(pose))}
    rows = gaussian_fit.to_tensors(pose.linear)["rows"]
    if "rows" not in inner or not np.array_equal(inner["rows"], rows):  # most methods keep the same ones: once is enough
        tensors[f"{POSE}rows"] = rows
    return tensors


def _inner(settings: Settings, store: Store, centred: CentredStore, split: Split, workdir: Path) -> Tensors:
    """The method's own weights: trained now, or those that are named."""
    if not settings.weights:
        module = settings.load_module()
        return module.train(centred, split, settings.params, workdir) if hasattr(module, "train") else {}
    tensors, config = read_weights(Path(settings.weights))
    wanted = {"module": settings.module, "params": settings.params, "sha256": settings.weights_sha256, "frame": centred.frame}
    for key, value in {**wanted, "data": store.fingerprint, "split": split.sha}.items():
        if config[key] != value:
            raise InputError(settings.weights, f"weights of {key} {config[key]}", value)
    return tensors


def load(weights: Path) -> Posed:
    tensors, config = read_weights(weights)
    tensors = expand(tensors)
    settings = from_dict(Settings, config["params"], "methods.*.params")
    inner, pose = _without(INNER, tensors), _without(POSE, tensors)
    rows = pose.pop("rows", inner.get("rows"))
    # a method reads its own weights folder: it is given one
    with tempfile.TemporaryDirectory() as folder:
        described = {k: v for k, v in config.items() if k not in ("sha256", "key", "seconds")}
        write_weights(Path(folder), inner, {**described, "module": settings.module, "params": settings.params})
        method = settings.load_module().load(Path(folder))
    return Posed(method, from_tensors(rows, pose), settings.poses)


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": array for name, array in tensors.items()}


def _without(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


class Posed:
    """A method and a pose model, ready to reconstruct."""

    def __init__(self, method: Any, model: PoseModel, poses: int) -> None:
        self.method, self.model, self.poses = method, model, poses
        if hasattr(method, "device_name"):
            self.device_name = method.device_name

    def reconstruct(
        self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Volume (C, X, Y, Z) in units of the observation's scale; the standard deviation with that of the pose in it, None where
        the method has none; the section evaluations of all poses."""
        pose = self.model.pose(observation)
        if estimate == "mean":
            shifts, one = pose.likeliest(self.poses), "mean"
        else:
            count = 1 if estimate == "sample" else int(estimate.removeprefix("mean_of_"))
            shifts, one = [(pose.draw(generator), 1 / count) for _ in range(count)], "sample"
        mean, square = np.zeros((2, len(observation.contrasts), *observation.shape))
        variance: np.ndarray | None = np.zeros_like(mean)
        evaluations = 0
        for shift, share in shifts:
            volume, std, used = self._at(shift, observation, steps, one, generator)
            mean, square, evaluations = mean + share * volume, square + share * volume**2, evaluations + used
            variance = None if variance is None or std is None else variance + share * std**2
        between = np.maximum(square - mean**2, 0)
        if estimate == "mean":
            variance = None if variance is None else variance + between
        else:  # that of the draws is all there is
            variance = between * len(shifts) / (len(shifts) - 1) if len(shifts) > 1 else None
        found = project(mean.astype(np.float32), observation.sections, observation.planes)
        std = None if variance is None else np.where(observation.mask, 0, np.sqrt(variance)).astype(np.float32)
        return found, std, evaluations

    def _at(
        self, shift: tuple[int, int, int], observation: Observation, steps: int, estimate: str, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """What the method makes of a head at `shift`: 0, as uncertain as the nearest place, where its array does not reach."""
        centred = replace(moved_back(observation, shift), frame="centred")
        volume, std, evaluations = self.method.reconstruct(centred, steps, estimate, generator)
        return shifted(volume, shift), None if std is None else shifted(std, shift, edge=True), evaluations
