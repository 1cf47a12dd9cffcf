# `make demo` and `make test` need Python 3.11+ and pip, nothing else: the first run makes .venv from uv.lock
# (through uv where it is installed, else through requirements-dev.txt, which is exported from the lock).

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

# Some hundred processes are started by the tests: whoever keeps Python from writing bytecode has each compile anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-command test-chance duckdb2 test-duckdb2 dbt2 lint format bench docs lock install wheel clean

demo: $(STAMP)
	$(BIN)/dbt-bridge demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 15 $(ARGS)

# What has dbt read and build projects, with dbt as a command of its own (as dbt 2 is) in place of its module.
test-command: $(STAMP)
	DBT_BRIDGE_TEST_RUNNER=command $(BIN)/python -m pytest -n auto --dist loadfile -q tests/run tests/cli/test_commands.py $(ARGS)

# Other seeds and examples than those of every other run; a failure says its seed (tests/chance.py).
test-chance: $(STAMP)
	DBT_BRIDGE_SEED=random $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# What touches DuckDB most, on the next major version, which lies over the environment's own.
DUCKDB2 := build/duckdb2
test-duckdb2: $(DUCKDB2)/duckdb/__init__.py
	PYTHONPATH=$(CURDIR)/$(DUCKDB2) $(BIN)/python -c 'import duckdb; assert duckdb.__version__ >= "2", duckdb.__version__'
	PYTHONPATH=$(CURDIR)/$(DUCKDB2) $(BIN)/python -m pytest -n auto --dist loadfile -q \
		tests/connectors/duckdb/test_warehouse.py tests/connectors/duckdb/test_apply.py tests/connectors/duckdb/test_column_types.py \
		tests/replicate/test_compaction.py tests/verify/test_compare.py tests/run/test_build.py tests/prove/test_sides.py $(ARGS)

duckdb2: $(DUCKDB2)/duckdb/__init__.py

$(DUCKDB2)/duckdb/__init__.py: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(DUCKDB2) 'duckdb>=2,<3' \
		|| uv pip install --quiet --no-deps --target $(DUCKDB2) 'duckdb>=2,<3'

# dbt 2, a binary: in an environment of its own, where it takes nothing's place.
dbt2: build/dbt2/bin/dbt

build/dbt2/bin/dbt: $(STAMP)
	$(BIN)/python -m venv build/dbt2 2>/dev/null || uv venv --quiet --clear build/dbt2
	build/dbt2/bin/python -m pip install --quiet --disable-pip-version-check 'dbt==2.0.0rc196' \
		|| uv pip install --quiet --python build/dbt2/bin/python 'dbt==2.0.0rc196'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/draw_rooms.py

# What is installed elsewhere: docs/install.md.
wheel: $(STAMP)
	@if command -v uv >/dev/null; then uv build --quiet --wheel --out-dir dist; \
	else $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .; fi
	@ls dist/*.whl

# The only target that needs uv: new versions for everybody.
lock:
	uv lock
	uv export --frozen --quiet --no-header --no-hashes --no-annotate --no-emit-project --group dev \
		--output-file requirements-dev.txt

install: $(STAMP)

$(STAMP): pyproject.toml uv.lock requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python"; exit 1; }
	@if command -v uv >/dev/null \
		&& UV_PROJECT_ENVIRONMENT=$(VENV) uv sync --frozen --quiet --python $(PYTHON); then :; \
	else $(MAKE) --no-print-directory pip-install; fi
	@touch $@

# uv installs in a quarter of pip's time; pip does it where uv cannot be had, or cannot reach what pip is set up for.
# Debian's python3 has no ensurepip without python3-venv; virtualenv from PyPI needs neither that nor root.
.PHONY: pip-install
pip-install:
	$(PYTHON) -m venv --clear $(VENV) || { \
		$(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv \
		&& PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet --clear $(VENV); }
	{ $(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(BIN)/python -m uv pip install --quiet --python $(BIN)/python -r requirements-dev.txt \
		&& $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --editable .; } \
	|| { $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; }

clean:
	rm -rf $(VENV) build dist .mypy_cache .import_linter_cache .ruff_cache .pytest_cache
