"""doctor: what stands in the way of a build."""

from __future__ import annotations

import sys
from typing import Any

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, dbt_options, output_of, takes
from dbt_bridge.cli.output import FAILED


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

    from dbt_bridge.project.load import load_project
    from dbt_bridge.run.doctor import examined, print_findings

    findings = examined(lambda: load_project(options))
    found = list(findings) if output.as_json or output.quiet else print_findings(findings, sys.stdout)
    faults = [finding for finding in found if finding.status == "fault"]
    if output.as_json:
        output.document(status="failed" if faults else "success", checks=[asdict(finding) for finding in found])
    elif output.quiet:
        print_findings(iter(faults), sys.stderr)
    return FAILED if faults else 0
