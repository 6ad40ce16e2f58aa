# `make demo` and `make test` need Python 3.10 or newer and nothing else: each installs into its own .venv first.
#
#   PYTHON    the interpreter that makes the virtual environment
#   PIP_ARGS  more arguments for every pip install, for instance on a Linux machine without a GPU, where the
#             plain torch of PyPI would bring gigabytes of CUDA libraries:
#             make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   PYTEST    more arguments for pytest
#   JOBS      test processes at once (default: 3)
#   DEMO      more arguments for examples/demo/run.py, such as DEMO="--data my_folder"

PYTHON ?= python3
PIP_ARGS ?=
PYTEST ?=
# For two cores: most tests start programs and wait for them. A file's tests stay in one process, with its fixtures.
JOBS ?= 3
DEMO ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt $(PIP_ARGS)

# The stamps carry a key of all that the environment depends on: another folder, another Python or other
# requirements make another key, and the environment is then built anew.
KEY := $(shell { pwd; $(PYTHON) -V; cat setup.py constraints.txt Makefile; ls w2v_cli; } 2>&1 | cksum | cut -d' ' -f1)
MADE := $(VENV)/.made-$(KEY)
FOR_TEST := $(VENV)/.test-$(KEY)
FOR_DEMO := $(VENV)/.demo-$(KEY)

# One thread per process: the models are small, and more threads on a shared machine only make them wait.
export OMP_NUM_THREADS ?= 1
# A package of the caller's environment must not hide one of ours.
unexport PYTHONPATH

.PHONY: test demo lint types tests format clean

test: $(FOR_TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST) </dev/null

demo: $(FOR_DEMO)
	$(BIN)/python examples/demo/run.py $(DEMO)

lint: $(FOR_TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(FOR_TEST)
	$(BIN)/python -m mypy

tests: $(FOR_TEST)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST) </dev/null

format: $(FOR_TEST)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache w2v.egg-info build dist demo-run

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "w2v needs Python 3.10 or newer; name one with: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(FOR_TEST): $(MADE)
	@echo "installing w2v and what its tests need into $(VENV) ..."
	$(PIP) -e '.[test]'
	@touch $@

$(FOR_DEMO): $(MADE)
	@echo "installing w2v and what its demo needs into $(VENV) ..."
	$(PIP) -e .
	@$(PIP) -e '.[demo]' >$(VENV)/demo.log 2>&1 || \
		echo "the demo's speech synthesizer could not be installed (see $(VENV)/demo.log)"
	@touch $@
