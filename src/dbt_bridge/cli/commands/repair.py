"""repair: what verify found to differ is copied again, by its keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.comparison_output import (
    MOVED,
    about,
    nothing_compared,
    told_at_the_end,
)
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, dbt_options, output_of, takes
from dbt_bridge.cli.output import FAILED
from dbt_bridge.errors import UsageError

if TYPE_CHECKING:
    from dbt_bridge.nouns.project import Project


class Share(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """A part of a whole: `5%`, `0.05`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", str(value).strip())
        share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is not a share like 5% or 0.05", param, ctx)
        return share


def _last_statuses(project: Project) -> dict[str, str]:
    """As the last `dbt build` left the models; nothing is known of them where dbt has not run."""
    from dbt_bridge.project.invoke import read_last_statuses

    try:
        return read_last_statuses(project) if project.deliveries else {}
    except UsageError:
        return {}


@cli.command(short_help="Copy only the rows again that differ.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be inserted, updated and deleted.")
@click.option(
    "--max-share",
    type=Share(),
    metavar="SHARE",
    help="Touch at most this share of a table's rows, like 5%; by default 1%, or 100 rows.",
)
@takes(*OPTIONS, *OUTPUT)
def repair(*, dry_run: bool, max_share: float | None, **given: Any) -> int:
    """Compare as `verify` does, copy the rows that differ again, and compare these once more.

    Nothing but the keys that differ is touched, in one transaction per table, at the LSN of the comparison for tables
    that follow a log. Exit code 0 says that everything that was selected is equal now.

    \b
    Example:
      dbt-bridge repair --dry-run
      dbt-bridge repair --select source:shop.orders
      dbt-bridge repair --select source:shop.orders --max-share 5%
    """
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge.project.load import load_project

    project = load_project(options)
    from dbt_bridge import run

    how = run.RepairOptions(max_share=max_share, dry_run=dry_run, threads=options.threads)
    with output.reporter() as progress:
        done = run.repair(project, how, progress, _last_statuses(project))
    if not done.parities:
        raise nothing_compared(MOVED, about(project))
    if output.as_json:
        output.document(
            status="success" if done.ok else "failed",
            parity=[parity.as_json() for parity in done.parities],
            before=[parity.as_json() for parity in done.before.values()],
            receipts=[receipt.as_json() for receipt in done.receipts],
        )
    elif output.quiet:
        from dbt_bridge.observe.progress import by_error

        for error, tables in by_error(done.errors).items():
            click.echo(f"{', '.join(tables)}: {error}", err=True)
    else:
        from dbt_bridge.observe.progress import print_summary

        print_summary(done.receipts)
        told_at_the_end(done.parities)
        if dry_run and done.receipts and done.ok:
            click.echo("nothing was repaired; the same command without --dry-run does it", err=True)
    return 0 if done.ok else FAILED
