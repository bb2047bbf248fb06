# Two commands on a fresh machine: `make demo` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= limbeck-store
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test faults fast lint bench examples clean

demo: $(VENV)/.installed
	$(BIN)/limbeck run examples/tour.yaml --store $(STORE)

# Most tests wait for processes that start: two at a time, each file in one piece and in order.
JOBS ?= 2
TESTS := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed-dev
	$(TESTS) -m "not faults"

# What kills, cuts or fills something, or starts a cluster.
faults: $(VENV)/.installed-dev
	$(TESTS) -m faults

fast: $(VENV)/.installed-dev
	$(TESTS) -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# lm_throughput.py needs TRL beside it, writing.py vLLM: both are run by hand.
bench: $(VENV)/.installed-dev
	for script in $(filter-out benchmarks/lm_throughput.py benchmarks/writing.py,$(wildcard benchmarks/[a-z]*.py)); do $(BIN)/python $$script || exit 1; done

examples: $(VENV)/.installed
	for file in examples/*.yaml; do \
	  if grep -q '^search:' $$file; then verb=tune; else verb=run; fi; \
	  $(BIN)/limbeck $$verb $$file --store $(STORE) || exit 1; \
	done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "limbeck needs Python 3.11 or newer: make PYTHON=/path/to/python"; exit 1; }
	@echo "making a virtual environment in $(VENV) and installing into it: about two minutes"
	$(PYTHON) -m venv $(VENV)

# torch's CPU build where there is no GPU and pip offers one; elsewhere pip's usual build.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@if [ ! -e /proc/driver/nvidia ] && [ ! -e /dev/kfd ]; then \
	  version=$$(sed -n 's/^torch==//p' constraints.txt); \
	  $(PIP) install -q "torch==$$version+cpu" 2>/dev/null || $(PIP) install -q "torch==$$version"; \
	fi
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $@
