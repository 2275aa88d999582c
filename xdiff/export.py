"""Trained weights as a model that can travel: small, named, measured, with a card and a threshold for slices unlike its data.

    xdiff export results/models/COHORT/GRID/METHOD --name brain-t1 --data results/data/COHORT/GRID --split SPLIT.tsv --out DIR

Writes a weights folder (weights.safetensors, config.json, README.md) whose training volumes are packed (compact.py), after
measuring what that costs on the validation side. Weights that are there already give way to better ones only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xdiff.checkpoint import CONFIG, Tensors, read_weights, write_weights
from xdiff.compact import EVEN, ODD, compress, is_compressed, projected
from xdiff.config import MethodEntry
from xdiff.data.split import Split, read_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.core import by_region, regions
from xdiff.model_card import card
from xdiff.models import spacing_of
from xdiff.observation import Point, choose_planes, observe
from xdiff.out_of_distribution import calibrate
from xdiff.placing import searching
from xdiff.train import load_module
from xdiff.whole_file import whole_file

POSED = "baselines.posed"
ROWS = ("inner.rows", "pose.rows")
VALIDATED_K = (1, 5)
AXIAL = 2
CARD = "README.md"


@dataclass(frozen=True)
class Packing:
    """components of the training volumes and step of their rounding: see compact.compress."""

    components: int = 200
    step: float = 0.005

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError("--components", self.components, "at least 1")
        if not 0 < self.step < 1:
            raise InputError("--step", self.step, "a share of the intensity scale, more than 0 and less than 1")


def export(
    weights: Path, name: str, out: Path, data: tuple[Store, Split], packing: Packing, source: str = "", replace: str = ""
) -> dict[str, Any]:
    """Write the model `name` to the folder `out`; returns its config.

    weights: of baselines.posed around a method with a local core, not packed. data: what they were trained on. source: where the
    data is from, for the card. replace: why weights in `out` are to give way though these are no better. Raises InputError for
    other weights, other data, a split without a validation side, and weights no better than those in `out`.
    """
    store, split = data
    tensors, config = read_weights(weights)
    _check(weights, tensors, config, store, split)
    packed = compress(tensors, [n for n in ROWS if n in tensors], packing.components, packing.step)
    described = {k: v for k, v in config.items() if k not in ("sha256", "shards", "key")}
    sides = {side: len(split.side(side)) for side in ("train", "val", "test")}
    described |= {"name": name, "source": source or "not stated", "subjects": sides}
    described["compression"] = _compression(packed, config["sha256"], packing, store, split)
    described["out_of_distribution"] = _usual(weights, config)
    with tempfile.TemporaryDirectory() as trial:
        write_weights(Path(trial), packed, described)
        described["validation"] = validation(weights, Path(trial), store, split.side("val"))
    old = _replaced(out, described["validation"], replace)
    if old:
        described["replaced"] = old
    write_weights(out, packed, described)
    final = read_weights(out)[1]
    with whole_file(out / CARD) as temporary:
        temporary.write_text(card(final))
    return final


def _check(weights: Path, tensors: Tensors, config: dict, store: Store, split: Split) -> None:
    if is_compressed(tensors):
        raise InputError(weights, "weights that were exported", "weights as `xdiff train` writes them")
    if config["module"] != POSED:
        raise InputError(weights, f"module {config['module']}", f"{POSED}: whoever has slices cannot say where the head lies")
    if not any(n.startswith("inner.local.") for n in tensors):
        expected = "a method with a local core: the gaussian row's deviation and draws leave training volumes out"
        raise InputError(weights, f"{POSED} around {config['params']['module']}", expected)
    for key, found in {"data": store.fingerprint, "split": split.sha}.items():
        if config[key] != found:
            raise InputError(weights, f"weights of {key} {config[key][:12]}", f"{found[:12]}, of {store.folder}")
    if not split.side("val"):
        raise InputError(store.folder, "no validation subject in the split", "some: weights are compared on them")


def _usual(weights: Path, config: dict) -> dict[str, Any]:
    """Threshold of the out-of-distribution score, from training volumes each left out of the pose model."""
    return calibrate(_load(weights).model, config["contrasts"], spacing_of(config), config["norm"])


def _compression(packed: Tensors, source_sha256: str, packing: Packing, store: Store, split: Split) -> dict[str, Any]:
    """How the training volumes were packed, and how much of a subject the components can say: PSNR over the foreground."""
    recovered = {}
    for side in ("train", "val"):
        errors = [_foreground_psnr(store, s, projected(store.volume(s), packed)) for s in split.side(side)[:9]]
        recovered[side] = round(float(np.mean(errors)), 2)
    return {
        "components": packing.components,
        "step": packing.step,
        **{parity.strip("."): len(packed[f"basis{parity}.steps"]) for parity in (EVEN, ODD)},
        "source_sha256": source_sha256,
        "recovered_db": recovered,
    }


def _foreground_psnr(store: Store, subject: str, found: np.ndarray) -> float:
    inside = store.foreground(subject)
    return float(-10 * np.log10(np.square(found - store.volume(subject))[:, inside].mean()))


def validation(full: Path | None, shipped: Path, store: Store, subjects: Sequence[str]) -> dict[str, Any]:
    """PSNR in `unseen` of `mean`, axial, for every K of VALIDATED_K: rows of shipped and (None without `full`) unpacked weights;
    mean_db: of the shipped ones, the head's place known, over K. Where the place is unknown, the shipped ones alone."""
    rows = []
    of_full = None if full is None else _load(full)
    of_shipped = _load(shipped)
    for k in VALIDATED_K:
        known = unseen_psnr(of_shipped, store, subjects, k)
        before = None if of_full is None else round(unseen_psnr(of_full, store, subjects, k), 3)
        rows.append({"K": k, "place": "known", "shipped_db": round(known, 3), "full_db": before})
    of_shipped.model = searching(of_shipped.model, AXIAL, store.spacing_mm(subjects[0]), stated=False)
    for k in VALIDATED_K:
        found = round(unseen_psnr(of_shipped, store, subjects, k), 3)
        rows.append({"K": k, "place": "unknown", "shipped_db": found, "full_db": None})
    mean_db = float(np.mean([r["shipped_db"] for r in rows if r["place"] == "known"]))
    return {"subjects": len(subjects), "rows": rows, "mean_db": round(mean_db, 3)}


