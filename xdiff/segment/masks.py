"""A mask for every volume of a manifest: what the segmenter finds in it or in the real volume, or what the given masks tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.data.store import Store
from xdiff.errors import InputError, NotSupported
from xdiff.metrics.evaluate import load_prediction, parse_given
from xdiff.plain import digest, write_json
from xdiff.planes import AnyPlane, Plane, common_axis
from xdiff.segment.nnunet import INDEX, Segmenter
from xdiff.segment.regions import regions_of
from xdiff.volumes import write_volume

KINDS = ("prediction", "truth", "control")
METHODS = {"truth": "truth", "control": "mask_linear"}  # canonical names of what stands beside the methods' rows
KEYS = ["subject", "policy", "given", "contrasts_given"]  # what of a row is a point of its own where no method is asked
_OF_NO_METHOD = {"estimate": "mean", "steps": "1", "seed": "0", "train_seed": "0", "weights": "", "device": ""}
VERSION = 2  # raise when the same inputs make another mask


def make_masks(kind: str, manifests: Sequence[Path], model: Path, out: Path) -> None:
    """Write `out`, the rows of the manifests with a column `mask`, and the masks (labels as the cohort's) beside it.

    prediction: of every volume; truth: of the real volume behind it, the ceiling of every method; control: of no image at all,
    the real masks of the given sections interpolated. Truth and control have one row for each subject and choice of sections in
    any of the manifests; choices that the control cannot do are left out. A mask whose sidecar has the same key is not made
    again. Raises InputError where the cohort has no labels or the segmenter is missing.
    """
    table = pd.concat([pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in manifests])
    known: dict[str, np.ndarray] = {}  # real volumes are the same at every point
    rows = []
    segmenter = None if kind == "control" else _Lazy(model)
    if kind != "prediction":
        table = table.assign(method=METHODS[kind], **_OF_NO_METHOD)
        table = table.drop_duplicates(KEYS)
    for record in table.to_dict("records"):
        store = Store(record["target"])
        try:
            path = _one(kind, record, store, segmenter, known, out.parent / "masks")
        except NotSupported as error:
            print(f"{record['subject']}, {record['given']}: {error}")
            continue
        rows.append({**record, "mask": str(path)})
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=[*table.columns, "mask"]).to_csv(out, sep="\t", index=False)


class _Lazy:
    """The segmenter, loaded when the first mask is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX).exists():
            raise InputError(folder / INDEX, "no such file", "a trained segmenter (xdiff segment train)")
        self.key = json.loads((folder / INDEX).read_text())["key"]
        self._loaded: Segmenter | None = None

    def __call__(self) -> Segmenter:
        self._loaded = self._loaded or Segmenter(self.folder)
        return self._loaded


def _one(
    kind: str, record: Mapping[str, Any], store: Store, segmenter: _Lazy | None, known: dict[str, np.ndarray], folder: Path
) -> Path:
    """Path of one mask, made now or found."""
    subject = record["subject"]
    source = [record["given"], record["weights"]] if kind == "prediction" else [record["given"] if kind == "control" else ""]
    place = digest([*source, record["estimate"], record["steps"], record["seed"]] if kind == "prediction" else source)[:12]
    path = folder / place / f"{subject}_mask.nii.gz"
    sidecar = path.with_name(f"{subject}_mask.json")
    key = digest([VERSION, kind, segmenter.key if segmenter else "", store.sidecar(subject)["sha256"], source])
    if sidecar.exists() and json.loads(sidecar.read_text()) == key and path.exists():
        return path
    if kind == "control":
        found = interpolated(_labels(store, subject), parse_given(record["given"]), store.label_names)
    elif kind == "truth":
        if subject not in known:
            known[subject] = segmenter().segment(store.volume(subject), store.spacing_mm(subject))
        found = known[subject]
    else:
        found = segmenter().segment(load_prediction(record), store.spacing_mm(subject))
    write_volume(path, found.astype(np.uint8), store.affine(subject))
    write_json(sidecar, key)
    return path


def _labels(store: Store, subject: str) -> np.ndarray:
    labels = store.labels(subject)
    if labels is None:
        raise InputError(store.folder, f"no labels of {subject}", "a cohort with labels")
    return labels


def interpolated(labels: np.ndarray, planes: Sequence[AnyPlane], values: Mapping[int, str]) -> np.ndarray:
    """Labels (X, Y, Z) from those on the given sections alone: every region's mask interpolated linearly along the axis, at
    least a half of it kept; nothing beyond the outermost sections. Raises NotSupported but for thin sections of one axis."""
    axis = common_axis(planes)
    if axis is None or not all(isinstance(p, Plane) and p.thin for p in planes):
        raise NotSupported("masks are interpolated between thin sections of one axis")
    given = sorted({p.index for p in planes})
    made = np.zeros_like(labels)
    regions = list(regions_of(values).values())
    for region, own in zip(regions, _own_labels(regions), strict=True):
        shown = np.isin(np.take(labels, given, axis), region).astype(np.float32)
        made[_between(shown, given, labels.shape[axis], axis) >= 0.5] = own
    return made


def _own_labels(regions: list[tuple[int, ...]]) -> list[int]:
    """The label that is written for each region: what the next one, which lies within it, does not have; its own where regions
    lie side by side."""
    nested = all(set(b) <= set(a) for a, b in zip(regions, regions[1:], strict=False))
    inner = [set(r) for r in regions[1:]] + [set()] if nested else [set()] * len(regions)
    return [min(set(region) - within) for region, within in zip(regions, inner, strict=True)]


def _between(shown: np.ndarray, given: list[int], length: int, axis: int) -> np.ndarray:
    """Sections (K along `axis`) at rows `given`, interpolated linearly to all rows; 0 beyond the outermost."""
    rows = np.arange(length)
    after = np.clip(np.searchsorted(given, rows), 0, len(given) - 1)
    before = np.clip(np.searchsorted(given, rows, side="right") - 1, 0, len(given) - 1)
    places = np.array(given)
    gap = places[after] - places[before]
    share = np.where(gap > 0, (rows - places[before]) / np.maximum(gap, 1), 0.0)
    inside = (rows >= given[0]) & (rows <= given[-1])
    shape = [-1 if a == axis else 1 for a in range(3)]
    share, inside = share.reshape(shape), inside.reshape(shape)
    return inside * ((1 - share) * np.take(shown, before, axis) + share * np.take(shown, after, axis))
