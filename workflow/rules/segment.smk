# Is the tumour still there? nnU-Net, trained on real volumes of the training patients, on every volume that was made.
# Its own folders (nnUNet_raw ...) and the masks are not declared: the same command again goes on.
SCORE_CODE = [workflow.source_path(f"../../xdiff/segment/{m}.py") for m in ("scores", "regions", "evaluate")]


rule segmenter:
    input:
        data="results/data/{cohort}/{grid}/dataset.json",
        split="results/data/{cohort}/split.tsv",
    output:
        "results/models/{cohort}/{grid}/nnunet/segmenter.json",
    log:
        "results/logs/segmenter/{cohort}/{grid}.log",
    benchmark:
        "results/benchmarks/segmenter/{cohort}/{grid}.tsv"
    # Before trainings, which it does not wait for: left to the end, minutes would pass with one core at work.
    priority: 1
    conda:
        "../envs/segment.yaml"
    threads: CFG.segment.threads
    resources:
        mem_mb=per_attempt(CFG.segment.mem_mb),
        runtime=CFG.segment.runtime_min,
        gpu=CFG.segment.gpu,
        disk_mb=10000,
    params:
        settings=xcfg.segment_json(CFG.segment),
    shell:
        "OMP_NUM_THREADS={threads} python -m xdiff.segment train --data $(dirname {input.data:q}) --split {input.split:q}"
        " --settings {params.settings:q} --out $(dirname {output:q}) > {log:q} 2>&1"


rule segment:
    input:
        manifests="results/samples/{cohort}/{grid}/{method}@{trained_on}/{sweep}/manifest-{shard}.tsv",
        segmenter="results/models/{cohort}/{grid}/nnunet/segmenter.json",
        code=SCORE_CODE,
    output:
        masks="results/segmentations/{cohort}/{grid}/{method}@{trained_on}/{sweep}/masks-{shard}.tsv",
        scores="results/metrics/{cohort}/{grid}/{method}@{trained_on}/{sweep}/masks-{shard}.tsv",
    log:
        "results/logs/segment/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.log",
    benchmark:
        "results/benchmarks/segment/{cohort}/{grid}/{method}@{trained_on}/{sweep}/{shard}.tsv"
    # What the segmenter finds in every volume of a method, and its scores. Masks that are there are not made again.
    wildcard_constraints:
        method=f"(?!{'|'.join(xcfg.BESIDE)})[^/@]+",
    conda:
        "../envs/segment.yaml"
    resources:
        mem_mb=per_attempt(CFG.segment.mem_mb),
        runtime=CFG.segment.runtime_min,
        gpu=CFG.segment.gpu,
        disk_mb=1000,
    params:
        kind="prediction",
    shell:
        "OMP_NUM_THREADS={threads} python -m xdiff.segment masks --kind {params.kind} --manifest {input.manifests:q}"
        " --model $(dirname {input.segmenter:q}) --out {output.masks:q} --scores {output.scores:q} > {log:q} 2>&1"


use rule segment as segment_real with:
    # The ceiling (truth: what it finds in the real volumes) and the control (mask_linear: the given masks interpolated).
    input:
        manifests=lambda wc: sorted(manifest_of(j, wc.shard) for j in SEGMENTED if in_sweep(j, wc)),
        segmenter="results/models/{cohort}/{grid}/nnunet/segmenter.json",
        code=SCORE_CODE,
    wildcard_constraints:
        method="|".join(xcfg.BESIDE),
    params:
        kind=lambda wc: {"truth": "truth", "mask_linear": "control"}[wc.method],


rule tumour_panel:
    # The sections with most hidden tumour that the qualitative figure shows, with their masks.
    input:
        masks=mask_tables(),
        code=workflow.source_path("../../xdiff/segment/panel.py"),
    output:
        "results/metrics/tumour_panel.npz",
    log:
        "results/logs/tumour_panel.log",
    benchmark:
        "results/benchmarks/tumour_panel/all.tsv"
    conda:
        "../envs/segment.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=10,
        disk_mb=100,
    shell:
        "python -m xdiff.segment panel --masks {input.masks:q} --out {output:q} > {log:q} 2>&1"
