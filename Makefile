# `make` lists the targets. Everything runs in .venv, which `make setup` keeps up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-dev

# Test workers share the cores: a thread that spins while it waits starves the others.
export GOMP_SPINCOUNT ?= 2000

.DEFAULT_GOAL := help
.PHONY: help setup demo test gpu bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv with polchain and what its tests need
	@:

$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polchain needs Python 3.11 or newer; try make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (about a minute, 1.3 GB)" >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt -e '.[dev]'
	@touch $@

demo: setup ## train, prove, verify, and see three lies refused (under two minutes)
	@$(BIN)/polchain demo

test: setup ## lint, types, layers and all tests (under 12 minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict polchain
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

gpu: setup ## the tests that need a CUDA device
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(BIN)/pytest -m gpu; \
	else echo "no CUDA device here: no GPU test was run"; fi

bench: setup ## measure, and print a table
	@if test -f benchmarks/speed.py; \
	then $(BIN)/python -m benchmarks.speed; \
	else echo "no benchmark is written yet: speed, storage and detection are to come"; fi

clean: ## remove caches and builds; keep .venv and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
