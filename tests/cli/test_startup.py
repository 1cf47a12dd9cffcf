"""What a command imports on a project that has not changed: nothing that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli import test_commands

from dbt_bridge.cli import run_command

shop = test_commands.shop

HEAVY = {
    "dbt", "dbt_common", "networkx", "agate", "dlt", "sqlalchemy", "sqlglot", "pandas", "polars", "requests", "fsspec",
    "deltalake", "jinja2",
}  # fmt: skip

# The command as it is installed, and what its process has imported at its end.
CHILD = """
import json, sys
from dbt_bridge.cli import main
code = 1
try:
    main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted(set(sys.modules) & set(HEAVY))]), file=sys.stderr)
"""

COMMANDS = ("plan", "slots", "sync", "verify --select source:shop", "deliver --dry-run")


@pytest.fixture
def built(shop: Path) -> Path:
    assert run_command(["build", "--quiet"]) == 0
    assert run_command(["plan", "--select", "source:shop"]) == 0
    return shop


def test_commands_on_an_unchanged_project_import_nothing_that_they_do_not_use(built: Path) -> None:
    found = {}
    for command in COMMANDS:
        program = CHILD.replace("HEAVY", repr(HEAVY))
        done = subprocess.run(
            [sys.executable, "-c", program, *command.split()], cwd=built, capture_output=True, text=True, check=False
        )
        code, modules = json.loads(done.stderr.splitlines()[-1])
        assert code == 0, done.stdout + done.stderr
        found[command] = modules
    assert found == {command: [] for command in COMMANDS}


PANDAS = """
import sys
import duckdb
import pyarrow
from dbt_bridge.system.unasked_pandas import keep_pandas_out
keep_pandas_out(unless=lambda: len(sys.argv) > 1)
value = duckdb.connect().execute("SELECT ? || 'b'", ["a"]).fetchone()[0]
array = pyarrow.array(["a"])
assert (value, array.to_pylist()) == ("ab", ["a"])
print("pandas" in sys.modules)
import importlib.util
assert importlib.util.find_spec("pandas") is not None
import pandas as pd
assert duckdb.connect().execute("SELECT ?", [pd.NaT]).fetchone()[0] is None
frame = pd.DataFrame({"a": [1]})
assert duckdb.connect().execute("SELECT a FROM frame").fetchone() == (1,)
"""


@pytest.mark.parametrize(("arguments", "imported"), [((), "False"), (("a plugin",), "True")])
def test_pandas_comes_to_whoever_names_it_and_to_no_library_that_asks(arguments: tuple[str], imported: str) -> None:
    done = subprocess.run([sys.executable, "-c", PANDAS, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [imported]
