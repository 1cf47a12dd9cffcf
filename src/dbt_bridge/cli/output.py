"""Where results go: to a person, or as one JSON document to a program."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.nouns.receipt import Receipt
    from dbt_bridge.observe.progress import Reporter
    from dbt_bridge.run.outcomes import BuildOutcome, DeliverOutcome, SyncOutcome

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@dataclass
class Output:
    """Where results go. With `--json` nothing but one document is written to standard output, whatever happens."""

    as_json: bool = False
    quiet: bool = False
    debug: bool = False

    def print_document(self, **parts: Any) -> None:
        """The one JSON document."""
        from dbt_bridge.nouns.outcome import format_document, make_document

        click.echo(format_document(make_document(**parts)))

    @contextmanager
    def open_reporter(self) -> Iterator[Reporter]:
        """Who tells a person what happens, while the context is open."""
        from dbt_bridge.observe.progress import make_reporter

        with self.reserve_stdout(), make_reporter(silent=self.as_json or self.quiet) as progress:
            yield progress

    def reserve_stdout(self) -> AbstractContextManager[Any]:
        """What dbt prints meanwhile goes to standard error where standard output is for the document."""
        return redirect_stdout(sys.stderr) if self.as_json else nullcontext()

    def print_outcome(
        self, outcome: SyncOutcome | BuildOutcome | DeliverOutcome, parities: Sequence[Parity] = ()
    ) -> int:
        """Print what moved; answers the exit code."""
        if self.as_json:
            self.print_document(**outcome.as_document())
        elif not self.quiet:
            self._print_moved(outcome.receipts, parities)
        else:
            self._print_errors(outcome.receipts, parities, ("failed",) if outcome.ok else ("failed", "skipped"))
        return 0 if outcome.ok else FAILED

    def _print_moved(self, receipts: Sequence[Receipt], parities: Sequence[Parity]) -> None:
        from dbt_bridge.observe.progress import print_summary

        if parities:
            from dbt_bridge.verify.report.terminal import print_parities

            print_parities(parities)
        print_summary(receipts)
        if not receipts and not parities:
            click.echo("nothing to move: no selected source or exposure has a config.meta.bridge block", err=True)

    def _print_errors(self, receipts: Sequence[Receipt], parities: Sequence[Parity], statuses: Collection[str]) -> None:
        """What went wrong; of what was skipped only where that is because something did."""
        from dbt_bridge.observe.progress import group_by_error

        for error, names in group_by_error((r.table_name, r.error) for r in receipts if r.status in statuses).items():
            click.echo(f"{', '.join(names)}: {error}", err=True)
        if unequal := [parity for parity in parities if not parity.is_equal]:
            from dbt_bridge.verify.report.terminal import print_parities

            print_parities(unequal, sys.stderr)

    def report_interruption(self, parities: Sequence[Parity], receipts: Sequence[Receipt]) -> int:
        """What was done before the interruption stays, and is reported; nothing is said of what was to come."""
        number = f" after {len(parities)} comparison{'' if len(parities) == 1 else 's'}" if parities else ""
        parts: dict[str, Any] = {"receipts": [receipt.as_json() for receipt in receipts]} if receipts else {}
        if parities:
            parts["parity"] = [parity.as_json() for parity in parities]
            if not self.as_json:
                from dbt_bridge.verify.report.terminal import ReportOptions, print_parities

                shown = [parity for parity in parities if not parity.is_equal] if self.quiet else parities
                print_parities(shown, sys.stderr if self.quiet else sys.stdout, ReportOptions(whole=False))
        mend = "run the same command again: what had landed stays"
        return self.report_failure(f"interrupted{number}", mend, INTERRUPTED, **parts)

    def report_failure(self, what: str, mend: str, code: int, **parts: Any) -> int:
        """Print why a command failed; answers its exit code."""
        if self.as_json:
            self.print_document(status="failed", error={"what": what, "mend": mend}, **parts)
        click.echo(f"{what}\n  -> {mend}" if mend else what, err=True)
        return code
