"""The sampling harness: every point of a sweep for every test subject, in one process, resumable volume by volume.

    python -m xdiff.sample --entry JSON --weights DIR --data DIR --split TSV --sweep JSON --out DIR [--shard 1/4]

Writes one NIfTI volume (and a standard deviation where the method gives one) with a JSON sidecar per point and subject,
then the manifest. A volume whose sidecar has the same key (weights, point, input, version) is not made again.
A point that a method cannot do (errors.NotSupported) is left out for the whole cohort and listed. A contrast that the given
sections do not carry is predicted in units in which the volume's 99.5th percentile is 1; it is written times the hidden
volume's own scale, because nothing that is given fixes its brightness: the column `contrasts_given` says where.
Times are of `reconstruct` alone; tables report medians, which the first volume, that fills caches, does not move.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry, Sweep, given_contrasts
from xdiff.data.split import Split, patient_of, read_split, shard_of
from xdiff.data.store import Store
from xdiff.errors import InputError, NotSupported
from xdiff.observation import (
    NotEnoughSections,
    Observation,
    Point,
    choose_planes,
    gap_mm,
    leaves_enough_unseen,
    observe,
    points_of,
)
from xdiff.plain import digest, from_dict
from xdiff.planes import AnyPlane
from xdiff.train import MODEL_VERSION, load_module
from xdiff.volumes import write_volume
from xdiff.whole_file import whole_file

MANIFEST = (
    "subject target prediction std trained_on cohort grid method axis indices given contrasts_given K gap_mm policy "
    "thickness_mm steps estimate seed train_seed evaluations seconds peak_mib device weights split norm frame"
).split()
SKIPPED = "trained_on cohort grid method K axis policy contrasts_given thickness_mm reason".split()


def sample(entry: MethodEntry, weights: Path, store: Store, split: Split, sweep: Sweep, out: Path, shard: str = "1/1") -> None:
    """Reconstruct every test subject at every point of a sweep; `out` gets volumes/, manifest and the points left out."""
    _, config = read_weights(weights)
    _check_fits(config, store, weights)
    trained = config.get("splits", {config["trained_on"]: config["split"]})  # cohort -> split, several where they are joined
    if trained.get(store.cohort, split.sha) != split.sha:
        raise InputError(
            weights,
            f"weights of split {trained[store.cohort][:12]}",
            f"{split.sha[:12]}: another split's test patients may be trained on",
        )
    subjects = shard_of(split.side("test"), shard)
    if not subjects:
        raise InputError(store.folder, f"no test subject in shard {shard}", "at least one subject on the test side")
    for value in sweep.contrasts_given:
        given_contrasts(value, store.contrasts, f"sweeps.*.contrasts_given, cohort {store.cohort}")
    method = functools.cache(lambda: load_module(entry).load(weights))
    rows: list[dict] = []
    skipped: list[dict] = []
    for point in points_of(sweep, entry.estimates, entry.min_k, entry.stepped):
        planes, reason = _planes_of(point, store, split.side("test"))
        if not reason:
            try:
                rows += [_one(method, config, store, split, point, subject, planes[subject], out) for subject in subjects]
            except NotSupported as error:
                reason = str(error)
        if reason:
            skipped.append({**_origin(config, store), **asdict(point), "reason": reason})
    _write_table(rows, MANIFEST, out / f"manifest-{shard.replace('/', '-of-')}.tsv")
    _write_table(skipped, SKIPPED, out / f"skipped-{shard.replace('/', '-of-')}.tsv")


def _planes_of(point: Point, store: Store, subjects: list[str]) -> tuple[dict[str, list[AnyPlane]], str]:
    """Given planes of every test subject, or the reason why this point is left out for the whole cohort."""
    planes = {}
    for subject in subjects:
        foreground = store.foreground(subject)
        try:
            planes[subject] = choose_planes(point, foreground, store.labels(subject), store.spacing_mm(subject), subject)
        except NotEnoughSections as error:
            return {}, str(error)
        if not leaves_enough_unseen(planes[subject], foreground):
            return {}, f"{subject}: less than a quarter of its sections would stay unseen"
    return planes, ""


def _one(
    method: Any, config: dict, store: Store, split: Split, point: Point, subject: str, planes: list[AnyPlane], out: Path
) -> dict:
    """Manifest row of one volume, made now or found finished."""
    stem = out / "volumes" / point.name / subject
    names = [p.name for p in planes]
    # scale and pose too: predictions are written in raw units, in the subject's own space
    source = [store.sidecar(subject)[k] for k in ("sha256", "scale", "affine")]
    donor = subject
    if point.policy == "swap":
        donor = other_patient(subject, split.side("test"))
        source.append(store.sidecar(donor)["sha256"])
    key = digest([config["sha256"], asdict(point), source, names, MODEL_VERSION, config["module"]])
    sidecar = stem.with_name(f"{subject}_desc-{point.name}.json")
    if sidecar.exists():
        row = json.loads(sidecar.read_text())
        if row.pop("key") == key and Path(row["prediction"]).exists():
            return {**row, "split": split.sha[:12]}
    # raw units: in the store's own, which the hidden volume has set, the scale of the given sections would betray it
    shown = store.volume(donor) * store.scale(subject)[:, None, None, None]
    given = given_contrasts(point.contrasts_given, store.contrasts)
    observation = observe(shown, planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm, given)
    scale = np.where(observation.given, observation.scale, store.scale(subject))
    generator = np.random.default_rng([point.seed, int(hashlib.sha256(subject.encode()).hexdigest()[:8], 16)])
    ready = method()  # loaded before the clock starts
    start = time.perf_counter()
    volume, std, evaluations = ready.reconstruct(observation, point.steps, point.estimate, generator)
    seconds = time.perf_counter() - start
    for name, array in (("volume", volume), ("std", std)):
        if array is not None:
            _check_volume(name, array, observation, config["method"], subject)
    row = {
        "subject": subject,
        "target": str(store.folder),
        "prediction": str(_write(_exact(volume, shown, observation, scale), store, subject, sidecar.with_suffix(""))),
        "std": "" if std is None else str(_write(_raw(std, scale), store, subject, sidecar.with_name(f"{sidecar.stem}_std"))),
        **_origin(config, store),
        **asdict(point),
        "indices": ",".join(p.place for p in planes),
        "given": ";".join(names),
        "gap_mm": round(gap_mm(planes, observation.spacing_mm), 3),
        "train_seed": config["params"].get("seed", 0),
        "evaluations": evaluations,
        "seconds": round(seconds, 5),
        "peak_mib": peak_mib(),
        "device": getattr(method(), "device_name", device_name()),
        "weights": config["sha256"][:12],
        "split": split.sha[:12],
        "norm": store.norm,
        "frame": store.frame,
    }
    with whole_file(sidecar) as temporary:
        temporary.write_text(json.dumps({**row, "key": key}, indent=1, allow_nan=True) + "\n")
    return row


def other_patient(subject: str, subjects: Sequence[str]) -> str:
    """Whose sections policy `swap` gives for a subject: the next one's in the list that is of another patient, round the end."""
    at = subjects.index(subject)
    others = [name for name in (*subjects[at:], *subjects[:at]) if patient_of(name) != patient_of(subject)]
    if not others:
        raise InputError("sweeps.*.policy", "swap with one test patient", "at least two test patients")
    return others[0]


