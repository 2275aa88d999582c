# Tables, figures, trust cards and the page, from the long table alone. None of these loads torch.
from xdiff.provenance import selected
from xdiff.trust import WITHOUT_CARD

REFERENCES = sorted(p.parent.name for p in Path(REPOSITORY).glob("results/reference/*/metrics.tsv.gz"))
TABLE_MODULES = (
    "tables",
    "posterior_checks",
    "ablation",
    "anatomy",
    "tumours",
    "segment/regions",
    "stats",
    "signed_rank",
    "layout",
    "markup",
    "printed_table",
)
TABLE_CODE = [workflow.source_path(f"../../xdiff/{m}.py") for m in TABLE_MODULES]
FIGURE_MODULES = ("figures", "drawing", "panel", "captions", "step_sweep", "training_curves", "stats", "layout")
FIGURE_MODULES += ("ablation_figure", "ablation", "posterior_checks", "quality_vs_seconds")
FIGURE_MODULES += ("tumour_figures", "tumour_panel", "tumours", "anatomy_figures", "anatomy")
FIGURE_MODULES += ("position_figures", "printed", "printed_table", "calibration", "generalisation", "timing_figure")
FIGURE_MODULES += ("redraw", "document", "fonts")
TRUST_MODULES = ("wording", "evidence", "keeps", "invents", "limits", "card", "picture")
TRUST_CODE = [workflow.source_path(f"../../xdiff/{m}.py") for m in ("drawing", *(f"trust/{m}" for m in TRUST_MODULES))]
PAGE_FILES = ("report.py", "provenance.py", "page/blocks.py", "page/overview.py", "page/parts.py", "page/style.css")
PAGE_CODE = [workflow.source_path(f"../../xdiff/{name}") for name in (*PAGE_FILES, "page/script.js")]
HAS_CARDS = any(job.method not in WITHOUT_CARD for job in JOBS)
FIGURE_CODE = [workflow.source_path(f"../../xdiff/{m}.py") for m in FIGURE_MODULES]


rule tables:
    input:
        metrics="results/metrics/all.tsv",
        skipped="results/metrics/skipped.tsv",
        code=TABLE_CODE,
    output:
        markdown="results/tables/main.md",
        latex="results/tables/main.tex",
        numbers=report("results/tables/main.tsv", caption="../report/main_table.rst", category="Tables"),
        printed="results/tables/paper.md",
        printed_latex="results/tables/paper.tex",
        paired="results/tables/paired.tsv",
        posterior="results/tables/posterior.tsv",
        ablation="results/tables/ablation.tsv",
        tumours="results/tables/tumours.tsv",
        swap="results/tables/swap.tsv",
        anatomy="results/tables/anatomy.tsv",
    log:
        "results/logs/tables.log",
    benchmark:
        "results/benchmarks/tables/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=10,
        disk_mb=100,
    shell:
        "python -m xdiff.tables --metrics {input.metrics:q} --skipped {input.skipped:q} --out $(dirname {output.markdown:q}) > {log:q} 2>&1"


rule ablation:
    # Table and figure of what every part is worth, and nothing else: an error where no method is ablated.
    input:
        metrics="results/metrics/all.tsv",
        code=[*TABLE_CODE, *FIGURE_CODE],
    output:
        table="results/ablation/ablation.tsv",
        markdown="results/ablation/ablation.md",
        figure=report("results/ablation/ablation.png", caption="../report/ablation.rst", category="Ablation"),
        drawing="results/ablation/ablation.pdf",
        captions="results/ablation/captions.json",
    log:
        "results/logs/ablation.log",
    benchmark:
        "results/benchmarks/ablation/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=10,
        disk_mb=100,
    shell:
        "(python -m xdiff.ablation --metrics {input.metrics:q} --out $(dirname {output.table:q}) &&"
        " python -m xdiff.figures --only ablation --metrics {input.metrics:q} --out $(dirname {output.figure:q})) > {log:q} 2>&1"


