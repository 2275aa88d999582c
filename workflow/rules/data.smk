# Raw files to a split and a store.
# Before all else: these jobs take two cores where there are, and would wait for them behind minutes of one.
DATA_FIRST = 2


rule generate:
    output:
        "results/raw/{cohort}/generated.txt",
    log:
        "results/logs/generate/{cohort}.log",
    benchmark:
        "results/benchmarks/generate/{cohort}.tsv"
    # An embedded cohort, deterministic from its seed. Files that exist are kept.
    priority: DATA_FIRST
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(2000),
        runtime=30,
        disk_mb=2000,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
    shell:
        "(OMP_NUM_THREADS=1 python -m xdiff.data generate --entry {params.entry:q} --out $(dirname {output:q}) --workers {threads}"
        " && date > {output:q}) > {log:q} 2>&1"


rule skull_strip:
    # Whole heads, stripped by a program that others keep. Volumes are not declared: the finished ones of a failed run are kept.
    input:
        lambda wc: source_ready(wc.cohort),
    output:
        "results/raw/{cohort}/stripped.txt",
    log:
        "results/logs/skull_strip/{cohort}.log",
    benchmark:
        "results/benchmarks/skull_strip/{cohort}.tsv"
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(16000),
        runtime=600,
        disk_mb=20000,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        root=lambda wc: str(xcfg.source_folder(CFG, wc.cohort)),
    shell:
        "(python -m xdiff.data strip --entry {params.entry:q} --root {params.root:q} --out $(dirname {output:q})"
        " && date > {output:q}) > {log:q} 2>&1"


rule stitch_shard:
    # Bad visits are left to `stitch`, so that they do not keep the other shards from their good ones.
    input:
        lambda wc: source_ready(wc.cohort),
    output:
        touch("results/raw/{cohort}/.shards/{shard}.done"),
    log:
        "results/logs/stitch_shard/{cohort}/{shard}.log",
    benchmark:
        "results/benchmarks/stitch_shard/{cohort}/{shard}.tsv"
    wildcard_constraints:
        cohort=any_of(STITCHED),
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(lambda wc, threads: 2000 * threads),
        runtime=600,
        disk_mb=20000,
    params:
        entry=lambda wc: source_of(wc.cohort),
        root=lambda wc: str(xcfg.source_folder(CFG, wc.cohort)),
        shard=lambda wc: wc.shard.replace("-of-", "/"),
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.data stitch --entry {params.entry:q} --root {params.root:q}"
        " --out results/raw/{wildcards.cohort} --shard {params.shard} --workers {threads} > {log:q} 2>&1"


rule stitch:
    # UK Biobank's stations to volumes. Volumes are not declared: the finished visits of a failed run are kept.
    input:
        lambda wc: source_ready(wc.cohort),
        expand("results/raw/{{cohort}}/.shards/{shard}.done", shard=DATA_SHARDS),
    output:
        "results/raw/{cohort}/stitched.txt",
    log:
        "results/logs/stitch/{cohort}.log",
    benchmark:
        "results/benchmarks/stitch/{cohort}.tsv"
    wildcard_constraints:
        cohort=any_of(STITCHED),
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(lambda wc, threads: 2000 * threads),
        runtime=600,
        disk_mb=20000,
    params:
        entry=lambda wc: source_of(wc.cohort),
        root=lambda wc: str(xcfg.source_folder(CFG, wc.cohort)),
    shell:
        "(OMP_NUM_THREADS=1 python -m xdiff.data stitch --entry {params.entry:q} --root {params.root:q}"
        " --out $(dirname {output:q}) --workers {threads} && date > {output:q}) > {log:q} 2>&1"


rule split:
    input:
        lambda wc: raw_of(wc.cohort),
    output:
        "results/data/{cohort}/split.tsv",
    log:
        "results/logs/split/{cohort}.log",
    benchmark:
        "results/benchmarks/split/{cohort}.tsv"
    # By patient, never by file; a committed split where the cohort names one.
    priority: DATA_FIRST
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(500),
        runtime=10,
        disk_mb=10,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        root=lambda wc: root_of(wc.cohort),
        file=lambda wc: split_file_of(wc.cohort),
    shell:
        "python -m xdiff.data split --entry {params.entry:q} --root {params.root:q} {params.file} --out {output:q} > {log:q} 2>&1"


