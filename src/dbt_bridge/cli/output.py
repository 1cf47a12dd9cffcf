"""Where results go: to a person, or as one JSON document to a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.nouns.receipt import Receipt
    from dbt_bridge.observe.progress import Reporter
    from dbt_bridge.project.invoke import BuildResult

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@dataclass
class Output:
    """Where results go. With `--json` nothing but one document is written to standard output, whatever happens."""

    as_json: bool = False
    quiet: bool = False
    debug: bool = False

    def document(self, **parts: Any) -> None:
        """The one JSON document."""
        blank: dict[str, Any] = {"status": "success", "receipts": [], "dbt": None, "error": None}
        click.echo(json.dumps({**blank, **parts}, ensure_ascii=False, default=str))

    def reporter(self) -> Reporter:
        from dbt_bridge.observe.progress import reporter

        return reporter(silent=self.as_json or self.quiet)

    def result(
        self,
        receipts: Sequence[Receipt],
        *,
        ok: bool,
        dbt: BuildResult | None = None,
        parities: Sequence[Parity] = (),
    ) -> int:
        """Print what happened; answers the exit code."""
        if self.as_json:
            status = "success" if ok else "failed"
            compared = {"parity": [p.as_json() for p in parities]} if parities else {}
            self.document(status=status, receipts=[r.as_json() for r in receipts], dbt=_dbt_as_json(dbt), **compared)
        elif not self.quiet:
            from dbt_bridge.observe.progress import print_summary

            if parities:
                from dbt_bridge.verify.report.terminal import print_parities

                print_parities(parities)
            print_summary(receipts)
            if not receipts and not parities:
                click.echo("nothing to move: no selected source or exposure has a config.meta.bridge block", err=True)
        else:
            self._errors(receipts, parities, ("failed",) if ok else ("failed", "skipped"))
        return 0 if ok else FAILED

    def _errors(self, receipts: Sequence[Receipt], parities: Sequence[Parity], told: Collection[str]) -> None:
        """What went wrong; of what was skipped only where that is because something did."""
        from dbt_bridge.observe.progress import by_error

        for error, names in by_error((r.table_name, r.error) for r in receipts if r.status in told).items():
            click.echo(f"{', '.join(names)}: {error}", err=True)
        if unequal := [parity for parity in parities if not parity.is_equal]:
            from dbt_bridge.verify.report.terminal import print_parities

            print_parities(unequal, sys.stderr)

    def interrupted(self, parities: Sequence[Parity], receipts: Sequence[Receipt]) -> int:
        """What had been done by then stays, and is told; nothing is said of what was to come."""
        number = f" after {len(parities)} comparison{'' if len(parities) == 1 else 's'}" if parities else ""
        parts: dict[str, Any] = {"receipts": [receipt.as_json() for receipt in receipts]} if receipts else {}
        if parities:
            parts["parity"] = [parity.as_json() for parity in parities]
            if not self.as_json:
                from dbt_bridge.verify.report.terminal import ReportOptions, print_parities

                told = [parity for parity in parities if not parity.is_equal] if self.quiet else parities
                print_parities(told, sys.stderr if self.quiet else sys.stdout, ReportOptions(whole=False))
        mend = "run the same command again: what had landed stays"
        return self.failure(f"interrupted{number}", mend, INTERRUPTED, **parts)

    def failure(self, what: str, mend: str, code: int, **parts: Any) -> int:
        if self.as_json:
            self.document(status="failed", error={"what": what, "mend": mend}, **parts)
        click.echo(f"{what}\n  -> {mend}" if mend else what, err=True)
        return code


def _dbt_as_json(built: BuildResult | None) -> dict[str, Any] | None:
    if built is None:
        return None
    nodes = [
        {"unique_id": n.unique_id, "status": n.status, "message": n.message, "seconds": n.seconds} for n in built.nodes
    ]
    return {"success": built.success, "error": built.error, "nodes": nodes}
