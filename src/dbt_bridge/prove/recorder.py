"""A comparison as it is recorded: the question, its two sides, and the answer in `_dbt_bridge.parity`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from dbt_bridge.contracts.destination import Ledger, Replica, Warehouse
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, is_interruption
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Interrupted, Level, Method, Parity
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.receipt import now
from dbt_bridge.nouns.table import Column
from dbt_bridge.observe.progress import Progress
from dbt_bridge.replicate.loads import with_room
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.wanted import Wanted
from dbt_bridge.system.malloc import keep_large_blocks
from dbt_bridge.verify.compare import compare, finish_parity
from dbt_bridge.verify.report.display import format_name
from dbt_bridge.verify.request import Bound, VerifyRequest


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How tables are compared.

    Attributes:
        bound: for tables with a cursor: `auto` leaves out rows beyond their checkpoint, `none` leaves out nothing; any
            other text is a value of the cursor.
        shown: how many differences of each table are reported in full.
        threads: as for `sync`; None for the dbt profile's number.
    """

    level: Level = "rows"
    method: Method = "auto"
    bound: str = "auto"
    shown: int = 100
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Two sides that do not change while they are compared, and how to compare them.

    Attributes:
        blank: the parity that the comparison fills in.
        replica: what the destination knows of its table.
        ledger: where receipts are kept.
        ends: for a landing table: where it comes from and lands; None for other relations.
        position: where both sides stand in the origin's log; None for tables that follow no log.
    """

    blank: Parity
    sides: Both[Side]
    request: VerifyRequest
    replica: Replica
    ledger: Ledger
    ends: Ends | None = None
    position: Position | None = None


FollowUp = Callable[[Question, Parity], Parity]
"""What is done with an answer while both sides still stand where they were compared. The parity that it returns is
recorded: `repair` repairs, and returns the second comparison."""


def no_follow_up(_: Question, parity: Parity) -> Parity:
    """The answer as it is."""
    return parity


def start_parity(load_id: str, node: str, names: Both[str], level: Level, at: str = "now") -> Parity:
    """The parity of a comparison that begins now; its status is `failed` until both sides have been compared.

    Args:
        names: of both sides, for people.
    """
    began = now()
    origin, destination = names
    return Parity(
        load_id, node, origin, destination, level, "failed", at, began, began, 0.0, error="it was not compared"
    )


def fail_parity(parity: Parity, error: BaseException | str) -> Parity:
    """The parity of a comparison that could not be made: that is a failure, never a match."""
    return finish_parity(parity, status="failed", error=str(error) or type(error).__name__)


class ParityRecorder:
    """Reports each answer of a run and writes it to `_dbt_bridge.parity` at once, as what follows may be killed.

    A warehouse with transactions gets each row at once. Through dlt every write is a load of its own, which takes
    seconds while landings are held still: there, rows wait for `flush`. A row that could not be written is written with
    the next one; leaving the context raises the error if the last attempt failed too. An interruption leaves the
    context as `Interrupted`, with the parities that were recorded before it.

    Attributes:
        parities: all answers, in the order in which they were recorded.
    """

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self.progress = progress
        self.parities: list[Parity] = []
        self._ledger = ledger
        self._unwritten: list[ParityRow] = []

    def __enter__(self) -> ParityRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.flush()
        except BridgeError:
            if error is None:  # otherwise the first error is the one to report
                raise
        if is_interruption(error):
            raise Interrupted(self.parities) from error

    def record(self, parity: Parity) -> Parity:
        """Report and write an answer that nothing will change any more: neither is a repair rolled back."""
        self.progress.compared(parity.node, format_name(format_parity(parity)), ok=parity.is_equal)
        self.parities.append(parity)
        self._unwritten.append(parity.as_row())
        if isinstance(self._ledger, Warehouse):
            with suppress(BridgeError):  # the next flush writes it
                self.flush()
        return parity

    def flush(self) -> None:
        """Write the rows that are not written yet. Raises BridgeError: they could not be written."""
        rows, self._unwritten = self._unwritten, []  # an interruption after the commit must not write them again
        try:
            self._ledger.record_parity(rows)
        except BridgeError:
            self._unwritten = [*rows, *self._unwritten]
            raise


@dataclass(frozen=True, slots=True)
class VerifyRun:
    """One run of `verify`: how it compares, and where its answers go."""

    load_id: str
    options: VerifyOptions
    recorder: ParityRecorder
    follow_up: FollowUp = no_follow_up

    def start(self, node: str, names: Both[str], at: str = "now") -> Parity:
        return start_parity(self.load_id, node, names, self.options.level, at)

    def start_landing(self, wanted: Wanted, destination: str, at: str = "now") -> Parity:
        """The parity of a landing table.

        Args:
            destination: the name of the database that it lands in.
        """
        schema = f"{wanted.source.origin_schema}." if wanted.source.origin_schema else ""
        origin = f"{wanted.source.origin}: {schema}{wanted.table.identifier}"
        return self.start(wanted.table.node, Both(origin, f"{destination}: {wanted.relation}"), at)

    def request(
        self,
        key: Sequence[str],
        columns: Sequence[Column],
        *,
        masked: Collection[str] = (),
        bound: Bound | None = None,
    ) -> VerifyRequest:
        """To compare these columns, which have one name on both sides."""
        return VerifyRequest(
            level=self.options.level,
            method=self.options.method,
            key=tuple(key),
            columns={column.name: column.name for column in columns},
            masked=frozenset(masked),
            bound=bound,
            shown=self.options.shown,
        )

    def answer(self, question: Question) -> Parity:
        """Compare both sides, do what follows, and record the answer; an error becomes a failed parity."""
        blank, progress = question.blank, self.recorder.progress
        progress.started(blank.node, format_name(blank.destination), None)
        request = replace(question.request, progress=lambda rows: progress.advanced(blank.node, rows, 0))
        origin, destination = question.sides
        try:
            with keep_large_blocks():
                found = with_room(lambda: compare(blank, origin, destination, request))
            parity = self.follow_up(question, found)
        except BridgeError as error:
            parity = fail_parity(blank, error)
        return self.recorder.record(parity)

    def fail(self, blank: Parity, error: BaseException | str) -> Parity:
        """Record that a comparison could not be made."""
        return self.recorder.record(fail_parity(blank, error))


def format_parity(parity: Parity) -> str:
    """One line for people, while others are compared: which table, what was found, at which state, in what time.

    Why a table could not be compared is reported at the end, with the next command.
    """
    at = f"{'' if parity.at == 'now' else f' at {parity.at}'}, {parity.duration_seconds:.1f} s"
    if parity.status == "failed":
        return f"{parity.destination}: could not be compared{at}"
    rows = parity.rows_origin
    count = "" if rows is None else f"{rows:,} row{'' if rows == 1 else 's'} "
    if parity.is_equal:
        return f"{parity.destination}: {count}equal{'' if parity.level == 'rows' else f' ({parity.level})'}{at}"
    if differences := parity.differences:
        return f"{parity.destination}: {differences:,} of {count}differ{'s' if differences == 1 else ''}{at}"
    if apart := sum(not aggregate.same for aggregate in parity.aggregates):
        alike = f"{count}equal, " if differences == 0 else ""
        return (
            f"{parity.destination}: {alike}{apart:,} {'aggregate differs' if apart == 1 else 'aggregates differ'}{at}"
        )
    return f"{parity.destination}: the {parity.level} differ{at}"
