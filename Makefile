# The two commands of the README. Each does its own set-up, on a fresh Debian machine too. `make help` lists all.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
RUNS ?= runs
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest
# Tests that start ranks wait for schedulers more than they compute: more at once than there are cores (two in CI).
WORKERS ?= 5
STARTED := $(shell date +%s)
RANKS = ranks or vllm or slurm or pbs
# What a login node and a rank's start need of a Python: these run under Debian's own too.
ON_DEBIANS = $(wildcard tests/engine/test_compile_cache*.py) tests/engine/test_bytecode.py \
  tests/engine/test_weights_readahead.py tests/jobfolder tests/rows tests/planner/test_model_folders.py
# All that runs vLLM, in make test too, and what is too long for that.
REAL = (full or vllm)

# The targets of set-up make one and the same environment.
.NOTPARALLEL:
.PHONY: help demo test test-all test-fast test-debian test-unit test-chain test-full test-browser test-vllm test-vllm-oldest test-slurm test-pbs faults lint style clean

help:
	@echo 'make demo        run a real small model on this machine (28 s, and the set-up)'
	@echo 'make test        what CI runs: lint, types, unit tests, every scheduler rehearsed, vLLM once a layout (17 min)'
	@echo 'make test-fast   unit tests only; needs neither vLLM nor torch (2 min)'
	@echo 'make test-full   all of the real-vLLM cases: test-vllm (26 min), test-slurm (22 min), test-pbs (17 min),'
	@echo '                 a browser on the report: test-browser (it installs Chromium),'
	@echo '                 and the engine on vLLM 0.26, the oldest: test-vllm-oldest (9 min, and 6 GB of disk)'
	@echo 'make faults      which of forty hand-made faults the tests catch'
	@echo 'make lint        ruff and mypy'

demo: $(VENV)/demo.done
	$(BIN)/vllm-hpc submit jobs/quickstart --job-dir $(RUNS) --wait

# Types are checked beside the tests: on a fresh clone that takes 40 s of one core.
test: $(VENV)/test.done
	@echo "make test: set-up took $$(( $$(date +%s) - $(STARTED) )) s"
	@began=$$(date +%s); $(MAKE) --no-print-directory style && \
	  { $(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; $(MAKE) --no-print-directory test-all test-debian; tests=$$?; \
	    wait $$types; typed=$$?; cat $(VENV)/mypy.log; [ $$tests$$typed = 00 ]; } && \
	  echo "make test: set-up took $$((began - $(STARTED))) s, the tests took $$(( $$(date +%s) - began )) s"

# In one run: the unit tests fill the time in which the others wait.
test-all: $(VENV)/test.done $(VENV)/image.done
	$(PYTEST) -n $(WORKERS) --dist loadgroup --durations=40 -m "not full"

test-fast: $(VENV)/fast.done
	$(PYTEST) -n 2 -m "not ($(RANKS)) and not slow and not full"

# Debian 12's own Python is 3.11.2, older than most. Its environment takes the packages of ours: a second to make.
test-debian: $(VENV)/test.done
	@if python=$$($(BIN)/python -m tests.debians_python $(VENV)/debian); then $$python -V; \
	  $$python -m pytest -q -n 2 -m "not ($(RANKS)) and not slow and not full" $(ON_DEBIANS); fi

test-unit: $(VENV)/test.done
	$(PYTEST) -n 2 -m "not ($(RANKS)) and not full"

# Slurm's and PBS's tests run beside each other: each worker has a cluster of its own.
test-chain: $(VENV)/test.done
	$(PYTEST) -n $(WORKERS) --dist loadgroup --durations=25 -m "($(RANKS)) and not full"

test-full: $(VENV)/image.done $(VENV)/browser.done test-vllm test-vllm-oldest test-slurm test-pbs

test-vllm: $(VENV)/test.done
	$(PYTEST) -n 2 --dist loadfile -m "$(REAL) and not slurm and not pbs"

test-vllm-oldest: $(OLDEST)/oldest.done
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -m "$(REAL) and not slurm and not pbs" tests/engine

test-slurm: $(VENV)/test.done
	$(PYTEST) -n 2 --dist loadgroup -m "$(REAL) and slurm"

# A part of test-vllm, which runs what is in test-full only.
test-browser: $(VENV)/browser.done
	$(PYTEST) -n 2 tests/report/test_browser.py

# On a stand-in of a two-host PBS, checked against a real one: as an ordinary user with qsub on PATH it is the real one.
test-pbs: $(VENV)/test.done
	$(PYTEST) -n 2 --dist loadgroup -m "$(REAL) and pbs"

faults: $(VENV)/test.done
	$(BIN)/python -m tests.faults

lint: style
	$(BIN)/mypy

style: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# torch's CPU build has a version of its own (+cpu). Where your package index lacks it, name PyTorch's CPU wheel
# index in PIP_EXTRA_INDEX_URL. After an interrupted install, make starts again at the same place.
$(VENV)/demo.done $(VENV)/fast.done: $(VENV)/%.done: requirements/%.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("vllm-hpc needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	PYTHON="$(PYTHON)" tests/install-debian.sh venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/$*.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test.done: requirements/test.txt $(VENV)/demo.done $(VENV)/fast.done
	tests/install-debian.sh test
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/test.txt
	touch $@

# Chromium and its libraries take long to install, so pages are clicked through in test-full.
$(VENV)/browser.done: requirements/browser.txt $(VENV)/test.done
	tests/install-debian.sh browser
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/browser.txt
	touch $@

# The image of the containers that tests run: another Debian, with its own Python and torch. Once, in a minute and a half.
$(VENV)/image.done: tests/containers/make-image.sh $(VENV)/test.done
	tests/containers/make-image.sh $(VENV)/image
	touch $@

# An environment of its own, with vLLM 0.26 and the tests' tools.
$(OLDEST)/oldest.done: requirements/oldest.txt pyproject.toml
	PYTHON="$(PYTHON)" tests/install-debian.sh venv
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/oldest.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(RUNS)
