# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo space test unit test-lowest fuzz lint format docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Learns a family of LeNets from scikit-learn's digits, sweeps its sizes and saves a morph; all under demo/.
demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# The page of a family, in a browser: of the one that comes with the package, or FAMILY=outputs/digits.
space: $(VENV)/.installed
	$(BIN)/python examples/space/app.py $(FAMILY)

# A worker a core, each with one thread; a file's fixtures are made once, by the worker that gets the file. Files are given
# out in their order, the slow ones of tests/integration first: many short ones are left to fill the end.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	$(PYTEST)

# Without those that train, start servers or run commands: under a minute on two cores.
unit: $(VENV)/.installed
	$(PYTEST) tests/unit

# As unit, with the lowest versions that pyproject.toml declares, in an environment of their own.
LOWEST := .venv-lowest

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable . pytest pytest-xdist
	touch $@

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n logical --dist loadfile tests/unit

# Damages what the command reads, 2,000 times from a seed; some ten minutes, and one mutation in 50 is in `make test`.
fuzz: $(VENV)/.installed
	$(BIN)/python tests/fuzz/fuzz.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --config setup.cfg

# The site of the guides and the reference: open site/index.html; search needs `python3 -m http.server -d site`.
# A warning is an error, and nothing is fetched.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) demo outputs site build dist
