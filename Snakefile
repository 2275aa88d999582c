# xdiff: 3D MRI from one slice or a few, honestly measured.
#
#   snakemake --cores all                                              the default: embedded cohorts, minutes on a CPU
#   snakemake --cores all --configfile workflow/presets/NAME.yaml      a preset over the default
#   snakemake --cores 1 reference_figures                              figures of the committed reference runs, seconds
#
# Data flows one way: raw -> data -> models -> samples -> metrics -> tables and figures -> report.
from snakemake.utils import min_version, validate

min_version("9.0")

# not workflow.basedir: used as a module, that is the folder of the Snakefile that uses this one
REPOSITORY = str(workflow.current_basedir)


configfile: f"{REPOSITORY}/config.yaml"


validate(config, workflow.source_path("workflow/schemas/config.schema.yaml"))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/paper.smk"


localrules:
    all,
    data,
    models,
    samples,


rule all:
    default_target: True
    input:
        "results/report/index.html",


rule data:
    input:
        sorted({store_of(job.cohort, job.grid) for job in JOBS}),


rule models:
    input:
        sorted({weights_of(job.trained_on, job.grid, job.method) for job in JOBS}),


rule samples:
    input:
        [manifest_of(job, shard) for job in JOBS for shard in SHARDS],
