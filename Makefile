# Everything runs in .venv, which is made from constraints.txt; the stamps in it say what is installed there.
PYTHON ?= python3
ARGS ?=
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --no-compile
# On all cores, where pip would take one; some packages bring files that are not meant to be compiled.
COMPILE = $(BIN)/python -m compileall -qq -j 0 .venv || true

.PHONY: help reproduce test lint constraints clean

help:
	@echo 'make reproduce  all measurements, figures and the report; ARGS="--images 500" is passed on'
	@echo 'make test       the whole test suite, with the independent peers; ARGS="-k rates" is passed on'
	@echo 'make lint       ruff'
	@echo 'make clean      remove .venv and caches'
	@echo 'PYTHON=python3.12 chooses the interpreter of a new .venv, 3.11 or later.'

reproduce: .venv/core.stamp
	$(BIN)/purimetry reproduce $(ARGS)

test: .venv/tests.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: .venv/tests.stamp
	$(BIN)/ruff check $(ARGS) .

.venv/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is missing or older than the Python 3.11 that Purimetry needs; try make PYTHON=python3.12' >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/core.stamp: .venv/made.stamp pyproject.toml constraints.txt
	$(INSTALL) --constraint constraints.txt --editable .
	$(COMPILE)
	touch $@

# torch first and alone, so that a CPU build that lies on the machine is taken.
.venv/tests.stamp: .venv/core.stamp
	$(INSTALL) torch==2.13.0
	$(INSTALL) --constraint constraints.txt --editable '.[dev,peers]'
	$(COMPILE)
	touch $@

# torch differs between machines, so it stays out, with what it pins exactly itself; so does the cuda extra.
constraints:
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra peers --upgrade \
		--no-annotate --no-header pyproject.toml | grep -v -E '^(torch|triton|cuda-|nvidia-)' > constraints.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache build purimetry.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
