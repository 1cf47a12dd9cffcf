"""Rows on their way into a staging table in Postgres: encoded, copied in binary, read by Postgres, deduplicated.

A load's rows come in batches (`copy_in`) or as another Postgres's own COPY (`copy_raw`). Changes come as tables that
any transaction can then read (`Carrier`): psycopg has no fast way from Arrow into COPY, and ADBC's driver has none into
a transaction of somebody else.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import Cursor, errors, sql

from dbt_bridge.arrow import decimals
from dbt_bridge.connectors.postgres.destination.column_types import Wire, landing_type, wire
from dbt_bridge.connectors.postgres.destination.relation import LONGEST_NAME, identifier
from dbt_bridge.connectors.postgres.destination.session import Driver, find_driver
from dbt_bridge.connectors.postgres.wire import bulk
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection
from dbt_bridge.connectors.postgres.wire.session import is_broken
from dbt_bridge.connectors.postgres.wire.watch import Silence, Watch
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused, UsageError, scrubbed
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import Column, Table, TableName, quote_identifier
from dbt_bridge.replicate.loads import check_request
from dbt_bridge.system.aside import Aside
from dbt_bridge.system.owned_reader import make_reader

ROW = "_dbt_bridge_row"


def check(load: Load) -> None:
    """Refuse, before a row moves, what cannot be loaded.

    Raises:
        UsageError: an unknown disposition, or a name that Postgres would cut off.
        KeyRefused: merge without a key, or with one that is not a column.
        TypeRefused: two columns of one name.
    """
    check_request(load)
    names = [c.name for c in load.table.columns]
    for name in (load.table.name.schema, load.table.name.name, *names):
        if not name or "\0" in name or len(name.encode()) > LONGEST_NAME:
            raise UsageError(
                f"{load.table.name}: Postgres cannot keep the name {name!r}",
                mend=f"names have 1 to {LONGEST_NAME} bytes: rename it in the model or with `identifier:`",
            )
    if double := next((name for name in names if names.count(name) > 1), None):
        raise TypeRefused(f"{load.table.name} has two columns named {double!r}", mend="rename or leave out one of them")


class Encoded:
    """The batches as the driver writes them, counted while they pass.

    Attributes:
        rows, bytes: of what has passed, before encoding.
        failure: what the batches raised; the driver reports only that reading them failed.
    """

    def __init__(self, load: Load, batches: pa.RecordBatchReader) -> None:
        self.rows = 0
        self.bytes = 0
        self.failure: BaseException | None = None
        self._load = load
        self._batches = batches
        self._wires = [wire(c) for c in load.table.columns]
        self._numbered = load.keeps_last

    def reader(self) -> pa.RecordBatchReader:
        fields = [
            pa.field(c.name, w.encode(pa.array([], c.type)).type)
            for c, w in zip(self._load.table.columns, self._wires, strict=True)
        ]
        if self._numbered:
            fields.append(pa.field(ROW, pa.int64()))
        schema = pa.schema(fields)
        return make_reader(schema, self._encode_batches(schema), self._batches)

    def _encode_batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                columns = [
                    self._column(array, column, how)
                    for array, column, how in zip(batch.columns, self._load.table.columns, self._wires, strict=True)
                ]
                if self._numbered:
                    columns.append(pa.array(range(self.rows, self.rows + batch.num_rows), pa.int64()))
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except BaseException as failure:
            self.failure = failure
            raise

    def _column(self, array: pa.Array, column: Column, how: Wire) -> pa.Array:
        try:
            return how.encode(array if array.type == column.type else decimals.cast(array, column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TypeRefused(
                f"{self._load.table.name}, column {column.name!r}: {error}",
                mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
                column=column.name,
            ) from error


def create(cur: Cursor[Any], staging: TableName, load: Load, *, logged: bool, raw: bool) -> None:
    """The staging table with the types that the driver writes, or (raw) with the landing table's own.

    It is UNLOGGED (half the writing) where its rows are copied on into another table, for an unlogged one is empty
    after a crash of the server.
    """
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(landing_type(c) if raw else wire(c).sql_type))
        for c in load.table.columns
    ]
    if load.keeps_last:
        numbers = "bigint GENERATED ALWAYS AS IDENTITY" if raw else "bigint"
        columns.append(sql.SQL("{} {}").format(sql.Identifier(ROW), sql.SQL(numbers)))
    kind = sql.SQL("TABLE" if logged else "UNLOGGED TABLE")
    cur.execute(sql.SQL("CREATE {} {} ({})").format(kind, identifier(staging), sql.SQL(", ").join(columns)))


def copy_in(conninfo: str, staging: TableName, encoded: Encoded) -> None:
    """Copy all batches in. Without columns there is nothing to copy; rows of a table without columns are not kept."""
    reader = encoded.reader()
    if not reader.schema.names:
        encoded.rows += sum(batch.num_rows for batch in reader)
        return
    driver = find_driver(conninfo, writes=True)
    watch = Watch(driver.conninfo)

    def ingest() -> None:
        with closing(BulkConnection(driver.conninfo, watch)) as connection:
            connection.prepare_session(driver.path)
            connection.ingest(staging.schema, staging.name, reader)

    try:
        with Aside(watch.look_at_waiting) as aside, _ending(watch, aside):
            aside.call(ingest)
    except (bulk.Error, Silence) as error:
        if encoded.failure is not None:
            raise encoded.failure from None
        raise translate_error(str(error), getattr(error, "sqlstate", None), staging, encoded) from error


def copy_raw(cur: Cursor[Any], staging: TableName, load: Load, stream: Iterator[bytes]) -> tuple[int, int]:
    """Pipe a binary COPY into the staging table; answers the rows that Postgres counted, and the bytes."""
    columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in load.table.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(identifier(staging), columns)
    size = 0
    with cur.copy(statement) as copy:
        for chunk in stream:
            size += len(chunk)
            copy.write(chunk)
    return cur.rowcount, size


@contextmanager
def _ending(watch: Watch, aside: Aside) -> Iterator[None]:
    """When it is interrupted, its COPY ends too: the staging table could not be dropped until its last row."""
    try:
        yield
    except BaseException:
        if aside.is_busy and not watch.is_over:
            watch.end()
        raise


def translate_error(text: str, sqlstate: str | None, staging: TableName, encoded: Encoded) -> Exception:
    """The driver's error as a BridgeError that names the table which the user knows."""
    name = encoded._load.table.name
    text = scrubbed(text).replace(staging.name, name.name).strip()
    if sqlstate and sqlstate.startswith("22"):
        found = re.search(r"COPY .*, column ([^:\n]+)", text)
        column = found[1].strip() if found else "column"
        mend = f"types: {{{column}: text}}"
        if sqlstate == "22021":  # NUL, which Postgres has in no text
            mend = f"take the character chr(0) out of {column} in the model: replace({column}, chr(0), '')"
        return TypeRefused(f"{name}: a value cannot be kept in Postgres: {text}", mend=mend)
    mend = "free disk space at the Postgres server" if sqlstate == "53100" else "run the same command again"
    said = f"Postgres broke off while {name} was loaded: {text}"
    return DestinationError(said, mend=mend, broke_off=is_broken(sqlstate or "", text))


