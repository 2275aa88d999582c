"""Long rows of anatomy without any volume: bodies with known spread, and methods that shrink to the mean, err and miss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from test_tumours import long, row

from xdiff.stats import BODY_MEASURES, SPINE_MEASURES

SPREAD = {  # mean, standard deviation between people
    "body_volume_l": (70.0, 12.0),
    "fat_fraction": (0.33, 0.07),
    "adipose_volume_l": (20.0, 7.0),
    "spine_cobb_deg": (9.0, 3.0),
    "spine_lateral_mm": (6.0, 3.0),
    "spine_kyphosis_deg": (40.0, 8.0),
    "spine_lordosis_deg": (45.0, 9.0),
    "spine_curvature_per_m": (2.6, 0.4),
}
# share of a person's deviation from the mean that is kept, noise in standard deviations
METHODS = {"mean_template": (0.05, 0.1), "linear": (0.4, 0.9), "gaussian": (0.5, 0.5), "xdiff": (0.8, 0.35)}


def anatomy_row(method: str, subject: str, metric: str, value: float, **change: object) -> dict:
    """One measure of one body at K = 5."""
    body = dict(trained_on="phantom-body", cohort="phantom-body", grid="body", region="body", metric=metric)
    return row(method, subject, value, **(body | change))


def measured(method: str, subject: str, values: dict[str, float], **change: object) -> list[dict]:
    """The rows of one volume; a measure that is missing from `values` could not be taken."""
    found = {"body_found": BODY_MEASURES[0] in values, "spine_found": SPINE_MEASURES[0] in values}
    every = {**dict.fromkeys((*BODY_MEASURES, *SPINE_MEASURES), np.nan), **values, **found}
    return [anatomy_row(method, subject, metric, float(value), **change) for metric, value in every.items()]


def anatomy_metrics(patients: int = 12, ks: Sequence[int] = (1, 5)) -> pd.DataFrame:
    """All measures of `patients` bodies by METHODS, the truth and the population mean; two of linear's have no spine at K = 1."""
    rng = np.random.default_rng(8)
    rows = []
    for i in range(patients):
        subject = f"{1000007 + i}_2_0"
        z = {metric: rng.normal() for metric in SPREAD}
        for k in ks:
            placed = dict(K=k, indices=f"{k}")
            rows += measured("truth", subject, {m: mean + sd * z[m] for m, (mean, sd) in SPREAD.items()}, **placed)
            rows += measured("population_mean", subject, {m: mean + 0.1 * sd for m, (mean, sd) in SPREAD.items()}, **placed)
            for method, (kept, noise) in METHODS.items():
                share, off = 1 - (1 - kept) / k**0.5, noise / k**0.3
                values = {m: mean + sd * (share * z[m] + off * rng.normal()) for m, (mean, sd) in SPREAD.items()}
                if method == "linear" and k == 1 and i < 2:
                    values = {m: v for m, v in values.items() if m not in SPINE_MEASURES}
                rows += measured(method, subject, values, **placed)
    return long(rows)
