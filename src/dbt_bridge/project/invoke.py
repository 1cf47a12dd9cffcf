"""dbt, wherever it is: which of its two runners is meant, and what `dbt build` answers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.runners.contract import BuildResult, NodeResult, Runner

__all__ = ["DBT", "BuildResult", "NodeResult", "build", "choose_runner", "has_module"]

DBT = "DBT_BRIDGE_DBT"
"""The variable of the environment that names the dbt to use, as `--dbt` does."""


def choose_runner(options: DbtOptions) -> Runner:
    """The dbt of `--dbt` or DBT_BRIDGE_DBT; else the module in this environment; else the command on PATH.

    Raises:
        UsageError: the one that is named is not there, or there is none.
    """
    given = options.dbt or os.environ.get(DBT)
    if given:
        found = shutil.which(str(Path(given).expanduser()))
        if found is None:
            raise UsageError(f"there is no dbt command {given}", mend="name an executable file: --dbt /path/to/bin/dbt")
        return _open_command(found)
    if has_module():
        from dbt_bridge.project.runners.module import ModuleRunner

        return ModuleRunner()
    if found := shutil.which("dbt"):
        return _open_command(found)
    raise UsageError(
        "dbt is not installed beside dbt-bridge, and no dbt command is on PATH",
        mend="pip install dbt-core dbt-duckdb (or the adapter of your warehouse), or name a dbt command: --dbt PATH",
    )


def has_module() -> bool:
    """Whether dbt 1 is installed in this environment; it is not imported for that."""
    if any((Path(place) / "dbt" / "cli" / "main.py").is_file() for place in sys.path):
        return True
    # Rarely, as it imports the package `dbt` itself: an editable installation is found by a hook, not by its place.
    return any("editable" in str(hook).lower() for hook in sys.meta_path) and _find_module()


def _find_module() -> bool:
    try:
        return importlib.util.find_spec("dbt.cli.main") is not None
    except ImportError:
        return False


def _open_command(found: str) -> Runner:
    from dbt_bridge.project.runners.command import CommandRunner

    return CommandRunner(Path(found))


def build(options: DbtOptions, *, quiet: bool = False) -> BuildResult:
    """Run `dbt build`; see `Runner.build`."""
    return choose_runner(options).build(options, quiet=quiet)
