"""reconcile: models are compared with what they replace."""

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


@cli.command(short_help="Compare models with what they replace.")
@click.option(
    "--level",
    type=click.Choice(["counts", "aggregates", "rows"]),
    help="How closely, instead of the levels that the models declare.",
)
@add_options(METHOD, SHOW, REPORT, *OPTIONS, *FOUND)
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
    output = make_output(given)
    how: Any = {"level": level, "method": method, "shown": count_shown(given)}
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).reconcile(**how)
    return present(outcome, make_presentation(output, "Reconciliation", outcome.project, given))
