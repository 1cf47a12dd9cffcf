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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dbt_bridge.arrow.duckdb_rows import interruptible
from dbt_bridge.connectors.duckdb import audit
from dbt_bridge.connectors.duckdb import read as reading
from dbt_bridge.connectors.duckdb.column_types import map_column
from dbt_bridge.connectors.duckdb.following.apply import DuckDBApplication
from dbt_bridge.connectors.duckdb.memory import Memory, connect_with_memory, is_out_of_memory
from dbt_bridge.connectors.duckdb.outgoing.marks import ensure_marks, has_arrived, recall
from dbt_bridge.connectors.duckdb.profile import file_of, find_database, require_writable
from dbt_bridge.connectors.duckdb.publish import check_types, publish_one, refuse_one_place
from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
from dbt_bridge.connectors.duckdb.relation import CatalogCursor
from dbt_bridge.connectors.duckdb.session import blaming, in_transaction, name_holder, translate_errors
from dbt_bridge.connectors.duckdb.stage import (
    ROW,
    Counter,
    check,
    create_staging,
    sql_types,
)
from dbt_bridge.connectors.duckdb.state import DuckDBState, open_state
from dbt_bridge.contracts.destination import (
    Application,
    BeginAgain,
    Load,
    Loaded,
    Staged,
)
from dbt_bridge.contracts.outgoing import Mark, Outgoing
from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.errors import ConnectionFailed, DestinationError, KeyRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)
from dbt_bridge.replicate.loads import load_staged
from dbt_bridge.system.lock_wait import open_when_free

STAGING_PREFIX = "_dbt_bridge_stage_"
_TEXT = "VARCHAR"
_LIMITS = frozenset({"memory_limit", "max_memory"})  # two names of one setting

# A DuckDB file is open in one process at a time: staging tables of any other token are left over from a killed run.
_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)
# Two transactions that insert the same key do not conflict in DuckDB (snapshot isolation): merges at once into one
# table would leave the key twice. All writers of a file are threads of one process.
_publishing = threading.RLock()


