"""deliver: the exposures go out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, dbt_options, output_of, run_options, takes

if TYPE_CHECKING:
    pass


@cli.command(short_help="Deliver the exposures (reverse ETL).")
@click.option("--dry-run", is_flag=True, help="Only count what would be inserted, updated and deleted.")
@takes(*OPTIONS, *OUTPUT)
def deliver(dry_run: bool, **given: Any) -> int:
    """Deliver the exposures, as the last `dbt build` left their models (reverse ETL).

    \b
    Example:
      dbt-bridge deliver --dry-run
      dbt-bridge deliver --select exposure:crm_segments
    """
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project.invoke import read_last_statuses
    from dbt_bridge.project.load import load_project

    project = load_project(options)
    statuses = read_last_statuses(project)
    with output.reporter() as progress:
        parities, unproven = run.reconciled(project, statuses, progress, for_deliveries=True)
        how = run_options(options, dry_run=dry_run)
        receipts = run.deliver(project, statuses, how, progress, unproven=unproven)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts), parities=parities)
