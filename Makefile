# Everything happens in .venv; `make help` lists what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Of the tests: they wait for disks and clocks half of their time, so there may be more than cores.
WORKERS ?= 4
# The tests start Galley a few hundred times, and each would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install serve checked system-packages test test-all test-faults lint format bench \
  bench-peers compat-clients torch lock clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Galley needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing Galley's locked dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --require-hashes --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "Installing the locked tools for tests and lint into $(VENV) ..."
	@$(BIN)/python -m pip install --require-hashes --disable-pip-version-check -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed  ## Make .venv, install locked dependencies, fetch the embedded models
	@$(BIN)/galley models install

serve: install  ## Start the server with its embedded models
	@exec $(BIN)/galley serve

lint: $(VENV)/.installed-dev  ## Format check, lint, types, import layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One waits for the processor, the other for the network.
checked: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory -j2 lint system-packages

system-packages:
	@sh scripts/test-system-packages

test: checked  ## Every check: lint, types, layering, tests
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-all: checked  ## The same with the slow tests
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --hypothesis-profile=repeatable

test-faults: $(VENV)/.installed-dev system-packages  ## Every way to fail, short and long: kills, full disks, crowds
	$(BIN)/pytest tests/faults

bench: $(VENV)/.installed-dev  ## Measure Galley against the raw engines, as ratios
	@$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.installed-dev  ## Install the peers the benchmarks compare with, in environments of their own
	@sh scripts/bench-peers

compat-clients: $(VENV)/.installed-dev  ## Install the clients that the compat tests drive, in environments of their own
	@sh scripts/compat-clients

torch: $(VENV)/.installed-dev  ## Install Galley with torch, for the tests of models on torch (6 GB)
	@sh scripts/torch-environment

lock: $(VENV)/.installed-dev  ## Resolve the dependencies anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" -q pyproject.toml scripts/build-requirements.in -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" -q --group dev -c requirements.lock -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" -q --extra torch -c requirements.lock pyproject.toml \
	  scripts/build-requirements.in -o requirements-torch.lock
	for name in compat compat-older; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" -q scripts/$$name-requirements.in -o requirements-$$name.lock || exit 1; \
	done

clean:  ## Remove the environment and every cache
	rm -rf $(VENV) .cache tests/compat/*/node_modules build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
