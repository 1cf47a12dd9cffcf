"""The options that commands share, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.output import Output
from dbt_bridge.errors import UsageError

if TYPE_CHECKING:
    from dbt_bridge.project import DbtOptions

OPTIONS = (
    click.option("--project-dir", type=click.Path(path_type=Path), envvar="DBT_PROJECT_DIR",
                 help="Folder of dbt_project.yml; the working directory or one above it by default."),
    click.option("--profiles-dir", type=click.Path(path_type=Path), envvar="DBT_PROFILES_DIR",
                 help="Folder of profiles.yml, as in dbt."),
    click.option("--profile", envvar="DBT_PROFILE", help="Profile to use, as in dbt."),
    click.option("--target", "-t", envvar="DBT_TARGET", help="Target of the profile, as in dbt."),
    click.option("--vars", "variables", metavar="YAML", help="Variables for dbt: '{start: 2026-01-01}'."),
    click.option("--select", "-s", multiple=True, help="What to run, in dbt's selector syntax."),
    click.option("--exclude", multiple=True, help="What to leave out, in dbt's selector syntax."),
    click.option("--threads", type=click.IntRange(min=1), help="Tables and nodes at once; by default the profile's."),
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document with the receipts.")
DEBUG = click.option("--debug", is_flag=True, help="Print the traceback of an unexpected error.")
OUTPUT = (JSON, click.option("--quiet", "-q", is_flag=True, help="Print errors only."), DEBUG)
FULL_REFRESH = click.option("--full-refresh", is_flag=True, help="Copy and build everything anew; forget checkpoints.")


def takes(*options: Callable[..., Any]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def run_options(options: DbtOptions, *, dry_run: bool = False) -> Any:
    from dbt_bridge.run import Options

    return Options(full_refresh=options.full_refresh, threads=options.threads, dry_run=dry_run)


def output_of(given: dict[str, Any]) -> Output:
    return Output(given["as_json"], given["quiet"], given["debug"])


def dbt_options(given: dict[str, Any]) -> DbtOptions:
    from dbt_bridge.project import DbtOptions, nearest_project

    return DbtOptions(
        project_dir=given["project_dir"] or nearest_project(Path.cwd()),
        profiles_dir=given["profiles_dir"],
        profile=given["profile"],
        target=given["target"],
        vars=_variables(given["variables"]),
        select=tuple(given["select"]),
        exclude=tuple(given["exclude"]),
        threads=given["threads"],
        full_refresh=given.get("full_refresh", False),
    )


def _variables(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        variables = yaml.safe_load(text)
    except yaml.YAMLError:
        variables = None
    if not isinstance(variables, dict):
        raise UsageError("--vars is not a YAML dictionary", mend="write it as in dbt: --vars '{start: 2026-01-01}'")
    return variables
