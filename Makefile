# Every target works from a fresh clone with only Python >= 3.11. `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
FULL   ?= .venv-full
BIN    := $(VENV)/bin
PORT   ?= 8000
export OPENBLAS_NUM_THREADS ?= 1

# What the fast and the full gate leave out, on top of what needs a GPU.
NO_GPU := not cuda

.DEFAULT_GOAL := help
.PHONY: help serve demo bench conformance lint format test test-fast test-full test-cuda cuda-wheels image lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# --- environments: one .venv; dev holds everything that core does

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Millrace needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: requirements/core.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/core.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

# Torch is a matter of the recipes: it gets an environment of its own, and only on request.
$(FULL)/.full: requirements/dev.txt recipes/requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(FULL)
	$(FULL)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements/dev.txt -r recipes/requirements.txt
	$(FULL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# --- running it

serve: $(VENV)/.core  ## install, serve model_repo/ on port 8000, print a line to try
	@exec $(BIN)/millrace serve model_repo --port $(PORT)

demo: $(VENV)/.core  ## a digit, a photo, and a swap under load, in readable form
	$(BIN)/python -m demo

bench: $(VENV)/.dev  ## measure beside other servers (installs them); results in benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.server.compare
	$(BIN)/python -m benchmarks.swap.run

# --- checking it

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint  ## the gate: lint, types, every test that needs no GPU, coverage
	$(BIN)/python -m pytest -q -m "$(NO_GPU) and not slow" --cov --cov-report=term:skip-covered

test-fast: $(VENV)/.dev  ## under a minute: no whole servers, no data
	$(BIN)/python -m pytest -q -x -n auto -m "$(NO_GPU) and not slow and not e2e and not data"

test-full: lint $(FULL)/.full  ## full counts, and what needs torch; set MILLRACE_TEST_DATA for the rest
	MILLRACE_TORCH_PYTHON=$(abspath $(FULL)/bin/python) $(FULL)/bin/python -m pytest -q -m "$(NO_GPU)" \
		--timeout=1800 --cov --cov-report=term:skip-covered

test-cuda: $(VENV)/.dev  ## what needs a GPU
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cuda]' \
		$(if $(wildcard wheels),--find-links wheels)
	$(BIN)/python -m pytest -q -m cuda

cuda-wheels: $(BIN)/python  ## download what the GPU needs into wheels/, for machines without a network
	$(BIN)/python -m pip download --quiet --disable-pip-version-check -d wheels '.[cuda]'

conformance: $(VENV)/.dev  ## ONNX's backend suite on ours, ONNX Runtime and onnx.reference; results as for bench
	$(BIN)/python -W ignore -m benchmarks.conformance

# --- packaging

image:  ## build the container image
	docker build -t millrace .

lock: $(BIN)/python  ## raise the pinned versions: newest that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--upgrade-strategy eager -e '.[dev]'
	$(BIN)/python -m scripts.lock

clean:  ## remove the environment and every cache
	rm -rf $(VENV) $(FULL) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
