# Manifests to long tables, long tables to one.
ANATOMY_CODE = [workflow.source_path(f"../../xdiff/metrics/{m}.py") for m in ("spine", "anatomy", "anatomy_rows")]


rule anatomy:
    # What real bodies measure: the truth of the test subjects, and the training subjects' mean, the control of all methods.
    input:
        data="results/data/{cohort}/{grid}/dataset.json",
        split="results/data/{cohort}/split.tsv",
        code=ANATOMY_CODE,
    output:
        "results/metrics/{cohort}/{grid}/anatomy.tsv",
    log:
        "results/logs/anatomy/{cohort}/{grid}.log",
    benchmark:
        "results/benchmarks/anatomy/{cohort}/{grid}.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(4000),
        runtime=60,
        disk_mb=100,
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.metrics anatomy --data $(dirname {input.data:q}) --split {input.split:q}"
        " --out {output:q} > {log:q} 2>&1"


rule evaluate:
    input:
        manifest="results/samples/{cohort}/{grid}/{method}@{trained_on}/{sweep}/manifest-{shard}.tsv",
        real=lambda wc: anatomy_of(wc.cohort, wc.grid),
        training=lambda wc: [
            anatomy_of(part, wc.grid) for part in xcfg.parts_of(wc.trained_on) if anatomy_of(wc.cohort, wc.grid)
        ],
        code=[workflow.source_path(f"../../xdiff/metrics/{m}.py") for m in ("core", "spectrum", "samples", "evaluate")]
        + ANATOMY_CODE,
    output:
        "results/metrics/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.tsv",
    log:
        "results/logs/evaluate/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.log",
    benchmark:
        "results/benchmarks/evaluate/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=120,
        disk_mb=100,
    params:
        real=lambda wc, input: f"--real {input.real} --training {' '.join(input.training)}" if input.real else "",
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.metrics evaluate --manifest {input.manifest:q} {params.real} --out {output:q}"
        " > {log:q} 2>&1"


rule collect:
    input:
        tables=[metrics_of(job, shard) for job in JOBS for shard in SHARDS],
        masks=[table.replace("results/segmentations", "results/metrics") for table in mask_tables()],
        skipped=[skipped_of(job) for job in JOBS],
        history=sorted({history_of(job.trained_on, job.grid, job.method) for job in JOBS}),
        code=workflow.source_path("../../xdiff/metrics/history.py"),
    output:
        table="results/metrics/all.tsv",
        skipped="results/metrics/skipped.tsv",
    log:
        "results/logs/collect.log",
    benchmark:
        "results/benchmarks/collect/all.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(4000),
        runtime=30,
        disk_mb=1000,
    shell:
        "python -m xdiff.metrics collect --inputs {input.tables:q} {input.masks:q} --skipped {input.skipped:q} --history {input.history:q}"
        " --out {output.table:q} --out-skipped {output.skipped:q} > {log:q} 2>&1"


rule panel:
    # The few sections that the qualitative figures show, so that figures need no volumes.
    input:
        manifests=[manifest_of(job, shard) for job in JOBS for shard in SHARDS],
        code=[workflow.source_path(f"../../xdiff/{m}.py") for m in ("metrics/panel", "stats")],
    output:
        "results/metrics/panel.npz",
    log:
        "results/logs/panel.log",
    benchmark:
        "results/benchmarks/panel/all.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=10,
        disk_mb=100,
    shell:
        "python -m xdiff.metrics panel --manifests {input.manifests:q} --out {output:q} > {log:q} 2>&1"
