"""Keep a finished run as a reference: its table, small enough to commit, with panel, tables, figures and provenance.

    python -m xdiff.reference --results results --name real-brains-2mm --command "snakemake --cores 2 ..." --config P [P ...]

Kept per subject: PSNR in `unseen_masked` of every point; more regions and metrics of the base point (axial, uniform, thinnest),
and its error against distance and depth and its rank histograms at K = 1 and 5 in the centred frame; there too the band
variances of samples and the MAE of their method's mean, for the posterior checks and the figure of steps; of policy swap the
PSNR in `unseen`; scores of masks, but volumes and distances of voxels; of the base point, anatomy of bodies; how trainings
went; panels of models trained on the cohort itself, centred; figures as PNG in 256 colours. What is left out can be made again
by the command in provenance.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from xdiff.config import load_config
from xdiff.errors import InputError
from xdiff.panel import PARTS
from xdiff.posterior_checks import check_rows
from xdiff.provenance import commit, selected, versions
from xdiff.redraw import METRICS, PANELS, TUMOURS, redraw
from xdiff.report import read_ledger
from xdiff.stats import LESION_METRICS, fill_contrasts_given, is_history, of_anatomy, of_masks

CURVE_K = ("1", "5")
CURVES = ("distance_mm", "depth_mm", "rank")
KEPT_REGIONS = ("grid", "unseen", "unseen_masked", "all", "given")
KEPT_MASKS = ("dice", "lesion_hd95", "recall", "false_lesions", *LESION_METRICS)
KEPT_METRICS = ("psnr", "ssim", "crps", "coverage_50", "coverage_90", "coverage_95", "sharpness", "spectral_correlation")
KEPT_METRICS += ("max_error", "seconds", "evaluations", "peak_mib")


def shorten(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of all.tsv that a reference keeps, as text, without what policy, K and the timing rows say already."""
    told = is_history(metrics)
    thickness = metrics["thickness_mm"].astype(float)
    base = (metrics["axis"] == "axial") & (metrics["policy"] == "uniform") & (thickness == thickness[~told].min()) & ~told
    base &= metrics["contrasts_given"] == "all"
    base |= (metrics["policy"] == "projection") & ~told  # where it is given, it is all that is
    curve = metrics["x_name"] != ""
    everywhere = (metrics["metric"] == "psnr") & (metrics["region"] == "unseen_masked") & ~curve
    scalars = base & ~curve & metrics["metric"].isin(KEPT_METRICS) & metrics["region"].isin(KEPT_REGIONS)
    curves = base & metrics["x_name"].isin(CURVES) & metrics["K"].isin(CURVE_K)
    coarse_ssim = (metrics["metric"] == "ssim") & (metrics["region"] == "grid")
    swapped = (metrics["policy"] == "swap") & (metrics["metric"] == "psnr") & (metrics["region"] == "unseen") & ~curve
    masks = of_masks(metrics) & metrics["metric"].isin(KEPT_MASKS)
    bodies = base & of_anatomy(metrics)
    checked = base & (metrics["region"] == "unseen_masked") & check_rows(metrics)
    curves &= metrics["frame"] == "centred"
    stays = told | everywhere | (scalars & ~coarse_ssim) | curves | checked | swapped | masks | bodies
    kept = metrics[stays].copy()
    positioned = (everywhere & (metrics["K"] == "1"))[stays]  # of one given section the position is told
    kept.loc[~positioned, "indices"] = ""
    # a time needs its device and a cost its weights; on the other rows they would be a third of the file
    kept.loc[~kept["metric"].isin(["seconds", "evaluations", "peak_mib"]), ["device", "weights"]] = ""
    kept["value"] = [f"{float(value):.5g}" if value else "" for value in kept["value"]]  # empty: could not be measured
    return kept


def provenance(results: Path, command: str, configs: list[Path]) -> dict:
    """How the numbers were made: command, resolved configuration, commit, versions, machine, seconds per stage, data."""
    stores = sorted(results.glob("data/*/*/dataset.json"))
    ledger = read_ledger(results / "benchmarks") if (results / "benchmarks").is_dir() else pd.DataFrame()
    return {
        "command": command,
        "config": selected(load_config(configs)),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": versions(),
        "machine": platform.platform(),
        "data": {f"{p.parent.parent.name}/{p.parent.name}": json.loads(p.read_text())["fingerprint"] for p in stores},
        "ledger": ledger.reset_index().to_dict("records"),
    }


def keep(results: Path, out: Path, command: str, configs: list[Path], note: str = "") -> None:
    """Write the reference folder `out` from a finished run's `results`."""
    source = results / "metrics" / "all.tsv"
    if not source.exists():
        raise InputError(source, "no such file", "the long table of a finished run")
    out.mkdir(parents=True, exist_ok=True)
    whole = fill_contrasts_given(pd.read_csv(source, sep="\t", dtype=str, keep_default_na=False))
    table, packed = shorten(whole), {"method": "gzip", "mtime": 0}
    table.to_csv(out / METRICS, sep="\t", index=False, compression=packed)
    _keep_panels(results / "metrics" / "panel.npz", out / PANELS)
    described = provenance(results, command, configs)
    described["note"] = note
    described["all_tsv_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    (out / "provenance.json").write_text(json.dumps(described, indent=1) + "\n")
    if (results / "metrics" / TUMOURS).exists():
        shutil.copy(results / "metrics" / TUMOURS, out / TUMOURS)
    redraw(out, out, small=True)  # `snakemake reference_figures` makes the PDFs again, bit for bit


def _keep_panels(source: Path, target: Path) -> None:
    """The panels of models trained on the cohort itself, on grids that are not in the scanner frame."""
    with np.load(source) as panels:
        metas = [json.loads(str(panels[f"p{i}_meta"])) for i in range(sum(name.endswith("_meta") for name in panels.files))]
        chosen = [i for i, m in enumerate(metas) if m["trained_on"] == m["cohort"] and "scanner" not in str(m["grid"])]
        arrays = {
            f"p{n}_{kind}": panels[f"p{i}_{kind}"] for n, i in enumerate(chosen) for kind in PARTS if f"p{i}_{kind}" in panels
        }
    np.savez_compressed(target, **arrays)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff reference", description="Keep a finished run under results/reference.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results of the finished run")
    parser.add_argument("--name", required=True, help="name of the reference")
    parser.add_argument("--out", type=Path, default=Path("results/reference"), help="folder of all references")
    parser.add_argument("--command", required=True, help="the command that made the run, for provenance.json")
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="the configuration files of the run, in order")
    parser.add_argument("--note", default="", help="what a reader of provenance.json should know besides")
    args = parser.parse_args(argv)
    keep(args.results, args.out / args.name, args.command, args.config, args.note)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
