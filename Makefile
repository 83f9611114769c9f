# The two commands of the README. Each does its own set-up, on a fresh Debian machine too.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
BIN = $(VENV)/bin

.PHONY: demo test test-pbs lint clean

demo: $(VENV)/demo.done
	$(BIN)/vllm-hpc submit jobs/quickstart --job-dir $(RUNS) --wait

test: $(VENV)/test.done
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 -m "not vllm and not slurm and not pbs"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "vllm and not slurm and not pbs"
	$(BIN)/python -m pytest -m "slurm and not pbs"
	$(MAKE) --no-print-directory test-pbs

# On a stand-in of a two-host PBS, checked against a real one: as an ordinary user, .venv/bin/python -m pytest -m pbs
test-pbs: $(VENV)/test.done
	CI=true PATH="$(CURDIR)/tests/pbs/standin:$$PATH" $(BIN)/python -m pytest -m pbs

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch's CPU build has a version of its own (+cpu). Where your package index lacks it, name PyTorch's CPU wheel
# index in PIP_EXTRA_INDEX_URL. After an interrupted install, make starts again at the same place.
$(VENV)/demo.done: requirements/demo.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("vllm-hpc needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	PYTHON="$(PYTHON)" tests/install-debian.sh venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/demo.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test.done: requirements/test.txt $(VENV)/demo.done
	tests/install-debian.sh test
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/test.txt
	touch $@

clean:
	rm -rf $(VENV) $(RUNS)
