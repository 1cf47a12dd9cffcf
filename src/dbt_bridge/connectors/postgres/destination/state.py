"""What Postgres holds at one moment: an exported snapshot, which every connection that reads imports.

Values come back in exactly the replica's types, infinity as it landed; `read` of the warehouse refuses that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.connectors.postgres.destination import change_log
from dbt_bridge.connectors.postgres.destination.column_types import base
from dbt_bridge.connectors.postgres.destination.read import as_text, make_decoder, select_exactly
from dbt_bridge.connectors.postgres.destination.relation import Relation, find_relation
from dbt_bridge.connectors.postgres.destination.session import (
    READING,
    advise_grant,
    connect,
    find_driver,
    translate_errors,
)
from dbt_bridge.connectors.postgres.wire import bulk, key_search
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection
from dbt_bridge.connectors.postgres.wire.digest_sql import (
    build_bucket_select,
    build_digest_select,
    check_server,
    measure_transfer_rate,
)
from dbt_bridge.connectors.postgres.wire.key_search import Comparison, Lookup
from dbt_bridge.connectors.postgres.wire.session import READ_SETTINGS, build_settings_sql, is_broken
from dbt_bridge.connectors.postgres.wire.watch import Silence, Watch, WatchedConnection
from dbt_bridge.contracts.canon import Digested, NoDigests
from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.errors import DestinationError, scrubbed
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)
from dbt_bridge.replicate.change_log import LOG_COLUMNS
from dbt_bridge.replicate.replica_checks import recopy_command
from dbt_bridge.replicate.stored_values import cast_columns, missing_column
from dbt_bridge.system.aside import Aside
from dbt_bridge.system.owned_reader import make_reader

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# As an origin's connections have them: digests and texts depend on them. A landing may be locked for as long as dbt
# builds.
_SET = build_settings_sql({**dict(READ_SETTINGS), "lock_timeout": "0"}.items(), for_transaction=True)

_BY_VALUE = {
    "smallint", "integer", "bigint", "real", "double precision", "boolean", "bytea", "uuid", "date",
    "time without time zone", "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip


ROW = "_row"
_BUCKETS = pa.schema({"bucket": pa.int64(), "rows": pa.int64(), "total": pa.decimal128(38, 0)})


@dataclass(frozen=True, slots=True)
class Standing:
    """What is read: SQL after FROM whose rows stand for the origin's, and the relation that it is made of."""

    sql: str
    relation: Relation


