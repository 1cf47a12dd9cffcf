"""doctor: what stands in the way of a build."""

from __future__ import annotations

import sys
from typing import Any

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OPTIONS, OUTPUT, add_options, make_output, open_given
from dbt_bridge.cli.output import FAILED


@cli.command(short_help="Try connections, privileges, settings.")
@add_options(*OPTIONS, *OUTPUT)
def doctor(**given: Any) -> int:
    """Look at every connection, privilege and setting that the project needs; say what mends each fault.

    \b
    Example:
      dbt-bridge doctor
      dbt-bridge doctor --target prod --json
    """
    output = make_output(given)
    from dbt_bridge.run.doctor import Findings, print_findings

    findings = open_given(given).stream_findings()
    found = Findings(findings) if output.as_json or output.quiet else print_findings(findings, sys.stdout)
    if output.as_json:
        output.print_document(**found.as_document())
    elif output.quiet:
        print_findings((finding for finding in found if finding.status == "fault"), sys.stderr)
    return 0 if found.ok else FAILED
