# What one does in a checkout. Everything happens in .venv; but for `make install`, nothing is
# installed beside it.
# Another interpreter: make test PYTHON=python3.12.  Arguments for pytest: make test ARGS="-k retry"

PYTHON ?= python3
ARGS ?=

# Of make install; without a PYTHON of your own it prefers the system's.
PREFIX ?= /usr/local
DESTDIR ?=
EXTRAS ?= all
CHOSEN := $(if $(filter file,$(origin PYTHON)),,$(PYTHON))

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet
PYTEST := $(VENV)/bin/python -m pytest

# Stamps: what has been installed, redone when the project's metadata changes.
PROGRAM := $(VENV)/.program
TOOLS := $(VENV)/.tools
METADATA := pyproject.toml branchmig/__init__.py

.DEFAULT_GOAL := help
.PHONY: help demo test check lint units bench soak services lowest clean servers install uninstall

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' Makefile

demo: $(PROGRAM) ## install the program and migrate a dozen branches in a new scratch folder
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash docs/demo.sh

test: $(TOOLS) servers ## install everything and run the tests
	$(PYTEST) $(ARGS)

check: lint test ## what a change must pass: lint, then the tests

lint: $(TOOLS) units ## ruff, its formatter, mypy, the contracts on imports, the units
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict
	$(VENV)/bin/lint-imports --no-logo

units: # judged by systemd where it is installed
	@sh deploy/check-units.sh

install: ## install for a server, as root: PREFIX=/usr/local, DESTDIR=, EXTRAS=all
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" EXTRAS="$(EXTRAS)" PYTHON="$(CHOSEN)" \
	    sh deploy/install.sh install

uninstall: ## take that away again; settings and data stay
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" sh deploy/install.sh uninstall

bench: $(TOOLS) ## measure branchmig beside its peers, all in one run
	@test -d bench || { echo "there are no benchmarks in this version" >&2; exit 1; }
	$(VENV)/bin/python -m bench
	$(VENV)/bin/python -m bench.fleet

soak: $(TOOLS) ## the tests that run for many minutes
	$(PYTEST) -m soak $(ARGS)

services: $(TOOLS) servers ## start the servers of the tests for your own use, and show their URLs
	@$(VENV)/bin/python tests/services.py

servers: # those that tests start for themselves; without them their tests are left out
	@sh tests/install_servers.sh

lowest: ## the tests with the oldest releases of every library that is allowed
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet \
	    --constraint tests/lowest.txt --editable '.[dev,histories,all]'
	.venv-lowest/bin/python -m pytest $(ARGS)

clean: ## remove .venv and everything that the tools left
	rm -rf $(VENV) .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) is not there: install Python 3.11 or newer," \
	        "or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$$($(PYTHON) -V 2>&1) is too old: branchmig needs Python 3.11 or newer;" \
	        "name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "this Python cannot make virtual environments:" \
	        "apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(PROGRAM): $(METADATA) | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(TOOLS): $(METADATA) | $(VENV)/bin/python
	$(PIP) --editable '.[dev,histories,all]'
	@touch $(PROGRAM) $@