class PostgresState:
    """A `State` in one exported snapshot.

    Args:
        control: in a transaction of its own.
        snapshot: that transaction's.
    """

    def __init__(self, conninfo: str, control: WatchedConnection, snapshot: str) -> None:
        self._driver_conninfo = find_driver(conninfo, control).conninfo
        self._control = control
        self._snapshot = snapshot
        self._idle: list[BulkConnection] = []
        self._reading: list[BulkConnection] = []
        self.server_version = control.info.server_version

    def count(self, replica: Replica) -> int:
        return int(self.row(f"SELECT count(*) FROM {self.standing(replica).sql}")[0])  # noqa: S608

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `State.rows`."""
        standing = self.standing(replica)
        found, name = standing.relation, replica.table.name
        selected = ", ".join(select_exactly(c, found.columns[c.name]) for c in replica.table.columns)
        query = f"SELECT {selected} FROM {standing.sql}"  # noqa: S608
        queries: Iterator[str] = iter([query])
        if keys is not None:
            lookups = {key: _lookup(replica, found, key, keys.schema.field(key).type) for key in keys.column_names}
            queries = (f"{query} WHERE {part}" for part in key_search.build_conditions(keys, lookups.__getitem__))
        schema = replica.table.arrow_schema
        decoders = [make_decoder(field.type) for field in schema]

        def batches() -> Iterator[pa.RecordBatch]:
            for one in queries:
                for batch in self.stream(one, name):
                    try:
                        arrays = [decode(array) for decode, array in zip(decoders, batch.columns, strict=True)]
                    except ValueError as error:
                        raise DestinationError(f"{name}: {error}", mend=recopy_command(replica.node)) from error
                    yield cast_columns(arrays, schema, name)

        return make_reader(schema, batches())

    def digest_replica(self, replica: Replica) -> ReplicaDigests:
        """The digests of a replica's rows, computed by the server."""
        return ReplicaDigests(self, replica)

    # --- for the digests too ----------------------------------------------------------------------------

    def standing(self, replica: Replica) -> Standing:
        """The replica's rows as they stand.

        Raises:
            DestinationError: no such table or column, or a log from which no state can be told.
        """
        name = replica.table.name
        with translate_errors(name, READING), self._control.transaction(), self._control.cursor() as cur:
            found = find_relation(cur, name)
        if found is None or found.is_ghost:
            raise DestinationError(f"there is no table {name}", mend=recopy_command(replica.node))
        own = [DELETED_AT] if replica.deletes == "soft" and not replica.change_log else []
        own += list(LOG_COLUMNS) if replica.change_log else []
        for column in (*(c.name for c in replica.table.columns), *own):
            if column not in found.columns:
                raise missing_column(name, column, replica)
        table = quote_table_name(name)
        if replica.change_log:
            return Standing(f"{change_log.select_state(replica, table, found.columns, self.row)} AS state", found)
        if own:
            return Standing(f"(SELECT * FROM {table} WHERE {quote_identifier(DELETED_AT)} IS NULL) AS state", found)  # noqa: S608
        return Standing(table, found)

    def row(self, query: str) -> tuple[Any, ...]:
        """The first row of a query in the snapshot, which one that fails leaves usable."""
        with translate_errors("a state", READING), self._control.transaction():
            row = self._control.execute(query.encode()).fetchone()
        assert row is not None, "it has one"
        return tuple(row)

    def stream(self, query: str, where: TableName) -> Iterator[pa.RecordBatch]:
        """The batches of a query, on a connection of its own in the snapshot."""
        watch = Watch(self._driver_conninfo)
        try:
            connection = self._idle.pop() if self._idle else None
            with Aside((connection.watch if connection else watch).look_at_waiting) as aside:
                connection = connection or aside.call(lambda: self._open_connection(watch))
                self._reading.append(connection)
                try:
                    yield from aside.iterate(connection.stream(query))
                except BaseException:  # also when nobody reads on: what is still sent would have to be read
                    connection.close()
                    raise
                finally:
                    self._reading.remove(connection)
                self._idle.append(connection)
        except (bulk.Error, Silence, OSError, pa.ArrowException) as error:  # pyarrow's own in the middle of a stream
            said = scrubbed(" ".join(str(error).split()))
            raise DestinationError(
                f"Postgres broke off while {where} was read: {said}",
                mend=advise_grant(said, READING) or "run the same command again",
                broke_off=is_broken("", said),
            ) from error

    def cancel(self) -> None:
        """End what another thread reads, which gets an error."""
        with suppress(psycopg.Error):  # it ended by itself, or the server is gone
            self._control.cancel_safe(timeout=5)
        for connection in list(self._reading):
            connection.cancel()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _open_connection(self, watch: Watch) -> BulkConnection:
        connection = BulkConnection(self._driver_conninfo, watch)
        try:
            for statement in (_BEGIN, f"SET TRANSACTION SNAPSHOT '{self._snapshot}'"):
                connection.execute(statement)
            connection.prepare(_SET)
        except BaseException:
            connection.close()
            raise
        return connection


