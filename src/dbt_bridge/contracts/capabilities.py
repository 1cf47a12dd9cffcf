"""What some origins, destinations and states can do beyond their contract: whoever needs it asks with `isinstance`.

    of a warehouse      AnswersQueries    is asked in SQL                                  DuckDB, Postgres, dlt
                        FingerprintsRows  tells whether rows are still the same            DuckDB, Postgres
                        OpensOnce         can be opened only once in a process             DuckDB
                        HoldsDatabases    reaches several databases                        DuckDB, some through dlt
    of an origin        SendsRawCopy      sends rows undecoded                             Postgres
                        DigestsTables     digests rows where they are                      Postgres
                        HoldsTables       keeps tables from changing while it reads them   Postgres
                        HasClock          knows when its snapshot began                    Postgres
                        HasIdentity       says which database it is                        Postgres, SQLAlchemy
    of a destination    TakesRawCopy      takes such rows                                  Postgres
                        ComparesKeys      has types that it does not compare as keys       DuckDB, Postgres, Delta
                        Tells             has something to say beside counts               DuckDB
    of a state          DigestsReplicas   digests rows where they are                      Postgres

`destination` has what most destinations can: `Follows` (applies changes), `Readable` (gives back what it holds); `side`
has `Digests` and `Cancels`. `dbt_bridge.testing` tests each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dbt_bridge.contracts.destination import Ledger, Load, Replica, Staged
    from dbt_bridge.contracts.origin import Increment
    from dbt_bridge.contracts.queries import Queries
    from dbt_bridge.contracts.settings import OriginSettings
    from dbt_bridge.contracts.side import Digests
    from dbt_bridge.nouns.table import Column, TableName


@runtime_checkable
class HoldsTables(Protocol):
    """An origin that keeps a table from being dropped or rewritten from its description on, until it is closed."""

    def let_go(self, name: TableName) -> None:
        """Nothing more is read of a table: it is kept no more. It may be described again."""


@runtime_checkable
class AnswersQueries(Protocol):
    """A warehouse that is asked in SQL."""

    def queries(self, schema: str) -> Queries:
        """Its relations, to be closed by the caller.

        Args:
            schema: that of the dbt profile, for databases whose names need one.
        """


@runtime_checkable
class FingerprintsRows(Protocol):
    """A warehouse that tells whether a relation holds the same rows as before, without sending them."""

    def fingerprint(self, name: TableName) -> str:
        """Another text when the relation holds other rows, in whatever order; empty where there is no such relation,
        or it cannot tell."""


@runtime_checkable
class OpensOnce(Protocol):
    """A database that cannot be opened a second time in this process."""

    def is_database_of(self, settings: OriginSettings) -> bool:
        """Whether an origin's credentials mean this very database."""


@runtime_checkable
class HoldsDatabases(Protocol):
    """A warehouse that reaches more databases than the one that dbt's profile names: attached ones, catalogs, projects.

    One that lacks this has one database, and a relation of another is refused before anything moves.
    """

    def open_database(self, name: str, *, to_write: bool = False) -> Ledger:
        """The same warehouse, whose tables are those of another of its databases. Closing it closes nothing.

        One that is a `Warehouse` keeps the checkpoints and receipts of rows that land there in that database too, in
        one transaction with the rows.

        Raises:
            UsageError: there is none of this name, or none that can be written to.
        """


@runtime_checkable
class ComparesKeys(Protocol):
    """A destination that follows, and has types whose values it does not compare as their origin does."""

    def check_key(self, name: TableName, column: Column) -> None:
        """Look at a key column before its table is followed.

        Args:
            name: of the landing table.
            column: as `map_column` answered it.

        Raises:
            KeyRefused: rows would not be found by it, or several; names the type that would do.
        """


@runtime_checkable
class Tells(Protocol):
    """A destination that has something to say to a person beside what it counts, such as a bound that it raised."""

    def take_told(self) -> list[str]:
        """What happened since the last time, a line each."""


@runtime_checkable
class SendsRawCopy(Protocol):
    """An origin that sends rows undecoded, for a destination that takes the same format.

    Attributes:
        raw_format: which; compared with that of the destination.
    """

    raw_format: str

    def copy_raw(
        self,
        name: TableName,
        columns: Sequence[str],
        casts: Mapping[str, str],
        increment: Increment | None = None,
        *,
        workers: int = 1,
    ) -> list[Iterator[bytes]]:
        """The rows, in up to `workers` streams that may be read at once.

        Args:
            casts: column -> the type that the destination wants it in; the others come as they are.
        """


@runtime_checkable
class TakesRawCopy(Protocol):
    """A destination that stages rows undecoded.

    Attributes:
        raw_format: which; compared with that of the origin.
    """

    raw_format: str

    def find_raw_casts(self, load: Load) -> dict[str, str] | None:
        """Column -> the type that it must come in, for those that need one; None where rows must be decoded."""

    def stage_raw(self, load: Load, streams: Sequence[Iterator[bytes]]) -> Staged:
        """As `Warehouse.stage`.

        Args:
            streams: each with the columns of `load.table` in their order; they are read at once.
        """


@runtime_checkable
class DigestsTables(Protocol):
    """An origin that digests rows where they are."""

    def digest_table(self, name: TableName, workers: int = 1) -> Digests:
        """Of a table, in the origin's snapshot."""


@runtime_checkable
class DigestsReplicas(Protocol):
    """A state that digests rows where they are."""

    def digest_replica(self, replica: Replica) -> Digests:
        """Of the rows that stand for rows of the origin, as `State.rows` gives them."""


@runtime_checkable
class ChecksReading(Protocol):
    """An origin, or a destination, that knows before the first row whether its user sees all of them."""

    def require_readable(self, name: TableName, columns: Sequence[str]) -> None:
        """Nothing where there is no such table.

        Raises:
            OriginError, DestinationError: a column may not be read, or some of the rows are hidden from the user.
        """


@runtime_checkable
class HasClock(Protocol):
    """An origin that knows when the snapshot began that it reads."""

    def read_clock(self) -> int:
        """By the origin's clock: microseconds since 1970."""


@runtime_checkable
class HasIdentity(Protocol):
    """An origin that says which database it is, whatever address leads to it."""

    def read_identity(self) -> tuple[str, ...]:
        """What it is known by: another server, database or file has none of these, a standby has one of them. Empty
        where the database does not say."""
