"""plan: what a build would do."""

from __future__ import annotations

import sys
from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, add_options, make_output, open_given


@cli.command(short_help="Show what `build` would do, in order.")
@add_options(*OPTIONS, *OUTPUT)
def plan(**given: Any) -> int:
    """Show what `build` would do, in order, without connecting to anything.

    What the last sync saw at the origins is told with it: slots that no source uses, columns that no log has.

    \b
    Example:
      dbt-bridge plan
      dbt-bridge plan --select source:shop.orders+ --json
    """
    output, project = make_output(given), open_given(given)
    from dbt_bridge.run.plan import print_plan
    from dbt_bridge.run.selected_nothing import SELECTING, format_selection

    found = project.plan()
    if output.as_json:
        output.print_document(**found.as_document())
    else:
        print_plan(found, sys.stdout)
    if found.is_empty and (selection := format_selection(project.options)):
        click.echo(f"{selection} leaves nothing\n  -> {SELECTING}", err=True)
    return 0
