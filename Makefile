# make demo, make test: each does all of its own set-up, with nothing but python3 (3.11), make and a package index.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
INSTALLED := $(VENV)/.installed

# Airflow starts two to four times slower without compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "airflow-pipesec needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) (once)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv
venv: $(INSTALLED) ## install everything from the hashed lock into .venv

.PHONY: demo
demo: $(INSTALLED) ## two pipelines in a real Airflow, guarded by hand and from a plan: clean, then under each attack
	@exec python -m tests.demo run

.PHONY: ui
ui: $(INSTALLED) ## the same Airflow, left running to play with
	@exec python -m tests.demo ui

.PHONY: lint
lint: $(INSTALLED) ## formatting, lint, types, import contracts
	@ruff format --check .
	@ruff check .
	@mypy
	@lint-imports

.PHONY: test
test: lint ## lint, then every test
	@bash tests/install-servers.sh
	@python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: bench
bench: $(INSTALLED) ## measure against peers, side by side
	@python -m benchmarks

.PHONY: build
build: $(INSTALLED) ## build the wheel and the source distribution into dist/
	@python -m build --no-isolation --outdir dist .

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

.PHONY: lock
lock: $(INSTALLED) ## resolve the dependencies anew: requirements.lock, and those in docker/ with the same versions
	@$(COMPILE) setup.py --extra test -o requirements.lock
	@$(COMPILE) setup.py --extra amazon --extra celery --extra example --extra fab --extra postgres -c requirements.lock -o docker/requirements.lock
	@printf 'build\nsetuptools\n' | $(COMPILE) - -c requirements.lock -o docker/build.lock

.PHONY: clean
clean: ## remove everything that these commands made
	rm -rf $(VENV) .demo .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
