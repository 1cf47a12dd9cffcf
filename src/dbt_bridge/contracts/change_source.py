"""A database with a log of its changes, as capture needs it: Postgres with a slot, MySQL with its binlog, and others.

Who implements `ChangeSource` adds an origin for `replication: cdc`; nothing of capture, of the destinations or of the
commands has to be changed. `dbt_bridge.testing.change_source` has the tests that an implementation must pass.

A sync calls, in this order and in one thread:

    read_identity   whose checkpoints count
    take_census     how each declared table stands: capture decides whether it goes on, is copied anew or is refused
    require_log     refuses to go on where changes are missing
    ensure_log      the log is kept and has the changes of these tables (slot, publication, capture instance)
    open_snapshot   only where tables are copied: their rows and the position at which these are the table's
    find_end        where the log ends: that is how far a sync goes
    find_stale      whether the tables are still as the census and the copies found them
    follow          a feed of chunks from the least position on, acknowledged as they are committed
    settle          columns that changed without a row after them

Three guarantees are all that correctness stands on:

    the snapshot    shows exactly the commits below its position
    the feed        gives every commit at or above a table's position once, in commit order, and whole
    the log         is kept from the last acknowledged position on; where it was not, `require_log` says so

Everything may raise ConnectionFailed or OriginError; worth another try are the first, and the second where it
`broke_off`. The rest of the contract is how people operate it: `check_health`, `check_readiness`, `drop_log`, and the
lock on the landing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

from dbt_bridge.contracts.change_feed import (
    ChangeFeed,
    DeclaredTable,
    FollowedTable,
    Pace,
    TableEvents,
    TableFinding,
    TableVersion,
)
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns.position import Position


class Outdated(OriginError):
    """A table is not any more as the snapshot shows it, in which it is read: a newer snapshot is needed."""


@dataclass(frozen=True, slots=True)
class LogHealth:
    """How the log stands that an origin keeps for a source.

    Attributes:
        exists: False before the first sync; then nothing else is known.
        active, active_pid: somebody reads it now: which process of the server sends it.
        lag_bytes: log that was written since the last acknowledged position.
        lag_seconds: while somebody reads it, from the origin's write to their confirmation; else since when nobody
            does. None where the origin does not know.
        retained_bytes: log that the origin keeps.
        wal_status: the origin's own word for whether the log is safe.
        problem, mend: what is wrong and the next command; empty when all is well.
    """

    exists: bool
    active: bool = False
    active_pid: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    retained_bytes: int | None = None
    wal_status: str | None = None
    problem: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """One thing that was looked at before anything is followed: the server, the log, a table.

    Attributes:
        mend: the SQL or YAML that mends a fault.
    """

    subject: str
    status: Literal["ok", "note", "fault"]
    what: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class KeptLog:
    """A log that an origin keeps, and that dbt-bridge may have made.

    Attributes:
        name: see `ChangeSource.slot`.
        retained_bytes: of log that the origin keeps for it.
        is_read: somebody reads it now.
        owner: for whom it was made (`ChangeSourceSettings.owner`); empty where nothing says so.
    """

    name: str
    retained_bytes: int
    is_read: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class DroppedLog:
    """What was taken away at the origin.

    Attributes:
        existed: there was a log of this name.
        publications: names of what else dbt-bridge had made for it.
    """

    existed: bool
    publications: tuple[str, ...] = ()


class Snapshot(Protocol):
    """The origin at one position of its log, for as long as the context is open that gave it."""

    @property
    def position(self) -> Position:
        """The rows are the tables' at this position."""

    def read_clock(self) -> int:
        """When it was, by the origin's clock, as the commits after it: microseconds since 1970."""

    def open_origin(self) -> Origin:
        """Rows and catalog of that moment, to be closed by the caller; several may be open, in several threads.

        Its `describe` gives only the columns whose changes are in the log, and raises Outdated, as its `rows` do,
        where a table cannot be read any more as it was at the position.
        """

    def describe(self, table: DeclaredTable) -> TableVersion:
        """A table as of that moment.

        Raises:
            OriginError: it was not there.
        """


class LandingLease(Protocol):
    """The right of a stream to bring a source's landing up, as long as nobody wants to hold it still.

    Used by one thread at a time. Every method may raise ConnectionFailed or OriginError; the right is gone then.

    Attributes:
        source: dbt's name of it.
    """

    source: str

    @property
    def is_mine(self) -> bool:
        """Whether it is had, as far as is known here."""

    def take(self) -> bool:
        """Have it, or have it already; False while somebody holds the landing still or wants to."""

    def is_wanted(self) -> bool:
        """Whether it is time to let go. Never waits, and looks seldom: it is asked between chunks."""

    def let_go(self) -> None: ...


