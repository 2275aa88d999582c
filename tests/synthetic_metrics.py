"""A plausible results/metrics/all.tsv and panel.npz without any model: what tables, figures and the page are tested on.

Two cohorts: `brats` (four contrasts, tumours, patients with two visits, three policies) and `openneuro-ds002748`
(one contrast, three axes, three policies, centred and scanner frames), and rows for a knee cohort by brain models.
Levels follow the readings in the protocol, so that the figures look like the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

KS = (1, 2, 3, 5, 10, 31)
COLUMNS = [
    "trained_on",
    "cohort",
    "grid",
    "method",
    "K",
    "gap_mm",
    "axis",
    "indices",
    "policy",
    "contrasts_given",
    "thickness_mm",
    "steps",
]
COLUMNS += ["estimate", "seed", "train_seed", "subject", "contrast", "region", "metric", "x_name", "x", "value", "norm"]
COLUMNS += ["frame", "split", "weights", "device"]
# PSNR in dB, unseen_masked, per K (NaN: the method is not defined there).
LEVELS = {
    "zeros": (4.4, 4.4, 4.4, 4.4, 4.4, 4.4),
    "mean_template": (14.8, 14.8, 14.8, 14.8, 14.8, 14.8),
    "nearest": (10.9, 11.2, 11.9, 13.1, 14.9, 18.6),
    "linear": (np.nan, 11.7, 12.9, 14.4, 16.6, 21.9),
    "cubic": (np.nan, np.nan, np.nan, 14.0, 16.1, 22.0),
    "retrieval": (13.9, 14.1, 14.2, 14.5, 14.9, 15.6),
    "gaussian": (15.9, 16.5, 16.7, 17.1, 17.8, 21.8),
    "gaussian_local": (16.0, 16.6, 16.9, 17.4, 18.1, 22.2),
    "unet": (16.0, 16.65, 17.0, 17.5, 18.2, 22.6),
    "mednerf": (11.5, 11.9, 12.2, 12.6, 13.5, 16.0),
    "xdiff": (16.3, 17.0, 17.4, 18.0, 18.8, 23.4),
}
VARIANTS = {"xdiff": (("mean", 1, 0.0), ("sample", 8, -2.9), ("mean_of_16", 8, -0.25))}
REGION_DB = {"unseen_masked": 0.0, "unseen": -0.6, "grid": 4.9, "brain": 0.2, "outside": 9.0, "tumour": -1.4}
SECONDS = {"gaussian": 0.004, "unet": 0.09, "mednerf": 310.0, "xdiff": 0.21}
DEVICES = {"mednerf": "NVIDIA H200", "unet": "NVIDIA H200", "xdiff": "NVIDIA H200"}


def _subjects(cohort: str, patients: int) -> list[str]:
    if cohort == "brats":  # every fifth patient comes twice
        visits = {p: (2 if p % 5 == 0 else 1) for p in range(patients)}
        return [f"BraTS-GLI-{500 + p:05d}-{v:03d}" for p, n in visits.items() for v in range(n)]
    return [f"sub-{p + 1:02d}" for p in range(patients)]


def _settings(cohort: str) -> Iterator[tuple[str, str, str, str, tuple[int, ...]]]:
    """(grid, frame, axis, policy, Ks) of a cohort."""
    if cohort == "brats":
        yield "2mm", "centred", "axial", "uniform", KS
        yield from (("2mm", "centred", "axial", policy, (1,)) for policy in ("tumour", "off_tumour"))
        return
    yield "2mm", "centred", "axial", "uniform", KS
    yield "2mm-scanner", "scanner", "axial", "uniform", (1, 5)
    if cohort == "openneuro-ds002748":
        yield from (("2mm", "centred", axis, "uniform", (1, 5)) for axis in ("coronal", "sagittal"))
        yield from (("2mm", "centred", "axial", policy, (1,)) for policy in ("centre", "random"))


def _estimates(method: str) -> tuple[tuple[str, int, float], ...]:
    return VARIANTS.get(method, (("mean", 1, 0.0),))


def _level(method: str, K: int, cohort: str, frame: str, axis: str, policy: str) -> float:
    shift = {"brats": 1.1, "knee": -2.0}.get(cohort, 0.0) - (1.6 / K if frame == "scanner" else 0.0)
    shift += {"coronal": -0.25, "sagittal": 0.35}.get(axis, 0.0) + {"random": -0.8, "off_tumour": -0.4}.get(policy, 0.0)
    return LEVELS[method][KS.index(K)] + shift


def _numbers(level: float, K: int, contrast: str, cohort: str, rng: np.random.Generator) -> list[tuple]:
    """(region, metric, x_name, x, value) of one volume."""
    noise = rng.normal(0, 0.15)
    contrast_db = {"t1c": -0.5, "t2f": 0.4}.get(contrast, 0.0)
    regions = {r: db for r, db in REGION_DB.items() if r != "tumour" or cohort == "brats"}
    rows = [(r, "psnr", "", np.nan, level + db + contrast_db + noise) for r, db in regions.items()]
    rows += [("grid", "ssim", "", np.nan, 1 - 1.9 * 10 ** (-(level + noise) / 24))]
    rows += [("brain", "sharpness", "", np.nan, rng.uniform(0.2, 0.6))]
    for x in np.arange(3.0, 60.0, 6.0) / K**0.5:
        rows.append(("unseen_masked", "psnr", "distance_mm", round(float(x), 3), level + 8 * np.exp(-x / 12) - 1 + noise))
    rows += [("unseen_masked", "band_variance", "band", float(b), rng.uniform(0.5, 1.0)) for b in (1, 2, 3)]
    return rows


def synthetic_metrics(
    patients: int = 6, cohorts: tuple[str, ...] = ("brats", "openneuro-ds002748", "knee"), seed: int = 0
) -> pd.DataFrame:
    """The long table with `patients` test patients per cohort; about 4,500 rows per patient for the three cohorts."""
    rng = np.random.default_rng(seed)
    rows = []
    for cohort in cohorts:
        trained_on = "openneuro-ds002748" if cohort == "knee" else cohort
        contrasts = ("t1n", "t1c", "t2w", "t2f") if cohort == "brats" else ("PD" if cohort == "knee" else "T1w",)
        effect = {subject: rng.normal(0, 0.7) for subject in _subjects(cohort, patients)}
        for grid, frame, axis, policy, ks in _settings(cohort):
            for method, estimate, steps, shift, K in [(m, e, s, d, K) for m in LEVELS for e, s, d in _estimates(m) for K in ks]:
                level = _level(method, K, cohort, frame, axis, policy) + shift
                if np.isnan(level):
                    continue
                head = dict(trained_on=trained_on, cohort=cohort, grid=grid, method=method, K=K, axis=axis, policy=policy)
                head |= dict(thickness_mm=2.0, steps=steps, estimate=estimate, seed=0, train_seed=0, frame=frame)
                head |= dict(norm="truth_p99.5", split=f"{cohort[:4]}5f1d9c27", weights=f"{method}-1", indices="20;40")
                head |= dict(device=DEVICES.get(method, "cpu (2 threads)"), gap_mm=96.0 / K, contrasts_given="all")
                for subject, shift_db in effect.items():
                    seconds = SECONDS.get(method, 0.002) * (1 if estimate != "mean_of_16" else 16)
                    timing = [("grid", "seconds", "", np.nan, seconds * rng.uniform(0.9, 1.2))]
                    timing += [("grid", "evaluations", "", np.nan, float(3 * steps)), ("grid", "peak_mib", "", np.nan, 1500.0)]
                    for contrast in (*contrasts, "all"):
                        numbers = timing if contrast == "all" else _numbers(level + shift_db, K, contrast, cohort, rng)
                        rows += [
                            head | dict(subject=subject, contrast=contrast, region=r, metric=m, x_name=n, x=x, value=v)
                            for r, m, n, x, v in numbers
                        ]
    return pd.DataFrame(rows)[COLUMNS]


def small_metrics(psnr: dict[tuple[str, int, str], float], **columns: object) -> pd.DataFrame:
    """Long rows of psnr in unseen_masked from {(method, K, subject): dB}; `columns` replace the common values."""
    common = synthetic_metrics(patients=1, cohorts=("knee",)).iloc[0].to_dict() | dict(
        frame="centred", grid="2mm", trained_on="knee", region="unseen_masked", metric="psnr", x_name="", x=np.nan
    )
    rows = [common | dict(method=m, K=k, subject=s, value=v) | columns for (m, k, s), v in psnr.items()]
    return pd.DataFrame(rows)


def sweep_metrics(
    patients: int = 6, steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64), ks: tuple[int, ...] = (1, 5), cohort: str = "knee"
) -> pd.DataFrame:
    """Four draws of xdiff at every number of steps, its mean, and the gaussian row: few steps blur, many have all bands."""
    rng = np.random.default_rng(4)
    rows = []
    base = synthetic_metrics(patients=1, cohorts=("knee",)).iloc[0].to_dict()
    base |= dict(frame="centred", grid="2mm", trained_on=cohort, cohort=cohort, contrast="T1w", x_name="", x=np.nan)
    for subject, k in [(f"sub-{p + 1:02d}", k) for p in range(patients) for k in ks]:
        level = LEVELS["xdiff"][KS.index(k)] + rng.normal(0, 0.5)
        here = base | dict(subject=subject, K=k)
        for n in steps:
            blur = 1 / n
            drawn = here | dict(method="xdiff", estimate="sample", steps=n, seed=0)
            for seed in range(4):
                own = drawn | dict(seed=seed, region="unseen_masked", device="NVIDIA H200")
                psnr = level - 2.9 + 2.3 * blur + rng.normal(0, 0.1)
                rows.append(own | dict(region="unseen", metric="psnr", value=psnr))
                rows.append(own | dict(region="grid", contrast="all", metric="seconds", value=0.04 * n * rng.uniform(1, 1.1)))
                for band, kept in enumerate((0.98, 0.95, 0.9), 1):
                    ratio = kept * (1 - (0.05, 0.3, 0.85)[band - 1] * blur**0.5) + rng.normal(0, 0.01)
                    rows.append(own | dict(metric="band_variance", x_name="band", x=float(band), value=ratio))
            crps = 0.062 + 0.025 * blur**0.7 + rng.normal(0, 0.001)
            rows.append(drawn | dict(seed=-4, region="unseen_masked", metric="crps", value=crps))
        for method, db, score, metric in (("xdiff", 0.0, 0.086, "mae"), ("gaussian", -0.5, 0.071, "crps")):
            mean = here | dict(method=method, estimate="mean", steps=1, seed=0)
            rows.append(mean | dict(region="unseen", metric="psnr", value=level + db))
            rows.append(mean | dict(region="unseen_masked", metric=metric, value=score + rng.normal(0, 0.001)))
    return pd.DataFrame(rows)[COLUMNS]


def training_checks(n: int = 20, every: int = 300, ks: tuple[int, ...] = (1, 5), overfits: bool = True) -> list[dict]:
    """What a training leaves, check by check; where it overfits, validation is best after three fifths and then falls."""
    rng = np.random.default_rng(5)
    checks, best = [], -np.inf
    for i in range(1, n + 1):
        t = i / n
        gain = {
            k: {
                "training": 0.9 * (1 + 0.1 * k) * (1 - np.exp(-3 * t)) - 2.5 * np.exp(-14 * t),
                "validation": 0.4 * (1 + 0.1 * k) * (1 - np.exp(-4 * t))
                - 2.5 * np.exp(-14 * t)
                - overfits * 0.9 * max(0, t - 0.6) ** 1.5,
            }
            for k in ks
        }
        gain = {k: {side: value + rng.normal(0, 0.01) for side, value in sides.items()} for k, sides in gain.items()}
        score = float(np.mean([sides["validation"] for sides in gain.values()]))
        sides = {
            side: {str(k): {"psnr": 15 + k / 4 + gain[k][side], "gaussian": 15 + k / 4} for k in ks}
            for side in ("validation", "training")
        }
        loss = 0.75 + 2.4 * np.exp(-8 * t) + rng.normal(0, 0.02)
        checks.append({"step": every * i, "seconds": 31.0 * i, "loss": loss, "best": score > best, **sides})
        best = max(best, score)
    return checks


def write_history(folder: Path, checks: list[dict], method: str = "xdiff", cohort: str = "knee", grid: str = "2mm") -> Path:
    """history.jsonl of `checks` with the config.json that stands beside it in a weights folder; returns the history's path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(method=method, trained_on=cohort, grid=grid, norm="truth_p99.5", frame="centred", split="5f1d9c27" * 8)
    (folder / "config.json").write_text(json.dumps(config | dict(params={"seed": 3}, sha256="ab12" * 16)))
    (folder / "history.jsonl").write_text("".join(json.dumps(check) + "\n" for check in checks))
    return folder / "history.jsonl"