rule centres:
    # Frame `scanner` is placed by the training subjects of all shards: where a shard's lie.
    input:
        raw=lambda wc: raw_of(wc.cohort),
        split="results/data/{cohort}/split.tsv",
    output:
        touch("results/data/{cohort}/{grid}/shards/centres-{shard}.done"),
    log:
        "results/logs/centres/{cohort}/{grid}/{shard}.log",
    benchmark:
        "results/benchmarks/centres/{cohort}/{grid}/{shard}.tsv"
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(lambda wc, threads: 1000 * threads),
        runtime=120,
        disk_mb=100,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        root=lambda wc: root_of(wc.cohort),
        shard=lambda wc: wc.shard.replace("-of-", "/"),
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.data centres --entry {params.entry:q} --root {params.root:q} --split {input.split:q}"
        " --out results/data/{wildcards.cohort}/{wildcards.grid} --shard {params.shard} --workers {threads} > {log:q} 2>&1"


rule preprocess_shard:
    # Bad subjects are left to `preprocess`, so that they do not keep the other shards from their good ones.
    input:
        raw=lambda wc: raw_of(wc.cohort),
        split="results/data/{cohort}/split.tsv",
        centres=lambda wc: shards_of("centres") if CFG.grids[wc.grid].frame == "scanner" else [],
    output:
        touch("results/data/{cohort}/{grid}/shards/volumes-{shard}.done"),
    log:
        "results/logs/preprocess_shard/{cohort}/{grid}/{shard}.log",
    benchmark:
        "results/benchmarks/preprocess_shard/{cohort}/{grid}/{shard}.tsv"
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(lambda wc, threads: 1000 * threads),
        runtime=120,
        disk_mb=5000,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        grid=lambda wc: plain.to_json(CFG.grids[wc.grid]),
        root=lambda wc: root_of(wc.cohort),
        shard=lambda wc: wc.shard.replace("-of-", "/"),
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.data preprocess --entry {params.entry:q} --grid {params.grid:q}"
        " --names {wildcards.cohort} {wildcards.grid} --root {params.root:q} --split {input.split:q}"
        " --out results/data/{wildcards.cohort}/{wildcards.grid} --shard {params.shard} --workers {threads} > {log:q} 2>&1"


rule preprocess:
    input:
        raw=lambda wc: raw_of(wc.cohort),
        split="results/data/{cohort}/split.tsv",
        shards=shards_of("volumes"),
    output:
        dataset="results/data/{cohort}/{grid}/dataset.json",
        index="results/data/{cohort}/{grid}/index.tsv",
    log:
        "results/logs/preprocess/{cohort}/{grid}.log",
    benchmark:
        "results/benchmarks/preprocess/{cohort}/{grid}.tsv"
    # Onto one grid, or only the index where shards have done the work. Volumes are not declared: a bad subject must not delete
    # the others' finished work.
    priority: DATA_FIRST
    conda:
        "../envs/xdiff.yaml"
    threads: 2
    resources:
        mem_mb=per_attempt(lambda wc, threads: 1000 * threads),
        runtime=120,
        disk_mb=5000,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        grid=lambda wc: plain.to_json(CFG.grids[wc.grid]),
        root=lambda wc: root_of(wc.cohort),
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.data preprocess --entry {params.entry:q} --grid {params.grid:q}"
        " --names {wildcards.cohort} {wildcards.grid} --root {params.root:q} --split {input.split:q}"
        " --out $(dirname {output.dataset:q}) --workers {threads} > {log:q} 2>&1"


rule data_page:
    # Figures and numbers of a store for the page; of training subjects alone.
    input:
        dataset="results/data/{cohort}/{grid}/dataset.json",
        split="results/data/{cohort}/split.tsv",
        code=[workflow.source_path(f"../../xdiff/{m}.py") for m in ("data_page", "drawing")],
    output:
        "results/data_page/{cohort}/{grid}/summary.json",
    log:
        "results/logs/data_page/{cohort}/{grid}.log",
    benchmark:
        "results/benchmarks/data_page/{cohort}/{grid}.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=30,
        disk_mb=10,
    shell:
        "OMP_NUM_THREADS=1 python -m xdiff.data_page --data $(dirname {input.dataset:q}) --split {input.split:q}"
        " --out $(dirname {output:q}) > {log:q} 2>&1"
