# Every target works from a fresh clone with only Python >= 3.11. `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
FULL   ?= .venv-full
BIN    := $(VENV)/bin
PORT   ?= 8000
export OPENBLAS_NUM_THREADS ?= 1

# The Python of the machine that wheels are collected for, and what its C library takes.
WHEELS_FOR ?= 3.12
PLATFORMS  := manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64

# With wheels at hand nothing is fetched for tests on a GPU.
CUDA_READY  := $(if $(wildcard wheels),.venv-cuda/.ready,$(VENV)/.cuda)
CUDA_PYTHON := $(if $(wildcard wheels),.venv-cuda/bin/python,$(BIN)/python)

# What the fast and the full gate leave out, on top of what needs a GPU.
NO_GPU := not cuda

.DEFAULT_GOAL := help
.PHONY: help serve demo bench bench-engine bench-translation bench-similarity conformance lint format test test-fast test-full test-cuda cuda-wheels image lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# --- environments: one .venv; dev holds everything that core does

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Millrace needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: requirements/serve.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/serve.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

# Torch is a matter of the recipes and of exporters: it gets an environment of its own, and only on
# request.
$(FULL)/.full: requirements/dev.txt requirements/networks.txt recipes/requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(FULL)
	$(FULL)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements/dev.txt -r requirements/networks.txt -r recipes/requirements.txt
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
	$(BIN)/python -m benchmarks.server.photos
	$(BIN)/python -m benchmarks.swap.run

# ARGS choose rows, e.g. ARGS="--figure 1 --network resnet50"; MILLRACE_TORCH_PYTHON spares the
# environment that exports the networks.
bench-engine: $(VENV)/.dev $(if $(MILLRACE_TORCH_PYTHON),,$(FULL)/.full)  ## time the CPU compiler beside ONNX Runtime; results in benchmarks/results/
	MILLRACE_TORCH_PYTHON=$(or $(MILLRACE_TORCH_PYTHON),$(abspath $(FULL)/bin/python)) \
		$(BIN)/python -m benchmarks.engine $(ARGS)

# ARGS choose rows and files, e.g. ARGS="--mode captions --data DATA --model build/translate-de-en/1";
# MILLRACE_TORCH_PYTHON names an interpreter with torch, transformers and ctranslate2.
bench-translation: $(VENV)/.dev  ## decode beside CTranslate2 and ONNX Runtime; results in benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.translation.engines $(ARGS)
	$(BIN)/python -m benchmarks.translation.served

# MILLRACE_TEST_DATA names the folder that holds images/cifar10_jpg.npz; without it only vectors are
# searched.
bench-similarity: $(VENV)/.dev  ## vector search beside its peers, /similar over HTTP, swaps, heads; results in benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.similarity.vectors $(ARGS)
	$(BIN)/python -m benchmarks.similarity.postgres
	$(BIN)/python -m benchmarks.similarity.served
	$(BIN)/python -m benchmarks.similarity.swap
	$(BIN)/python -m benchmarks.similarity.heads

conformance: $(VENV)/.dev  ## ONNX's backend suite on ours, ONNX Runtime and onnx.reference; results as for bench
	$(BIN)/python -W ignore -m benchmarks.conformance

# --- checking it

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint  ## the gate: lint, types, every test that needs no GPU, coverage
	$(BIN)/python -m pytest -q -n auto -m "$(NO_GPU) and not slow" --cov --cov-report=term:skip-covered

test-fast: $(VENV)/.dev  ## under a minute: no whole servers, no data
	$(BIN)/python -m pytest -q -x -n auto --fast -m "$(NO_GPU) and not slow and not e2e and not data and not native"

test-full: lint $(FULL)/.full  ## full counts, and what needs torch; set MILLRACE_TEST_DATA for the rest
	MILLRACE_TORCH_PYTHON=$(abspath $(FULL)/bin/python) $(FULL)/bin/python -m pytest -q -m "$(NO_GPU)" \
		--timeout=1800 --hypothesis-profile=searching --cov --cov-report=term:skip-covered

test-cuda: $(CUDA_READY)  ## what needs a GPU; with wheels/ (make cuda-wheels) it needs no network
	$(CUDA_PYTHON) -m pytest -q -s -m cuda tests/engine/cuda

$(VENV)/.cuda: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cuda]'
	@touch $@

# CuPy and its CUDA libraries come from the machine's own Python.
.venv-cuda/.ready: requirements/cuda-wheels.txt
	$(PYTHON) -m venv --system-site-packages .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-index --no-deps --find-links wheels -r requirements/cuda-wheels.txt
	@touch $@

cuda-wheels: $(BIN)/python  ## collect what test-cuda needs into wheels/, for a machine without a network
	$(BIN)/python -m pip download --quiet --disable-pip-version-check -d wheels --no-deps \
		--only-binary=:all: --python-version $(WHEELS_FOR) $(addprefix --platform ,$(PLATFORMS)) \
		-c requirements/dev.txt -r requirements/cuda-wheels.txt

# --- packaging

image:  ## build the container image
	docker build -t millrace .

lock: $(BIN)/python  ## raise the pinned versions: newest that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--upgrade-strategy eager -e '.[dev]'
	$(BIN)/python -m scripts.lock

clean:  ## remove the environment and every cache
	rm -rf $(VENV) $(FULL) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
