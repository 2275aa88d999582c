# Everything a user types. Needs make and Python >= 3.11; the rest goes into .venv, built on first use.
#   make demo CORES=4                  fewer or more processes
#   make install TORCH_INDEX=URL       another build of torch (`plain`: pip's own index); see workflow/scripts/install.sh
#   make install PYTHON=/path/python   another interpreter

CORES ?= all
JOBS ?= 2
PYTHON ?=
TORCH_INDEX ?=

BIN := .venv/bin
STAMP := .venv/.installed
# Rules and tests call `python` and `snakemake` by name: they must find those of .venv, activated or not.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# One thread per test process: JOBS processes with a pool of threads each are slower than one.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint clean-venv

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

install: $(STAMP) ## build .venv with the versions of constraints.txt

# The stamp is written last: an interrupted installation is taken up again, a finished one is never repeated
# until the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash workflow/scripts/install.sh
	@touch $@

demo: $(STAMP) ## run the default configuration, then print times and where the results are
	@CORES="$(CORES)" bash workflow/scripts/demo.sh

test: $(STAMP) ## run the tests that take seconds
	$(ONE_THREAD) $(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile --durations=10

# pytest ends with 5 where no test is marked slow: nothing failed.
test-slow: $(STAMP) ## run the tests that take minutes
	$(ONE_THREAD) $(BIN)/pytest -m slow -n $(JOBS) --dist loadfile --durations=10 || [ $$? -eq 5 ]

lint: $(STAMP) ## check the style of Python and Snakemake files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

clean-venv: ## delete .venv
	rm -rf .venv
