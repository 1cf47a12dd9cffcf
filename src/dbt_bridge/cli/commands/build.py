"""build: sources land, dbt builds, exposures go out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, dbt_options, output_of, run_options, takes

if TYPE_CHECKING:
    from dbt_bridge.project.invoke import BuildResult


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
    from dbt_bridge.project.invoke import build as dbt_build
    from dbt_bridge.project.load import load_project

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