def write_metrics(table: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False)
    return path


def _head(shape: tuple[int, int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """An ellipsoid with a skull, ventricles and texture, (X, Y, Z) in 0..1."""
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum((g / r) ** 2 for g, r in zip(grids, (0.72, 0.88, 0.8), strict=True)))
    volume = np.where(radius < 1, 0.9, 0) - np.where(radius < 0.93, 0.35, 0)
    volume += np.where(radius < 0.85, 0.15 * np.sin(9 * grids[0]) * np.cos(8 * grids[1] + 5 * grids[2]), 0)
    ventricles = np.sqrt((np.abs(grids[0]) - 0.15) ** 2 * 30 + grids[1] ** 2 * 6 + grids[2] ** 2 * 9) < 0.6
    volume[ventricles] = 0.15
    return np.clip(volume + scale * rng.normal(size=shape) * (radius < 1), 0, 1.2)


def write_panel(path: Path, panels: int = 2) -> Path:
    """panel.npz with axial, coronal and sagittal views of a head and of five 'reconstructions' of it."""
    rng = np.random.default_rng(3)
    names, arrays = ["truth", "mean_template", "linear", "gaussian", "xdiff (mean)", "xdiff (sample, 8 steps)"], {}
    for i in range(panels):
        shape = (80, 96, 80)
        size = max(shape)
        volumes = [_head(shape, s, rng) for s in (0.01, 0.15, 0.12, 0.08, 0.05, 0.07)]
        views = []
        for volume in volumes:
            sections = (volume[:, :, 40].T[::-1], volume[:, 48, :].T[::-1], volume[40, :, :].T[::-1])
            views.append([np.pad(s, [((size - n) // 2, size - n - (size - n) // 2) for n in s.shape]) for s in sections])
        meta = dict(names=names, subject=f"sub-{i + 1:02d}", cohort="openneuro-ds002748", grid="2mm")
        meta |= dict(trained_on="openneuro-ds002748", contrast="T1w", K=1 + i, axis="axial", estimate="mean")
        meta |= dict(indices=[40, 55][: 1 + i], lines=[[v, 0, row] for v in (1, 2) for row in (48, 33)[: 1 + i]])
        arrays[f"p{i}_images"] = np.asarray(views, dtype=np.float16)
        arrays[f"p{i}_meta"] = np.asarray(json.dumps(meta | dict(given_view=0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


# dB lost in `mean` at K = 1 (more with K), sample / mean MSE, variance in three bands, CRPS added, seconds
ABLATIONS = {
    "xdiff": (0.0, 1.9, (0.98, 1.0, 0.95), 0.0, 0.2),
    "xdiff-no-trunk": (0.12, 1.6, (0.45, 0.9, 0.93), 0.002, 0.15),
    "xdiff-uniform-fusion": (0.02, 1.8, (0.95, 0.97, 0.9), 0.0004, 0.2),
    "xdiff-independent-noise": (0.0, 1.3, (0.9, 0.6, 0.3), 0.004, 0.2),
    "xdiff-no-gaussian": (4.0, 2.6, (1.5, 1.2, 1.1), 0.01, 0.2),
    "xdiff-ddim": (0.0, 1.7, (0.97, 0.93, 0.8), 0.0008, 0.2),
    "xdiff-10-subjects": (0.45, 2.0, (1.1, 1.0, 0.95), 0.003, 0.2),
    "gaussian": (0.5, 2.0, (1.0, 1.0, 1.0), 0.0, 0.01),
}


def ablation_metrics(
    patients: int = 6, ks: tuple[int, ...] = (1, 5, 10), joint: bool = True, sampled: bool = True
) -> pd.DataFrame:
    """xdiff with its ablations and the gaussian row on one cohort; both also trained on a second one; samples at K = 5."""
    rng = np.random.default_rng(6)
    rows = []
    base = synthetic_metrics(patients=1, cohorts=("openneuro-ds002748",)).iloc[0].to_dict()
    base |= dict(frame="centred", grid="48", axis="axial", policy="uniform", contrast="T1w", x_name="", x=np.nan, device="cpu")
    trained = [("openneuro-ds002748", m, 0.0) for m in ABLATIONS]
    trained += [("openneuro-ds002748+ixi-2mm", m, 0.2) for m in ("xdiff", "gaussian") if joint]
    effect = rng.normal(0, 0.7, patients)
    for origin, method, gain in trained:
        lost, ratio, bands, crps, seconds = ABLATIONS[method]
        for p, k in [(p, k) for p in range(patients) for k in ks]:
            level = LEVELS["xdiff"][KS.index(k)] + effect[p] - lost * (1 + k / 10) + gain + rng.normal(0, 0.03 * (lost > 0))
            here = base | dict(
                trained_on=origin, method=method, subject=f"sub-{p + 1:02d}", K=k, estimate="mean", steps=1, seed=0
            )
            cost = [("grid", "seconds", seconds), ("grid", "evaluations", 144.0)]
            rows += [here | dict(region=r, metric=m, value=v) for r, m, v in [("unseen", "psnr", level), *cost]]
            rows.append(here | dict(region="unseen_masked", metric="mae", value=0.086))
            if k != 5 or not sampled or method == "gaussian":
                continue
            for steps in (1, 2, 8, 32) if method in ("xdiff", "xdiff-ddim") and "+" not in origin else (8,):
                blur = 0.3 / steps
                for seed in (0, 1):
                    drawn = here | dict(estimate="sample", steps=steps, seed=seed)
                    psnr = level - 10 * np.log10(ratio * (1 - blur)) + rng.normal(0, 0.05)
                    rows.append(drawn | dict(region="unseen", metric="psnr", value=psnr))
                    rows += [drawn | dict(region=r, metric=m, value=v * steps) for r, m, v in cost]
                    for band, kept in enumerate(bands, 1):
                        value = kept * (1 - blur * band) + rng.normal(0, 0.02)
                        rows.append(
                            drawn
                            | dict(region="unseen_masked", metric="band_variance", x_name="band", x=float(band), value=value)
                        )
                score = 0.06 + crps + 0.01 * blur + rng.normal(0, 0.0003)
                rows.append(drawn | dict(seed=-2, region="unseen_masked", metric="crps", value=score))
    return pd.DataFrame(rows)[COLUMNS]
