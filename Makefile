# The two commands of the project are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# The first of these that runs; all three are tested.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell \
	python$(version) -c "import sys; print(sys.executable)" 2> /dev/null)))
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Idle threads of torch sleep instead of spinning: the loader needs the cores.
export OMP_WAIT_POLICY := passive
export DAGSTER_HOME := $(CURDIR)/.dagster

# Programs of .venv name their folder in the first line: in a moved project all are installed anew.
ifneq ($(shell cat .venv/.installed 2> /dev/null),$(CURDIR))
    $(shell rm -f .venv/.installed)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo results test test-slow check smoke dagster optuna-dashboard lock format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.venv/.installed: requirements.lock requirements-dvc.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "VATT needs Python 3.11, 3.12 or 3.13: none was found (set PYTHON=...)"; exit 1; }
	@echo 'Installing into .venv, once; a few minutes.'
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet uv==0.13.8
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m venv .venv/dvc
	@$(BIN)/uv pip install --quiet --compile-bytecode --python .venv/dvc/bin/python --require-hashes -r requirements-dvc.lock
	@ln -sf ../dvc/bin/dvc $(BIN)/dvc
	@# A project that was downloaded as an archive has no git, which DVC must be told.
	@[ -e .git ] || dvc config --quiet --local core.no_scm true
	@pwd -P > $@

setup: .venv/.installed ## create .venv with everything that is needed

demo: setup ## run the whole pipeline on the generated demo corpus, print the results
	@mkdir -p .cache && rm -f .cache/times.jsonl
	@# DVC's notes about its lock file, one or two a stage, hide what a person looks for. Bash adds what
	@# all of it took to the lines of the stages, in whole seconds, which have no decimal comma.
	@{ TIMEFORMAT='{"stage": "make demo", "wall_s": %0R, "user_s": %0U, "system_s": %0S}'; time \
	    PYTHONUNBUFFERED=1 dvc repro 2>&3 | grep --line-buffered -v "ing lock file 'dvc.lock'"; \
	} 3>&2 2>> .cache/times.jsonl
	@python -m vatt.evaluate.results
	@python -m vatt.tables times

results: setup ## hours: the demo over five seeds and two numerical paths -> docs/results.md
	python -m vatt.tables results

test: setup ## run the tests
	python -m pytest

test-slow: setup ## run the long campaigns: kills, fuzzing, faults
	python -m pytest -m slow --timeout 3600

check: setup ## lint, formatting, types, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	python -m pip check

smoke: setup ## seconds: print the loss of a fixed seed to full precision
	@python -m benchmarks.smoke

dagster: setup ## open the Dagster UI on localhost
	@mkdir -p .dagster && cp orchestration/dagster.yaml .dagster/dagster.yaml
	dg dev --host 127.0.0.1 --port 3000

STUDIES ?= sqlite:///.cache/tune/studies.db
optuna-dashboard: setup ## open Optuna's pages on localhost; STUDIES=... where tune.storage names a server
	optuna-dashboard $(STUDIES) --host 127.0.0.1 --port 8080

lock: setup ## resolve all packages anew, for every Python that is supported
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--extra train --extra orchestration --extra dev pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--group dvc --output-file requirements-dvc.lock

format: setup ## format the code, mend what ruff can mend
	ruff check --fix .
	ruff format .

clean: ## remove what the stages made; keeps .venv, data/inbox and the champions in data/promote
	rm -rf .cache metrics .dagster
	[ ! -d data ] || find -H data -mindepth 1 -maxdepth 1 ! -name inbox ! -name README.md ! -name promote -exec rm -rf {} +
	@[ ! -d data/promote ] || echo 'data/promote is kept: it holds the champions. `rm -r data/promote` removes them.'
