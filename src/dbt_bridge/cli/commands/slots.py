"""slots: what the origins keep for the project, and its removal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, add_options, make_output, open_given
from dbt_bridge.cli.output import FAILED
from dbt_bridge.errors import UsageError

_TYPED = ParameterSource.COMMANDLINE

if TYPE_CHECKING:
    from dbt_bridge.cdc.slots import Dropped, SlotReport
    from dbt_bridge.nouns.project import LandingSource


@cli.group(invoke_without_command=True, short_help="Show what the origins keep for this project.")
@add_options(*OPTIONS, *OUTPUT)
def slots(**given: Any) -> int:
    """Show the replication slots of the cdc sources: lag, log that they retain, and what mends a fault.

    A slot that was made for this project and that no source uses any more is a fault: it keeps the origin's log for
    ever.

    Lag in seconds is what the server says of a reader at work; of a slot that nobody reads, it is the time since
    somebody did (PostgreSQL 17 and later), which is how old the landing tables may be.

    \b
    Example:
      dbt-bridge slots
      dbt-bridge slots --json
      dbt-bridge slots drop
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return 0
    output = make_output(given)
    found = open_given(given).slots()
    if output.as_json:
        output.print_document(**found.as_document())
    elif not output.quiet:
        print_reports(found, sys.stdout)
    return 0 if found.ok else FAILED


def _refuse_options_before(context: click.Context) -> None:
    """Raises UsageError: `slots --target prod drop` would drop those of the default target."""
    given = [p.opts[0] for p in context.command.params if context.get_parameter_source(p.name or "") is _TYPED]
    if given:
        command = f"slots {context.invoked_subcommand}"
        raise UsageError(
            f"{given[0]} stands before {context.invoked_subcommand!r}, which has options of its own",
            mend=f"write it behind: dbt-bridge {command} {given[0]} ...",
        )


@slots.command(short_help="Give up slots, with their publications.")
@click.argument("name", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@add_options(*OPTIONS, *OUTPUT)
def drop(name: str | None, *, yes: bool, **given: Any) -> int:
    """Drop the slot NAME of a cdc source (or one that no source uses any more), or those of all sources, with the
    publications.

    The landing tables stay; the next sync copies them anew. A slot that somebody reads is not dropped.

    \b
    Example:
      dbt-bridge slots drop
      dbt-bridge slots drop dbt_bridge_shop_shop_dev --yes
    """
    output = make_output(given)

    def confirm(sources: Sequence[LandingSource]) -> None:
        if yes:
            return
        if output.as_json:
            raise UsageError("with --json nothing can be asked", mend="add --yes")
        for source in sources:
            if not source.name:
                click.echo(f"{source.slot} (origin {source.origin}, used by no source any more) and its publications")
                continue
            click.echo(f"{source.slot} (source {source.name}, origin {source.origin}), its publications, and how far")
            click.echo("  the source's tables had come: the next sync copies them anew")
        click.confirm("Drop?", abort=True)

    def report(dropped: Dropped) -> None:
        if not output.as_json and not output.quiet:
            click.echo(_format_dropped(dropped))

    dropped = open_given(given).drop_slots(name, confirm=confirm, report=report)
    if not dropped:
        raise UsageError("no source of this project has replication: cdc, so it has no slots", mend="dbt-bridge plan")
    if output.as_json:
        output.print_document(dropped=[one.as_json() for one in dropped])
    return 0


def print_reports(found: Sequence[SlotReport], out: IO[str]) -> None:
    """A table, and below it what is wrong and what mends it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dbt_bridge.nouns.quantities import format_bytes

    if not found:
        print("no source of this project has replication: cdc, so it has no slots", file=out)
        return
    console = Console(file=out, width=None if out.isatty() else 160, highlight=False)
    table = Table()
    for heading in ("source", "slot", "active"):
        table.add_column(heading, overflow="fold")
    for heading in ("lag", "lag (s)", "retained", "max_wal"):
        table.add_column(heading, justify="right")
    table.add_column("wal_status")
    for one in found:
        sizes = [one.lag_bytes, one.retained_bytes, one.max_wal]
        lag, retained, bound = ("" if size is None else format_bytes(size) for size in sizes)
        seconds = "" if one.lag_seconds is None else f"{one.lag_seconds:,.1f}"
        active = f"yes, {one.active_pid}" if one.active else "no"
        cells = (one.source, one.slot, active, lag, seconds, retained, bound, one.wal_status or "")
        table.add_row(*(Text(cell, style="red" if one.problem else "") for cell in cells))
    console.print(table)
    for one in found:
        if one.problem:
            said = f"{one.source}: {one.problem}" if one.source else one.problem
            console.print(said, markup=False, soft_wrap=True)
            console.print(f"  -> {one.mend}", markup=False, soft_wrap=True)


def _format_dropped(dropped: Dropped) -> str:
    what = f"slot {dropped.slot}" if dropped.slot else "no slot, as there was none"
    publications = f", publications {', '.join(dropped.publications)}" if dropped.publications else ""
    if not dropped.source:
        return f"dropped {what}{publications}"
    return f"{dropped.source}: dropped {what}{publications}; {len(dropped.nodes)} tables will be copied anew"
