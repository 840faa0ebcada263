# Every target sets itself up: a virtual environment in .venv with exactly the versions of constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= demo

.PHONY: demo test bench docs lint clean

demo: $(VENV)/.ready            ## train, grow, compress and report; RECIPE=tiny takes a minute
	$(BIN)/pomona run $(RECIPE)

test: $(VENV)/.ready            ## the default test suite, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

bench: $(VENV)/.ready           ## pomona against its peers on this machine; ARGS="train_step --quick"
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.ready            ## regenerate what is generated: the method table of the README, docs/methods.md, stages.md, families.md
	$(BIN)/python -m docs.generate --families

lint: $(VENV)/.ready            ## style, types, import rules, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

clean:                          ## remove what runs have made; the virtual environment stays
	rm -rf runs build dist

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
