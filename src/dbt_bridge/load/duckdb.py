"""The DuckDB warehouse: rows are staged under hidden names, then shown in one transaction.

DuckDB cannot move a table to another schema, so staging tables lie beside the tables that they become, and publishing
a replaced table is a DROP and a RENAME. Every operation has a cursor of its own: a second query on a connection
silently truncates a result that is still being streamed from it (DuckDB 1.5.5).
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dbt_bridge.errors import ConnectionFailed, DestinationError, KeyRefused, TypeRefused
from dbt_bridge.load import duckdb_audit as audit
from dbt_bridge.load import duckdb_read as reading
from dbt_bridge.load.destination import Application, Checkpoint, Load, Loaded, Replica, Staged
from dbt_bridge.load.duckdb_apply import DuckDBApplication
from dbt_bridge.load.duckdb_publish import Publication, Relation, check_types, folded, publish_one, refuse_one_place
from dbt_bridge.load.duckdb_retry import in_transaction, translated
from dbt_bridge.load.duckdb_types import landed as landed_column
from dbt_bridge.load.keys import check_request
from dbt_bridge.receipt import Receipt
from dbt_bridge.table import Column, Table, TableName, quoted

STAGING_PREFIX = "_dbt_bridge_stage_"
_TEXT = "VARCHAR"
ROW = "_dbt_bridge_row"
# The process, with Arrow batches in flight and what DuckDB does not count, stays under 600 MB at any number of rows.
DEFAULT_MEMORY_LIMIT = "300MB"

# A DuckDB file is open in one process at a time: staging tables of any other token are left over from a killed run.
_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)
# Two transactions that insert the same key do not conflict in DuckDB (snapshot isolation): merges at once into one
# table would leave the key twice. All writers of a file are threads of one process.
_publishing = threading.Lock()


class DuckDBWarehouse:
    """A `Warehouse` over one DuckDB catalog.

    Made by `open`, which owns its connection, or `over` a connection of somebody else (dbt's), whose settings stay as
    they are.
    """

    chunk_rows = 250_000

    def __init__(self, connection: Any, *, name: str, catalog: str, owned: bool) -> None:
        self.name = name
        self._connection = connection
        self._catalog = catalog
        self._owned = owned

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "duckdb",
        memory_limit: str = DEFAULT_MEMORY_LIMIT,
        prepare: Sequence[str] = (),
        catalog: str | None = None,
    ) -> DuckDBWarehouse:
        """Open a database file (or `:memory:`).

        Args:
            prepare: statements to run first: extensions, secrets, attached databases.
            catalog: an attached database to work in.

        Raises:
            ConnectionFailed: the file is locked by another process, unreadable, or open here with other options.
        """
        # Row order is kept for merges by a column of our own. DuckDB's choice of a string compression costs most of a
        # load's CPU, and FSST gives files of the same size.
        tuned = {
            "preserve_insertion_order": False,
            "force_compression": "fsst",
            "memory_limit": memory_limit,
            **(config or {}),
        }
        try:
            connection = duckdb.connect(str(path), config=tuned)
            for statement in prepare:
                _prepared(connection, statement)
        except duckdb.Error as error:
            raise ConnectionFailed(
                f"the DuckDB file {path} cannot be opened: {error}",
                mend="close the program that has it open, or check the path and the profile's config_options",
            ) from error
        return cls(connection, name=name, catalog=catalog or _current_catalog(connection), owned=True)

    @classmethod
    def over(cls, connection: Any, *, name: str = "duckdb", catalog: str | None = None) -> DuckDBWarehouse:
        """Work on an open connection through sibling cursors.

        The connection's transaction is not ours: what it wrote and did not commit is not seen.
        """
        return cls(connection, name=name, catalog=catalog or _current_catalog(connection), owned=False)

    @property
    def catalog(self) -> str:
        """The DuckDB catalog (attached database) that it works in."""
        return self._catalog

    def __enter__(self) -> DuckDBWarehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._owned:
            self._connection.close()

    # --- Destination -------------------------------------------------------------------------------------------

    def landed(self, column: Column) -> Column:
        """See `duckdb_types.landed`."""
        return landed_column(column)

    def existing(self, name: TableName) -> Table | None:
        """The table (or a view that is not a ghost) as it stands, with DuckDB's types in `origin_type`."""
        with closing(self._connection.cursor()) as cur:
            found = Publication(cur, self._catalog).relation(name)
            if found is None or found.is_ghost:
                return None
            schema = reading.schema_of(cur, self._select(found.name, found.columns), found.columns)
        columns = zip(schema, found.columns.values(), strict=True)
        return Table(found.name, tuple(Column(f.name, f.type, sql) for f, sql in columns))

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Stage and publish one table. On any error the table is what it was."""
        staged = self.stage(load, batches)
        try:
            return self.publish([staged])[0]
        except BaseException:
            self.discard([staged])
            raise

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """The exact counts of a load: it is done, and rolled back."""
        staged = self.stage(load, batches)
        try:
            with self._cursor(staged.load.table.name) as cur:
                cur.execute("BEGIN")
                try:
                    return publish_one(Publication(cur, self._catalog), staged)
                finally:
                    cur.execute("ROLLBACK")
        finally:
            self.discard([staged])

    # --- Warehouse ---------------------------------------------------------------------------------------------

    def stage(self, load: Load, batches: pa.RecordBatchReader) -> Staged:
        """Write rows to a hidden table beside the one that they will become.

        Raises:
            UsageError: unknown write disposition, or a window for another disposition than append.
            KeyRefused: merge without a key, or a key column that is absent or holds NULL.
            TypeRefused: no columns, two columns whose names DuckDB takes for one, or a type that does not fit.
            DestinationError: DuckDB broke off.
        """
        _check(load)
        name = load.table.name
        staging = TableName(name.schema, f"{STAGING_PREFIX}{_PROCESS}_{next(_numbers)}")
        counter = _Counter(load, batches)
        with self._cursor(name) as cur:
            publication = Publication(cur, self._catalog)
            check_types(publication, load, _sql_types(cur, load.table.arrow_schema))
            publication.create_schema(name.schema)
            try:
                _create_from(cur, publication, staging, load, counter)
                if load.keeps_last:
                    publication.keep_last(staging, load.table.key, ROW)
            except BaseException:
                publication.drop_staging(staging)
                counter.raise_own_error()
                raise
        return Staged(load, staging, counter.rows, counter.bytes)

    def publish(
        self,
        staged: Sequence[Staged],
        checkpoints: Sequence[Checkpoint] = (),
        receipts: Callable[[Sequence[Loaded]], Sequence[Receipt]] | None = None,
    ) -> list[Loaded]:
        """Show all staged tables, with checkpoints and receipts, in one transaction; retried on conflicts."""

        def work(cur: Any) -> list[Loaded]:
            publication = Publication(cur, self._catalog)
            loaded = [publish_one(publication, one) for one in staged]
            audit.save_checkpoints(cur, self._catalog, checkpoints)
            if receipts is not None:
                audit.append_receipts(cur, self._catalog, receipts(loaded))
            return loaded

        refuse_one_place(staged)
        tables = ", ".join(str(s.load.table.name) for s in staged)
        with _publishing, self._cursor(tables) as cur:
            audit.ensure(cur, self._catalog)
            return in_transaction(cur, work)

    @contextmanager
    def applying(self, load_id: str) -> Iterator[Application]:
        """One transaction for the changes of several tables. Nothing else is published while it lasts: a load or a
        publish of the same thread would wait for itself."""
        with _publishing, self._cursor("changes") as cur:
            audit.ensure(cur, self._catalog)
            application = DuckDBApplication(cur, self._catalog)
            try:
                yield application
            finally:
                application.undo()

    def position(self, replica: Replica) -> int | None:
        """None: the checkpoint is committed with the rows, and so is never behind them."""
        return None

    def discard(self, staged: Sequence[Staged] = ()) -> None:
        """Drop these staging tables and those of killed processes; live loads of this process keep theirs."""
        with self._cursor("staging tables") as cur:
            publication = Publication(cur, self._catalog)
            mine = {s.staging for s in staged}
            for name in publication.tables_like(STAGING_PREFIX):
                if name in mine or not name.name.startswith(f"{STAGING_PREFIX}{_PROCESS}_"):
                    publication.drop_staging(name)

    def checkpoint(self, node: str) -> Checkpoint | None:
        with self._cursor("checkpoints") as cur:
            return audit.checkpoint(cur, self._catalog, node)

    def checkpoints(self) -> list[Checkpoint]:
        with self._cursor("checkpoints") as cur:
            return audit.checkpoints(cur, self._catalog)

    def forget(self, node: str) -> None:
        with self._cursor("checkpoints") as cur:
            audit.forget(cur, self._catalog, node)

    def record(self, receipts: Sequence[Receipt]) -> None:
        with self._cursor("receipts") as cur:
            audit.ensure(cur, self._catalog)
            in_transaction(cur, lambda cur: audit.append_receipts(cur, self._catalog, receipts))

    def save(self, checkpoints: Sequence[Checkpoint], receipts: Sequence[Receipt]) -> None:
        self.publish((), checkpoints, lambda _: receipts)

    def read(self, name: TableName, columns: Sequence[str] = (), as_text: Collection[str] = ()) -> pa.RecordBatchReader:
        """Stream a table's or view's rows on a cursor of its own; columns in `as_text` cast to VARCHAR.

        UUID comes as arrow.uuid, JSON as arrow.json, HUGEINT as decimal(38,0); types that Arrow lacks (BIT, TIMETZ,
        BIGNUM) as text.

        Raises:
            DestinationError: no such relation or column.
        """
        cur = self._connection.cursor()
        with translated(name):
            found = Publication(cur, self._catalog).relation(name)
            if found is None:
                raise DestinationError(f"there is no table {name} in DuckDB", mend="dbt build, or dbt-bridge sync")
            missing = [c for c in columns if c not in found.columns]
            if missing:
                raise DestinationError(
                    f"{name} has no column {missing[0]!r}; it has {', '.join(found.columns)}",
                    mend="correct `columns:`, or build the model again: dbt-bridge build",
                )
            wanted = {c: found.columns[c] for c in columns} if columns else found.columns
            text = frozenset(as_text)
            types = {c: _TEXT if c in text else t for c, t in wanted.items()}
            return reading.read(cur, name, self._select(found.name, wanted, text), types)

    # --- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _cursor(self, where: object) -> Iterator[Any]:
        with closing(self._connection.cursor()) as cur, translated(where):
            yield cur

    def _select(self, name: TableName, columns: Mapping[str, str], as_text: Collection[str] = ()) -> str:
        parts = ", ".join(reading.expression(c, sql, as_text=c in as_text) for c, sql in columns.items())
        return f"SELECT {parts}\nFROM {quoted(self._catalog)}.{quoted(name.schema)}.{quoted(name.name)}"


class _Counter:
    """Counts the rows and bytes that pass, checks keys, and keeps the error that DuckDB would only quote."""

    def __init__(self, load: Load, batches: pa.RecordBatchReader) -> None:
        self.rows = 0
        self.bytes = 0
        self._load = load
        self._batches = batches
        self._error: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        schema = self._load.table.arrow_schema
        if self._load.keeps_last:
            schema = schema.append(pa.field(ROW, pa.int64()))
        return pa.RecordBatchReader.from_batches(_nullable(schema), self._counted())

    def _counted(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self._check_key(batch)
                first = self.rows
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                if self._load.keeps_last:
                    row = pa.array(range(first, self.rows), pa.int64())
                    yield pa.record_batch([*batch.columns, row], names=[*batch.schema.names, ROW])
                else:
                    yield batch
        except BaseException as error:
            self._error = error
            raise

    def _check_key(self, batch: pa.RecordBatch) -> None:
        for column in self._load.table.key if self._load.keeps_last else ():
            if batch.column(column).null_count:
                raise KeyRefused(
                    f"key column {column!r} of {self._load.table.name} holds NULL, so its rows cannot be merged",
                    mend="name a key that is never NULL, or load with append or replace",
                )

    def raise_own_error(self) -> None:
        if self._error is not None:
            raise self._error


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _create_from(cur: Any, publication: Publication, staging: TableName, load: Load, counter: _Counter) -> None:
    standing = publication.standing(load.table.name)
    columns = [_staged_expression(c, standing) for c in load.table.columns]
    if load.keeps_last:
        columns.append(quoted(ROW))
    cur.register("_dbt_bridge_batches", counter.reader())
    try:
        cur.execute(
            f"CREATE TABLE {publication.sql_name(staging)} AS\nSELECT {', '.join(columns)}\nFROM _dbt_bridge_batches"
        )
    finally:
        cur.unregister("_dbt_bridge_batches")


def _staged_expression(column: Column, standing: Relation | None) -> str:
    """A column of NULLs has no type of its own: it has that of the standing table, or is text until values come."""
    name = quoted(column.name)
    if not pa.types.is_null(column.type):
        return name
    there = standing.column(column.name) if standing else None
    return f"CAST({name} AS {standing.columns[there] if standing and there else 'VARCHAR'}) AS {name}"


def _sql_types(cur: Any, schema: pa.Schema) -> dict[str, str]:
    """The SQL type of each column of an Arrow schema."""
    # Schema.empty_table() fails for lists of extension types (pyarrow 25)
    cur.register("_dbt_bridge_nothing", pa.Table.from_batches([], _nullable(schema)))
    try:
        return {row[0]: row[1] for row in cur.execute("DESCRIBE FROM _dbt_bridge_nothing").fetchall()}
    finally:
        cur.unregister("_dbt_bridge_nothing")


def _prepared(connection: Any, statement: str) -> None:
    """DuckDB quotes a statement that it refuses; that of a secret is not passed on."""
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        if "SECRET" not in statement.partition("(")[0]:
            raise
        raise ConnectionFailed(
            f"DuckDB refused a secret of the profile ({type(error).__name__})", mend="correct `secrets:` in the profile"
        ) from None


def _current_catalog(connection: Any) -> str:
    with closing(connection.cursor()) as cur:
        return str(cur.execute("SELECT current_database()").fetchone()[0])


def _check(load: Load) -> None:
    """All that is wrong with a request before its rows are looked at."""
    check_request(load)
    table = load.table
    if not table.columns:
        raise TypeRefused(
            f"{table.name} has no columns, and DuckDB has no tables without columns",
            mend="leave the table out with `exclude:`",
        )
    seen: dict[str, str] = {}
    for column in table.columns:
        if not column.name or column.name == ROW:
            raise TypeRefused(
                f"{table.name} has a column named {column.name!r}, which DuckDB cannot take",
                mend="rename the column at the origin, or read a view that does",
            )
        other = seen.setdefault(folded(column.name), column.name)
        if other is not column.name:
            raise TypeRefused(
                f"{table.name} has the columns {other!r} and {column.name!r}, which are one name to DuckDB",
                mend="rename or leave out one of them",
            )
