# One job per (trained_on, cohort, grid, method, sweep, shard), all its points and subjects in one process.
# Volumes are not declared: an interrupted job continues from their sidecars.


rule sample:
    input:
        weights="results/models/{trained_on}/{grid}/{method}/weights.safetensors",
        data="results/data/{cohort}/{grid}/dataset.json",
        split="results/data/{cohort}/split.tsv",
    output:
        manifest="results/samples/{cohort}/{grid}/{method}@{trained_on}/{sweep}/manifest-{shard}.tsv",
        skipped="results/samples/{cohort}/{grid}/{method}@{trained_on}/{sweep}/skipped-{shard}.tsv",
    log:
        "results/logs/sample/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.log",
    benchmark:
        "results/benchmarks/sample/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.tsv"
    conda:
        "../envs/xdiff.yaml"
    threads: lambda wc: CFG.methods[wc.method].threads
    resources:
        mem_mb=per_attempt(lambda wc, threads: CFG.methods[wc.method].mem_mb),
        runtime=lambda wc: CFG.methods[wc.method].runtime_min,
        gpu=lambda wc: min(1, CFG.methods[wc.method].gpu),
        disk_mb=5000,
    params:
        entry=lambda wc: xcfg.method_json(CFG.methods[wc.method]),
        sweep=lambda wc: plain.to_json(CFG.sweeps[wc.sweep]),
        shard=lambda wc: wc.shard.replace("-of-", "/"),
    shell:
        "OMP_NUM_THREADS={threads} python -m xdiff.sample --entry {params.entry:q} --sweep {params.sweep:q} --shard {params.shard}"
        " --weights $(dirname {input.weights:q}) --data $(dirname {input.data:q}) --split {input.split:q}"
        " --out $(dirname {output.manifest:q}) > {log:q} 2>&1"
