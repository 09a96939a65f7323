# Two commands set everything up on a fresh machine with Python 3.11+ and git: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# One process a core, one thread a process: threads that share a core only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

# One reading of the pages for both builders.
SPHINX := $(BIN)/sphinx-build -W --keep-going -q -d docs/_build/doctrees

.PHONY: demo test test-all test-minimum check lint doctest bench docs clean

demo: $(VENV)/.demo
	$(BIN)/pna demo -o out/demo

test: $(VENV)/.dev
	$(PYTEST) -m "not slow and not cuda" --durations=10

test-all: $(VENV)/.dev
	$(PYTEST) --durations=20

# The lowest versions that pyproject.toml admits, in an environment of their own; the tests that
# need no other library. Old releases warn of their own dependencies, so warnings are no errors here.
test-minimum: $(VENV)-minimum/.dev
	OMP_NUM_THREADS=1 $(VENV)-minimum/bin/pytest -q -n $(WORKERS) -o filterwarnings=default \
		-m "not slow and not cuda and not triton" tests/ops tests/labels tests/data tests/metrics \
		tests/model/test_*.py tests/model/cascade/test_levels.py tests/refinement tests/inference \
		tests/draw tests/evaluate tests/train/test_losses.py tests/train/test_recipe.py \
		tests/train/test_loop.py

# Parts that can run side by side: `make -j2 check`.
check: lint doctest docs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

doctest: $(VENV)/.dev
	$(BIN)/pytest -q --doctest-modules src/pna

bench: $(VENV)/.dev
	$(BIN)/pna bench operator grids head models growth

docs: $(VENV)/.dev
	$(SPHINX) -b html docs docs/_build/html
	$(SPHINX) -b doctest docs docs/_build/doctest

clean:
	rm -rf $(VENV) $(VENV)-minimum build dist out docs/_build docs/_generated .pytest_cache .mypy_cache .ruff_cache
	rm -rf .import_linter_cache .hypothesis

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pna needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)-minimum/.dev: pyproject.toml .ci/minimum.py
	$(PYTHON) -m venv $(VENV)-minimum
	$(PYTHON) .ci/minimum.py > $(VENV)-minimum/constraints.txt
	$(VENV)-minimum/bin/python -m pip install -q -c $(VENV)-minimum/constraints.txt \
		-e '.[train,mat,weights,geo,video]' pytest pytest-timeout pytest-xdist hypothesis torchmetrics
	touch $@
