# make env, demo, test, soak, browser, check, generate: each works on a bare machine with Python 3.11 to 3.13.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test soak browser check generate lock

env: .venv/ready

# uv installs in a minute what takes pip several; it goes into the environment, not into yours.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements.lock --editable ".[train]"
	touch $@

demo: env
	PATH="$(CURDIR)/$(BIN):$$PATH" MLFLOW_DISABLE_TELEMETRY=true mlflow run . --env-manager local

# One process for each core, but no more than four, each with one thread. A file is the unit, since
# the tests of a file share what they trained; slow files come first (tests/conftest.py).
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Kills workers at random for minutes, to find what nobody has thought of. CI does not run it.
soak: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak

# The page of `detreg show` in Chromium, which must be installed (Debian: apt-get install chromium).
browser: env
	$(BIN)/python -m pytest -m browser

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: env
	$(BIN)/python -m detreg.generate

lock:
	$(BIN)/uv pip compile pyproject.toml --extra train --group dev --universal --python-version 3.11 --no-header --no-emit-index-url \
	  --no-annotate --quiet --output-file requirements.lock
	$(BIN)/python -m detreg.generate
