"""A volume from the slices in a person's hand, in their own space, with its uncertainty and with what speaks against it.

    xdiff reconstruct --given slice.nii.gz --model WEIGHTS --out volume.nii.gz

Writes volume.nii.gz, volume_std.nii.gz where the model gives a standard deviation, volume.json and volume.png. Of a model that
estimates poses (baselines.posed) nobody needs to say where in the anatomy the slices lie: the likeliest place is taken, and its
uncertainty is part of the standard deviation. Slices unlike all training volumes are refused, unless forced.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xdiff import __version__
from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.doubts import Verdict, judge
from xdiff.errors import InputError
from xdiff.given import VIEWS, Given, Reading, read_given
from xdiff.models import find_model, spacing_of
from xdiff.observation import Observation
from xdiff.placing import Array, around, observe_given, searching
from xdiff.planes import AXES, AXIS_NAMES
from xdiff.pose import Pose, PoseModel
from xdiff.provenance import versions
from xdiff.sample import device_name
from xdiff.train import load_module
from xdiff.volumes import write_volume
from xdiff.whole_file import whole_file

ESTIMATE = re.compile(r"mean|sample|mean_of_([2-9]|[1-9]\d{1,2})")
MOST_STEPS = 1000
UNSURE_MM = 10.0  # standard deviation of a place from which on it is better said


@dataclass(frozen=True)
class Reconstruction:
    """`volume` (X, Y, Z) float32 in the slices' raw intensities and `std`, its standard deviation, None where the model gives
    none; `affine` (4, 4) to the slices' world; `sidecar`: what it was made of, and how."""

    volume: np.ndarray
    std: np.ndarray | None
    affine: np.ndarray
    observation: Observation
    sidecar: dict[str, Any]

    def save(self, out: Path | str) -> list[Path]:
        """Write `out` (.nii or .nii.gz) and beside it what there is of _std, .json and .png; returns the paths, `out` first."""
        from xdiff.preview import write_preview  # matplotlib takes a second

        out = _volume_path(out)
        stem = out.name.removesuffix(".gz").removesuffix(".nii")
        paths = [out]
        write_volume(out, self.volume, self.affine)
        if self.std is not None:
            paths.append(out.with_name(out.name.replace(stem, f"{stem}_std", 1)))
            write_volume(paths[-1], self.std, self.affine)
        about = f"synthetic: {self.sidecar['model']['name']}, {self.sidecar['estimate']}"
        paths.append(out.with_name(f"{stem}.png"))
        observation = self.observation
        write_preview(paths[-1], self.volume, self.std, observation.planes, observation.spacing_mm, about)
        paths.append(out.with_name(f"{stem}.json"))
        with whole_file(paths[-1]) as temporary:
            temporary.write_text(json.dumps({**self.sidecar, "files": [p.name for p in paths]}, indent=1) + "\n")
        return paths


@dataclass(frozen=True)
class Located:
    """A pose that is known already, in the place of the pose model that `Posed` asks for it."""

    found: Pose

    def pose(self, observation: Observation) -> Pose:
        return self.found


def reconstruct(
    given: Path | str | Sequence[Path | str],
    model: Path | str,
    estimate: str = "mean",
    steps: int = 8,
    seed: int = 0,
    at_mm: float | None = None,
    reading: Reading | None = None,
    force: bool = False,
) -> Reconstruction:
    """Make a volume of given slices.

    given: files of parallel sections. model: the name of a shipped one or a weights folder. estimate: mean, sample or mean_of_N.
    at_mm: how far the slice nearest to the middle of the stack lies from the middle of the anatomy, to the right, the front or
    the top; None: to be found. reading: what is said of the files beside them. Raises InputError; with `force` not where the
    slices are unlike the training volumes, which the sidecar then says.
    """
    start = time.perf_counter()
    if not ESTIMATE.fullmatch(estimate):
        raise InputError("estimate", repr(estimate), "mean, sample or mean_of_N with N from 2 to 999")
    if not 1 <= steps <= MOST_STEPS:
        raise InputError("steps", steps, f"1 to {MOST_STEPS}")
    paths = [Path(given)] if isinstance(given, str | Path) else [Path(p) for p in given]
    reading = reading or Reading()
    files = read_given(paths, reading)
    weights = find_model(model)
    config = read_weights(weights)[1]
    if len(config["contrasts"]) != 1:
        raise InputError(weights, f"a model of contrasts {config['contrasts']}", "a model of one contrast")
    if config["norm"] != "p99.5":
        raise InputError(
            weights, f"a model of intensities with norm {config['norm']}", "norm p99.5: of any scanner's intensities"
        )
    method = load_module(MethodEntry(config["module"], config["params"])).load(weights)
    found = locate(files, config, method, at_mm, weights)
    if found.verdict.doubts and not force:
        raise InputError(*found.verdict.first(paths[0]))
    volume, std, evaluations = found.method.reconstruct(found.observation, steps, estimate, np.random.default_rng(seed))
    sidecar = {
        "synthetic": True,
        "xdiff": __version__,
        **_about_model(config, weights),
        **_about_given(files, found, reading),
        "estimate": estimate,
        "steps": 1 if estimate == "mean" else steps,
        "seed": seed,
        "evaluations": evaluations,
        "out_of_distribution": {**found.verdict.plain(), "forced": bool(found.verdict.doubts)},
        "device": getattr(method, "device_name", device_name()),
        "seconds": round(time.perf_counter() - start, 2),
        "packages": versions(),
    }
    scale = float(found.observation.scale[0])
    raw_std = None if std is None else (std[0] * scale).astype(np.float32)
    return Reconstruction((volume[0] * scale).astype(np.float32), raw_std, found.array.affine, found.observation, sidecar)


