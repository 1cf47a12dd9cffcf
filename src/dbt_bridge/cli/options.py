"""The options that commands share, and what they become."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.dbt_flags import SELECTION_FLAGS, read_flags
from dbt_bridge.cli.output import Output
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.quantities import parse_duration

if TYPE_CHECKING:
    from dbt_bridge.observe.progress import Progress
    from dbt_bridge.run.open_project import OpenProject

SHOWN = 100
"""Differences of a table that JSON and the report hold where nobody says otherwise."""


class Span(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """Seconds of `2s`, `500ms`, `5m`, `1h`, `10 minutes` or `2`.

    Args:
        zero: whether 0 is one, too.
    """

    name = "time"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if self._zero and str(value).strip() == "0":
            return 0.0
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


class ReportFile(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """Where a report goes. That it can be written is found out before anything is compared."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value).resolve()
        if path.exists() and not path.is_file():
            self.fail(f"{path} is not a file", param, ctx)
        if path.exists() and not _is_page(path):
            self.fail(f"{path} is there, and is no report: it would be lost", param, ctx)
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}."):
                return path
        except OSError as error:
            self.fail(f"the report cannot be written to {path}: {error.strerror or error}", param, ctx)


def _is_page(path: Path) -> bool:
    """Whether a file may be replaced by a report: another one, or an empty one."""
    try:
        with path.open("rb") as file:
            return file.read(15).lower() in (b"", b"<!doctype html>")
    except OSError:
        return False


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--project-dir", type=click.Path(path_type=Path), envvar="DBT_PROJECT_DIR",
                 help="Folder of dbt_project.yml; the working directory or one above it by default."),
    click.option("--profiles-dir", type=click.Path(path_type=Path), envvar="DBT_PROFILES_DIR",
                 help="Folder of profiles.yml, as in dbt."),
    click.option("--profile", envvar="DBT_PROFILE", help="Profile to use, as in dbt."),
    click.option("--target", "-t", envvar="DBT_TARGET", help="Target of the profile, as in dbt."),
    click.option("--vars", "variables", metavar="YAML", help="Variables for dbt: '{start: 2026-01-01}'."),
    click.option("--select", "-s", multiple=True, help="What to run, in dbt's selector syntax."),
    click.option("--exclude", multiple=True, help="What to leave out, in dbt's selector syntax."),
    click.option("--dbt", metavar="PATH", envvar="DBT_BRIDGE_DBT",
                 help="dbt command to run; by default dbt's module in this environment, else the command on PATH."),
    click.option("--threads", type=click.IntRange(min=1), help="Tables and nodes at once; by default the profile's."),
    click.option("--lock-wait", type=Span(zero=True), metavar="TIME", default="30", show_default=True,
                 envvar="DBT_BRIDGE_LOCK_WAIT",
                 help="How long to wait for a DuckDB file or a PostgreSQL table that somebody else holds."),
    *SELECTION_FLAGS,
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document with the receipts.")
DEBUG = click.option("--debug", is_flag=True, help="Print the traceback of an unexpected error.")
OUTPUT = (JSON, click.option("--quiet", "-q", is_flag=True, help="Print errors only."), DEBUG)
FULL_REFRESH = click.option(
    "--full-refresh", "-f", is_flag=True, help="Copy and build everything anew; forget checkpoints."
)
MAX_SECONDS = click.option("--max-seconds", type=Span(), metavar="TIME", help="Stop after this time, like 90 or 10m.")
BOUNDS = (
    click.option("--until-lsn", type=LogPosition(), metavar="LSN",
                 help="Bring cdc sources up to this LSN only; by default to where the log ends now."),
    click.option("--max-seconds", type=Span(), metavar="TIME",
                 help="Let cdc sources stop at the next commit after this time, like 90 or 10m."),
)  # fmt: skip


METHOD = click.option(
    "--method",
    type=click.Choice(["auto", "digests", "buckets", "values"]),
    default="auto",
    show_default=True,
    help="How rows are compared: a digest of each, sums of digests in buckets (for slow wires), or their values.",
)
SHOW = click.option(
    "--show",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Differences told of each table; by default 10 here, {SHOWN} in --json and --report.",
)
REPORT = click.option(
    "--report", type=ReportFile(), metavar="FILE", help="Also write a report, as one self-contained HTML file."
)
FOUND = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document with what was found."),
    *OUTPUT[1:-1],
    DEBUG,
)


def count_shown(given: Mapping[str, Any]) -> int:
    """How many differences of each table a comparison is to tell in full."""
    return SHOWN if given["show"] is None else int(given["show"])


def add_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def make_output(given: dict[str, Any]) -> Output:
    return Output(given["as_json"], given["quiet"], given["debug"])


def open_given(given: Mapping[str, Any], progress: Progress | None = None) -> OpenProject:
    """The project that the command line names."""
    from dbt_bridge.run.open_project import open_project

    return open_project(
        given["project_dir"],
        profiles_dir=given["profiles_dir"],
        profile=given["profile"],
        target=given["target"],
        vars=_parse_variables(given["variables"]),
        select=given["select"],
        exclude=given["exclude"],
        threads=given["threads"],
        dbt=given["dbt"],
        lock_wait=given["lock_wait"],
        flags=read_flags(given),
        progress=progress,
    )


def _parse_variables(text: str | None) -> dict[str, Any]:
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
