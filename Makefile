# `make` lists the targets. Everything runs in .venv, which `make setup` keeps up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-dev

# solc-js compiles the contract, forge tests it, anvil is the tests' real node. Without them those tests are skipped.
NODE_TOOLS := contracts/node_modules/.stamp
FOUNDRY := 1.7.1
export PATH := $(CURDIR)/contracts/node_modules/.bin:$(PATH)

# Test workers share the cores: a thread that spins while it waits starves the others.
export GOMP_SPINCOUNT ?= 2000

.DEFAULT_GOAL := help
.PHONY: help setup demo test contract gpu bench bench-sealed bench-ruling bench-detection bench-thieves clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv with polchain and what its tests need
	@:

$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polchain needs Python 3.11 or newer; try make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (about a minute, 1.3 GB)" >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt -e '.[dev]'
	@touch $@

demo: setup ## train, prove, verify; see three lies refused, and a thief lose (under two minutes)
	@$(BIN)/polchain demo

test: setup ## lint, types, layers and all tests (under 15 minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict polchain
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

contract: $(NODE_TOOLS) ## compile the contract, fail on any difference, and run its own tests (needs node)
	cd contracts && node compile.mjs --check
	cd contracts && forge test

# The native binaries, after `npm ci`, which removes them; in package.json they would break it on other platforms.
$(NODE_TOOLS): contracts/package-lock.json
	cd contracts && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cd contracts && platform=$$(node -p "process.platform + '-' + process.arch.replace('x64', 'amd64')") && \
	npm install --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
	@foundry-rs/anvil-$$platform@$(FOUNDRY) @foundry-rs/forge-$$platform@$(FOUNDRY)
	@touch $@

gpu: setup ## the tests that need a CUDA device, and what replay costs on one
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(BIN)/python -m pytest -m gpu; \
	else echo "no CUDA device here: no GPU test was run"; fi
	@$(BIN)/python -m benchmarks.gpu

# One after the other, on a machine that does nothing else; b3sum (Debian has it) is used where it is installed.
BENCHES := hashing commit memory states gas data scale steps stored startup
bench: setup ## measure against peers, and write the tables of docs/performance.md (three quarters of an hour, quiet machine)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt -e '.[bench]'
	@for name in $(BENCHES); do echo "bench: $$name" >&2; $(BIN)/python -m benchmarks.$$name || exit 1; done
	@$(BIN)/python -m benchmarks.report

bench-sealed: setup ## bytes of a sealed claim, a challenge and its opening
	@$(BIN)/python -m benchmarks.sealed

bench-ruling: setup ## how long a ruling takes on two claims that are replayed whole
	@$(BIN)/python -m benchmarks.ruling

# A sitting of at most 50 minutes (MINUTES=15 for a shorter one) on two cores (JOBS=14 for more); the next one goes on.
# VICTIMS=resnet20,gpt tries them on larger victims.
bench-detection: setup ## every forger against three verifiers; goes on where the last sitting ended
	nice -n 19 $(BIN)/python -m benchmarks.detection --minutes $(or $(MINUTES),50) --jobs $(or $(JOBS),2) $(if $(VICTIMS),--victims $(VICTIMS))
	$(BIN)/python -m benchmarks.detection --table >/dev/null

bench-thieves: setup ## every forger, dated first, against his victim before an arbiter; goes on where the last sitting ended
	nice -n 19 $(BIN)/python -m benchmarks.thieves --minutes $(or $(MINUTES),50)
	$(BIN)/python -m benchmarks.thieves --table >/dev/null

clean: ## remove caches and builds; keep .venv and runs
	rm -rf build dist contracts/out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
