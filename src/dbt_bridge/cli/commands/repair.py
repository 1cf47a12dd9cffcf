"""repair: what verify found to differ is copied again, by its keys."""

from __future__ import annotations

import re
from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, add_options, make_output, open_given
from dbt_bridge.cli.output import FAILED


class Share(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """A part of a whole: `5%`, `0.05`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", str(value).strip())
        share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is not a share like 5% or 0.05", param, ctx)
        return share


@cli.command(short_help="Copy only the rows again that differ.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be inserted, updated and deleted.")
@click.option(
    "--max-share",
    type=Share(),
    metavar="SHARE",
    help="Touch at most this share of a table's rows, like 5%; by default 1%, or 100 rows.",
)
@add_options(*OPTIONS, *OUTPUT)
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
    output = make_output(given)
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).repair(max_share=max_share, dry_run=dry_run)
    if output.as_json:
        output.print_document(**outcome.as_document())
    elif output.quiet:
        from dbt_bridge.observe.progress import group_by_error

        for error, tables in group_by_error(outcome.repaired.errors).items():
            click.echo(f"{', '.join(tables)}: {error}", err=True)
    else:
        from dbt_bridge.observe.progress import print_summary
        from dbt_bridge.verify.report.terminal import ReportOptions, print_parities

        print_summary(outcome.receipts)
        print_parities(outcome.parities, shown=ReportOptions(commands=False))  # the receipts have said what to run next
        if dry_run and outcome.receipts and outcome.ok:
            click.echo("nothing was repaired; the same command without --dry-run does it", err=True)
    return 0 if outcome.ok else FAILED