@dataclass(frozen=True)
class Found:
    """Slices on an array with the anatomy in its middle; `std_mm` (3,) of where that is, None where somebody said it."""

    array: Array
    observation: Observation
    method: Any
    verdict: Verdict
    std_mm: list[float] | None


def locate(files: Sequence[Given], config: dict, method: Any, at_mm: float | None, weights: Path) -> Found:
    """Where the anatomy lies: estimated by a model that can, else as `at_mm` says. Raises InputError where neither does."""
    array = around(files, config["shape"], spacing_of(config), at_mm)
    contrast, frame = config["contrasts"][0], config["frame"]
    observation = observe_given(files, array, contrast, frame)
    threshold = config.get("out_of_distribution", {}).get("threshold")
    known = getattr(method, "model", None)
    if not isinstance(known, PoseModel):
        if at_mm is None:
            expected = "--at MM, the height of the slice above the middle of the anatomy (or a model that estimates it)"
            raise InputError(weights, f"a model ({config['module']}) that does not estimate where slices lie", expected)
        return Found(array, observation, method, Verdict(None, threshold, ()), None)
    model = searching(known, files[0].axis, array.spacing_mm, at_mm is not None)
    pose = model.pose(observation)
    verdict = judge(known, files, observation, pose.shift, threshold)
    array = array.moved(pose.shift)
    method.model = Located(pose.about(pose.shift))
    return Found(array, observe_given(files, array, contrast, frame), method, verdict, pose.std_mm.round(2).tolist())


def _about_model(config: dict, weights: Path) -> dict:
    keys = ("module", "trained_on", "grid", "shape", "spacing_mm", "frame", "model_version")
    name = config.get("name", config["method"])
    return {"model": {"name": name, "weights": str(weights), "sha256": config["sha256"], **{k: config[k] for k in keys}}}


def _about_given(files: Sequence[Given], found: Found, reading: Reading) -> dict:
    """Files and planes, how they were read, and where the anatomy was taken to lie."""
    axis, array = files[0].axis, found.array
    middle = (array.shape[axis] - 1) / 2
    heights = [(plane.index - middle) * array.spacing_mm[axis] for plane in found.observation.planes]
    described = [
        {
            "path": str(one.path),
            "sha256": one.sha256,
            "sections": one.count,
            "thickness_mm": round(one.thickness_mm, 4),
            "tilt_deg": round(one.tilt_deg, 2),
            **({} if one.in_world else {"view": reading.view, "spacing_mm": reading.spacing_mm, "world": "none: made up"}),
        }
        for one in files
    ]
    return {
        "given": described,
        "axis": AXIS_NAMES[axis],
        "contrast": found.observation.contrasts[0],
        "planes": [plane.name for plane in found.observation.planes],
        "intensity_scale": float(found.observation.scale[0]),
        "position": {
            "heights_mm": [round(float(h), 2) for h in heights],  # of the sections above the middle of the anatomy
            "std_mm": found.std_mm,  # of that middle, along the array's axes; null: as stated
        },
    }


def _volume_path(out: Path | str) -> Path:
    path = Path(out)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(path, "another ending", ".nii or .nii.gz")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="xdiff reconstruct", description="A volume from one slice, or from a few parallel ones."
    )
    add = parser.add_argument
    add("--given", required=True, type=Path, nargs="+", help="slices: NIfTI (a section or a stack), DICOM (a file each), one PNG")
    add("--model", required=True, help="name of a shipped model (`xdiff models`) or a weights folder")
    add("--out", required=True, type=Path, help="volume to write (.nii.gz); beside it _std.nii.gz, .json and .png")
    add("--estimate", default="mean", help="mean (the default), sample, or mean_of_N: the mean of N samples")
    add("--steps", type=int, default=8, help="steps of a sample (default 8)")
    add("--seed", type=int, default=0)
    at = (
        "mm from the middle of the anatomy up (coronal: to the front, sagittal: to the right) to the slice, of a stack its middle"
    )
    add("--at", type=float, metavar="MM", help=f"{at} one; else estimated")
    add("--thickness", type=float, metavar="MM", help="of a section, where it is not the file's spacing along the normal")
    add("--axis", choices=list(AXES), help="of a PNG; of other files, to check what they say")
    add("--spacing", type=float, metavar="MM", help="edge of a pixel of a PNG")
    add("--view", choices=VIEWS, default="radiological", help="of a PNG: radiological has the subject's right on its left side")
    add("--force", action="store_true", help="go on with slices unlike the training volumes, and say so in the sidecar")
    args = parser.parse_args(argv)
    _volume_path(args.out)  # before a minute is spent
    reading = Reading(args.thickness, args.axis, args.spacing, args.view)
    result = reconstruct(args.given, args.model, args.estimate, args.steps, args.seed, args.at, reading, args.force)
    for path in result.save(args.out):
        print(path)
    print("\n".join(_summary(result.sidecar)))


def _summary(about: dict) -> list[str]:
    """Lines for the person who waits: where the slices lie, how usual they are, and warnings."""
    position, doubt = about["position"], about["out_of_distribution"]
    spread = "as stated" if position["std_mm"] is None else f"std {position['std_mm']} mm along the array's axes"
    lines = [f"slices {position['heights_mm']} mm from the middle of the anatomy ({spread})"]
    lines.append(f"out-of-distribution score {doubt['score']}, threshold {doubt['threshold']}")
    if max(position["std_mm"] or [0.0]) > UNSURE_MM:
        # one sagittal slice may be of either half of the head
        lines.append("warning: it is not clear where the slices lie; --at MM says it")
    return lines + [f"warning: {text}" for text in doubt["doubts"]]
