"""The options that commands share, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.output import Output
from dbt_bridge.errors import MissingExtra, UsageError
from dbt_bridge.nouns.quantities import parse_duration

if TYPE_CHECKING:
    from dbt_bridge.nouns.project import DbtOptions


class Span(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """Seconds of `2s`, `500ms`, `5m`, `1h`, `10 minutes` or `2`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(parse_duration(str(value)))
        except ValueError:
            seconds = 0
        if not seconds:
            self.fail(f"{value!r} is not a time like 2s, 500ms, 5m or 1h", param, ctx)
        return seconds


class LogPosition(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A position in the log of a cdc source. The source itself reads it, once the project says which one it is."""

    name = "lsn"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dbt_bridge.nouns.position import may_be_position

        if not may_be_position(value):
            self.fail(f"{value!r} is not an LSN: write it as Postgres does: 16/B374D848", param, ctx)
        return str(value)


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
MAX_SECONDS = click.option("--max-seconds", type=Span(), metavar="TIME", help="Stop after this time, like 90 or 10m.")
BOUNDS = (
    click.option("--until-lsn", type=LogPosition(), metavar="LSN",
                 help="Bring cdc sources up to this LSN only; by default to where the log ends now."),
    click.option("--max-seconds", type=Span(), metavar="TIME",
                 help="Let cdc sources stop at the next commit after this time, like 90 or 10m."),
)  # fmt: skip


def takes(*options: Callable[..., Any]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def run_options(options: DbtOptions, given: dict[str, Any] | None = None, *, dry_run: bool = False) -> Any:
    """What a run wants to know; `given` has the bounds of a command that takes them."""
    from dbt_bridge.run import Options

    given = given or {}
    return Options(
        full_refresh=options.full_refresh,
        threads=options.threads,
        dry_run=dry_run,
        until_lsn=given.get("until_lsn"),
        max_seconds=given.get("max_seconds"),
    )


@contextmanager
def postgres_needed(what: str) -> Iterator[None]:
    """An import that fails because the postgres extra is absent says so.

    Raises:
        MissingExtra: psycopg or numpy is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("dbt_bridge"):
            raise
        raise MissingExtra("postgres", what) from missing


def output_of(given: dict[str, Any]) -> Output:
    return Output(given["as_json"], given["quiet"], given["debug"])


def dbt_options(given: dict[str, Any]) -> DbtOptions:
    from dbt_bridge.nouns.project import DbtOptions
    from dbt_bridge.project.load import nearest_project

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
    import yaml

    try:
        variables = yaml.safe_load(text)
    except yaml.YAMLError:
        variables = None
    if not isinstance(variables, dict):
        raise UsageError("--vars is not a YAML dictionary", mend="write it as in dbt: --vars '{start: 2026-01-01}'")
    return variables
