# One command each, the same for people and for CI. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps

.PHONY: help run test bench overload chaos late-waker pages manage-api lint format browser load-tools clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: $(VENV)/run.stamp ## set up .venv and serve on PORT (default 8000) until Ctrl-C
	@$(BIN)/python manage.py up

test: $(VENV)/dev.stamp browser load-tools lint ## everything CI runs: lint, types, import contracts, migrations, tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(VENV)/dev.stamp load-tools ## throughput, latency and CPU per call beside nginx on the same engine: three minutes
	@$(BIN)/python -m tests.speed

overload: $(VENV)/dev.stamp ## five times more clients than an engine has slots, beside as many as it has: a minute and a half
	@$(BIN)/python -m tests.speed.overload

chaos: $(VENV)/dev.stamp ## break everything by a drawn plan for ten minutes (SECONDS=, SEED=) and see that the books are right
	@$(BIN)/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

late-waker: $(VENV)/dev.stamp ## a shipped worker stopped past its leases in the middle of its streams, by the clock: two minutes
	@$(BIN)/python -m tests.chaos.late_waker $(if $(SECONDS),--seconds $(SECONDS))

pages: $(VENV)/dev.stamp ## server time of every page of an account with a million calls, and what it reads: four minutes
	@$(BIN)/python -m tests.speed.pages

manage-api: $(VENV)/dev.stamp ## schemathesis on the management API: every boundary, sequences, many examples; up to an hour
	@SCHEMATHESIS_LONG=1 $(BIN)/python -m pytest -q --timeout 4000 tests/portal/test_manage_api_schema.py

lint: $(VENV)/dev.stamp ## ruff, mypy, import-linter, missing migrations
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python manage.py makemigrations --check --dry-run --skip-checks

format: $(VENV)/dev.stamp ## put the code in its usual form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

browser: # page tests drive Debian's Chromium; where it cannot be installed the command says so
	@command -v chromium >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing chromium for the page tests"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "make test: the page tests need the program chromium; install it (Debian: apt-get install chromium)." >&2; exit 1; fi

load-tools: # the benchmark, and the test that it works, need nginx and wrk; a freshly installed nginx is not to be started
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null 2>&1 && command -v wrk >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing nginx-light and wrk for the benchmark"; \
	  policy=/usr/sbin/policy-rc.d; test -e $$policy || { printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; trap "rm $$policy" EXIT; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light wrk >/dev/null; \
	else echo "make: this needs the programs nginx and wrk; install them (Debian: apt-get install nginx-light wrk)." >&2; exit 1; fi

clean: ## remove .venv and caches; data in var/ stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# A lock that has not changed is not installed again. The stamp is written last, so a broken install is repeated.
$(VENV)/run.stamp: requirements.lock | $(VENV)/pyvenv.cfg
	@echo "Installing what requirements.lock names"
	@$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock | $(VENV)/pyvenv.cfg
	@echo "Installing what requirements-dev.lock names"
	@$(PIP_INSTALL) -r requirements-dev.lock
	@touch $@ $(VENV)/run.stamp

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "This needs Python 3.11 or later, and there is no $(PYTHON). Name one: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "This needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make run PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (Debian: apt-get install python3-venv)." >&2; exit 1; }
