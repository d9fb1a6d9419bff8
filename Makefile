# Two commands for a newcomer: `make demo` and `make test`. Both install into .venv what requirements.lock pins, once; the demo only what runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test check format lock clean

demo: $(RUNS)  ## Train the quickstart: four hospitals, encrypted updates, a ledger that verifies
	@$(BIN)/cifer run configs/quickstart.yaml

test: $(STAMP) check  ## The whole suite: style, types, import contracts, tests
	$(BIN)/pytest -n 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(RUNS): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Cifer needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (a few minutes the first time)"
	@$(PIP) -c requirements.lock setuptools
	@$(PIP) -c requirements.lock --no-build-isolation -e .
	@touch $@

$(STAMP): $(RUNS)
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) -r requirements.lock
	@touch $@

lock:  ## Resolve pyproject.toml afresh and write requirements.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet setuptools==80.9.0 -e '.[dev,bench]'
	.venv-lock/bin/pip freeze --all --exclude-editable --exclude pip | sed "s/+cpu$$//" | LC_ALL=C sort -f > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .cifer mlruns/mlflow.db mlruns/artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis
