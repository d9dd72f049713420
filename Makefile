# One command each. Everything works inside .venv at the project's root; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export DO_NOT_TRACK = 1
export OMP_NUM_THREADS = 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run repro viz test test-fast test-all lint format bench lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the environment (done by every other target)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing (a few minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: $(READY) ## kedro run --pipeline=physics_eval, then say where the report lies
	$(BIN)/kedro run --pipeline=physics_eval
	@echo "Open $(CURDIR)/data/08_reporting/index.html"

repro: $(READY) ## dvc repro: run only what changed
	$(BIN)/dvc repro

viz: $(READY) ## kedro viz
	$(BIN)/kedro viz run

test: $(READY) ## everything that CI checks, except lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-fast: $(READY) ## seconds: no pipelines, no processes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not pipeline' -x

test-all: $(READY) ## also what takes minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY) ## ruff, import contracts, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY) ## let ruff tidy up
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## side-by-side timings and the slow checks; results in benchmarks/results
	$(BIN)/python -m benchmarks

lock: $(READY) ## renew the pins: the newest that pyproject.toml allows, torch as it is
	$(BIN)/python -m pip install --upgrade --upgrade-strategy eager torch==2.13.0 --editable '.[dev,bench]'
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu//' > requirements.lock

clean: ## remove everything that was computed, keep the environment
	rm -rf data/0[2-8]_* data/smoke data/full data/gpu data/greydanus2019
