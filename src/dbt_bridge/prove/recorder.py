"""Two sides are compared while they stand still, and what came of it, also where it could not be done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from dbt_bridge.contracts.destination import Ledger, Replica, Warehouse
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, is_interruption
from dbt_bridge.nouns.parity import Interrupted, Level, Method, Parity
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.receipt import now
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.landing import Ends, Wanted
from dbt_bridge.system.malloc import large_blocks_kept
from dbt_bridge.verify.compare import Asked, compare
from dbt_bridge.verify.report.display import name


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How tables are compared.

    Attributes:
        bound: for tables with a cursor: `auto` leaves out rows beyond their checkpoint, `none` nothing; else a value
            of the cursor.
        shown: differences that are told in full, per table.
        threads: as for `sync`; None for the dbt profile's number.
    """

    level: Level = "rows"
    method: Method = "auto"
    bound: str = "auto"
    shown: int = 100
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides that stand still, and what is asked of them.

    Attributes:
        opened: the parity that is to be filled in.
        wanted, ends, replica: for a landing table: its declaration, where it comes from and lands, and what the
            destination knows of it; None for other relations.
        lsn: that both sides stand at; None for tables that follow no log.
        ledger: where receipts are kept, of a relation without `ends`.
    """

    opened: Parity
    origin: Side
    destination: Side
    asked: Asked
    wanted: Wanted | None = None
    ends: Ends | None = None
    replica: Replica | None = None
    lsn: int | None = None
    ledger: Ledger | None = None


Then = Callable[[Pair, Parity], Parity]
"""What is done with a comparison while both of its sides still stand where they were compared; what it answers is
reported (`repair` mends, and answers the second comparison)."""


def leave(pair: Pair, parity: Parity) -> Parity:
    """Nothing more is done."""
    return parity


def opened(load_id: str, node: str, ends: tuple[str, str], level: Level, at: str) -> Parity:
    """The parity of a comparison that begins now; failed until it is compared.

    Args:
        ends: the names of origin and destination, for people.
    """
    started = now()
    return Parity(load_id, node, *ends, level, "failed", at, started, started, 0.0, error="it was not compared")


def failed(parity: Parity, error: BaseException | str) -> Parity:
    """It could not be compared: that is a failure, never a match."""
    ended = now()
    seconds = (ended - parity.started_at).total_seconds()
    said = str(error) or type(error).__name__
    return replace(parity, status="failed", error=said, finished_at=ended, duration_seconds=seconds)


class Verdicts:
    """What a run has found: told and kept in `_dbt_bridge.parity` as soon as it stands, for what follows may be killed.

    A warehouse with transactions has each row at once. Through dlt every write is a load of its own, which takes
    seconds while landings are held still: there, rows wait for `keep`. A row that could not be written is written with
    the next one; leaving the context raises where that failed to the end. An interruption leaves it as `Interrupted`.

    Attributes:
        found: all of it, in the order in which it was told.
    """

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self.progress = progress
        self.found: list[Parity] = []
        self._ledger = ledger
        self._unkept: list[ParityRow] = []

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.keep()
        except BridgeError:
            if error is None:  # else that one is told
                raise
        if is_interruption(error):
            raise Interrupted(self.found) from error

    def stands(self, parity: Parity) -> Parity:
        """Nothing will change it any more: what was compared is not rolled back, nor what was repaired."""
        self.progress.compared(parity.node, name(in_a_line(parity)), ok=parity.is_equal)
        self.found.append(parity)
        self._unkept.append(parity.as_row())
        if isinstance(self._ledger, Warehouse):
            with suppress(BridgeError):  # is written with the next one
                self.keep()
        return parity

    def keep(self) -> None:
        """Write what was not written yet. Raises BridgeError: it could not be."""
        rows, self._unkept = self._unkept, []  # an interruption after the commit must not write them a second time
        try:
            self._ledger.record_parity(rows)
        except BridgeError:
            self._unkept = [*rows, *self._unkept]
            raise


def compared(pair: Pair, verdicts: Verdicts, then: Then = leave) -> Parity:
    """Compare, and tell; an error becomes a failed parity."""
    node, progress = pair.opened.node, verdicts.progress
    progress.started(node, name(pair.opened.destination), None)
    asked = replace(pair.asked, progress=lambda rows: progress.advanced(node, rows, 0))
    try:
        with large_blocks_kept():
            found = compare(pair.opened, pair.origin, pair.destination, asked)
        parity = then(pair, found)
    except BridgeError as error:
        parity = failed(pair.opened, error)
    return verdicts.stands(parity)


def in_a_line(parity: Parity) -> str:
    """For people, while others are compared: which table, what was found, at which state, in what time.

    Why it could not be compared is told at the end, with what mends it.
    """
    at = f"{'' if parity.at == 'now' else f' at {parity.at}'}, {parity.duration_seconds:.1f} s"
    if parity.status == "failed":
        return f"{parity.destination}: could not be compared{at}"
    rows = parity.rows_origin
    told = "" if rows is None else f"{rows:,} row{'' if rows == 1 else 's'} "
    if parity.is_equal:
        return f"{parity.destination}: {told}equal{'' if parity.level == 'rows' else f' ({parity.level})'}{at}"
    if found := parity.differences:
        return f"{parity.destination}: {found:,} of {told}differ{'s' if found == 1 else ''}{at}"
    if apart := sum(not aggregate.same for aggregate in parity.aggregates):
        alike = f"{told}equal, " if found == 0 else ""
        return (
            f"{parity.destination}: {alike}{apart:,} {'aggregate differs' if apart == 1 else 'aggregates differ'}{at}"
        )
    return f"{parity.destination}: the {parity.level} differ{at}"
