# Everything by one command; each target installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE ?= emulated
LOOP ?= --quick
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help check test test-engines clients doctor-matrix demo loop bench reference chart lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Headway needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

check: $(READY)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: $(READY)  ## all tests that need no real engine
	$(BIN)/pytest -q

test-engines: $(READY)  ## tests on the real vLLM and SGLang (installed on first use)
	$(BIN)/pytest -q -m engines -o timeout=1200 tests/engines

clients: $(READY)  ## public load generators (aiperf, locust) through the proxy before the real vLLM: both must count alike
	PYTHONPATH=tests $(BIN)/python tests/engines/load_clients.py --json build/clients.json

doctor-matrix: $(READY)  ## doctor before both real engines, good and misconfigured: a table, and build/doctor-matrix.json
	PYTHONPATH=tests $(BIN)/python tests/engines/doctor_matrix.py --json build/doctor-matrix.json

demo: $(READY)  ## FCFS against Headway on this machine; ENGINE=vllm for the real one
	$(BIN)/headway demo --engine $(ENGINE)

loop: $(READY)  ## learn, retrain, measure again; ENGINE=vllm, LOOP="--full" or "--minutes 40"
	$(BIN)/python -m training.loop --engine $(ENGINE) $(LOOP)

bench: $(READY)  ## overhead against no proxy and the thinnest one
	$(BIN)/python -m bench.overhead

reference: $(READY)  ## renew REFERENCE.md from the code
	$(BIN)/python -m proxy.reference > REFERENCE.md

chart: $(READY)  ## renew the chart's schema descriptions and README table from the settings
	PYTHONPATH=. $(BIN)/python helm/chart_docs.py

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile -q --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11 \
	  pyproject.toml --group dev --extra parquet --extra plot --extra otel --generate-hashes -o requirements.lock
	$(BIN)/uv pip compile -q --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11 \
	  pyproject.toml $(addprefix --extra ,$(IMAGE_EXTRAS)) -c requirements.lock --generate-hashes -o requirements-image.lock
	printf 'aiperf\nlocust\n' | $(BIN)/uv pip compile -q --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	  - -o tests/engines/clients.lock

clean:  ## forget the environment and every build
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
