"""deliver: the exposures go out."""

from __future__ import annotations

from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, add_options, make_output, open_given


@cli.command(short_help="Deliver the exposures (reverse ETL).")
@click.option("--dry-run", is_flag=True, help="Only count what would be inserted, updated and deleted.")
@add_options(*OPTIONS, *OUTPUT)
def deliver(dry_run: bool, **given: Any) -> int:
    """Deliver the exposures, as the last `dbt build` left their models (reverse ETL).

    \b
    Example:
      dbt-bridge deliver --dry-run
      dbt-bridge deliver --select exposure:crm_segments
    """
    output = make_output(given)
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).deliver(dry_run=dry_run)
    return output.print_outcome(outcome, outcome.parities)
