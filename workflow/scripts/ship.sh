#!/usr/bin/env bash
# The shipped model brain-t1, from data to xdiff/weights/brain-t1: fit (about 20 minutes of a core), measure, pack.
#   bash workflow/scripts/ship.sh DIR [OPTION of `xdiff export`]...     where DIR/openneuro-ds002748 is the BIDS folder
# Weights that are there already stay, unless the new ones are better on the validation side or --replace WHY is given.
set -euo pipefail
root=${1:?DIR, the folder that holds openneuro-ds002748}
shift
cohort=openneuro-ds002748
model=results/models/$cohort/2mm/xdiff_posed
snakemake --cores 1 --configfile workflow/presets/brain-t1.yaml --config data_root="$root" -- "$model/weights.safetensors"
python -m xdiff.cli export "$model" --name brain-t1 --out xdiff/weights/brain-t1 \
    --data "results/data/$cohort/2mm" --split "results/data/$cohort/split.tsv" \
    --source "https://openneuro.org/datasets/ds002748 (CC0), T1w, skull-stripped" "$@"
