# One command each. Everything works inside .venv at the project's root; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export DO_NOT_TRACK = 1
export OMP_NUM_THREADS = 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
RUNNER := $(if $(filter 1,$(CORES)),SequentialRunner,ParallelRunner)
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
ENVIRONMENTS := $(notdir $(patsubst %/,%,$(wildcard conf/*/)))

.DEFAULT_GOAL := help
.PHONY: help setup run repro stages lock-status viz test test-fast test-all lint format docs bench lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make the environment (done by every other target)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing (a few minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: $(READY) ## kedro run --pipeline=physics_eval on all cores, then say where the report lies
	$(BIN)/kedro run --pipeline=physics_eval --runner=$(RUNNER)
	@echo "Open $(CURDIR)/data/08_reporting/index.html"

repro: $(READY) ## dvc repro: run only what changed
	$(BIN)/dvc repro

stages: $(READY) ## write dvc.yaml from conf/base/globals.yml and the imports of the code
	$(BIN)/python -m wm_pipelines.pipelines.stages

lock-status: $(READY) ## which stages of dvc.lock were made by other code or parameters
	$(BIN)/python -m wm_pipelines.pipelines.stages --behind

viz: $(READY) ## kedro viz
	$(BIN)/kedro viz run

test: $(READY) ## everything that CI checks, except lint
	$(PYTEST) -m 'not slow'

test-fast: $(READY) ## 70 s: no pipelines, no processes, no long trainings
	$(PYTEST) -m 'not (slow or pipeline or training)' -x

test-all: $(READY) ## also what takes minutes, with coverage
	$(PYTEST) --cov=wm_pipelines --cov-report=term:skip-covered

lint: $(READY) ## ruff, import contracts, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY) ## let ruff tidy up
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## the documentation site, offline; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html"

bench: $(READY) ## side-by-side timings and the slow checks; results in benchmarks/results
	$(BIN)/python -m benchmarks

lock: $(READY) ## renew the pins: the newest that pyproject.toml allows, torch as it is
	$(BIN)/python -m pip install --upgrade --upgrade-strategy eager torch==2.13.0 --editable '.[dev,bench]'
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu//' > requirements.lock

clean: ## remove everything that was computed, keep the environment
	rm -rf data/0[2-8]_* data/checkpoints data/tuning data/.lock $(addprefix data/,$(ENVIRONMENTS)) docs/_build
	find data conf benchmarks -name '.partial-*' -prune -exec rm -rf {} +
	@git checkout --quiet -- data/08_reporting 2>/dev/null || true # the numbers that stand in git belong to its revision
