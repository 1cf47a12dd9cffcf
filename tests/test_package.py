"""What is imported when, counted in modules: a clock would say more about the machine."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import dbt_bridge
from dbt_bridge.cli import cli

_HEAVY = {"dbt", "dlt", "duckdb", "pyarrow", "psycopg", "rich", "pydantic", "pandas", "sqlalchemy", "deltalake", "yaml"}


def _loaded(code: str) -> set[str]:
    """The top-level modules that are loaded after this code ran in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n' + ' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert _loaded("import dbt_bridge") - _loaded("import typing, importlib") <= {"dbt_bridge", "__future__"}


def test_help_loads_only_click() -> None:
    code = "from dbt_bridge.cli import run_command\nrun_command(['--help'])\nrun_command(['build', '--help'])"
    loaded = _loaded(code)
    assert "click" in loaded
    assert loaded & _HEAVY == set()


def test_dbt_does_not_start_slower_with_the_package_installed() -> None:
    """dbt's plugin manager imports the package and its `plugins` at each start: that may add no other package."""
    dbt_alone = _loaded("import dbt.plugins.manager, dbt.contracts.graph.manifest")
    assert _loaded("import dbt.contracts.graph.manifest, dbt_bridge; dbt_bridge.plugins") - dbt_alone <= {"dbt_bridge"}


def test_the_public_names_are_there() -> None:
    assert {"__version__", "api_to_df", "transfer", "open_project", "BridgeError"} <= set(dbt_bridge.__all__)
    assert set(dbt_bridge.__all__) <= set(dir(dbt_bridge))
    for name in dbt_bridge.__all__:
        assert getattr(dbt_bridge, name) is getattr(dbt_bridge, name)
    for _ in range(2):  # the module `transfer` must not take its function's place when it is imported
        assert callable(dbt_bridge.api_to_df)
        assert callable(dbt_bridge.transfer)
    assert not hasattr(dbt_bridge, "nonsense")


def test_the_page_on_python_has_every_public_name_method_and_parameter() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", page))))
    methods = {name: method for name, method in vars(dbt_bridge.OpenProject).items() if inspect.isfunction(method)}
    public = {name: method for name, method in methods.items() if not name.startswith("_")}
    parameters = {
        parameter
        for method in (*public.values(), dbt_bridge.open_project)
        for parameter in inspect.signature(method).parameters
        if parameter not in ("self", "path", "progress")
    }
    assert {*dbt_bridge.__all__, *public, *parameters} - code == set()
    assert set(re.findall(r"\bdbt_bridge\.(\w+)", page)) - set(dbt_bridge.__all__) == set()


def test_every_command_of_the_interface_is_a_method() -> None:
    elsewhere = {"demo", "init", "simulate"}  # which need no project
    assert set(cli.commands) - elsewhere <= set(dir(dbt_bridge.OpenProject))


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(dbt_bridge.__file__).parent / "py.typed").exists()


def test_the_version_is_the_distributions() -> None:
    assert importlib.metadata.version("dbt-bridge") == dbt_bridge.__version__


def test_every_extra_of_the_interface_exists() -> None:
    promised = (
        "snowflake bigquery redshift databricks synapse fabric postgres mssql duckdb trino athena s3 gcs azure "
        "filesystem all"
    )
    declared = importlib.metadata.metadata("dbt-bridge").get_all("Provides-Extra") or []
    assert set(promised.split()) <= set(declared)