def _raw(volume: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """From units of `scale` (C,) to raw intensities."""
    return volume.astype(np.float32) * scale[:, None, None, None]


def _exact(volume: np.ndarray, shown: np.ndarray, observation: Observation, scale: np.ndarray) -> np.ndarray:
    """Raw volume in which given voxels that are off by rounding alone (divided by the scale and multiplied again) have
    their exact values back; a larger difference is the method's own and stays."""
    raw = _raw(volume, scale)
    if not all(p.exact for p in observation.planes):
        return raw
    rounding = observation.known & (np.abs(raw - shown) <= 1e-5 * scale[:, None, None, None])
    return np.where(rounding, shown, raw)


def _write(raw: np.ndarray, store: Store, subject: str, stem: Path) -> Path:
    """One NIfTI file per contrast of raw (C, X, Y, Z), in the subject's own space; returns the first one's path."""
    paths = [stem.with_name(f"{stem.name}_{contrast}.nii.gz") for contrast in store.contrasts]
    for path, contrast in zip(paths, raw, strict=True):
        write_volume(path, contrast, store.affine(subject))
    return paths[0]


def _check_fits(config: dict, store: Store, weights: Path) -> None:
    """Weights made for another array, frame or other contrasts are refused, not bent to fit."""
    contrasts = store.contrasts if config["trained_on"] == store.cohort else store.known_as
    wanted = {"shape": list(store.shape), "spacing_mm": store.info["spacing_mm"], "contrasts": list(contrasts)}
    for key, found in {**wanted, "norm": store.norm, "frame": store.frame}.items():
        if config[key] != found:
            raise InputError(weights, f"weights for {key} {config[key]}", f"{found} as {store.folder}")


def _check_volume(name: str, volume: np.ndarray, observation: Observation, method: str, subject: str) -> None:
    expected = (len(observation.contrasts), *observation.shape)
    if volume.shape != expected or not np.isfinite(volume).all():
        raise ValueError(
            f"{method} on {subject}: {name} {volume.shape}, finite {bool(np.isfinite(volume).all())}; expected finite {expected}"
        )


def _origin(config: dict, store: Store) -> dict:
    return {"trained_on": config["trained_on"], "cohort": store.cohort, "grid": store.grid, "method": config["method"]}


def peak_mib() -> int:
    """Largest memory of this process so far, in MiB (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


@functools.cache
def device_name() -> str:
    """The processor's name, for every row that carries a time."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name} ({os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads)"


def _write_table(rows: list[dict], columns: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, sep="\t", index=False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="xdiff sample", description="Reconstruct the test subjects of a cohort at every point of a sweep."
    )
    parser.add_argument("--entry", required=True, help="the method's config entry as JSON")
    parser.add_argument("--weights", required=True, type=Path, help="weights folder")
    parser.add_argument("--data", required=True, type=Path, help="preprocessed cohort, results/data/COHORT/GRID")
    parser.add_argument("--split", required=True, type=Path, help="split TSV")
    parser.add_argument("--sweep", required=True, help="the sweep's config entry as JSON")
    parser.add_argument("--out", required=True, type=Path, help="folder for volumes and the manifest")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th test subject from the i-th")
    args = parser.parse_args(argv)
    entry = from_dict(MethodEntry, json.loads(args.entry), "methods.*")
    sweep = from_dict(Sweep, json.loads(args.sweep), "sweeps.*")
    sample(entry, args.weights, Store(args.data), read_split(args.split), sweep, args.out, args.shard)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
