"""How a training went, as long rows: what an iterative method left in history.jsonl, beside the config of its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from xdiff.errors import InputError
from xdiff.metrics.evaluate import COLUMNS

SIDES = ("validation", "training")
SCORE = ("psnr", "gaussian")


def history_rows(path: Path) -> pd.DataFrame:
    """Long rows (COLUMNS) of one history.jsonl; none where the file is empty, as it is for methods that do not iterate.

    x is the optimiser step (x_name `train_step`). `history_loss` (K 0): mean training loss since the check before.
    `history_psnr` and `history_psnr_gaussian` (dB, region `unseen`): of the averaged weights and of the gaussian row on the
    same subjects, by K; subject says which side, and on `training` the gaussian row is leave-one-out. `history_best` (K 0):
    one row, whose x and value are the step whose weights were kept.
    Raises InputError on a missing file, broken JSON or a missing key.
    """
    checks = _read(path)
    if not checks:
        return pd.DataFrame(columns=COLUMNS)
    rows = []
    for step, check in sorted(checks.items()):
        rows.append({"K": 0, "subject": "training", "metric": "history_loss", "x": step, "value": check["loss"]})
        for side in SIDES:
            for k, score in check.get(side, {}).items():
                same = {"K": int(k), "subject": side, "x": step}
                rows.append({**same, "metric": "history_psnr", "value": score["psnr"]})
                rows.append({**same, "metric": "history_psnr_gaussian", "value": score["gaussian"]})
    best = [step for step, check in checks.items() if check["best"]]
    if best:
        rows.append({"K": 0, "subject": "validation", "metric": "history_best", "x": max(best), "value": max(best)})
    return pd.DataFrame([{**_common(path), **row} for row in rows], columns=COLUMNS)


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """Step -> its check. A training killed and resumed repeats the checks since its checkpoint: the last one counts."""
    if not path.exists():
        raise InputError(path, "no such file", "the history of a training, empty where the method does not iterate")
    checks = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            check = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}", f"broken JSON ({error})", "one JSON object per check") from error
        missing = [key for key in ("step", "loss", "best") if key not in check]
        missing += [
            f"{side}.{k}.{key}" for side in SIDES for k, s in check.get(side, {}).items() for key in SCORE if key not in s
        ]
        if missing:
            raise InputError(
                f"{path}, line {number}", f"no key {missing[0]!r}", "step, loss, best, and psnr, gaussian by side and K"
            )
        checks[int(check["step"])] = check
    return checks


def _common(path: Path) -> dict[str, Any]:
    """What the rows of one training share, from the config.json beside its history."""
    config_path = path.with_name("config.json")
    if not config_path.exists():
        raise InputError(config_path, "no such file", f"the config of the weights that {path.name} tells of")
    config = json.loads(config_path.read_text())
    return {
        **{key: config[key] for key in ("trained_on", "grid", "method", "norm", "frame")},
        "cohort": config["trained_on"],
        "train_seed": config["params"].get("seed", 0),
        "split": config["split"][:12],
        "weights": config["sha256"][:12],
        **{"axis": "axial", "policy": "uniform", "thickness_mm": 0.0, "steps": 1, "estimate": "mean", "seed": 0},
        **{"gap_mm": math.nan, "indices": "", "device": "", "contrast": "all", "region": "unseen", "x_name": "train_step"},
        "contrasts_given": "all",
    }