def read_texts(cur: Cursor[Any], staging: TableName, columns: Sequence[Column]) -> None:
    """Let Postgres read the columns that travelled as text, all in one pass over the table."""
    casts = [c for c in columns if wire(c).cast]
    if not casts:
        return
    changes = sql.SQL(", ").join(
        sql.SQL("ALTER COLUMN {0} TYPE {1} USING CAST({0} AS {1})").format(
            sql.Identifier(c.name), sql.SQL(landing_type(c))
        )
        for c in casts
    )
    try:
        cur.execute(sql.SQL("ALTER TABLE {} {}").format(identifier(staging), changes))
    except psycopg.DataError as error:
        raise TypeRefused(
            f"a value of {', '.join(repr(c.name) for c in casts)} cannot be read back as its type: "
            f"{error.diag.message_primary}",
            mend="types: {column: text}",
        ) from error


def keep_last(cur: Cursor[Any], staging: TableName, load: Load) -> None:
    """Refuse NULL keys; leave one staged row per key, the one that came last; drop the column of the order."""
    key = [sql.Identifier(k) for k in load.table.key]
    table = identifier(staging)
    for column in load.table.key:
        cur.execute(sql.SQL("SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1").format(table, sql.Identifier(column)))
        if cur.fetchone() is not None:
            raise KeyRefused(
                f"the key column {quote_identifier(column)} of {load.table.name} holds NULL in the new rows",
                mend="filter those rows out, or choose a key that every row has",
            )
    try:
        cur.execute(
            sql.SQL(
                "DELETE FROM {table} AS s\n"
                "USING (\n"
                "  SELECT ctid, row_number() OVER (PARTITION BY {key} ORDER BY {row} DESC) AS n FROM {table}\n"
                ") AS d\n"
                "WHERE s.ctid = d.ctid AND d.n > 1"
            ).format(table=table, key=sql.SQL(", ").join(key), row=sql.Identifier(ROW))
        )
    except errors.UndefinedFunction as error:  # json, xml, point: without equality
        raise KeyRefused(
            f"the key of {load.table.name} has a type without equality: {error.diag.message_primary}",
            mend="choose another key",
        ) from error
    cur.execute(sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(ROW)))


class Carrier:
    """One connection of ADBC's, kept: to open one takes 0.1 s, in which it reads the server's types (version 1.12).

    Several threads may use it, one after the other.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: BulkConnection | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def carry(self, staging: TableName, of: TableName, columns: Sequence[Column], rows: pa.Table) -> None:
        """Put rows into a new unlogged table, committed at once.

        Args:
            of: the landing table, for messages.

        Raises:
            TypeRefused: a value that Postgres cannot keep.
            DestinationError: Postgres broke off.
        """
        load = Load(Table(of, tuple(columns)), "append", "")
        encoded = Encoded(load, rows.select([c.name for c in columns]).to_reader())
        definitions = sql.SQL(", ").join(
            [sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(wire(c).sql_type)) for c in columns]
        )
        create = sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(identifier(staging), definitions)
        try:
            with self._lock:
                self._carry(create.as_string(), staging, encoded.reader())
        except (bulk.Error, Silence) as error:
            self.close()  # it may be broken; the next rows open another one
            if encoded.failure is not None:
                raise encoded.failure from None
            raise translate_error(str(error), getattr(error, "sqlstate", None), staging, encoded) from error

    def _carry(self, create: str, staging: TableName, rows: pa.RecordBatchReader) -> None:
        driver = Driver("", "") if self._connection else find_driver(self._conninfo, writes=True)
        watch = self._connection.watch if self._connection else Watch(driver.conninfo)

        def carry() -> None:
            if self._connection is None:
                self._connection = _open_carrier(driver, watch)
            self._connection.execute(create)
            self._connection.ingest(staging.schema, staging.name, rows)

        with Aside(watch.look_at_waiting) as aside, _ending(watch, aside):
            aside.call(carry)


def _open_carrier(driver: Driver, watch: Watch) -> BulkConnection:
    connection = BulkConnection(driver.conninfo, watch)
    connection.prepare_session(driver.path)
    connection.execute("SET synchronous_commit = off")  # what is staged need not survive anything
    return connection
