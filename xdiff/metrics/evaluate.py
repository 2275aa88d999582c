"""From a manifest to long rows: every volume against its truth, on the truth's own fixed scale."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.config import given_contrasts
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics import anatomy_rows, core, samples, spectrum
from xdiff.planes import AXES, AnyPlane, Plane, distance_mm, parse_plane
from xdiff.seen import counts_as_given
from xdiff.volumes import read_volume

COLUMNS = (
    "trained_on cohort grid method K gap_mm axis indices policy contrasts_given thickness_mm steps estimate seed train_seed "
    "subject contrast region metric x_name x value norm frame split weights device"
).split()
KEY = [c for c in COLUMNS if c not in ("value", "device", "weights", "split", "norm", "frame", "gap_mm")]
DEPTH_K = 5  # with more sections, the distance to the nearest says it all
COPIED = [c for c in COLUMNS if c not in ("contrast", "region", "metric", "x_name", "x", "value")]


def evaluate(manifest: Path, real: Path | None = None, training: Sequence[Path] = ()) -> pd.DataFrame:
    """Long rows (COLUMNS) of every volume of a manifest, and of ensembles where a point has several draws.

    real: of a cohort of bodies, anatomy of its real volumes (xdiff metrics anatomy); training: the same of the cohorts that were
    trained on. With them, rows of anatomy: of every volume, and of `truth` and `population_mean` at every point.

    Voxels count as given, and are not scored as unseen, where `seen.counts_as_given` says so: those of thin sections of an axis,
    those next to an oblique one, and of a thick one only the middle where it makes up more than half of the average.
    """
    table = pd.read_csv(
        manifest,
        sep="\t",
        dtype={"subject": str, "grid": str, "indices": str, "given": str, "contrasts_given": str, "weights": str, "split": str},
        keep_default_na=False,
    )
    rows: list[dict] = []
    for record in table.to_dict("records"):
        rows += [{**{c: record[c] for c in COPIED}, **row} for row in _volume_rows(record)]
    drawn = table[table["estimate"] == "sample"]
    same = [c for c in table.columns if c in COPIED and c != "seed"]
    for _, group in drawn.groupby(same, sort=False, dropna=False):
        if len(group) > 1:
            rows += _ensemble_rows(group)
    if real:
        rows += _anatomy_rows(table.to_dict("records"), real, training)
    return pd.DataFrame(rows, columns=COLUMNS)


def parse_given(given: str) -> list[AnyPlane]:
    """The planes of a manifest's `given` column, such as `axial:12;axial:24x2.5`. Raises InputError."""
    return [parse_plane(name) for name in given.split(";")]


def known_voxels(record: Mapping[str, Any]) -> np.ndarray:
    """(C, X, Y, Z) bool, what was given of a manifest row's volume: the voxels of its planes, in the contrasts that the sections
    carried. Nothing is given of the others, so that the whole foreground of these is unseen."""
    store = _store(record["target"])
    given = given_contrasts(record["contrasts_given"], store.contrasts, "manifest column `contrasts_given`")
    covered = counts_as_given(parse_given(record["given"]), store.shape)
    return covered & np.array([contrast in given for contrast in store.contrasts])[:, None, None, None]


@functools.lru_cache(maxsize=2)
def _store(folder: str) -> Store:
    return Store(folder)


@functools.lru_cache(maxsize=24)
def _truth_bands(folder: str, subject: str, contrast: int) -> np.ndarray:
    """Cached: the same truth is compared with many predictions."""
    return spectrum.bands(_store(folder).volume(subject)[contrast])


def load_prediction(record: Mapping[str, Any], column: str = "prediction") -> np.ndarray:
    """Prediction (or std) of a manifest row, (C, X, Y, Z) in units of the truth's scale."""
    store = _store(record["target"])
    first = Path(record[column])
    stem = first.name.removesuffix(f"_{store.contrasts[0]}.nii.gz")
    raw = np.stack([read_volume(first.with_name(f"{stem}_{c}.nii.gz")).array for c in store.contrasts])
    if raw.shape[1:] != store.shape:
        raise InputError(first, f"shape {raw.shape[1:]}", f"{store.shape} as {store.folder}")
    return raw / store.scale(record["subject"])[:, None, None, None]


