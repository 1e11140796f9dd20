# voisin: `make help` lists the targets. Two virtual environments: .venv serves (no torch), .venv-dev trains, exports and tests.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
DEV := .venv-dev/bin

.PHONY: help serve setup test check format bench ablations train-toy constraints clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

serve: .venv/.ready ## set up and serve models/ on 127.0.0.1:8000 (PORT=, HOST=, VOISIN_MODELS=)
	@VOISIN_HOST=$(HOST) VOISIN_LISTEN_PORT=$(PORT) exec .venv/bin/python -m service

setup: .venv-dev/.ready ## the environment that trains, exports and tests

test: .venv-dev/.ready ## every test; what was skipped is printed with its reason
	$(DEV)/python -m pytest

check: .venv-dev/.ready ## format, lint, types, import rules
	$(DEV)/ruff format --check .
	$(DEV)/ruff check .
	$(DEV)/mypy
	$(DEV)/lint-imports

format: .venv-dev/.ready ## format and mend what can be mended
	$(DEV)/ruff format .
	$(DEV)/ruff check --fix .

bench: .venv-dev/.ready ## ours and the peer, interleaved, one table
	$(DEV)/python -m bench

ablations: .venv-dev/.ready ## small experiments on one core (VOISIN_DATA= the folder of the corpora)
	$(DEV)/python -m training.ablations all

train-toy: .venv-dev/.ready ## train, export, verify and serve every toy recipe
	$(DEV)/python -m export.toys --serve

constraints: .venv-dev/.ready ## write constraints.txt from the development environment
	(echo '# What CI installs. Regenerate: `make constraints`.'; \
	 $(DEV)/pip freeze --exclude-editable | sed 's/+cpu//' | grep -viE '^(setuptools|pip)==') > constraints.txt

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu]"
	@touch $@

.venv-dev/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	$(DEV)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(DEV)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean: ## remove the environments and caches
	rm -rf .venv .venv-dev .mypy_cache .ruff_cache .pytest_cache build *.egg-info bench/out
