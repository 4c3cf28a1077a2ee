# Two commands do everything on a fresh machine: `make grok` and `make test`.

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
# pip checks for a newer pip and prints a line for every package otherwise.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

LOWEST_PIP := $(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(LOWEST)/constraints.txt
# What meets transformers: models, the training step, analyses, the keys of TrainingArguments.
CORE := tests/callbacks tests/circuits/test_contract.py tests/config/test_trainer_keys.py tests/data/test_rows.py \
	tests/kernels tests/models/test_contract.py tests/models/test_pretrained.py tests/training/test_loop.py \
	tests/training/test_trainer.py tests/test_internals.py tests/test_run.py

.DEFAULT_GOAL := help
.PHONY: help grok test test-lowest readers lint format bench reference gpu clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 19

grok: $(VENV)/.installed  ## set up, and grok addition modulo 97 on this machine's CPU
	@$(BIN)/python -m pipeline.run recipes/quickstart.yaml

test: $(VENV)/.developed  ## set up, and run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(TESTS)

test-lowest: $(LOWEST)/.developed  ## the core tests with the lowest transformers that pyproject.toml allows
	@$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 $(CORE) $(TESTS)

readers: $(VENV)/.readers  ## add lm-eval, transformer-lens, nnsight, nnterp; test that they read kept steps
	@$(BIN)/python -m pytest -m readers tests/models/test_others.py $(TESTS)

lint: $(VENV)/.developed  ## ruff check, ruff format, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.developed  ## mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed  ## time what is meant to be fast, beside rivals and the history; QUICK=1 in under 2 minutes
	@$(BIN)/python tests/benchmarks/bench.py $(if $(QUICK),--quick) $(if $(RECORD),--record)

reference:  ## write docs/api/ from the docstrings
	@$(PYTHON) docs/api_reference.py

# On a bare machine with torch and transformers, and wheels of what it lacks in a folder: make gpu PYTHON=python3 WHEELS=wheels
gpu:  ## time and train on this machine's GPU, with its own torch, for MINUTES=9
	@$(PYTHON) tests/benchmarks/gpu.py --minutes $(or $(MINUTES),9) $(if $(WHEELS),--wheels $(WHEELS))

clean:  ## remove the environments; runs stay
	rm -rf $(VENV) $(LOWEST)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV), once: torch first, with its size and progress, then the other packages"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python .ci/torch_build.py
	@# torch alone and first, so that nothing else chooses its build; not quietly, as it is most of what is fetched
	@$(subst --quiet,,$(PIP)) torch
	@echo "torch is here; the other packages follow"
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

$(LOWEST)/.developed: pyproject.toml constraints.txt
	@echo "setting up $(LOWEST), once: about three minutes"
	@$(PYTHON) -m venv $(LOWEST)
	@# the pinned set-up, with the lowest transformers and the tokenizers that it asks for
	@lowest=$$(sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml) && \
		sed "s/^transformers==.*/transformers==$$lowest/; /^tokenizers==/d" constraints.txt > $(LOWEST)/constraints.txt
	@$(LOWEST_PIP) torch
	@$(LOWEST_PIP) --editable '.[dev]'
	@touch $@
