#!/usr/bin/env bash
# A preset on a lent machine that has a GPU and torch but neither network nor Snakemake.
#   here:   workflow/scripts/gpu.sh pack DIR            data (DIR/openneuro-ds002748) and missing wheels into .carry/, which travels
#   there:  bash workflow/scripts/gpu.sh run MINUTES PRESET...   one piece; again with the same presets goes on while the machine lasts
#   here:   workflow/scripts/gpu.sh pack_official       besides, what `run MINUTES --official results/metrics/official.tsv` needs there
#   here:   workflow/scripts/gpu.sh unpack FOLDER       what came back, into results-gpu/
# MINUTES must leave a check and a checkpoint room below the machine's limit for one command: 8 where that is 10.
set -euo pipefail
cd "$(dirname "$0")/../.."

pack() {
    local data=$1
    mkdir -p .carry/data .carry/wheels
    cp -rL "$data/openneuro-ds002748" .carry/data/
    # the versions of constraints.txt: pure Python, whatever Python is there
    local wheel
    for wheel in monai nibabel; do
        python -m pip download -q --no-deps --only-binary=:all: -d .carry/wheels "$(grep -i "^$wheel==" constraints.txt)"
    done
    du -sh .carry
}

# 25 MiB: what importing diffusers and transformers loads, of the extra [official] and its needs; torch, numpy, Pillow,
# safetensors, PyYAML, requests, tqdm and the like must be there. Two wheels are compiled: GPU_PYTHON is the Python there.
pack_official() {
    local wheel platforms=()
    for wheel in manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${wheel}_x86_64"); done
    mkdir -p .carry/wheels
    for wheel in diffusers transformers huggingface_hub tokenizers regex httpx2 httpcore2 anyio h11 truststore; do
        python -m pip download -q --no-deps --only-binary=:all: --python-version "${GPU_PYTHON:-3.12}" --implementation cp \
            "${platforms[@]}" -d .carry/wheels "$(grep -i "^$wheel==" constraints.txt)"
    done
    du -sh .carry
}

run() {
    local minutes=$1 status=0
    shift
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .carry/wheels/*.whl
    export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1
    python3 -m xdiff.bench "$@" --data-root .carry/data --out results --budget "$minutes" 2>&1 | tee "$OUT/log.txt" || status=$?
    mkdir -p results/{metrics,models,data,benchmarks} # where the time was over before there was anything
    # not the cores, nor weights that hold one: they are large, and a CPU fits them again in minutes
    (cd results && find metrics models data benchmarks -type f ! -path 'data/*/volumes/*' \
        ! -path '*/core-*' ! -path '*/warps-*' ! -path '*/tensorboard/*' \
        \( ! -name '*.safetensors' -o -path '*/network-*' \) -print0) >"$OUT/.list"
    tar -C results --null -T "$OUT/.list" -cz | split -b 15M - "$OUT/results.tgz."
    rm "$OUT/.list"
    return "$status"
}

unpack() {
    mkdir -p results-gpu
    cat "$1"/results.tgz.* | tar -C results-gpu -xz
    find results-gpu -name all.tsv
}

"$@"
