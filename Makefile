# Two commands set everything up on a fresh machine with Python 3.11+ and git: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check bench docs clean

demo: $(VENV)/.demo
	$(BIN)/pna demo -o out/demo

test: $(VENV)/.dev
	$(BIN)/pytest -m "not slow and not cuda" --durations=10

test-all: $(VENV)/.dev
	$(BIN)/pytest --durations=20

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs

bench: $(VENV)/.dev
	$(BIN)/pna bench operator head models growth

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b doctest docs docs/_build/doctest

clean:
	rm -rf $(VENV) build dist out docs/_build .pytest_cache .mypy_cache .ruff_cache
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
