# Two commands set everything up: `make demo` (the demo) and `make test` (every test). `make help` lists the rest.

PYTHON ?= python3
TORCH ?= requirements/torch.txt
BIN := .venv/bin
STAMPS := .venv/stamps
INSTALL := $(BIN)/uv pip install --python $(BIN)/python
LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
PYTEST := $(BIN)/python -m pytest
# Measured on x86-64, Python 3.11: torch with CUDA is 3.0 GB of it and 5.3 GB on disk, everything else 0.2 GB and 0.6 GB.
DOWNLOAD = $(if $(filter requirements/torch.txt,$(TORCH)),3.2 GB (3.0 GB of it is torch with CUDA) and take 6 GB on disk,0.2 GB and what $(TORCH) names)
generate = mkdir -p $(1) && PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
	--python_out=$(1) --mypy_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=$(1) $(wildcard proto/liveloop/v1/*.proto)

.PHONY: help install demo up unit test check nightly bench proto lock clean dev system
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: install ## the whole loop, live: real raters' thumbs on movie reviews
	$(BIN)/liveloop demo

test: dev system ## every test: a real Kafka, a real Valkey, real processes, a real browser
	$(PYTEST)

install: $(STAMPS)/package ## .venv with what the services need, pinned by hash

up: install ## the loop, running, with its page on http://localhost:8080
	$(BIN)/liveloop up

unit: dev ## the tests that need Python alone, about a minute
	$(PYTEST) tests/unit

check: dev ## linters, types, layers, the contract and its generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb
	rm -rf build/proto
	$(call generate,build/proto)
	diff -r -x __pycache__ -x __init__.py build/proto/liveloop/v1 liveloop/v1

nightly: dev system ## every test, those that take an hour too, with many more examples; then ten minutes of fuzzing
	$(PYTEST) -m 'nightly or not nightly' --hypothesis-profile=nightly
	$(BIN)/python -m tests.fuzz

bench: install ## freshness and throughput of a loop of its own, its weights in motion, and what updates cost; with KAFKA=HOST:PORT its events too
	$(BIN)/liveloop bench loop
	$(BIN)/liveloop bench weights
	$(BIN)/liveloop bench swap
	$(if $(KAFKA),$(BIN)/liveloop bench events --kafka $(KAFKA))

proto: dev ## generate liveloop/v1 from the contract
	$(call generate,.)

lock: dev ## resolve the requirements again
	$(LOCK) requirements/uv.in -o requirements/uv.txt
	$(LOCK) pyproject.toml --extra services --extra kafka --extra redis -o requirements/services.txt
	$(LOCK) requirements/torch.in -c requirements/services.txt -o requirements/torch.txt
	$(LOCK) pyproject.toml --extra dev -c requirements/services.txt -c requirements/torch.txt -o requirements/dev.txt
	$(LOCK) requirements/build.in -c requirements/services.txt -c requirements/dev.txt -o requirements/build.txt

clean: ## remove what checks and builds leave; .venv and liveloop-data stay
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

dev: $(STAMPS)/dev

system:
	@sh scripts/system.sh

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'liveloop needs Python 3.11 or newer: name one with `make PYTHON=python3.12 ...`.' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo 'This Python has no venv: install it first (on Debian and Ubuntu: apt-get install python3-venv).' >&2; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv

$(STAMPS)/uv: requirements/uv.txt | $(BIN)/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/services: $(TORCH) requirements/services.txt requirements/build.txt $(STAMPS)/uv
	@echo 'Installing into .venv: this will download up to $(DOWNLOAD).'
	@$(INSTALL) --compile-bytecode --require-hashes -r $(TORCH) -r requirements/services.txt -r requirements/build.txt
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/services
	@$(INSTALL) -q --no-deps --no-build-isolation -e .
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/package
	@echo 'Installing the tools of the tests into .venv: this will download up to 0.1 GB.'
	@$(INSTALL) -q --require-hashes -r requirements/dev.txt
	@touch $@
