"""sync: the sources land."""

from __future__ import annotations

from typing import Any

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, add_options, make_output, open_given


@cli.command(short_help="Land the sources in the warehouse.")
@add_options(*OPTIONS, FULL_REFRESH, *BOUNDS, *OUTPUT)
def sync(**given: Any) -> int:
    """Land the sources: their rows come from the origins into the warehouse.

    \b
    Example:
      dbt-bridge sync
      dbt-bridge sync --select source:shop.orders
      dbt-bridge sync --full-refresh --json
    """
    output = make_output(given)
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).sync(
            full_refresh=given["full_refresh"], until_lsn=given["until_lsn"], max_seconds=given["max_seconds"]
        )
    return output.print_outcome(outcome)