class ReplicaDigests:
    """Digests of one replica's rows, computed by the server: `contracts.side.Digests`, in the state's snapshot.

    Raises (from every method):
        NoDigests: the server hashes otherwise, or cannot hash one of the columns; before any row is read.
    """

    def __init__(self, state: PostgresState, replica: Replica) -> None:
        self.wire_bytes = 0
        self._state = state
        self._replica = replica
        self._is_checked = False

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: BucketSelection | None = None
    ) -> pa.RecordBatchReader:
        """See `Digests.digests`."""
        standing = self._check_standing()
        keys = [d.column for d in key]
        selected = [select_exactly(column, standing.relation.columns[column.name]) for column in keys]
        own = Column(ROW, pa.int64(), nullable=False)
        name = self._replica.table.name
        schema = Table(name, (*keys, own)).arrow_schema
        query = build_digest_select(
            standing.sql, _own(key, standing), _own(values, standing), selected=selected, within=within
        )
        decoders = [make_decoder(field.type) for field in schema]

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._state.stream(query, name):
                self.wire_bytes += batch.nbytes
                arrays = [decode(array) for decode, array in zip(decoders, batch.columns, strict=True)]
                yield cast_columns(arrays, schema, name)

        return make_reader(schema, batches())

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        """See `Digests.buckets`."""
        standing = self._check_standing()
        sums = build_bucket_select(standing.sql, _own(key, standing), _own(values, standing), buckets)
        query = f"SELECT bucket, rows, total::text AS total FROM ({sums}) AS sums"  # noqa: S608
        found = []
        for batch in self._state.stream(query, self._replica.table.name):
            self.wire_bytes += batch.nbytes
            total = pc.cast(batch.column(2), pa.decimal128(38, 0))
            found.append(pa.RecordBatch.from_arrays([batch.column(0), batch.column(1), total], schema=_BUCKETS))
        return pa.Table.from_batches(found, _BUCKETS)

    def transfer_rate(self) -> float:
        """See `Digests.transfer_rate`."""
        return measure_transfer_rate(self._state.row)

    def _check_standing(self) -> Standing:
        standing = self._state.standing(self._replica)
        if self._is_checked:
            return standing
        version = self._state.server_version
        check_server(version, self._state.row)
        if ROW in standing.relation.columns:
            raise NoDigests(f"{self._replica.table.name} has a column {ROW}, as which digests are sent")
        self._is_checked = True
        return standing


def _own(digested: Sequence[Digested], standing: Standing) -> tuple[Digested, ...]:
    """The columns in the types that they have in the table."""
    stored = standing.relation.columns
    return tuple(replace(d, column=replace(d.column, origin_type=stored[d.column.name])) for d in digested)


@contextmanager
def open_state(conninfo: str, name: str) -> Iterator[PostgresState]:
    """A state from now on, until the context ends. Writers go on meanwhile.

    Args:
        name: the destination's, for messages.
    """
    with closing(connect(conninfo, name)) as control:
        with translate_errors("a state to read", READING):
            control.execute(_BEGIN.encode())
            control.prepare(_SET)
            row = control.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None, "it has one"
        with closing(PostgresState(conninfo, control, str(row[0]))) as state:
            yield state


def _lookup(replica: Replica, found: Relation, name: str, wanted: pa.DataType) -> Lookup:
    if replica.table.column(name) is None:
        raise missing_column(replica.table.name, name, replica)
    return Lookup(
        _build_comparisons(quote_identifier(name), found.columns[name], wanted), f"{quote_identifier(name)} IS NULL"
    )


def _build_comparisons(column: str, stored: str, wanted: pa.DataType) -> Sequence[Comparison]:
    plain = base(stored)
    by_text = Comparison(f'({as_text(column, stored)}) COLLATE "C"', '{} COLLATE "C"')
    if is_.is_duration(wanted):
        return [Comparison(f"(extract(epoch FROM {column}) * 1000000)::int8", "{}::int8")]
    if stored.endswith("[]") or plain == "interval":
        return [Comparison(f'{column}::text COLLATE "C"', f'{{}}::{stored}::text COLLATE "C"')]
    if plain in _BY_VALUE:
        return [Comparison(column, f"{{}}::{plain}")]
    if plain == "numeric":
        exact = is_.is_decimal(wanted) or is_.is_integer(wanted)
        return [Comparison(column, "{}::numeric"), *([] if exact else [by_text])]
    if plain in ("text", "character varying"):
        return [Comparison(column, "{}"), by_text]
    if plain == "character":
        return [Comparison(f'{column} COLLATE "C"', '{}::bpchar COLLATE "C"')]
    return [by_text]
