# Shared by all rules: the checked configuration, the list of jobs, and where things are.
import dataclasses
import re
import sys
from pathlib import Path

import xdiff.config as xcfg
from xdiff.errors import InputError

try:
    CFG = xcfg.from_dict(xcfg.Config, config)
except InputError as error:
    raise WorkflowError(str(error)) from error

JOBS = xcfg.jobs(CFG)
SHARDS = [f"{i}-of-{CFG.run.shards}" for i in range(1, CFG.run.shards + 1)]
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
    if CFG.cohorts[cohort].layout in xcfg.EMBEDDED:
        return f"results/raw/{cohort}/generated.txt"
    record = Path("results/raw") / cohort / "downloaded.json"
    folder = Path(root_of(cohort))
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


# Cohorts with a public route: gated ones, and those that anybody may download
GATED = [name for name, entry in CFG.cohorts.items() if entry.download and entry.download.token_variable]
OPEN = [name for name, entry in CFG.cohorts.items() if entry.download and name not in GATED]


def source_of(cohort):
    """A cohort's entry without what does not concern its raw files: another split is no reason to look for them again."""
    return xcfg.to_json(dataclasses.replace(CFG.cohorts[cohort], split=xcfg.SplitRule(), only=xcfg.Only()))


def download_mb(wildcards):
    """Archives are unpacked beside themselves."""
    return max(1000, 2 * sum(part.size_mb for part in CFG.cohorts[wildcards.cohort].download.parts))


def any_of(names):
    """A constraint that fits these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"
