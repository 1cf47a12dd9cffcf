"""sync: the sources land."""

from __future__ import annotations

from typing import Any

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, open_given, output_of, takes


@cli.command(short_help="Land the sources in the warehouse.")
@takes(*OPTIONS, FULL_REFRESH, *BOUNDS, *OUTPUT)
def sync(**given: Any) -> int:
    """Land the sources: their rows come from the origins into the warehouse.

    \b
    Example:
      dbt-bridge sync
      dbt-bridge sync --select source:shop.orders
      dbt-bridge sync --full-refresh --json
    """
    output = output_of(given)
    with output.reporter() as progress:
        outcome = open_given(given, progress).sync(
            full_refresh=given["full_refresh"], until_lsn=given["until_lsn"], max_seconds=given["max_seconds"]
        )
    return output.outcome(outcome)
