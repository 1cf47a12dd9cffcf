"""What a command imports on a project that has not changed: dbt not at all, dlt and others only where they are used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli import test_commands

from dbt_bridge.cli import run_command

shop = test_commands.shop

HEAVY = {"dbt", "dbt_common", "networkx", "agate", "dlt", "sqlalchemy", "sqlglot", "pandas", "polars"}

CHILD = """
import json, sys
from dbt_bridge.cli import run_command
code = run_command(sys.argv[1:])
print(json.dumps([code, sorted(set(sys.modules) & set(HEAVY))]), file=sys.stderr)
"""

# pandas: DuckDB 1.5 imports it by itself, where it is installed, when it is handed rows or values.
# dlt: what a destination's credentials mean is its to say.
ALLOWED = {
    "plan": set[str](),
    "slots": set[str](),
    "sync": {"pandas"},
    "verify --select source:shop": {"pandas"},
    "deliver --dry-run": {"pandas", "dlt", "sqlalchemy", "sqlglot", "polars"},
}


@pytest.fixture
def built(shop: Path) -> Path:
    assert run_command(["build", "--quiet"]) == 0
    assert run_command(["plan", "--select", "source:shop"]) == 0
    return shop


def test_commands_on_an_unchanged_project_import_nothing_that_they_do_not_use(built: Path) -> None:
    found = {}
    for command, allowed in ALLOWED.items():
        program = CHILD.replace("HEAVY", repr(HEAVY))
        done = subprocess.run(
            [sys.executable, "-c", program, *command.split()], cwd=built, capture_output=True, text=True, check=False
        )
        code, modules = json.loads(done.stderr.splitlines()[-1])
        assert code == 0, done.stdout + done.stderr
        found[command] = set(modules) - allowed
    assert {command: modules for command, modules in found.items() if modules} == {}
