# voisin: `make help` lists the targets. Two virtual environments: .venv serves (no torch), .venv-dev trains, exports and tests.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
DEV := .venv-dev/bin
WORKERS ?= 2
TARGET ?= service
RUNTIME ?= cpu
TAG ?= voisin$(if $(filter training,$(TARGET)),-training):0.1.0$(if $(filter gpu,$(RUNTIME)),-gpu)

.PHONY: help serve setup test fuzz fuzz-requests fuzz-loaders test-faults audit check format bench ablations train-toy image check-deploy test-image constraints clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

serve: .venv/.ready ## set up and serve models/ on 127.0.0.1:8000 (PORT=, HOST=, VOISIN_MODELS=)
	@VOISIN_HOST=$(HOST) VOISIN_LISTEN_PORT=$(PORT) exec .venv/bin/python -m service

setup: .venv-dev/.ready ## the environment that trains, exports and tests

test: .venv-dev/.ready ## every test, files side by side (WORKERS=2); what was skipped is printed with its reason
	$(DEV)/python -m pytest -n $(WORKERS) --dist loadfile

fuzz: fuzz-requests fuzz-loaders ## both fuzzers below, FUZZ_SECONDS each (default 900)

fuzz-requests: .venv-dev/.ready ## requests made from /schema for FUZZ_SECONDS (default 900): no 5xx, every answer conforms
	FUZZ_SECONDS=$${FUZZ_SECONDS:-900} $(DEV)/python -m pytest tests/clients/test_schemathesis.py -s

test-faults: .venv-dev/.ready ## every fault on real processes, the long ones too (minutes)
	$(DEV)/python -m pytest tests/faults -m "faults_long or not faults_long"

fuzz-loaders: .venv-dev/.ready ## mutated bundles for FUZZ_SECONDS (default 900), shared by their files
	VOISIN_FUZZ_SECONDS=$${FUZZ_SECONDS:-900} $(DEV)/python -m pytest tests/security/test_fuzz_loaders.py -s

audit: .venv-dev/.ready ## known holes in what constraints.txt pins; asks the vulnerability service of PyPI (network)
	$(DEV)/pip install --quiet --disable-pip-version-check pip-audit
	$(DEV)/pip-audit --no-deps --disable-pip -r constraints.txt

check: .venv-dev/.ready ## format, lint, types, import rules, dependencies that agree (`make audit` asks for known holes)
	$(DEV)/ruff format --check .
	$(DEV)/ruff check .
	$(DEV)/mypy
	$(DEV)/lint-imports
	$(DEV)/pip check

format: .venv-dev/.ready ## format and mend what can be mended
	$(DEV)/ruff format .
	$(DEV)/ruff check --fix .

bench: .venv-dev/.ready ## ours and the peer, interleaved, one table
	$(DEV)/python -m bench

ablations: .venv-dev/.ready ## small experiments on one core (VOISIN_DATA= the folder of the corpora)
	$(DEV)/python -m training.ablations all

train-toy: .venv-dev/.ready ## train, export, verify and serve every toy recipe
	$(DEV)/python -m export.toys --serve

image: ## build an image (TARGET=service|training, RUNTIME=cpu|gpu, TAG=, VOISIN_IMAGE_BUILDER=docker)
	deploy/build-image.sh $(TAG) --target $(TARGET) --build-arg RUNTIME=$(RUNTIME)

check-deploy: .venv-dev/.ready ## manifests, alerts, dashboard, a real Prometheus (kubectl, promtool, prometheus, redis-server)
	$(DEV)/python -m pytest tests/deploy

test-image: .venv-dev/.ready ## build both images, run and query them (minutes; docker, or VOISIN_IMAGE_BUILDER and podman)
	$(DEV)/python -m pytest tests/deploy/test_image.py -m image -s

constraints: .venv-dev/.ready ## write constraints.txt from the development environment
	(echo '# What CI installs. Regenerate: `make constraints`.'; \
	 $(DEV)/pip freeze --exclude-editable | sed 's/+cpu//' | grep -viE '^(setuptools|pip)==') > constraints.txt

KERNELS := $(wildcard bundle/native/*.[ch])

.venv/.ready: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu]"
	@touch $@

.venv-dev/.ready: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv-dev
	$(DEV)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(DEV)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean: ## remove the environments and caches
	rm -rf .venv .venv-dev .venv-gpu .mypy_cache .ruff_cache .pytest_cache build *.egg-info bench/out
