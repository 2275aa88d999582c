"""The sections that the qualitative figure of tumours shows, with what was found in them, so that figures need no volumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xdiff.config import without_fold
from xdiff.data.store import Store
from xdiff.metrics.evaluate import load_prediction, parse_given
from xdiff.metrics.panel import label_of
from xdiff.planes import AXES, per_section, upright
from xdiff.seen import counts_as_given
from xdiff.segment.regions import region_mask, regions_of
from xdiff.stats import one_step_count, without_ablations
from xdiff.volumes import read_volume

SHOWS = ("t2f", "FLAIR", "t1c")  # the contrast that shows the whole tumour best, the first that there is
POLICIES = ("uniform", "every_fifth")


def build_tumour_panels(tables: Sequence[Path], out: Path, wanted_k: Sequence[int] = (0, 1, 5)) -> int:
    """Write tumour_panel.npz: for each (trained_on, cohort, grid) and K wanted, the section with most hidden tumour of the first
    test subject by name that has one, under every method, with the masks found. `tables`: as masks.make_masks writes them.

    Axial, thin sections, uniform or every fifth, all contrasts given; seed 0 of samples; no ablations. Returns the number of
    panels. Arrays: t{i}_images (M, h, w) float16 in units of the truth's scale, NaN where a method has no image (the control);
    t{i}_found (M, h, w) and t{i}_truth (h, w) uint8, 1 where the whole tumour is; t{i}_meta, JSON. Row 0 is on top.
    """
    table = pd.concat([pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in tables])
    table = table.astype({"K": int, "steps": int, "seed": int, "thickness_mm": float})
    table = without_ablations(one_step_count(table))
    plain = (table["axis"] == "axial") & table["policy"].isin(POLICIES) & (table["thickness_mm"] == 0)
    base = table[plain & (table["seed"] == 0) & (table["contrasts_given"] == "all")]
    arrays: dict[str, np.ndarray] = {}
    count = 0
    for _, cohort in base.groupby(["trained_on", "cohort", "grid"], sort=False):
        for k in wanted_k:
            rows = _first_with_hidden_tumour(cohort[cohort["K"] == k])
            if len(rows) < 2:
                continue
            arrays |= {f"t{count}_{name}": array for name, array in _panel(rows.to_dict("records")).items()}
            count += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **arrays)
    return count


def _first_with_hidden_tumour(rows: pd.DataFrame) -> pd.DataFrame:
    for _, own in rows.sort_values("subject", kind="stable").groupby("subject"):
        first = own.iloc[0]
        if _hidden(first).any():
            return own.drop_duplicates(["method", "estimate", "steps"])
    return rows.iloc[:0]


def _hidden(record: Any) -> np.ndarray:
    """(X, Y, Z) bool: the tumour where nothing was given."""
    store = Store(record["target"])
    return (store.labels(record["subject"]) > 0) & ~counts_as_given(parse_given(record["given"]), store.shape)


def _panel(records: list[dict]) -> dict[str, np.ndarray]:
    first = records[0]
    store, subject = Store(first["target"]), first["subject"]
    shown = next((store.contrasts.index(name) for name in SHOWS if name in store.contrasts), 0)
    axis = AXES[first["axis"]]
    at = int(per_section(_hidden(first), axis).argmax())
    whole = next(iter(regions_of(store.label_names).values()))

    def section(volume: np.ndarray) -> np.ndarray:
        return upright(volume, axis, at)

    def image(record: dict) -> np.ndarray:
        if record["method"] == "mask_linear":
            return np.full_like(section(store.volume(subject)[0]), np.nan)
        volume = store.volume(subject) if record["method"] == "truth" else load_prediction(record)
        return section(volume[shown])

    meta = {key: first[key] for key in ("subject", "grid", "axis", "K", "policy")}
    meta |= {key: without_fold(first[key]) for key in ("cohort", "trained_on")}
    meta |= {"section": at, "contrast": store.contrasts[shown], "names": [label_of(r) for r in records]}
    return {
        "images": np.stack([image(r) for r in records]).astype(np.float16),
        "found": np.stack([region_mask(section(read_volume(r["mask"]).array), whole) for r in records]).astype(np.uint8),
        "truth": region_mask(section(store.labels(subject)), whole).astype(np.uint8),
        "meta": np.array(json.dumps(meta)),
    }
