# Set-up, serving and checking. Everything lives in .venv; a second run takes no time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := deploy/lock/run.txt
DEV := deploy/lock/dev.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := uv pip compile pyproject.toml --group build --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-annotate --no-header --no-config --quiet

.PHONY: help serve test check bench docs lock clean

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1  - /p' $(MAKEFILE_LIST)

serve: $(VENV)/.weights  ## Run the gateway; ARGS="--port 9000" passes arguments on, ARGS=--help sets up only
	@exec $(BIN)/dragoman serve $(ARGS)

test: $(VENV)/.weights $(VENV)/.dev  ## Run the tests; ARGS="-k stream" passes arguments on
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.weights $(VENV)/.dev  ## Measure the gateway; PEERS=1 measures others beside it
	@PEERS=$(PEERS) $(BIN)/python -m tests.bench $(ARGS)

docs: $(VENV)/.run  ## Write anew what is made of other files: tables, dashboard, rules
	@$(BIN)/python -m deploy.render

lock:  ## Write the lock files anew from pyproject.toml (needs uv)
	@$(COMPILE) --extra local --extra asr --group dev -o $(DEV)
	@$(COMPILE) --extra local --extra asr --constraint $(DEV) -o $(RUN)
	@$(COMPILE) --extra traces --constraint $(DEV) -o deploy/lock/gateway.txt

clean:  ## Remove what set-up and tests made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with 'make PYTHON=python3.12 …'" >&2; exit 1; }
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run: $(RUN) pyproject.toml | $(BIN)/python
	@echo "Installing what the gateway needs (about 1 GB, a minute or two) …"
	@$(PIP) install --require-hashes --no-deps -r $(RUN)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(DEV) | $(VENV)/.run
	@echo "Installing what the tests need …"
	@$(PIP) install --require-hashes --no-deps -r $(DEV)
	@touch $@

$(VENV)/.weights: adapters/local/weights.py | $(VENV)/.run
	@$(BIN)/python -m adapters.local.weights
	@touch $@
