#!/usr/bin/env bash
# Builds .venv from pyproject.toml and constraints.txt. Called by `make install`; safe to repeat.
#   PYTHON       interpreter to build it with (default: the first of CANDIDATES that is recent enough)
#   TORCH_INDEX  package index to take torch from; `plain` is pip's own. Default: the CPU index on Linux without
#                nvidia-smi if it answers, else `plain`, whose Linux wheels bring gigabytes of CUDA
#   INSTALLER    pip or uv (default: uv where it is installed, which takes 10 s in place of 2 minutes; it does not
#                read pip.conf, so set INSTALLER=pip where a mirror is configured there)
set -euo pipefail
cd "$(dirname "$0")/../.."

CPU_INDEX=https://download.pytorch.org/whl/cpu
# 3.11 first: the version that constraints.txt was resolved with. The pins have wheels for 3.12 and 3.13 too; on 3.14
# one of Snakemake's dependencies (immutables) has none and needs a C compiler.
CANDIDATES="python3.11 python3.12 python3.13 python3.14 python3 python"

die() {
    printf 'install: %s\n' "$@" >&2
    exit 1
}

# Run, not only looked up: pyenv's shims exist for interpreters that they then refuse to start.
is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-$CANDIDATES}; do
        if is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python >= 3.11 among: ${PYTHON:-$CANDIDATES}" \
        "install one (python.org, uv, pyenv, conda, apt; macOS' own is too old) or name it: make install PYTHON=/path/to/python"
}

make_venv() {
    local python
    if [ -e .venv ]; then
        is_recent .venv/bin/python || die ".venv/bin/python does not run or is older than 3.11: make clean-venv, then again"
        return
    fi
    python=$(find_python)
    echo "install: .venv with $("$python" --version)"
    "$python" -m venv .venv || {
        rm -rf .venv
        die "'$python -m venv' failed; on Debian and Ubuntu it needs: apt install python3-venv"
    }
}

# An alarm, because a name server that does not answer ignores the timeout of urlopen.
answers() {
    .venv/bin/python -c '
import signal, sys, urllib.request
signal.alarm(3)
urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3)' "$1" >/dev/null 2>&1
}

torch_index() {
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "$TORCH_INDEX"
    elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && answers "$CPU_INDEX"; then
        echo "$CPU_INDEX"
    else
        echo plain
    fi
}

install() {
    if [ "$INSTALLER" = uv ]; then
        UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" uv pip install --python .venv/bin/python "$@"
    else
        .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off "$@"
    fi
}

[ "$(uname -sm)" != "Darwin x86_64" ] || die "torch has no wheels for Intel Macs since 2.3: use Linux or Apple silicon"
if [ -z "${INSTALLER:-}" ]; then
    INSTALLER=$(command -v uv >/dev/null && echo uv || echo pip)
fi
make_venv
index=$(torch_index)
echo "install: torch from $index, with $INSTALLER"
# torch first, without its dependencies: only torch (and torchvision, which nnU-Net's dependencies ask for) shall come from
# its index, and what is installed is kept by the second run, which is pinned to the same version.
if [ "$index" = plain ]; then
    install --no-deps -c constraints.txt torch
else
    install --no-deps -c constraints.txt --index-url "$index" torch torchvision
fi
install -c constraints.txt -e '.[workflow,segment,dev]'
