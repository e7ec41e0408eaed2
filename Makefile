# `make demo` and `make test` need Python 3.11 or 3.12, make and git. Both create .venv with pinned versions first.
#
#   make setup    only the installation; a second call does nothing
#   make demo     the whole loop on small models: media -> tables -> trained NOVA -> videos -> scores in MLflow
#   make test     the tests            make lint    ruff, mypy, import contracts
#   make slow     the long tests       make drill   the tests that kill processes and fill disks
#   make essential                     those of the latter two that every change must pass: killed runs resume exactly,
#                                      and a training from nothing learns
#
# torch is the pinned version that pip's configuration offers; pip prefers a CPU build if the configuration has one. For
# another build, name its index:  make setup PIP_TORCH="--index-url URL"

PYTHON ?= python3
VENV ?= .venv
PIP_TORCH ?=
DEMO ?= demo
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --python $(BIN)/python --quiet
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint slow drill essential format clean

setup: $(STAMP)

# pip installs torch, because uv does not read pip's find-links; uv installs the rest, several times faster. Modules are
# compiled here once: Ray starts many processes, and each would compile them again if Python cannot store the result.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] in ((3, 11), (3, 12)), "Python 3.11 or 3.12 is needed; name it: make PYTHON=python3.11"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt $(PIP_TORCH)
	$(UV) --compile-bytecode -e '.[dev]' -c constraints.txt
	touch $@

demo: setup
	$(BIN)/nova demo --output $(DEMO)

# Two processes, each with a Ray of its own; the tests of a file run in the same process. Files keep their order: by itself
# xdist begins with those of many tests, which are quick, and ends with the few long tests of jobs in one process alone.
test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/pytest -m slow

drill: setup
	$(BIN)/pytest -m drill

essential: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m essential

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
