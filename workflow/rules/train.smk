# One weights folder per (cohort, grid, method); cohort may be several joined by `+`. The same command again resumes from the undeclared sibling NAME.checkpoints.


rule train:
    input:
        data=lambda wc: [store_of(part, wc.grid) for part in xcfg.parts_of(wc.cohort)],
        split=lambda wc: [split_of(part) for part in xcfg.parts_of(wc.cohort)],
    output:
        weights="results/models/{cohort}/{grid}/{method}/weights.safetensors",
        config="results/models/{cohort}/{grid}/{method}/config.json",
        history="results/models/{cohort}/{grid}/{method}/history.jsonl",
    log:
        "results/logs/train/{cohort}/{grid}/{method}.log",
    benchmark:
        "results/benchmarks/train/{cohort}/{grid}/{method}.tsv"
    conda:
        "../envs/xdiff.yaml"
    threads: lambda wc: CFG.methods[wc.method].threads
    resources:
        mem_mb=per_attempt(lambda wc, threads: CFG.methods[wc.method].mem_mb),
        runtime=lambda wc: CFG.methods[wc.method].runtime_min,
        gpu=lambda wc: CFG.methods[wc.method].gpu,
        disk_mb=1000,
    params:
        entry=lambda wc: xcfg.method_json(CFG.methods[wc.method]),
        launcher=launcher,
    shell:
        "OMP_NUM_THREADS={threads} python -m {params.launcher} --method {wildcards.method} --entry {params.entry:q}"
        " --data $(dirname {input.data:q}) --split {input.split:q} --out $(dirname {output.weights:q}) > {log:q} 2>&1"
