"""What the commands that compare share: their options, and how they tell what was found."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.options import DEBUG, OUTPUT
from dbt_bridge.cli.output import FAILED, Output
from dbt_bridge.errors import BridgeError, UsageError

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.nouns.project import Project

_SHOWN = 100  # differences of a table that JSON and the report hold where nobody says otherwise


class ReportFile(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.3
    """Where a report goes. That it can be written is found out before anything is compared."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value).resolve()
        if path.exists() and not path.is_file():
            self.fail(f"{path} is not a file", param, ctx)
        if path.exists() and not _is_page(path):
            self.fail(f"{path} is there, and is no report: it would be lost", param, ctx)
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}."):
                return path
        except OSError as error:
            self.fail(f"the report cannot be written to {path}: {error.strerror or error}", param, ctx)


def _is_page(path: Path) -> bool:
    """Whether a file may be replaced by a report: another one, or an empty one."""
    try:
        with path.open("rb") as file:
            return file.read(15).lower() in (b"", b"<!doctype html>")
    except OSError:
        return False


MOVED = "source table or exposure with a config.meta.bridge block"
REPLACING = "model with config.meta.bridge.reconcile"

METHOD = click.option(
    "--method",
    type=click.Choice(["auto", "digests", "buckets", "values"]),
    default="auto",
    show_default=True,
    help="How rows are compared: a digest of each, sums of digests in buckets (for slow wires), or their values.",
)
SHOW = click.option(
    "--show",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Differences told of each table; by default 10 here, {_SHOWN} in --json and --report.",
)
REPORT = click.option(
    "--report", type=ReportFile(), metavar="FILE", help="Also write a report, as one self-contained HTML file."
)
FOUND = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document with what was found."),
    *OUTPUT[1:-1],
    DEBUG,
)


def shown(given: Mapping[str, Any]) -> int:
    """How many differences of each table a comparison is to tell."""
    return _SHOWN if given["show"] is None else int(given["show"])


@dataclass(frozen=True, slots=True)
class Told:
    """How a command tells what it found.

    Attributes:
        title: of the report.
        things: what is compared, for a selection that has none of it.
        about: what the report says of the run, beside what the parities know.
        report: its file; None for none.
        show: differences of each table in the terminal; None for the default.
    """

    output: Output
    title: str
    things: str
    about: Mapping[str, str]
    report: Path | None = None
    show: int | None = None


def about(project: Project) -> dict[str, str]:
    """What a report says of the run."""
    options = project.options
    return {
        "project": project.name,
        "target": options.target or "",
        "selection": " ".join(options.select),
        "left out": " ".join(options.exclude),
    }


_SELECTED_AS = {
    MOVED: "select tables as source:NAME.TABLE (a ? stands for a blank) and deliveries as exposure:NAME",
    REPLACING: "select models by their name",
}
SELECTING = f"{_SELECTED_AS[REPLACING]}, {_SELECTED_AS[MOVED].removeprefix('select ')}"


def as_given(known: Mapping[str, str]) -> str:
    """The selection's flags, as they stood in the command.

    Args:
        known: `about` the run.
    """
    flags = (("--select", "selection"), ("--exclude", "left out"))
    return " ".join(f"{flag} {known[key]}" for flag, key in flags if known.get(key))


def nothing_compared(things: str, known: Mapping[str, str]) -> UsageError:
    """A gate that compared nothing must not pass; the message says what the selection has none of.

    Args:
        known: `about` the run.
    """
    given = as_given(known)
    whose = f"{given} leaves no" if given else "the project has no"
    advice = f"{_SELECTED_AS[things]}; " if given and things in _SELECTED_AS else ""
    return UsageError(
        f"nothing was compared: {whose} {things}", mend=f"{advice}look at what is declared: dbt-bridge plan"
    )


def told(parities: Sequence[Parity], how: Told, **document: Any) -> int:
    """Print and report what was found; answers the exit code: 1 for any difference or failure.

    Args:
        document: other parts of the JSON document (`receipts` of a repair).

    Raises:
        UsageError: nothing was compared. A gate that compared nothing must not pass.
    """
    if not parities:
        raise nothing_compared(how.things, how.about)
    unwritten = _reported(parities, how)
    ok = all(parity.is_equal for parity in parities) and unwritten is None
    output = how.output
    if output.as_json:
        error = {"what": unwritten.what, "mend": unwritten.mend} if unwritten else None
        found = [parity.as_json() for parity in parities]
        output.document(status="success" if ok else "failed", parity=found, error=error, **document)
    else:
        _printed(parities, how)
        if unwritten is not None:
            click.echo(str(unwritten), err=True)
        elif how.report is not None and not output.quiet:
            click.echo(f"the report is in {how.report}", err=True)
    return 0 if ok else FAILED


def _printed(parities: Sequence[Parity], how: Told) -> None:
    import sys

    from dbt_bridge.verify.report.terminal import EXAMPLES, ReportOptions, print_parities

    more = "--show N shows more here, --report FILE.html keeps them"
    shown = ReportOptions(EXAMPLES if how.show is None else how.show, more)
    if not how.output.quiet:
        print_parities(parities, sys.stdout, shown)
    elif unequal := [parity for parity in parities if not parity.is_equal]:
        print_parities(unequal, sys.stderr, shown)


def told_at_the_end(parities: Sequence[Parity]) -> None:
    """Print what is now, of a command whose receipts have said what to run next."""
    from dbt_bridge.verify.report.terminal import ReportOptions, print_parities

    print_parities(parities, shown=ReportOptions(commands=False))


def _reported(parities: Sequence[Parity], how: Told) -> BridgeError | None:
    """Write the report, whole or not at all; answers why it could not be written."""
    if how.report is None:
        return None
    from dbt_bridge.verify.report.html import as_html

    text = as_html(parities, title=how.title, about=how.about)
    beside = how.report.with_name(f".{how.report.name[:40]}.{secrets.token_hex(4)}")
    try:
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(how.report)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        return BridgeError(f"the report could not be written to {how.report}: {error}", mend="the result is complete")
    return None
