"""How the commands that compare print what they found, and write it to a report."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.output import FAILED, Output
from dbt_bridge.errors import BridgeError

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.run.outcomes import CompareOutcome


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a command presents what it found.

    Attributes:
        title: of the report.
        about: what the report says of the run, beside what the parities know.
        report: its file; None for none.
        show: differences of each table in the terminal; None for the default.
    """

    output: Output
    title: str
    about: Mapping[str, str]
    report: Path | None = None
    show: int | None = None


def make_presentation(output: Output, title: str, project: str, given: Mapping[str, Any]) -> Presentation:
    """Of what was `given` on the command line."""
    about = {
        "project": project,
        "target": given["target"] or "",
        "selection": " ".join(given["select"]),
        "left out": " ".join(given["exclude"]),
    }
    return Presentation(output, f"{title} of {project}", about, given["report"], given["show"])


def present(outcome: CompareOutcome, how: Presentation) -> int:
    """Print and report what was found; answers the exit code: 1 for any difference or failure."""
    unwritten = _write_report(outcome.parities, how)
    output = how.output
    if output.as_json:
        document = outcome.as_document()
        if unwritten is not None:
            document |= {"status": "failed", "error": {"what": unwritten.what, "mend": unwritten.mend}}
        output.print_document(**document)
    else:
        _print_comparison(outcome.parities, how)
        if unwritten is not None:
            click.echo(str(unwritten), err=True)
        elif how.report is not None and not output.quiet:
            click.echo(f"the report is in {how.report}", err=True)
    return 0 if outcome.ok and unwritten is None else FAILED


def _print_comparison(parities: Sequence[Parity], how: Presentation) -> None:
    from dbt_bridge.verify.report.terminal import EXAMPLES, ReportOptions, print_parities

    more = "--show N shows more here, --report FILE.html keeps them"
    shown = ReportOptions(EXAMPLES if how.show is None else how.show, more)
    if not how.output.quiet:
        print_parities(parities, sys.stdout, shown)
    elif unequal := [parity for parity in parities if not parity.is_equal]:
        print_parities(unequal, sys.stderr, shown)


def _write_report(parities: Sequence[Parity], how: Presentation) -> BridgeError | None:
    """Write the report, whole or not at all, for this user only: it shows values. Answers why it could not be."""
    if how.report is None:
        return None
    from dbt_bridge.verify.report.html import as_html

    text = as_html(parities, title=how.title, about=how.about)
    beside = how.report.with_name(f".{how.report.name[:40]}.{secrets.token_hex(4)}")
    try:
        try:
            with open(beside, "x", encoding="utf-8", opener=_open_for_this_user) as file:
                file.write(text)
            beside.replace(how.report)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        return BridgeError(f"the report could not be written to {how.report}: {error}", mend="the result is complete")
    return None


def _open_for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