def _load(weights: Path) -> Any:
    config = json.loads((weights / CONFIG).read_text())
    return load_module(MethodEntry(config["module"], config["params"])).load(weights)


def unseen_psnr(method: Any, store: Store, subjects: Sequence[str], k: int) -> float:
    """Mean over subjects of the PSNR (dB) in `unseen` of `mean` from K uniform axial slices, contrasts averaged."""
    found = []
    for subject in subjects:
        volume, foreground, spacing = store.volume(subject), store.foreground(subject), store.spacing_mm(subject)
        planes = choose_planes(Point(k, "axial", "uniform", 0.0, 1, "mean", 0), foreground, None, spacing, subject)
        observation = observe(volume, planes, store.contrasts, spacing, store.frame, store.norm)
        made = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))[0] * observation.scale[:, None, None, None]
        where = {"unseen": regions(foreground, observation.mask, None, store.anatomy)["unseen"]}
        scores = [by_region(truth, one, where) for truth, one in zip(volume, made, strict=True)]
        found.append(np.mean([value for rows in scores for _, metric, value in rows if metric == "psnr"]))
    return float(np.mean(found))


def _replaced(out: Path, found: dict[str, Any], why: str) -> dict[str, str] | None:
    """What is said of the weights in `out`, if any; InputError where they are as good and nobody says why they should go."""
    if not (out / CONFIG).exists():
        return None
    old = read_weights(out)[1]
    before = old.get("validation", {}).get("mean_db")
    if before is None and not why:
        raise InputError(out, "weights without a validation", "weights that `xdiff export` wrote, or --replace WHY")
    if before is not None and found["mean_db"] > before:
        why = f"{found['mean_db']:.3f} dB on the validation side, up from {before:.3f}" + (f"; {why}" if why else "")
    elif not why:
        raise InputError(out, f"{found['mean_db']:.3f} dB on the validation side", f"more than {before:.3f}, or --replace WHY")
    return {"sha256": old["sha256"], "why": why}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="xdiff export", description="Make trained weights a small model with a name and a card."
    )
    parser.add_argument("weights", type=Path, help="weights folder of baselines.posed, as `xdiff train` writes it")
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--data", required=True, type=Path, help="preprocessed cohort that it was trained on")
    parser.add_argument("--split", required=True, type=Path, help="split TSV that it was trained on")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, xdiff/weights/NAME for one that is shipped")
    parser.add_argument("--components", type=int, default=Packing.components, help="kept of the training volumes")
    parser.add_argument("--step", type=float, default=Packing.step, help="of their rounding, in units of the intensity scale")
    parser.add_argument("--source", default="", help="where the data is from and its licence, for the card")
    parser.add_argument("--replace", default="", metavar="WHY", help="replace weights that validate as well or better")
    args = parser.parse_args(argv)
    data = Store(args.data), read_split(args.split)
    made = export(args.weights, args.name, args.out, data, Packing(args.components, args.step), args.source, args.replace)
    size_mib = sum(f.stat().st_size for f in args.out.iterdir()) / 2**20
    print(f"{args.name}: {size_mib:.1f} MiB, {made['validation']['mean_db']:.2f} dB on the validation side")
    for row in made["validation"]["rows"]:
        print(row)
