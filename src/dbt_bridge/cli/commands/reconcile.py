"""reconcile: models are compared with what they replace."""

from __future__ import annotations

from typing import Any

import click

from dbt_bridge.cli.comparison_output import (
    FOUND,
    METHOD,
    REPLACING,
    REPORT,
    SHOW,
    Told,
    about,
    shown,
    told,
)
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, dbt_options, output_of, takes


@cli.command(short_help="Compare models with what they replace.")
@click.option(
    "--level",
    type=click.Choice(["counts", "aggregates", "rows"]),
    help="How closely, instead of the levels that the models declare.",
)
@takes(METHOD, SHOW, REPORT, *OPTIONS, *FOUND)
def reconcile(*, level: str | None, method: str, **given: Any) -> int:
    """Compare models with what they replace: relations, queries and metrics of a legacy system.

    What belongs together is declared beside the models, under config.meta.bridge.reconcile. Exit code 0 says that
    everything agrees within its tolerances; a comparison that could not run is a failure.

    \b
    Example:
      dbt-bridge reconcile
      dbt-bridge reconcile --select fct_orders --report orders.html
      dbt-bridge reconcile --level counts --json
    """
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project.load import load_project

    project = load_project(options)
    asked: Any = {"level": level, "method": method}
    with output.reporter() as progress:
        parities = run.reconcile(project, run.ReconcileOptions(shown=shown(given), **asked), progress)
    return told(
        parities,
        Told(output, f"Reconciliation of {project.name}", REPLACING, about(project), given["report"], given["show"]),
    )
