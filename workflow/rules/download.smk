# Raw files from where they are published, for cohorts whose entry has `download` and whose folder is not there below data_root.
# Volumes are not declared: an interrupted download goes on from FOLDER.partial, and a folder that is there is never touched.
# What is declared only says that it was done. To download again: remove the folder, and --forcerun download.


rule download:
    # tee: progress on the terminal, too (with pipefail, which our shell prefix drops). No retries: the command has its own.
    output:
        "results/raw/{cohort}/downloaded.json",
    log:
        "results/logs/download/{cohort}.log",
    benchmark:
        "results/benchmarks/download/{cohort}.tsv"
    wildcard_constraints:
        cohort=any_of(OPEN),
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=720,
        disk_mb=download_mb,
    params:
        entry=lambda wc: source_of(wc.cohort),
        root=lambda wc: str(xcfg.source_folder(CFG, wc.cohort)),
    shell:
        "set -o pipefail; python -m xdiff.data download --entry {params.entry:q} --root {params.root:q} --record {output:q} 2>&1"
        " | tee {log:q}"


use rule download as download_brats with:
    # Sets that are given on application: without credentials one message says where to apply and which variable to set.
    wildcard_constraints:
        cohort=any_of(GATED),


use rule download as download_knee with:
    # Raw data of knees: mridata.org, which is open, and fastMRI, whose links are mailed on application.
    wildcard_constraints:
        cohort=any_of(KNEES),
    resources:
        mem_mb=per_attempt(1000),
        runtime=2880,
        disk_mb=download_mb,


use rule download as download_ukb with:
    # An application's bulk files, by ukbfetch or dx: transfers in parallel, their number limited by the entry.
    wildcard_constraints:
        cohort=any_of(UKB),


rule card:
    # Licence, citation, gate and counts of a cohort's raw files; of all cohorts of the run: target `cards`.
    input:
        lambda wc: raw_of(wc.cohort),
    output:
        "results/data/{cohort}/card.md",
    log:
        "results/logs/card/{cohort}.log",
    benchmark:
        "results/benchmarks/card/{cohort}.tsv"
    conda:
        "../envs/xdiff.yaml"
    resources:
        mem_mb=per_attempt(500),
        runtime=10,
        disk_mb=10,
    params:
        entry=lambda wc: plain.to_json(CFG.cohorts[wc.cohort]),
        # of UK Biobank the archives, beside which the record of the download lies
        root=lambda wc: str(xcfg.source_folder(CFG, wc.cohort)) if wc.cohort in STITCHED else root_of(wc.cohort),
    shell:
        "python -m xdiff.data card --entry {params.entry:q} --root {params.root:q} --out {output:q} > {log:q} 2>&1"


rule cards:
    input:
        expand(
            "results/data/{name}/card.md",
            name=sorted({p for job in JOBS for p in (job.cohort, *xcfg.parts_of(job.trained_on))}),
        ),
    localrule: True
