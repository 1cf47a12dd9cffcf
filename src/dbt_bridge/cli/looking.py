"""plan, doctor: what would be done, and what stands in its way."""

from __future__ import annotations

import sys
from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, dbt_options, output_of, takes
from dbt_bridge.cli.output import FAILED
from dbt_bridge.cli.parities import SELECTING, about, as_given


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
    from dbt_bridge.plan import planned, print_plan
    from dbt_bridge.project import load_project

    project = load_project(options)
    found = planned(project)
    if output.as_json:
        output.document(plan=found.as_json())
    else:
        print_plan(found, sys.stdout)
    if found.is_empty and (options.select or options.exclude):
        click.echo(f"{as_given(about(project))} leaves nothing\n  -> {SELECTING}", err=True)
    return 0


@cli.command(short_help="Try connections, privileges, settings.")
@takes(*OPTIONS, *OUTPUT)
def doctor(**given: Any) -> int:
    """Look at every connection, privilege and setting that the project needs; say what mends each fault.

    \b
    Example:
      dbt-bridge doctor
      dbt-bridge doctor --target prod --json
    """
    output, options = output_of(given), dbt_options(given)
    from dataclasses import asdict

    from dbt_bridge.doctor import examined, print_findings
    from dbt_bridge.project import load_project

    findings = examined(lambda: load_project(options))
    found = list(findings) if output.as_json or output.quiet else print_findings(findings, sys.stdout)
    faults = [finding for finding in found if finding.status == "fault"]
    if output.as_json:
        output.document(status="failed" if faults else "success", checks=[asdict(finding) for finding in found])
    elif output.quiet:
        print_findings(iter(faults), sys.stderr)
    return FAILED if faults else 0
