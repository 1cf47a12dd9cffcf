"""sync, build, deliver: rows move."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, dbt_options, output_of, run_options, takes

if TYPE_CHECKING:
    from dbt_bridge.transform.invoke import BuildResult


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
    from dbt_bridge.project import load_project

    project = load_project(options)
    with output.reporter() as progress:
        receipts = run.sync(project, run_options(options, given), progress)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts))


@cli.command(short_help="Land, run `dbt build`, deliver what passed.")
@click.option(
    "--verify", is_flag=True, help="Compare what landed with its origins; deliver only what comes from equal."
)
@takes(*OPTIONS, FULL_REFRESH, *BOUNDS, *OUTPUT)
def build(verify: bool, **given: Any) -> int:
    """Land what the selection needs, run `dbt build`, deliver what passed.

    An exposure is delivered only when every model above it and every test on them passed.

    \b
    Example:
      dbt-bridge build
      dbt-bridge build --select source:shop.orders+ --target prod
      dbt-bridge build --verify
    """
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project import load_project
    from dbt_bridge.transform.invoke import build as dbt_build

    project = load_project(options)
    built: list[BuildResult] = []

    def run_dbt() -> tuple[dict[str, str], bool]:
        built.append(dbt_build(project.options, project.manifest, to_stderr=output.as_json, quiet=output.quiet))
        return built[0].statuses, built[0].success

    with output.reporter() as progress:
        outcome = run.build(project, run_dbt, replace(run_options(options, given), verify=verify), progress)
    # `--empty` and `--sample` come from dbt's environment: what they held back was meant to be delivered.
    partial = bool(built and built[0].partial) and any(receipt.status == "skipped" for receipt in outcome.receipts)
    return output.result(
        outcome.receipts, ok=outcome.ok and not partial, dbt=built[0] if built else None, parities=outcome.parities
    )


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
    from dbt_bridge.project import load_project
    from dbt_bridge.transform.invoke import last_statuses

    project = load_project(options)
    statuses = last_statuses(project)
    with output.reporter() as progress:
        parities, unproven = run.reconciled(project, statuses, progress, for_deliveries=True)
        how = run_options(options, dry_run=dry_run)
        receipts = run.deliver(project, statuses, how, progress, unproven=unproven)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts), parities=parities)