class ChangeSource(Protocol):
    """An origin with a log of its changes, of one dbt source. Constructing does no I/O; a context manager.

    One thread uses it, but for `open_origin` of its snapshots. Whom it waits for, and how near a bound is, it says
    through the `tell` that it was opened with (`ChangeSourceSettings`).

    Attributes:
        name: the origin's.
        slot: the name under which the origin keeps the log.
        beginning: before everything in the log.
        position_name: what the database calls a position, for people: `LSN`, `GTID`.
    """

    name: str
    slot: str
    beginning: Position
    position_name: str

    # --- positions -------------------------------------------------------------------------------------------------

    def parse_position(self, text: str) -> Position:
        """The position that was written as this text; no I/O.

        Raises:
            UsageError: it is none.
        """

    def read_identity(self) -> str:
        """What positions are valid for: the server and, after a `/`, the slot; so that a checkpoint of another server
        is noticed."""

    def find_end(self) -> Position:
        """A position behind every commit which a client saw acknowledged before this call, and to which the feed
        comes without further commits."""

    # --- how the tables stand --------------------------------------------------------------------------------------

    def take_census(self, tables: Sequence[DeclaredTable]) -> Mapping[str, TableFinding | BridgeError]:
        """How each table stands, by node: compared with its checkpoint's shape, or why it cannot be followed.

        Raises:
            OriginError: the log of this name is another program's.
            BridgeError: worth another try, or of the origin as a whole; an error of one table is answered, not raised.
        """

    def has_news(self, shapes: Sequence[str]) -> bool:
        """Whether a table's shape is another now; of some changes the log says nothing."""

    def find_stale(self, standing: Mapping[str, str]) -> Mapping[str, str]:
        """Look again, after `find_end`: what happened below it was seen now or in the census.

        Args:
            standing: node -> the shape in which the table stands or was copied.

        Returns:
            node -> why its rows are not what the log goes on from, so that it must be copied anew: values that read
            otherwise without a change of a row, or changes that the log does not have.
        """

    def settle(self, tables: Sequence[tuple[FollowedTable, TableFinding]]) -> TableEvents:
        """Take up columns that changed without a row after them, of tables whose finding `is_late`.

        Called when everything was applied up to where the log ended. A table whose new columns the log has
        brought meanwhile is left as it is.

        Args:
            tables: as they are followed now, each with what the census found.
        """

    # --- the log ---------------------------------------------------------------------------------------------------

    def require_log(self, positions: Mapping[str, Position]) -> None:
        """Refuse to go on where changes between a table's position and the log that is kept are missing, or where the
        log ends before the position, as after a restore.

        Raises:
            OriginError: names the tables that must be copied again.
        """

    def ensure_log(self, followed: Sequence[DeclaredTable], copied: Sequence[DeclaredTable]) -> Mapping[str, str]:
        """From here on the log has the changes of exactly these tables.

        Returns:
            Of those that are followed already: node -> why changes of it were not, or not whole, in the log meanwhile,
            so that it must be copied anew.

        Raises:
            OriginError: one cannot be added; or the log cannot be read across this change.
        """

    def open_snapshot(self, label: str, *, begins: bool = False) -> AbstractContextManager[Snapshot]:
        """The origin at a position that the log has, and from which on it is kept until the context ends.

        Args:
            label: tells it from others that are open at the same time: letters, digits and underscores.
            begins: no table is followed, so that the log may be begun at this position where none is kept, or begun
                anew where it was lost; then it stays when the context ends.
        """

    def follow(
        self, tables: Sequence[FollowedTable], start: Position, barriers: Sequence[Position | None], pace: Pace
    ) -> AbstractContextManager[ChangeFeed]:
        """Changes of these tables.

        Args:
            start: no table stands below it.
            barriers: ascending: the feed ends with the last one; None at the end goes on for ever.

        Raises (from entering, too):
            OriginError: somebody else reads the log.
        """

    def check_backlog(self, *, is_caught_up: bool) -> None:
        """Called between chunks, where it looks seldom, and when everything was applied.

        Raises:
            OriginError: the origin keeps more log than `max_wal`; and, between chunks, it does not get less.
        """

    def release_log(self, upto: Position) -> None:
        """No table is followed, so that log below it is of use to nobody."""

    # --- the lock on the landing -----------------------------------------------------------------------------------

    def lock_landing(self) -> AbstractContextManager[None]:
        """Hold the landing still while it is compared or repaired: whoever brings it up has let go, and waits.

        Raises:
            OriginError: somebody did not let go in time.
        """

    def share_landing(self) -> AbstractContextManager[None]:
        """Bring the landing up once, when nobody holds it still any more; who wants to waits until the context ends.

        Raises:
            OriginError: somebody did not let go in time.
        """

    def lease_landing(self) -> LandingLease:
        """Bring the landing up for as long as nobody wants to hold it still; see `LandingLease`."""

    # --- operation -------------------------------------------------------------------------------------------------

    def check_health(self, sync: str) -> LogHealth:
        """How the log stands, for `slots`.

        Args:
            sync: the command that brings the source up, for `mend`.
        """

    def check_readiness(self, tables: Sequence[DeclaredTable]) -> Iterator[Readiness]:
        """Look at everything that following these tables needs, for `doctor`. Writes nothing."""

    def list_logs(self) -> Sequence[KeptLog]:
        """All logs of this kind that the origin keeps, whoever uses them."""

    def drop_log(self) -> DroppedLog:
        """The origin keeps no log for the source any more.

        Raises:
            OriginError: somebody reads it.
            UsageError: it is another program's.
        """

    def close(self) -> None: ...

    def __enter__(self) -> ChangeSource: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