def _volume_rows(record: Mapping[str, Any]) -> Iterator[dict]:
    store, subject = _store(record["target"]), record["subject"]
    truth, foreground, labels = store.volume(subject), store.foreground(subject), store.labels(subject)
    planes, spacing = parse_given(record["given"]), store.spacing_mm(subject)
    distance, depth = distance_mm(planes, store.shape, spacing), depth_mm(planes, store.shape, spacing)
    given = known_voxels(record)
    regions = [core.regions(foreground, known, labels, store.anatomy) for known in given]
    prediction = load_prediction(record)
    std = load_prediction(record, "std") if record["std"] else None
    for metric in ("seconds", "evaluations", "peak_mib"):
        yield _row("all", "grid", metric, record[metric])
    far = spectrum.far_region(foreground, distance, spacing[AXES[record["axis"]]])
    for c in store.volumes:
        contrast, where = store.contrasts[c], regions[c]
        for region, metric, value in (
            *core.by_region(truth[c], prediction[c], where),
            *core.ssim_by_region(truth[c], prediction[c], where),
        ):
            yield _row(contrast, region, metric, value)
        if given[c].any():  # of the others nothing was given that could come back
            yield _row(contrast, "given", "max_error", np.abs(prediction[c] - truth[c])[given[c]].max())
        yield from _spectrum_rows(record, contrast, c, prediction[c], far)
        hidden = where["unseen_masked"][0]
        curve = () if store.projection else core.by_distance(truth[c], prediction[c], hidden, distance)
        for x, value in curve:
            yield _row(contrast, "unseen_masked", "psnr", value, "distance_mm", x)
        curve = () if depth is None else core.by_depth(truth[c], prediction[c], hidden, depth)
        for x, value in curve:
            yield _row(contrast, "unseen_masked", "psnr", value, "depth_mm", x)
        if std is not None and record["estimate"] != "sample":  # of a draw it is not the error
            yield from _spread_rows(contrast, truth[c][hidden], prediction[c][hidden], std[c][hidden])


def _spread_rows(contrast: str, truth: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Iterator[dict]:
    """CRPS, coverage and rank histogram of N(mean, std^2); all of shape (hidden voxels,)."""
    yield _row(contrast, "unseen_masked", "crps", samples.crps_gaussian(truth, mean, std).mean())
    for percent, z in samples.Z_OF.items():
        yield _row(contrast, "unseen_masked", f"coverage_{percent}", samples.coverage(truth, mean, std, z))
    for x, density in samples.rank_density_gaussian(truth, mean, std):
        yield _row(contrast, "unseen_masked", "rank_density", density, "rank", x)


def depth_mm(planes: Sequence[AnyPlane], shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray | None:
    """Signed distance along the axis of the given sections from the middle of them, broadcastable to (X, Y, Z); None where
    sections of several axes, oblique ones, a projection, or more than DEPTH_K are given."""
    if len(planes) > DEPTH_K or {type(p) for p in planes} != {Plane} or len({p.axis for p in planes}) != 1:
        return None
    axis = planes[0].axis
    offsets = np.arange(shape[axis]) - np.mean([p.index for p in planes])
    return (offsets * spacing_mm[axis]).reshape([-1 if a == axis else 1 for a in range(3)])


def _spectrum_rows(record: Mapping[str, Any], contrast: str, c: int, prediction: np.ndarray, far: np.ndarray) -> Iterator[dict]:
    found = spectrum.compare(_truth_bands(record["target"], record["subject"], c), spectrum.bands(prediction), far)
    for metric, value in found.items():
        if metric == "band_variance":
            for band, ratio in enumerate(value, 1):
                yield _row(contrast, "unseen_masked", metric, ratio, "band", band)
        else:
            yield _row(contrast, "unseen_masked", metric, value)


def _anatomy_rows(records: Sequence[Mapping[str, Any]], real: Path, training: Sequence[Path]) -> Iterator[dict]:
    if not training:
        raise InputError("--training", "no table", "anatomy of the training subjects' real volumes, beside --real")
    for record in records:
        values = anatomy_rows.anatomy_of(load_prediction(record), _store(record["target"]), record["subject"])
        yield from ({**{c: record[c] for c in COPIED}, **row} for row in anatomy_rows.rows_of(values))
    mean = anatomy_rows.population_mean([anatomy_rows.read_real(path) for path in training])
    copied = [{c: record[c] for c in COPIED} for record in records]
    yield from anatomy_rows.rows_beside(copied, anatomy_rows.read_real(real), mean, real)


def _ensemble_rows(group: pd.DataFrame) -> list[dict]:
    """CRPS and rank histogram of the draws of one point and subject; the row's seed is minus the number of draws, no seed."""
    record = group.iloc[0].to_dict()
    store = _store(record["target"])
    truth = store.volume(record["subject"])
    hidden = store.foreground(record["subject"]) & ~known_voxels(record)
    draws = [load_prediction(r) for r in group.to_dict("records")]
    base = {**{c: record[c] for c in COPIED}, "seed": -len(draws)}
    rows = []
    for c in store.volumes:
        true, drawn = truth[c][hidden[c]], [d[c][hidden[c]] for d in draws]
        scores = [_row(store.contrasts[c], "unseen_masked", "crps", samples.crps_ensemble(true, drawn).mean())]
        for x, density in samples.rank_density_ensemble(true, drawn):
            scores.append(_row(store.contrasts[c], "unseen_masked", "rank_density", density, "rank", x))
        rows += [{**base, **score} for score in scores]
    return rows


def _row(contrast: str, region: str, metric: str, value: float, x_name: str = "", x: float = math.nan) -> dict:
    return {
        "contrast": contrast,
        "region": region,
        "metric": metric,
        "x_name": x_name,
        "x": x,
        "value": float(f"{float(value):.6g}"),
    }
