"""Long tables of a few rows for the figures of the paper: two cohorts, calibration, depth, places, two devices."""

from __future__ import annotations

import numpy as np
import pandas as pd
from synthetic_metrics import COLUMNS

PATIENTS = tuple(f"sub-{i + 1:02d}" for i in range(4))
BASE = dict(trained_on="openneuro-ds002748", cohort="openneuro-ds002748", grid="48", method="xdiff", K=1, gap_mm=np.nan)
BASE |= dict(axis="axial", indices="24", policy="uniform", contrasts_given="all", thickness_mm=0.0, steps=1, estimate="mean")
BASE |= dict(seed=0, train_seed=0, contrast="T1w", region="unseen", metric="psnr", x_name="", x=np.nan, norm="n", frame="centred")
BASE |= dict(split="5f1d", weights="w", device="cpu (2 threads)")


def rows(value: float, spread: float = 0.1, **columns: object) -> list[dict]:
    """One row per patient, `value` plus the patient's own part of `spread`."""
    return [BASE | dict(subject=name, value=value + spread * (i - 1.5)) | columns for i, name in enumerate(PATIENTS)]


def table(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])[COLUMNS]
