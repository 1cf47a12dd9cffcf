"""The Postgres warehouse: rows are staged in hidden tables, then shown in one transaction.

A staging table lies in the schema where its rows land, so that a user with rights on that schema alone can deliver
there, and so that publishing is a rename. Its name carries a token on which the run holds an advisory lock for as
long as it lives: a staging table whose token nobody holds was left behind by a killed run.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination import audit
from dbt_bridge.connectors.postgres.destination import stage as staging_area
from dbt_bridge.connectors.postgres.destination.apply import PostgresApplication
from dbt_bridge.connectors.postgres.destination.column_types import TEXTS, base, check_key, copied_as, map_column
from dbt_bridge.connectors.postgres.destination.locks import bound_waits
from dbt_bridge.connectors.postgres.destination.marks import hold, recall
from dbt_bridge.connectors.postgres.destination.publish import publish_one
from dbt_bridge.connectors.postgres.destination.read import read_relation, relation_table
from dbt_bridge.connectors.postgres.destination.relation import (
    Relation,
    find_relation,
    find_table,
    identifier,
    is_bare,
)
from dbt_bridge.connectors.postgres.destination.session import blaming, connect, refuse_hidden_rows, translate_errors
from dbt_bridge.connectors.postgres.destination.stage import Carrier
from dbt_bridge.connectors.postgres.destination.state import PostgresState, open_state
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.connectors.postgres.wire.bulk import RAW_FORMAT
from dbt_bridge.contracts.destination import Load, Loaded, Staged
from dbt_bridge.contracts.outgoing import Mark, Outgoing
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.loads import check_cursor, load_staged
from dbt_bridge.system.lock_wait import DEFAULT_SECONDS, find_lock_wait, use_lock_wait

STAGING_PREFIX = "_dbt_bridge_stage_"
_CLASS = 0x6462_7462  # "dbtb": the first key of our advisory locks

_numbers = itertools.count(1)


_TEXTS_OF_ROWS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
}


class PostgresWarehouse:
    """A `Warehouse` over one Postgres database.

    Each operation has a connection of its own, so several threads may stage at once.
    """

    raw_format = RAW_FORMAT

    def __init__(self, name: str, conninfo: str) -> None:
        self.name = name
        self._conninfo = conninfo
        self._token = secrets.randbits(31)
        self._alive: psycopg.Connection | None = None
        self._carrier = Carrier(conninfo)
        self._lock = threading.Lock()
        self._lock_wait = find_lock_wait(DEFAULT_SECONDS)  # of whoever opens it, also for threads that it starts

    def queries(self, schema: str = "") -> PostgresQueries:
        """Its relations, asked in SQL; names without a schema are found by the user's own search_path."""
        return PostgresQueries(self.name, self._conninfo)

    def __enter__(self) -> PostgresWarehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._carrier.close()
        self._forget_token()

    # --- Destination -------------------------------------------------------------------------------------------

    def map_column(self, column: Column) -> Column:
        """See `column_types.map_column`."""
        return map_column(column)

    def check_key(self, name: TableName, column: Column) -> None:
        """See `ComparesKeys`."""
        check_key(name, column)

    def find_table(self, name: TableName) -> Table | None:
        """The table (or a view that is not a ghost) as `read` would give it, with Postgres's types in `origin_type`."""
        with self._transaction(name) as cur:
            found = find_relation(cur, name)
            return None if found is None or found.is_ghost else relation_table(cur, found)

    def require_readable(self, name: TableName, columns: Sequence[str] = ()) -> None:
        """See `ChecksReading`."""
        with self._transaction(name) as cur:
            refuse_hidden_rows(cur, name)

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Stage and publish one table. On any error the table is what it was."""
        loaded = load_staged(self, load, batches)
        self.discard()  # also what a killed run has left
        return loaded

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """See `RemembersAppends`."""
        with self._transaction(name) as cur:
            table = find_relation(cur, name)
            if table is None or not delivery.token or recall(cur, table, delivery).token != delivery.token:
                return False
            return cur.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(identifier(name))).fetchone() is not None

    def find_mark(self, name: TableName, delivery: Outgoing) -> Mark:
        """See `DeletesOwn`."""
        with self._transaction(name) as cur:
            table = find_relation(cur, name)
            return Mark() if table is None else recall(cur, table, delivery)

    @contextmanager
    def hold(self, name: TableName, delivery: Outgoing) -> Iterator[None]:
        """See `DeletesOwn`."""
        with self._connect(name) as connection, hold(connection, name, delivery):
            yield

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """The exact counts of a load: it is done, and rolled back."""
        staged = self.stage(load, batches)
        try:
            with self._transaction(load.table.name) as cur:
                counted = publish_one(cur, staged)
                raise psycopg.Rollback
        finally:
            self.discard([staged])
        return counted

    # --- Warehouse ---------------------------------------------------------------------------------------------

    def stage(self, load: Load, batches: pa.RecordBatchReader) -> Staged:
        """Write rows to a hidden table beside the one that they will become.

        Raises:
            UsageError: unknown write disposition, or a name that Postgres cannot keep.
            KeyRefused: merge without a key, or a key column that is absent or holds NULL.
            TypeRefused: a value that Postgres cannot keep.
            DestinationError: Postgres broke off.
        """
        staging_area.check(load)
        encoded = staging_area.Encoded(load, batches)
        with self._staging(load) as staging:
            staging_area.copy_in(self._conninfo, staging, encoded)
            self._finish(load, staging)
            gone = self._stage_deletes(load)
        return Staged(load, staging, encoded.rows, encoded.bytes, gone)

    def _stage_deletes(self, load: Load) -> TableName | None:
        """The keys of rows that go with a delivery."""
        if load.delivery is None or load.delivery.deletes is None or not load.delivery.deletes.num_rows:
            return None
        keys = load.delivery.deletes
        columns = tuple(column for column in load.table.columns if column.name in load.table.key)
        of_keys = Load(Table(load.table.name, columns), "append", load.load_id)
        with self._staging(of_keys) as staging:
            rows = keys.select([column.name for column in columns]).to_reader()
            staging_area.copy_in(self._conninfo, staging, staging_area.Encoded(of_keys, rows))
            self._finish(of_keys, staging)
        return staging

    def find_raw_casts(self, load: Load) -> dict[str, str] | None:
        """The SQL types that `stage_raw` wants columns cast to, all others as they are; None where it cannot."""
        return copied_as(load.table)

    def stage_raw(self, load: Load, streams: Sequence[Iterator[bytes]]) -> Staged:
        """Stage rows that come as Postgres's own binary COPY, undecoded: about half the work of Arrow batches.

        Args:
            streams: each a complete COPY of the columns of `load.table` in their order; each has a thread.
        """
        staging_area.check(load)

        def copy_stream(stream: Iterator[bytes]) -> tuple[int, int]:
            with self._transaction(load.table.name) as cur:
                return staging_area.copy_raw(cur, staging, load, stream)

        with self._staging(load, raw=True) as staging, ThreadPoolExecutor(max(1, len(streams))) as pool:
            counted = list(pool.map(copy_stream, streams))
            self._finish(load, staging, raw=True)
        return Staged(load, staging, sum(rows for rows, _ in counted), sum(size for _, size in counted))

    def publish(
        self,
        staged: Sequence[Staged],
        checkpoints: Sequence[Checkpoint] = (),
        receipts: Callable[[Sequence[Loaded]], Sequence[Receipt]] | None = None,
    ) -> list[Loaded]:
        """Show all staged tables, with checkpoints and receipts, in one transaction.

        Tables are locked in the order of their names, so that two runs wait for each other and never deadlock.
        """
        with self._transaction(", ".join(str(s.load.table.name) for s in staged)) as cur:
            if checkpoints or receipts is not None:
                audit.ensure(cur)
            for name in sorted({str(s.load.table.name) for s in staged}):
                _lock_named(cur, name)
            loaded = []
            for one in staged:
                with blaming(one.load.table.name):
                    loaded.append(publish_one(cur, one))
            audit.save_checkpoints(cur, checkpoints)
            if receipts is not None:
                audit.append_receipts(cur, receipts(loaded))
        return loaded

    def discard(self, staged: Sequence[Staged] = ()) -> None:
        """Drop these staging tables and those of killed runs; live runs keep theirs."""
        mine = {name for s in staged for name in (s.staging, s.gone) if name is not None}
        with self._connect("staging tables") as connection:
            for name, token in _list_staging(connection):
                if name in mine or (token != self._token and _is_abandoned(connection, token)):
                    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(identifier(name)))

    def checkpoint(self, node: str) -> Checkpoint | None:
        with self._transaction("checkpoints") as cur:
            return audit.checkpoint(cur, node)

    def checkpoints(self) -> list[Checkpoint]:
        with self._transaction("checkpoints") as cur:
            return audit.checkpoints(cur)

    def forget(self, node: str) -> None:
        with self._transaction("checkpoints") as cur:
            audit.forget(cur, node)

    def record(self, receipts: Sequence[Receipt]) -> None:
        if not receipts:
            return
        with self._transaction("receipts") as cur:
            audit.ensure(cur)
            audit.append_receipts(cur, receipts)

    def record_parity(self, rows: Sequence[ParityRow]) -> None:
        if not rows:
            return
        with self._transaction("parity") as cur:
            audit.ensure(cur, audit.COMPARED)
            audit.append_parity(cur, rows)

    def save(self, checkpoints: Sequence[Checkpoint], receipts: Sequence[Receipt]) -> None:
        self.publish((), checkpoints, lambda _: receipts)

    def read(self, name: TableName, columns: Sequence[str] = (), as_text: Collection[str] = ()) -> pa.RecordBatchReader:
        """Stream a table's or view's rows; see `read`."""
        with self._transaction(name) as cur:
            found = find_relation(cur, name)
            if found is None:
                raise DestinationError(f"there is no table {name} in Postgres", mend="dbt build, or dbt-bridge sync")
            table = relation_table(cur, found)
        return read_relation(self._conninfo, table, columns, as_text)

    def fingerprint(self, name: TableName) -> str:
        """The number of rows and the sum of the hashes of their texts, which are written the same way each time."""
        with self._transaction(name) as cur:
            if find_relation(cur, name) is None:
                return ""
            for setting, value in _TEXTS_OF_ROWS.items():
                cur.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(setting), sql.Literal(value)))
            cur.execute(
                sql.SQL(
                    "SELECT count(*), coalesce(sum(hashtextextended(_dbt_bridge_row::text, 0)::numeric), 0)\n"
                    "FROM {} AS _dbt_bridge_row"
                ).format(identifier(name))
            )
            rows, total = cur.fetchone() or (0, 0)
            return f"{rows}:{total}"

    @contextmanager
    def open_state(self) -> Iterator[PostgresState]:
        """See `state`."""
        with open_state(self._conninfo, self.name) as state:
            yield state

    # --- Follows -----------------------------------------------------------------------------------------------

    chunk_rows = 200_000

    @contextmanager
    def open_application(self, load_id: str) -> Iterator[PostgresApplication]:
        """Apply changes in one transaction; see `apply`."""
        self._hold_token()
        with self._connect("changes") as connection:
            connection.autocommit = False
            application = PostgresApplication(connection, self._carrier, self._new_staging, _lock_table)
            try:
                yield application
            finally:
                connection.rollback()
                for staging in application.staged:  # committed by a connection of their own
                    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(identifier(staging)))
                connection.commit()

    # --- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _staging(self, load: Load, *, raw: bool = False) -> Iterator[TableName]:
        """A new staging table; dropped again when the block fails."""
        self._hold_token()
        name = load.table.name
        staging = self._new_staging(name.schema)
        with self._transaction(name) as cur:
            _create_schema(cur, name.schema)
            there = find_table(cur, name)
            if there is not None and load.window is not None:
                type_ = there.columns.get(load.window.cursor)
                check_cursor(name, load.window.cursor, type_ and base(type_), TEXTS)
            staging_area.create(cur, staging, load, logged=_becomes_the_table(cur, load, there), raw=raw)
        try:
            yield staging
        except BaseException:
            self.discard([Staged(load, staging, 0, 0)])
            raise

    def _new_staging(self, schema: str) -> TableName:
        return TableName(schema, f"{STAGING_PREFIX}{self._token:08x}_{next(_numbers)}")

    def _finish(self, load: Load, staging: TableName, *, raw: bool = False) -> None:
        with self._transaction(load.table.name) as cur:
            if not raw:
                staging_area.read_texts(cur, staging, load.table.columns)
            if load.keeps_last:
                staging_area.keep_last(cur, staging, load)

    def _hold_token(self) -> None:
        with self._lock:
            if self._alive is None or self._alive.closed:
                self._alive = connect(self._conninfo, self.name)
                self._alive.execute("SELECT pg_advisory_lock(%s, %s)", [_CLASS, self._token])

    def _forget_token(self) -> None:
        """The connection that holds it went the same way, perhaps: the next load takes it again."""
        with self._lock:
            if self._alive is not None:
                self._alive.close()
                self._alive = None

    @contextmanager
    def _connect(self, where: object) -> Iterator[psycopg.Connection]:
        try:
            with (
                use_lock_wait(self._lock_wait),
                connect(self._conninfo, self.name) as connection,
                translate_errors(where),
            ):
                yield connection
        except DestinationError as error:
            if error.broke_off:
                self._forget_token()
            raise

    @contextmanager
    def _transaction(self, where: object) -> Iterator[Cursor[Any]]:
        with self._connect(where) as connection, connection.transaction(), connection.cursor() as cur:
            yield cur


def _lock_named(cur: Cursor[Any], name: str) -> None:
    cur.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_CLASS + 1, name])


def _lock_table(cur: Cursor[Any], name: TableName) -> None:
    cur.execute("SET LOCAL lock_timeout = 0")  # another run of ours ends by itself
    _lock_named(cur, str(name))
    bound_waits(cur)


def _becomes_the_table(cur: Cursor[Any], load: Load, there: Relation | None) -> bool:
    """Whether the staging table will be renamed, rather than its rows copied on."""
    if there is None:
        return True
    return load.write_disposition == "replace" and is_bare(cur, there, there)


def _create_schema(cur: Cursor[Any], schema: str) -> None:
    """Asked first, for a user without the right to create schemas may still write to one that stands."""
    exists = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    if cur.execute(exists, [schema]).fetchone() is None:
        cur.execute("SELECT pg_advisory_xact_lock(%s, 0)", [_CLASS + 2])
        cur.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _list_staging(connection: psycopg.Connection) -> list[tuple[TableName, int]]:
    """Every staging table that this user may drop, with the token of its run."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname\n"
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "WHERE c.relkind = 'r' AND starts_with(c.relname, %s) AND pg_has_role(c.relowner, 'USAGE')",
        [STAGING_PREFIX],
    ).fetchall()
    found = []
    for schema, table in rows:
        token = table.removeprefix(STAGING_PREFIX).partition("_")[0]
        if len(token) == 8 and all(c in "0123456789abcdef" for c in token):
            found.append((TableName(schema, table), int(token, 16)))
    return found


def _is_abandoned(connection: psycopg.Connection, token: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [_CLASS, token]).fetchone()
    if row == (True,):
        connection.execute("SELECT pg_advisory_unlock(%s, %s)", [_CLASS, token])
        return True
    return False
