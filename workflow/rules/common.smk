# Shared by all rules: the checked configuration, the list of jobs, and where things are.
import dataclasses
import re
import sys
from pathlib import Path

import xdiff.config as xcfg
from xdiff import plain
from xdiff.data.overlap import warn_of_overlaps
from xdiff.errors import InputError

try:
    CFG = plain.from_dict(xcfg.Config, config)
except InputError as error:
    raise WorkflowError(str(error)) from error

warn_of_overlaps(CFG)

JOBS = xcfg.jobs(CFG)
SEGMENTED = xcfg.segment_jobs(CFG)
SHARDS = [f"{i}-of-{CFG.run.shards}" for i in range(1, CFG.run.shards + 1)]
# one job that does all needs no shards before it
DATA_SHARDS = [f"{i}-of-{CFG.run.data_shards}" for i in range(1, CFG.run.data_shards + 1) if CFG.run.data_shards > 1]
# `python` in the rules is the one that runs Snakemake, whether its environment is activated or not
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"export PATH={str(Path(sys.executable).parent)!r}:$PATH; ")

if not JOBS:
    raise WorkflowError(
        "run: selects no job: `only` of the chosen cohorts, grids, methods and sweeps exclude each other"
    )


wildcard_constraints:
    cohort="[^/@]+",
    grid="[^/@]+",
    method="[^/@]+",
    trained_on="[^/@]+",
    sweep="[^/@]+",
    shard="[0-9]+-of-[0-9]+",


def per_attempt(amount):
    """Memory for `mem_mb`: `amount`, a number or a function of (wildcards, threads), that of the first attempt, times the attempt.

    Further attempts are made only where a profile sets `retries`; they go on from what the failed one kept.
    """
    first = amount if callable(amount) else lambda wc, threads: amount
    return lambda wc, threads, attempt: attempt * first(wc, threads)


def root_of(cohort):
    return str(xcfg.raw_folder(CFG, cohort, Path("results")))


def raw_of(cohort):
    """What must exist before a cohort can be read."""
    if CFG.cohorts[cohort].layout == "ukb":
        return f"results/raw/{cohort}/stitched.txt"
    return f"results/raw/{cohort}/stripped.txt" if CFG.cohorts[cohort].skull_strip else source_ready(cohort)


def source_ready(cohort):
    """What must exist before the files that a cohort comes from can be read."""
    if CFG.cohorts[cohort].layout in xcfg.EMBEDDED:
        return f"results/raw/{cohort}/generated.txt"
    record = Path("results/raw") / cohort / "downloaded.json"
    folder = xcfg.source_folder(CFG, cohort)
    # once downloaded, always an input: a set of inputs that changes would run everything again
    wanted = record.exists() or not folder.is_dir() or not any(folder.iterdir())
    return str(record) if CFG.cohorts[cohort].download and wanted else []


def split_file_of(cohort):
    """Command line of a committed split, or nothing."""
    file = CFG.cohorts[cohort].split.file
    return f"--file {Path(REPOSITORY) / file}" if file else ""


def split_of(cohort):
    return f"results/data/{cohort}/split.tsv"


def store_of(cohort, grid):
    return f"results/data/{cohort}/{grid}/dataset.json"


def data_page_of(cohort, grid):
    return f"results/data_page/{cohort}/{grid}/summary.json"


def weights_of(trained_on, grid, method):
    return f"results/models/{trained_on}/{grid}/{method}/weights.safetensors"


def launcher(wildcards, resources):
    """Modules of the training's command: by way of torchrun where it has several GPUs, a process for each."""
    if resources.gpu <= 1:
        return "xdiff.train"
    return f"torch.distributed.run --standalone --nproc-per-node {resources.gpu} -m xdiff.train"


def history_of(trained_on, grid, method):
    return f"results/models/{trained_on}/{grid}/{method}/history.jsonl"


def folder_of(job):
    return f"{job.cohort}/{job.grid}/{job.method}@{job.trained_on}/{job.sweep}"


def manifest_of(job, shard):
    return f"results/samples/{folder_of(job)}/manifest-{shard}.tsv"


def metrics_of(job, shard):
    return f"results/metrics/{folder_of(job)}/{shard}.tsv"


def in_sweep(job, wc):
    """Whether a job is of the cohort, grid, training set and sweep that wildcards name."""
    return all(getattr(job, name) == getattr(wc, name) for name in ("cohort", "grid", "trained_on", "sweep"))


def mask_tables():
    """Of every method, of the real volumes and of the control: one table per sweep and shard."""
    folders = sorted({folder_of(job) for job in xcfg.with_real(SEGMENTED)})
    return [f"results/segmentations/{folder}/masks-{shard}.tsv" for folder in folders for shard in SHARDS]


def anatomy_of(cohort, grid):
    """What the real bodies of a cohort measure, or nothing where its volumes are not of bodies."""
    return f"results/metrics/{cohort}/{grid}/anatomy.tsv" if xcfg.has_water_fat(CFG.cohorts[cohort]) else []


def skipped_of(job):
    return f"results/samples/{folder_of(job)}/skipped-{SHARDS[0]}.tsv"


# Cohorts with a route: knees, of UK Biobank, other gated ones, and those that anybody may download
ROUTED = {name: entry for name, entry in CFG.cohorts.items() if entry.download}
KNEES = [name for name, entry in ROUTED.items() if entry.layout in xcfg.HDF5]
UKB = [name for name, entry in ROUTED.items() if entry.download.kind == "ukb"]
GATED = [name for name, entry in ROUTED.items() if entry.download.token_variable and name not in KNEES + UKB]
OPEN = [name for name in ROUTED if name not in GATED + KNEES + UKB]
STITCHED = [name for name, entry in CFG.cohorts.items() if entry.layout == "ukb"]


def source_of(cohort):
    """A cohort's entry without what does not concern its raw files: another split is no reason to look for them again."""
    return plain.to_json(dataclasses.replace(CFG.cohorts[cohort], split=xcfg.SplitRule(), only=xcfg.Only()))


def download_mb(wildcards):
    """Archives are unpacked beside themselves."""
    return max(1000, 2 * sum(part.size_mb for part in CFG.cohorts[wildcards.cohort].download.parts))


def any_of(names):
    """A constraint that fits these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def panels_of(name):
    """Images that a reference run keeps; none of a cohort whose licence does not let them be given away with this code."""
    folder = Path(REPOSITORY) / "results/reference" / name
    return [str(folder / file) for file in ("panel.npz", "tumour_panel.npz") if (folder / file).exists()]


def shards_of(stem):
    """What must be done of a store before it is joined, or before its grid can be placed; nothing where it is done in one job."""
    return [f"results/data/{{cohort}}/{{grid}}/shards/{stem}-{shard}.done" for shard in DATA_SHARDS]
