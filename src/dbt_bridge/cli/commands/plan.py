"""plan: what a build would do."""

from __future__ import annotations

import sys
from typing import Any

import click

from dbt_bridge.cli.comparison_output import SELECTING, about, as_given
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, dbt_options, output_of, takes


@cli.command(short_help="Show what `build` would do, in order.")
@takes(*OPTIONS, *OUTPUT)
def plan(**given: Any) -> int:
    """Show what `build` would do, in order, without connecting to anything.

    \b
    Example:
      dbt-bridge plan
      dbt-bridge plan --select source:shop.orders+ --json
    """
    output, options = output_of(given), dbt_options(given)
    from dbt_bridge.project.load import load_project
    from dbt_bridge.run.plan import planned, print_plan

    project = load_project(options)
    found = planned(project)
    if output.as_json:
        output.document(plan=found.as_json())
    else:
        print_plan(found, sys.stdout)
    if found.is_empty and (options.select or options.exclude):
        click.echo(f"{as_given(about(project))} leaves nothing\n  -> {SELECTING}", err=True)
    return 0
