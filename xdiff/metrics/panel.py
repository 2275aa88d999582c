"""The sections that the qualitative figures show, cut once and kept small, so that figures need no volumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xdiff.data.store import Store
from xdiff.metrics.evaluate import load_prediction, parse_given
from xdiff.planes import AXES, Plane, upright
from xdiff.stats import one_step_count, without_ablations

VIEWS = ("axial", "coronal", "sagittal")


def build_panels(manifests: Sequence[Path], out: Path, wanted_k: Sequence[int] = (1, 5)) -> int:
    """Write panel.npz: for each (trained_on, cohort, grid) and K wanted, the first test subject under every method.

    Only axis axial, policy uniform, thin sections, all contrasts given; seed 0 of samples; of a sweep over steps the one number
    of steps that the tables show; no ablations. Returns the number of panels.
    """
    table = pd.concat(
        [pd.read_csv(m, sep="\t", dtype={"subject": str, "grid": str, "indices": str}, keep_default_na=False) for m in manifests]
    )
    table = without_ablations(one_step_count(table))
    base = table[
        (table["axis"] == "axial") & (table["policy"] == "uniform") & (table["thickness_mm"] == 0) & (table["seed"] == 0)
    ]
    base = base[base["contrasts_given"] == "all"]
    arrays: dict[str, np.ndarray] = {}
    n = 0
    for _, cohort in base.groupby(["trained_on", "cohort", "grid"], sort=False):
        subject = sorted(cohort["subject"])[0]
        for k in wanted_k:
            rows = cohort[(cohort["subject"] == subject) & (cohort["K"] == k)].drop_duplicates(["method", "estimate", "steps"])
            if len(rows) < 2:
                continue
            images, std, meta = _panel(rows.to_dict("records"))
            arrays |= {f"p{n}_images": images, f"p{n}_std": std, f"p{n}_meta": np.array(json.dumps(meta))}
            n += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    return n


def _panel(records: list[dict]) -> tuple[np.ndarray, np.ndarray, dict]:
    """Images (M, 3, S, S) float16, truth first; standard deviations (N, 3, S, S) of the means that have one, which `std_names` of
    the description names; the description."""
    first = records[0]
    store = Store(first["target"])
    truth, foreground = store.volume(first["subject"])[0], store.foreground(first["subject"])
    planes = parse_given(first["given"])
    voxels = np.argwhere(foreground)
    centre = ((voxels.min(axis=0) + voxels.max(axis=0)) // 2).tolist()
    # the axial view halfway to the next given section is where a method has to invent
    centre[2] = _far_section(planes, foreground)
    volumes = [truth, *(load_prediction(r)[0] for r in records)]
    size = max(store.shape)
    images = np.stack([[_view(v, a, centre, size) for a in VIEWS] for v in volumes]).astype(np.float16)
    names = ["truth", *(label_of(r) for r in records)]
    known = [r for r in records if r["std"] and r["estimate"] != "sample"]  # of a draw it is not the error
    spreads = [[_view(load_prediction(r, "std")[0], a, centre, size) for a in VIEWS] for r in known]
    std = np.asarray(spreads, dtype=np.float16).reshape(len(known), len(VIEWS), size, size)
    keys = ("subject", "cohort", "grid", "trained_on", "K", "axis", "indices", "estimate")
    meta = {**{k: first[k] for k in keys}, "contrast": store.contrasts[0], "names": names}
    meta["std_names"] = [label_of(r) for r in known]
    given = [v for v, a in enumerate(VIEWS) if any(p.axis == AXES[a] and p.index == centre[AXES[a]] for p in planes)]
    return images, std, {**meta, "lines": _lines(planes, store.shape, size), "given_view": given[0] if given else None}


def _far_section(planes: Sequence[Plane], foreground: np.ndarray) -> int:
    """The axial section, within the middle half of the brain, that is farthest from a given one."""
    rows = np.flatnonzero(foreground.any(axis=(0, 1)))
    middle = rows[len(rows) // 4 : 3 * len(rows) // 4 + 1]
    indices = np.array([p.index for p in planes if p.axis == 2] or [-1000])
    return int(middle[np.abs(middle[:, None] - indices).min(axis=1).argmax()])


def _view(volume: np.ndarray, name: str, centre: Sequence[int], size: int) -> np.ndarray:
    """One section (S, S), row 0 on top (anterior or superior), left of the picture = left of the array, zero padded."""
    axis = AXES[name]
    section = upright(volume, axis, centre[axis])
    padded = np.zeros((size, size), dtype=np.float32)
    top, left = ((size - n) // 2 for n in section.shape)
    padded[top : top + section.shape[0], left : left + section.shape[1]] = section
    return padded


def _lines(planes: Sequence[Plane], shape: Sequence[int], size: int) -> list[list[int]]:
    """[view, orientation (0 horizontal, 1 vertical), pixel] of every given plane as it cuts the other views."""
    lines = []
    for v, name in enumerate(VIEWS):
        across, up = (a for a in range(3) if a != AXES[name])
        for plane in planes:
            if plane.axis == up:
                lines.append([v, 0, (size - shape[up]) // 2 + shape[up] - 1 - plane.index])
            elif plane.axis == across:
                lines.append([v, 1, (size - shape[across]) // 2 + plane.index])
    return lines


def label_of(record: dict) -> str:
    """A row of a manifest in words: the method, and its estimate where that is not the mean."""
    if record["estimate"] == "mean":
        return record["method"]
    steps = f", {record['steps']} steps" if record["steps"] > 1 else ""
    return f"{record['method']} ({record['estimate'].replace('_', ' ')}{steps})"
