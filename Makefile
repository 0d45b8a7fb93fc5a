# make demo     set up, then run the quickstart sweep
# make test     set up, then check style, types and all tests
# make test-busy   all tests five times beside four processes that compute; TIMES=1 CORES=0 for once on one core
# make lint     style, floors (pyproject.toml) and types only
# make results  compute the test likelihood of every model of the zoo again (RAYPIXEL_TEST_DATA, or downloads)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-busy lint results setup

demo: setup
	$(BIN)/raypixel sweep sweeps/quickstart.yaml
	@echo "models that are trained already write digits at once: $(BIN)/raypixel serve (see also $(BIN)/raypixel zoo)"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-busy: setup
	$(BIN)/python tests/busy.py --times $(or $(TIMES),5) $(if $(CORES),--cores $(CORES))

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

results: setup
	$(BIN)/python benchmarks/zoo.py

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raypixel needs Python 3.11 or newer, PYTHON=... chooses one")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 2 GB; some minutes)"
	$(BIN)/pip install -qq -c constraints.txt -e ".[dev]"
	@touch $@
