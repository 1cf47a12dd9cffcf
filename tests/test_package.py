"""What is imported when, counted in modules: a clock would say more about the machine."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import dbt_bridge

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
    assert set(dbt_bridge.__all__) == {"__version__", "api_to_df", "transfer"}
    for _ in range(2):  # the module `transfer` must not take its function's place when it is imported
        assert callable(dbt_bridge.api_to_df)
        assert callable(dbt_bridge.transfer)
    assert not hasattr(dbt_bridge, "nonsense")


def test_the_version_is_the_distributions() -> None:
    assert importlib.metadata.version("dbt-bridge") == dbt_bridge.__version__


def test_every_extra_of_the_interface_exists() -> None:
    promised = (
        "snowflake bigquery redshift databricks synapse fabric postgres mssql duckdb trino athena s3 gcs azure "
        "filesystem all"
    )
    declared = importlib.metadata.metadata("dbt-bridge").get_all("Provides-Extra") or []
    assert set(promised.split()) <= set(declared)