class DuckDBWarehouse:
    """A `Warehouse` over one DuckDB catalog.

    Made by `open`, which owns its connection, or `over` a connection of somebody else (dbt's), whose settings stay as
    they are.
    """

    chunk_rows = 250_000

    def __init__(
        self, connection: Any, *, name: str, catalog: str, owned: bool, file: str | Path = "",
        memory: Memory | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._file = file
        self._connection = connection
        self._catalog = catalog
        self._owned = owned
        self._memory = memory or Memory(connection, is_fixed=True)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "duckdb",
        prepare: Sequence[str] = (),
        catalog: str | None = None,
    ) -> DuckDBWarehouse:
        """Open a database file (or `:memory:`).

        Args:
            prepare: statements to run first: extensions, secrets, attached databases.
            catalog: an attached database to work in.

        Raises:
            ConnectionFailed: another process has the file for longer than is waited for, or it is unreadable, or open
                here with other options.
        """
        # Row order is kept for merges by a column of our own. DuckDB's choice of a string compression costs most of a
        # load's CPU, and FSST gives files of the same size.
        tuned = {
            "preserve_insertion_order": False,
            "force_compression": "fsst",
            **(config or {}),
        }

        is_fixed = not _LIMITS.isdisjoint(config or ())

        def connect() -> Any:
            connection = connect_with_memory(str(path), tuned, is_fixed=is_fixed)
            try:
                for statement in prepare:
                    _run_preparation(connection, statement)
            except BaseException:
                connection.close()
                raise
            return connection

        try:
            connection = open_when_free(path, connect, name_holder)
        except duckdb.Error as error:
            raise ConnectionFailed(
                f"the DuckDB file {path} cannot be opened: {error}",
                mend="close the program that has it open, or check the path and the profile's config_options",
            ) from error
        memory = Memory(connection, is_fixed=is_fixed)
        catalog = catalog or _current_catalog(connection)
        return cls(connection, name=name, catalog=catalog, owned=True, file=path, memory=memory)

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

    def queries(self, schema: str = "", *, release: Callable[[], None] = lambda: None) -> DuckDBQueries:
        """Its relations, asked in SQL.

        Args:
            schema: names without one are found by DuckDB's own search path.
            release: called when the queries are closed.
        """
        return DuckDBQueries(self.name, self._connection, self._catalog, release)

    def open_database(self, name: str, *, to_write: bool = False) -> DuckDBWarehouse:
        """See `HoldsDatabases`. Its checkpoints and receipts lie beside its rows: a transaction of DuckDB writes to one
        attached database alone (1.5.5)."""
        with self._cursor(f"the database {name!r}") as cur:
            found = find_database(cur, name)
        if to_write:
            require_writable(found)
        return DuckDBWarehouse(
            self._connection, name=self.name, catalog=found.name, owned=False, file=self._file, memory=self._memory
        )

    def is_database_of(self, settings: OriginSettings) -> bool:
        """See `OpensOnce`."""
        return (
            settings.scheme == "duckdb"
            and bool(self._file)
            and Path(self._file).resolve() == file_of(settings).resolve()
        )

    def __enter__(self) -> DuckDBWarehouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._owned:
            self._connection.close()

    # --- Destination -------------------------------------------------------------------------------------------

    def map_column(self, column: Column) -> Column:
        """See `column_types.map_column`."""
        return map_column(column)

    def check_key(self, name: TableName, column: Column) -> None:
        """See `ComparesKeys`."""
        if pa.types.is_nested(column.type) and "interval" in str(column.type):
            raise KeyRefused(
                f"{name}: the key column {column.name!r} holds intervals inside of {column.type}, and DuckDB does not"
                " take `29 days` for `1 mon -1 day`",
                mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
            )

    def take_told(self) -> list[str]:
        """See `Tells`."""
        return self._memory.take_told()

    def find_table(self, name: TableName) -> Table | None:
        """The table (or a view that is not a ghost) as it stands, with DuckDB's types in `origin_type`."""
        with closing(self._connection.cursor()) as cur:
            found = CatalogCursor(cur, self._catalog).find_relation(name)
            if found is None or found.is_ghost:
                return None
            schema = reading.schema_of(cur, self._select(found.name, found.columns), found.columns)
        columns = zip(schema, found.columns.values(), strict=True)
        return Table(found.name, tuple(Column(f.name, f.type, sql) for f, sql in columns))

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Stage and publish one table. On any error the table is what it was."""
        loaded = load_staged(self, load, batches)
        self.discard()  # also what a killed run has left
        return loaded

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """See `RemembersAppends`."""
        with self._cursor(name) as cur:
            return has_arrived(CatalogCursor(cur, self._catalog), name, delivery)

    def find_mark(self, name: TableName, delivery: Outgoing) -> Mark:
        """See `DeletesOwn`."""
        with self._cursor(name) as cur:
            return recall(CatalogCursor(cur, self._catalog), name, delivery)

    def hold(self, name: TableName, delivery: Outgoing) -> AbstractContextManager[None]:
        """See `DeletesOwn`. The file belongs to one process, which has it open by now."""
        return nullcontext()

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """The exact counts of a load: it is done, and rolled back."""
        staged = self.stage(load, batches)
        try:
            with self._cursor(staged.load.table.name) as cur:
                cur.execute("BEGIN")
                try:
                    on = CatalogCursor(cur, self._catalog)
                    ensure_marks(on, staged.load.table.name, load.delivery)
                    return publish_one(on, staged)
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
        check(load)
        name = load.table.name
        staging = TableName(name.schema, f"{STAGING_PREFIX}{_PROCESS}_{next(_numbers)}")
        counter = Counter(load, batches, self._memory)
        with self._cursor(name) as cur:
            on = CatalogCursor(cur, self._catalog)
            check_types(on, load, sql_types(cur, load.table.arrow_schema))
            on.create_schema(name.schema)
            try:
                create_staging(cur, on, staging, load, counter)
                if load.keeps_last:
                    on.keep_last(staging, load.table.key, ROW)
            except BaseException as error:
                on.drop_staging(staging)
                counter.raise_own_error()
                if is_out_of_memory(error) and (self._memory.make_more(name) or self._memory.make_all(name)):
                    raise BeginAgain(f"DuckDB was out of memory while {name} was copied") from error
                raise
        return Staged(load, staging, counter.rows, counter.bytes)

    def publish(
        self,
        staged: Sequence[Staged],
        checkpoints: Sequence[Checkpoint] = (),
        receipts: Callable[[Sequence[Loaded]], Sequence[Receipt]] | None = None,
    ) -> list[Loaded]:
        """Show all staged tables, with checkpoints and receipts, in one transaction, which is retried on conflicts."""

        def work(cur: Any) -> list[Loaded]:
            on = CatalogCursor(cur, self._catalog)
            loaded = []
            for one in staged:
                with blaming(one.load.table.name):
                    loaded.append(publish_one(on, one))
            audit.save_checkpoints(cur, self._catalog, checkpoints)
            if receipts is not None:
                audit.append_receipts(cur, self._catalog, receipts(loaded))
            return loaded

        refuse_one_place(staged)
        tables = ", ".join(str(s.load.table.name) for s in staged)
        with _publishing, self._cursor(tables) as cur:
            audit.ensure(cur, self._catalog)
            for one in staged:
                ensure_marks(CatalogCursor(cur, self._catalog), one.load.table.name, one.load.delivery)
            return self._memory.with_more(lambda: in_transaction(cur, work), tables)

    @contextmanager
    def open_state(self) -> Iterator[DuckDBState]:
        """See `state`. Over a connection of somebody else, what that wrote and did not commit is not seen."""
        with open_state(self._connection, self._catalog, self._memory) as state:
            yield state

    @contextmanager
    def open_application(self, load_id: str) -> Iterator[Application]:
        """One transaction for the changes of several tables; no other thread publishes while it lasts."""
        with _publishing, self._cursor("changes") as cur:
            audit.ensure(cur, self._catalog)
            application = DuckDBApplication(cur, self._catalog, self._memory)
            try:
                yield application
            finally:
                application.undo()

    def discard(self, staged: Sequence[Staged] = ()) -> None:
        """Drop these staging tables and those of killed processes; live loads of this process keep theirs."""
        with self._cursor("staging tables") as cur:
            on = CatalogCursor(cur, self._catalog)
            mine = {s.staging for s in staged}
            for name in on.list_tables(STAGING_PREFIX):
                if name in mine or not name.name.startswith(f"{STAGING_PREFIX}{_PROCESS}_"):
                    on.drop_staging(name)

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

    def record_parity(self, rows: Sequence[ParityRow]) -> None:
        if not rows:
            return
        with self._cursor("parity") as cur:
            audit.ensure(cur, self._catalog, audit.COMPARED)
            in_transaction(cur, lambda cur: audit.append_parity(cur, self._catalog, rows))

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
        with translate_errors(name):
            found = CatalogCursor(cur, self._catalog).find_relation(name)
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
            size = self._memory.make_room_to_read(self._sql_name(found.name), name)
            rows = reading.read(cur, name, self._select(found.name, wanted, text), types, size)
        return self._memory.watch(rows, name)

    def fingerprint(self, name: TableName) -> str:
        """The number of rows and the sum of their hashes."""
        with self._cursor(name) as cur:
            found = CatalogCursor(cur, self._catalog).find_relation(name)
            if found is None:
                return ""
            try:
                cur.execute(
                    "SELECT count(*), coalesce(sum(hash(_dbt_bridge_row)::HUGEINT), 0)\n"
                    f"FROM {self._sql_name(found.name)} AS _dbt_bridge_row"
                )
            except duckdb.NotImplementedException:  # a type without a hash
                return ""
            rows, total = cur.fetchone() or (0, 0)
            return f"{rows}:{total}"

    # --- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _cursor(self, where: object) -> Iterator[Any]:
        with closing(self._connection.cursor()) as cur, interruptible(cur), translate_errors(where):
            yield cur

    def _select(self, name: TableName, columns: Mapping[str, str], as_text: Collection[str] = ()) -> str:
        parts = ", ".join(reading.select_exactly(c, sql, as_text=c in as_text) for c, sql in columns.items())
        return f"SELECT {parts}\nFROM {self._sql_name(name)}"

    def _sql_name(self, name: TableName) -> str:
        return f"{quote_identifier(self._catalog)}.{quote_table_name(name)}"


def _run_preparation(connection: Any, statement: str) -> None:
    """DuckDB quotes a statement that it refuses; that of a secret is not passed on."""
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        if "cannot be set globally" in str(error):  # a setting of each connection
            connection.execute(statement.replace("SET GLOBAL", "SET", 1))
            return
        if "SECRET" not in statement.partition("(")[0]:
            raise
        raise ConnectionFailed(
            f"DuckDB refused a secret of the profile ({type(error).__name__})", mend="correct `secrets:` in the profile"
        ) from None


def _current_catalog(connection: Any) -> str:
    with closing(connection.cursor()) as cur:
        return str(cur.execute("SELECT current_database()").fetchone()[0])