rule figures:
    input:
        metrics="results/metrics/all.tsv",
        panel="results/metrics/panel.npz",
        tumours="results/metrics/tumour_panel.npz" if SEGMENTED else [],
        code=FIGURE_CODE,
    output:
        report(
            directory("results/figures"),
            patterns=["{name}.png"],
            caption="../report/figure.rst",
            category="Figures",
        ),
    log:
        "results/logs/figures.log",
    benchmark:
        "results/benchmarks/figures/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=10,
        disk_mb=100,
    params:
        tumours=lambda wc, input: f"--tumours {input.tumours}" if SEGMENTED else "",
    shell:
        "python -m xdiff.figures --metrics {input.metrics:q} --panel {input.panel:q} {params.tumours} --out {output:q} > {log:q} 2>&1"


rule trust_card:
    # What each model keeps, what it invents, when not to use it: a card per model, TRAINED_ON/GRID/METHOD.md with a figure.
    input:
        metrics="results/metrics/all.tsv",
        code=[*TABLE_CODE, *TRUST_CODE],
    output:
        report(
            directory("results/trust"),
            patterns=["{trained_on}/{grid}/{method}.png", "{trained_on}/{grid}/{method}.md"],
            caption="../report/trust_card.rst",
            category="Trust cards",
            subcategory="{trained_on}, grid {grid}",
            labels={"model": "{method}"},
        ),
    log:
        "results/logs/trust_card.log",
    benchmark:
        "results/benchmarks/trust_card/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(2000),
        runtime=10,
        disk_mb=100,
    params:
        made=sorted(name for name, entry in CFG.cohorts.items() if entry.layout in xcfg.EMBEDDED),
    shell:
        "python -m xdiff.trust --metrics {input.metrics:q} --out {output:q} --made {params.made:q} > {log:q} 2>&1"


rule paper:
    # A LaTeX document of all tables and figures, to be compiled where there is a LaTeX.
    input:
        tables=rules.tables.output,
        figures=rules.figures.output,
        code=FIGURE_CODE,
    output:
        "results/paper/main.tex",
    log:
        "results/logs/paper.log",
    benchmark:
        "results/benchmarks/paper/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=10,
        disk_mb=10,
    shell:
        "python -m xdiff.document --tables $(dirname {input.tables[0]:q}) --figures {input.figures:q} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        tables=rules.tables.output,
        figures=rules.figures.output,
        cards=rules.trust_card.output if HAS_CARDS else [],
        code=PAGE_CODE,
        data=sorted({data_page_of(job.cohort, job.grid) for job in JOBS}),
    output:
        report("results/report/index.html", caption="../report/page.rst", category="Page"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report/all.tsv"
    conda:
        "../envs/paper.yaml"
    resources:
        mem_mb=per_attempt(1000),
        runtime=10,
        disk_mb=100,
    params:
        config=lambda wc: plain.to_json(selected(CFG)),  # a function: its braces are no wildcards
        cards=lambda wc, input: f"--cards {input.cards}" if HAS_CARDS else "",
    shell:
        "python -m xdiff.report --tables $(dirname {input.tables[0]:q}) --figures {input.figures:q} --benchmarks results/benchmarks"
        " --data $(dirname {input.data:q}) {params.cards} --config-json {params.config:q} --out {output:q} > {log:q} 2>&1"


rule reference_figures:
    # Figures and tables of the committed reference runs, from their long tables: no upstream, no torch, and one job, since a third
    # of the time would go into loading libraries once for each.
    input:
        metrics=expand(f"{REPOSITORY}/results/reference/{{name}}/metrics.tsv.gz", name=REFERENCES),
        panels=[path for name in REFERENCES for path in panels_of(name)],
        code=TABLE_CODE + FIGURE_CODE,
    output:
        tables=directory(expand("results/reference_figures/{name}/tables", name=REFERENCES)),
        figures=directory(expand("results/reference_figures/{name}/figures", name=REFERENCES)),
        documents=expand("results/reference_figures/{name}/main.tex", name=REFERENCES),
    log:
        "results/logs/reference_figures.log",
    benchmark:
        "results/benchmarks/reference_figures/all.tsv"
    conda:
        "../envs/paper.yaml"
    threads: 4
    resources:
        mem_mb=per_attempt(lambda wc, threads: 1000 + 1000 * threads),
        runtime=10,
        disk_mb=100,
    params:
        folders=lambda wc, input: [Path(path).parent for path in input.metrics],
    shell:
        "python -m xdiff.redraw --reference {params.folders:q} --out results/reference_figures --workers {threads} > {log:q} 2>&1"
