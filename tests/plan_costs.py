"""What tests of forecasts share: a hand-made table of unit costs and a tiny configuration, in numbers that are easy to add."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from xdiff.config import Config
from xdiff.forecast import Forecast, Line
from xdiff.plain import from_dict
from xdiff.unit_costs import Costs

COLUMNS = (
    "what method module size shape spacing_mm contrasts K estimate steps rows evaluations batch precision repeats median_s "
    "q25_s q75_s peak_mib device threads torch version commit date"
).split()
CPU, GPU = "Xeon (2 threads)", "NVIDIA H100"
SMALL = {"size": "small", "shape": "4x5x6", "contrasts": 1}  # half of the grid below
BASE = {"size": "g", "shape": "4x5x12", "contrasts": 1, "peak_mib": 100, "device": CPU, "date": "2026-01-02"}
TRIVIAL, LOCAL, UNET, XDIFF = "baselines.trivial", "baselines.gaussian_local", "baselines.unet", "xdiff.model.method"
CORE = {"cases": 24, "voxels": 500, "steps": 20, "width": 16}
LEARNED = {"core": CORE, "channels": [8, 16], "validate_k": [1], "validate_subjects": 1, "volumes": 2}


def row(what: str, seconds: float, method: str = "", module: str = "", **more: object) -> dict:
    return {**BASE, "what": what, "median_s": seconds, "method": method, "module": module, **more}


ROWS = [
    row("preprocess", 2.0, peak_mib=300),
    row("evaluate", 0.5),
    row("read_write", 0.25),
    row("reconstruct", 1.0, "gaussian", TRIVIAL, K=1, estimate="mean", steps=1, rows=5),
    row("reconstruct", 3.0, "gaussian", TRIVIAL, K=4, estimate="mean", steps=1, rows=5, peak_mib=700),
    row("fit", 7.0, "gaussian", TRIVIAL, rows=5),
    row("fit", 11.0, "gaussian_local", LOCAL, rows=5),
    row("train_step", 0.5, "unet", UNET, batch=2),
    row("train_step", 2.0, "xdiff", XDIFF, batch=2),
    row("network", 0.125, "unet", UNET, K=1, estimate="mean"),
    row("network", 0.25, "xdiff", XDIFF, K=1, estimate="mean"),
    row("reconstruct", 4.0, "xdiff", XDIFF, K=1, estimate="mean", steps=1),
    row("reconstruct", 8.0, "xdiff", XDIFF, K=1, estimate="sample", steps=4),
]


def write_costs(path: Path, rows: Sequence[dict]) -> Path:
    """Rows as a file of unit costs."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def configured(methods: dict, sweeps: dict | None = None, **run: object) -> Config:
    """Ten Gaussian fields (5 train, 2 val, 3 test) on a grid of 4 x 5 x 12."""
    cohort = {
        "layout": "gaussian-field",
        "contrasts": ["field"],
        "foreground": "all",
        "norm": "none",
        "split": {"n_val": 2, "n_test": 3},
        "generate": {"n_subjects": 10, "seed": 1, "shape": [4, 5, 12], "spacing_mm": 4.0},
    }
    sweeps = sweeps or {"slices": {"K": [1]}}
    chosen = {"cohorts": ["field"], "grids": ["g"], "methods": list(methods), "sweeps": list(sweeps), **run}
    grids = {"g": {"shape": [4, 5, 12], "spacing_mm": 4.0}}
    return from_dict(Config, {"cohorts": {"field": cohort}, "grids": grids, "methods": methods, "sweeps": sweeps, "run": chosen})


def lines_of(config: Config, costs: Costs) -> dict[str, Line]:
    return {line.name: line for line in Forecast(config, costs).lines}


GAUSSIAN = {"gaussian": {"module": TRIVIAL, "params": {"kind": "gaussian"}}}


def trained(**params: object) -> dict:
    """U-Net and X-Diffusion beside the core that they start from."""
    unet = {"module": UNET, "params": {**LEARNED, "steps": 100, "validate_every": 30, **params}}
    xdiff = {"module": XDIFF, "params": {**LEARNED, "steps": 10, "checks": 4, **params}, "estimates": ["mean", "sample"]}
    return {"gaussian_local": {"module": LOCAL, "params": CORE}, "unet": unet, "xdiff": {**xdiff, "stepped": True}}
