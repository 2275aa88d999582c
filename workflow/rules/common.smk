# Shared by all rules: the checked configuration, the list of jobs, and where things are.
import sys
from pathlib import Path

import xdiff.config as xcfg
from xdiff.data.overlap import warn_of_overlaps
from xdiff.errors import InputError

try:
    CFG = xcfg.from_dict(xcfg.Config, config)
except InputError as error:
    raise WorkflowError(str(error)) from error

warn_of_overlaps(CFG)

JOBS = xcfg.jobs(CFG)
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


def root_of(cohort):
    return str(xcfg.raw_folder(CFG, cohort, Path("results")))


def raw_of(cohort):
    """What must exist before a cohort can be read."""
    if CFG.cohorts[cohort].skull_strip:
        return f"results/raw/{cohort}/stripped.txt"
    return f"results/raw/{cohort}/generated.txt" if CFG.cohorts[cohort].layout in xcfg.EMBEDDED else []


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


def history_of(trained_on, grid, method):
    return f"results/models/{trained_on}/{grid}/{method}/history.jsonl"


def folder_of(job):
    return f"{job.cohort}/{job.grid}/{job.method}@{job.trained_on}/{job.sweep}"


def manifest_of(job, shard):
    return f"results/samples/{folder_of(job)}/manifest-{shard}.tsv"


def metrics_of(job, shard):
    return f"results/metrics/{folder_of(job)}/{shard}.tsv"


def skipped_of(job):
    return f"results/samples/{folder_of(job)}/skipped-{SHARDS[0]}.tsv"
