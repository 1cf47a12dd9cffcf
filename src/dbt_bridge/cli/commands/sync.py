"""sync: the sources land."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, dbt_options, output_of, run_options, takes

if TYPE_CHECKING:
    pass


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
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project.load import load_project

    project = load_project(options)
    with output.reporter() as progress:
        receipts = run.sync(project, run_options(options, given), progress)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts))
