# Two commands do everything on a fresh machine: `make grok` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip checks for a newer pip and prints a line for every package otherwise.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help grok test readers lint format bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

grok: $(VENV)/.installed  ## set up, and grok addition modulo 97 on this machine's CPU
	@$(BIN)/python -m pipeline.run recipes/quickstart.yaml

test: $(VENV)/.developed  ## set up, and run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(TESTS)

readers: $(VENV)/.readers  ## add lm-eval, transformer-lens, nnsight, nnterp; test that they read kept steps
	@$(BIN)/python -m pytest -m readers tests/models/test_others.py $(TESTS)

lint: $(VENV)/.developed  ## ruff check, ruff format, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.developed  ## mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed  ## time what is meant to be fast
	@for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || failed=1; done; exit $${failed:-0}

clean:  ## remove the environment; runs stay
	rm -rf $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV), once: about two minutes"
	@$(PYTHON) -m venv $(VENV)
	@# torch alone and first, so that nothing else chooses its build
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.developed: $(VENV)/.installed
	@echo "adding what tests and linting need"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.readers: $(VENV)/.developed
	@echo "adding lm-eval, transformer-lens, nnsight and nnterp"
	@$(PIP) --editable '.[dev,eval,lens]'
	@touch $@
