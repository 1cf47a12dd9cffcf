"""build: sources land, dbt builds, exposures go out."""

from __future__ import annotations

from typing import Any

import click

from dbt_bridge.cli.dbt_flags import BUILD_FLAGS
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import BOUNDS, FULL_REFRESH, OPTIONS, OUTPUT, add_options, make_output, open_given


@cli.command(short_help="Land, run `dbt build`, deliver what passed.")
@click.option(
    "--verify", is_flag=True, help="Compare what landed with its origins; deliver only what comes from equal."
)
@add_options(*OPTIONS, *BUILD_FLAGS, FULL_REFRESH, *BOUNDS, *OUTPUT)
def build(verify: bool, **given: Any) -> int:
    """Land what the selection needs, run `dbt build`, deliver what passed.

    An exposure is delivered only when every model above it and every test on them passed.

    \b
    Example:
      dbt-bridge build
      dbt-bridge build --select source:shop.orders+ --target prod
      dbt-bridge build --verify
    """
    output = make_output(given)
    with output.open_reporter() as progress:
        outcome = open_given(given, progress).build(
            verify=verify,
            full_refresh=given["full_refresh"],
            until_lsn=given["until_lsn"],
            max_seconds=given["max_seconds"],
            dbt_output=not output.quiet,
        )
    return output.print_outcome(outcome, outcome.parities)
