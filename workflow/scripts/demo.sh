#!/usr/bin/env bash
# Runs the default configuration and says what it cost and where the results are. Called by `make demo`, which
# builds .venv first. Again after a finished run: nothing is computed, the same is printed. After an interrupted
# one: goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" # the rules call `python -m xdiff...`

CORES=${CORES:-all}
PROFILE=workflow/profiles/local
PID_FILE=.snakemake/demo.pid
REPORT=results/report/snakemake.zip

# Whether the process is a Snakemake that runs: not one that was killed and that nobody has reaped (containers
# without an init), nor another program that was given the same number later.
is_running() {
    python -c '
import sys, psutil
try:
    process = psutil.Process(int(sys.argv[1]))
    alive = process.status() != psutil.STATUS_ZOMBIE and "snakemake" in " ".join(process.cmdline())
except psutil.NoSuchProcess:
    alive = False
sys.exit(not alive)' "$1"
}

# A Snakemake killed by a signal it cannot catch (kill -9, power, memory) leaves its lock behind. It is lifted only
# where the lock is known to be stale: the process id that an earlier demo left is dead. A lock without that file
# belongs to a Snakemake started by hand: it is left alone, and the run below stops with Snakemake's own message.
lift_stale_lock() {
    local pid
    [ -f "$PID_FILE" ] || return 0
    pid=$(cat "$PID_FILE")
    if is_running "$pid"; then
        echo "demo: another demo is at work here (process $pid)" >&2
        exit 1
    fi
    echo "demo: the last demo (process $pid) was killed; unlocking and going on"
    snakemake --unlock
    rm -f "$PID_FILE"
}

run_workflow() {
    local code=0
    mkdir -p .snakemake
    # exec: the process id in the file is Snakemake's own.
    sh -c 'echo $$ >"$0" && exec "$@"' "$PID_FILE" snakemake --profile "$PROFILE" --cores "$CORES" -- all || code=$?
    # Below 128 it ended by itself, failed or not, and has released its lock.
    [ "$code" -ge 128 ] || rm -f "$PID_FILE"
    return "$code"
}

# Made again only if some result is newer: it takes seconds, and a second demo shall change nothing.
write_report() {
    if [ ! -f "$REPORT" ] || [ -n "$(find results -path results/reference -prune -o -type f -newer "$REPORT" -print)" ]; then
        mkdir -p "$(dirname "$REPORT")"
        snakemake --report "$REPORT" -- all
    fi
}

lift_stale_lock
run_workflow
write_report
python -m xdiff.report --ledger results/benchmarks
cat <<END

Tables              results/tables/main.md
Figures             results/figures/
Trust cards         results/trust/
Report              results/report/index.html
Snakemake's report  $REPORT (unpack it, open report.html)
END
