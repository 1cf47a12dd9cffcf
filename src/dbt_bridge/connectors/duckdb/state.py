"""What DuckDB holds at one moment: one transaction on a cursor of its own, so that all of it is one state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from dbt_bridge.arrow.duckdb_rows import interruptible, stream_query
from dbt_bridge.connectors.duckdb import read as reading
from dbt_bridge.connectors.duckdb.landing_table import lend_rows
from dbt_bridge.connectors.duckdb.memory import Memory, is_out_of_memory
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation, fill_in
from dbt_bridge.connectors.duckdb.session import roll_back, translate_errors
from dbt_bridge.contracts.destination import DELETED_AT, BeginAgain, Replica
from dbt_bridge.errors import DestinationError, scrubbed
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.change_log import LOG_COLUMNS
from dbt_bridge.replicate.log_state import LogRelation, select_state, since_copied
from dbt_bridge.replicate.replica_checks import recopy_command
from dbt_bridge.replicate.stored_values import cast_columns, check_keys, missing_column
from dbt_bridge.system.owned_reader import make_reader

_WANTED = "_dbt_bridge_wanted"


@dataclass(frozen=True, slots=True)
class _StoredColumn:
    """A column as the catalog spells it, with its SQL type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is read.

    Attributes:
        sql: after FROM: its rows stand for the origin's.
        columns: the replica's, as they are there.
        vector_bytes: of long values in 2048 rows, at most.
    """

    sql: str
    columns: Mapping[str, _StoredColumn]
    vector_bytes: int


class DuckDBState:
    """A `State` in one transaction. Its answers are read one after the other: a cursor has one result at a time.

    Args:
        cur: a cursor in a transaction, which is its own.
    """

    def __init__(self, cur: Any, catalog: str, memory: Memory) -> None:
        self._cur = cur
        self._memory = memory
        self._catalog = catalog
        self._on = CatalogCursor(cur, catalog)
        self._streaming = ""

    def count(self, replica: Replica) -> int:
        with self._next(replica):
            standing = self._standing(replica)
            return int(self._on.scalar(f"SELECT count(*) FROM {standing.sql}"))  # noqa: S608

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `State.rows`."""
        with self._next(replica):
            standing = self._standing(replica)
        wanted = None if keys is None else check_keys(replica, keys)
        schema = replica.table.arrow_schema
        return make_reader(schema, self._batches(replica, standing, wanted))

    def cancel(self) -> None:
        """End what another thread reads, which gets an error."""
        self._cur.interrupt()

    @contextmanager
    def _next(self, replica: Replica) -> Iterator[None]:
        if self._streaming:
            raise DestinationError(
                f"{replica.table.name} was asked for while the rows of {self._streaming} were still being read",
                mend="this is a mistake in dbt-bridge: please report it",
            )
        with translate_errors(replica.table.name):
            yield

    def _batches(self, replica: Replica, standing: _Standing, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        name, schema = replica.table.name, replica.table.arrow_schema
        selected = ", ".join(
            _select_exactly(f"t.{quote_identifier(stored.name)}", stored.type, quote_identifier(column))
            if not _is_nested_as_text(schema.field(column).type, stored.type)
            else f"CAST(t.{quote_identifier(stored.name)} AS VARCHAR) AS {quote_identifier(column)}"
            for column, stored in standing.columns.items()
        )
        query = f"SELECT {selected}\nFROM {standing.sql} AS t"
        lent: Any = nullcontext()
        if keys is not None:
            query += f"\nSEMI JOIN {_WANTED} AS k ON {_same_key(standing, keys.column_names)}"
            renamed = keys.rename_columns([f"k{place}" for place in range(keys.num_columns)])
            lent = lend_rows(self._on, _WANTED, renamed)
        with self._next(replica):
            pass
        self._streaming = str(name)
        try:
            with lent:
                for batch in stream_query(self._cur, query, standing.vector_bytes):
                    yield cast_columns(batch.columns, schema, name)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if is_out_of_memory(error) and (self._memory.make_more(name) or self._memory.make_all(name)):
                self._begin_anew()
                raise BeginAgain(f"DuckDB was out of memory while {name} was read") from error
            raise DestinationError(
                f"DuckDB broke off while {name} was read: {scrubbed(' '.join(str(error).split()))}",
                mend="run the same command again",
            ) from error
        finally:
            self._streaming = ""

    def _begin_anew(self) -> None:
        """DuckDB takes no more statements in a transaction that was out of memory. Who compares holds the landing
        still, and the file is of one process: it is the same state."""
        roll_back(self._cur)
        _begin(self._cur, self._catalog)

    def _standing(self, replica: Replica) -> _Standing:
        found = self._on.find_relation(replica.table.name)
        if found is None or found.is_ghost:
            raise DestinationError(f"there is no table {replica.table.name}", mend=recopy_command(replica.node))
        columns = {c.name: _require_column(found, c.name, replica) for c in replica.table.columns}
        table = self._on.sql_name(found.name)
        size = self._memory.make_room_to_read(table, replica.table.name)
        if replica.change_log:
            return _Standing(self._log_state(replica, found, table), columns, size)
        if replica.deletes == "soft":
            deleted_at = quote_identifier(_require_column(found, DELETED_AT, replica).name)
            return _Standing(f"(SELECT * FROM {table} WHERE {deleted_at} IS NULL)", columns, size)  # noqa: S608
        return _Standing(table, columns, size)

    def _log_state(self, replica: Replica, found: Relation, table: str) -> str:
        for column in LOG_COLUMNS:
            _require_column(found, column, replica)
        names = {
            name: _require_column(found, name, replica).name
            for name in (*replica.table.arrow_schema.names, *replica.table.key)
        }
        log = LogRelation(f"({since_copied(table, 'rowid')})", found.columns, names)
        return select_state(replica, log, self._on.scalar)


def _require_column(found: Relation, name: str, replica: Replica) -> _StoredColumn:
    own = found.column(name)
    if own is None:
        raise missing_column(replica.table.name, name, replica)
    return _StoredColumn(own, found.columns[own])


def _is_nested_as_text(type_: pa.DataType, stored: str) -> bool:
    """Whether a list, struct, map or union is asked for as text, as which it was delivered."""
    return bool(pa.types.is_string(type_)) and (stored.endswith("]") or stored.startswith(("STRUCT", "MAP", "UNION")))


def _select_exactly(column: str, type_: str, name: str) -> str:
    """What is selected so that Arrow has every value; see `read.expression`."""
    if type_ == "UUID":
        return f"CAST({column} AS BLOB) AS {name}"  # its 16 bytes; twice as fast as by text
    if type_.endswith("[]") and type_.startswith(("UUID", "JSON", "ENUM(")):
        return f"CAST({column} AS VARCHAR{type_[type_.index('[') :]}) AS {name}" if "'" not in type_ else column
    if type_ == "JSON" or type_.startswith("ENUM("):
        return f"CAST({column} AS VARCHAR) AS {name}"
    return f"{reading.cast_for_arrow(column, type_)} AS {name}"


def _same_key(standing: _Standing, names: Sequence[str]) -> str:
    parts = []
    for place, name in enumerate(names):
        stored = standing.columns[name]
        there, asked = f"t.{quote_identifier(stored.name)}", f"CAST(k.k{place} AS {stored.type})"
        if stored.type == "INTERVAL":  # DuckDB takes 30 days for a month
            there, asked = f"CAST({there} AS VARCHAR)", f"CAST({asked} AS VARCHAR)"
        parts.append(f"{there} IS NOT DISTINCT FROM {asked}")
    return " AND ".join(parts)


@contextmanager
def open_state(connection: Any, catalog: str, memory: Memory) -> Iterator[DuckDBState]:
    """A state from now on, until the context ends. Writers go on meanwhile."""
    cur = connection.cursor()
    try:
        with translate_errors("a state to read"):
            _begin(cur, catalog)
        with interruptible(cur):
            yield DuckDBState(cur, catalog, memory)
    finally:
        roll_back(cur)
        cur.close()


def _begin(cur: Any, catalog: str) -> None:
    cur.execute("BEGIN")
    # The transaction of an attached database begins with the first look at its catalog.
    cur.execute(fill_in("SELECT count(*) FROM duckdb_tables() WHERE database_name = ?", catalog)).fetchall()
