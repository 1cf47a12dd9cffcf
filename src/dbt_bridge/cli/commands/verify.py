"""verify: origins and destinations are proven to hold the same data."""

from __future__ import annotations

from typing import Any

import click

from dbt_bridge.cli.comparison_output import make_presentation, present
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import (
    FOUND,
    METHOD,
    OPTIONS,
    REPORT,
    SHOW,
    add_options,
    count_shown,
    make_output,
    open_given,
)


@cli.command(short_help="Prove that both ends hold the same rows.")
@click.option(
    "--level",
    type=click.Choice(["counts", "aggregates", "rows"]),
    default="rows",
    show_default=True,
    help="How closely: numbers of rows, aggregates of each column, or every value of every row.",
)
@add_options(METHOD)
@click.option(
    "--bound",
    default="auto",
    show_default=True,
    metavar="auto|none|VALUE",
    help="For tables with a cursor: leave out rows beyond the checkpoint, none, or those beyond a value of the cursor.",
)
@add_options(SHOW, REPORT, *OPTIONS, *FOUND)
def verify(*, level: str, method: str, bound: str, **given: Any) -> int:
    """Prove that the landing tables hold what their origins hold, and delivered tables what their models hold.

    Tables that follow a log (cdc) are compared at one LSN while writers go on; others as they are now. Exit code 0
    says that everything is equal; a comparison that could not run is a failure.

    \b
    Example:
      dbt-bridge verify
      dbt-bridge verify --select source:shop.orders --show 50
      dbt-bridge verify --level aggregates --json
      dbt-bridge verify --report parity.html
    """
    output = make_output(given)
    how: Any = {"level": level, "method": method, "bound": bound, "shown": count_shown(given)}
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).verify(**how)
    return present(outcome, make_presentation(output, "Verification", outcome.project, given))
