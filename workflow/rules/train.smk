# One weights folder per (cohort, grid, method). The same command again resumes from the undeclared sibling NAME.checkpoints.


rule train:
    input:
        data="results/data/{cohort}/{grid}/dataset.json",
        split="results/data/{cohort}/split.tsv",
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
        mem_mb=lambda wc: CFG.methods[wc.method].mem_mb,
        runtime=lambda wc: CFG.methods[wc.method].runtime_min,
        gpu=lambda wc: CFG.methods[wc.method].gpu,
        disk_mb=1000,
    params:
        entry=lambda wc: xcfg.method_json(CFG.methods[wc.method]),
    shell:
        "OMP_NUM_THREADS={threads} python -m xdiff.train --method {wildcards.method} --entry {params.entry:q}"
        " --data $(dirname {input.data:q}) --split {input.split:q} --out $(dirname {output.weights:q}) > {log:q} 2>&1"
