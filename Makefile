# make run    everything, here, now        make test       what CI runs
# make lint   style, types, imports        make test-full  the slow tests too
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-full lint install clean

run: install
	$(BIN)/python -m pipeline run

test: install lint
	$(BIN)/python -m pytest -m "not full"

test-full: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, and $(PYTHON) is older; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .work .runs
