"""A Postgres database as an origin: catalog, cursor and rows of one exported snapshot."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin import catalog, cursor, key_search
from dbt_bridge.connectors.postgres.origin.binary_copy import copy_binary
from dbt_bridge.connectors.postgres.origin.column_types import resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.ctid_ranges import split_by_size
from dbt_bridge.connectors.postgres.origin.digests import TableDigests
from dbt_bridge.connectors.postgres.origin.initial_copy import Copy, Part, open_reader
from dbt_bridge.connectors.postgres.origin.shape import describe_shape, find_oid
from dbt_bridge.connectors.postgres.wire.bulk import RAW_FORMAT
from dbt_bridge.contracts.origin import Described, Increment
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import (
    Column,
    TableName,
    quote_identifier,
    quote_table_name,
)

_IDENTITY = """
SELECT c.system_identifier || '/' || d.oid
FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()
"""
_NO_IDENTITY = (
    "42501",
    "42883",
    "0A000",
)  # no privilege; not there, or not supported, on a relative of Postgres


class PostgresOrigin:
    """A Postgres database in one exported snapshot, which begins with the first use and ends with `close`.

    Constructing does no I/O. Methods may be called from several threads.

    Args:
        name: as in `origin: NAME`, for messages.
        url: `postgresql://user:password@host:port/database?sslmode=...`, or libpq's `key=value` form.
        snapshot: an exported snapshot to read in; None to begin one.
        for_changes: describe only the columns whose changes the server publishes: generated ones it does not, or not
            before PostgreSQL 18.

    Raises (from every method):
        ConnectionFailed: the server cannot be reached or logged in to.
        OriginError: a table, column or privilege is missing, or the server broke off.
    """

    raw_format = RAW_FORMAT

    def __init__(self, name: str, url: str, snapshot: str | None = None, *, for_changes: bool = False) -> None:
        self.name = name
        self.url = url
        self._for_changes = for_changes
        self._connections = Connections(name, url, snapshot)
        self._relations: dict[TableName, catalog.Relation] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> PostgresOrigin:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the snapshot and its connections."""
        self._connections.close()
        self._relations.clear()

    def read_clock(self) -> int:
        """When the snapshot was begun or imported, by the server's clock: microseconds since 1970."""
        began = "SELECT (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint"
        return int(self._connections.query(began)[0][0])

    def read_identity(self) -> tuple[str, ...]:
        """`system identifier/oid of the database`, which a standby has too; empty where the user may not see it."""
        try:
            ((identity,),) = self._connections.query(_IDENTITY)
        except OriginError as error:
            if error.sqlstate not in _NO_IDENTITY:
                raise
            return ()
        return (str(identity),)

    def tables(self, schema: str | None) -> list[TableName]:
        """Every ordinary, partitioned (by its root) or foreign table of a schema, sorted.

        A table that others inherit from holds their rows too, as `SELECT` from it does.
        """
        self._connections.query("SELECT 1")
        return catalog.list_tables(self._connections, schema or self._connections.default_schema)

    def describe(self, name: TableName) -> Described:
        relation = self._find_relation(name)
        table = relation.table
        if self._for_changes and (oid := find_oid(self._connections, table.name)) is not None:
            shape = describe_shape(self._connections, oid)
            published = {column.name for column in shape.columns} if shape else set()
            columns = tuple(c for c in table.columns if c.name in published)
            table = replace(table, columns=columns, key=table.key if published.issuperset(table.key) else ())
        # By the name too: checkpoints of earlier versions have no other.
        known = [(name, form.facts) for form in relation.forms if form.parts for name in (str(form.oid), form.name)]
        forms = dict(known)
        return Described(table, relation.rows, relation.bytes, forms)

    def let_go(self, name: TableName) -> None:
        with self._lock:
            relation = self._relations.pop(name, None)
        self._connections.let_go(name if relation is None else relation.table.name)

    def rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None = None, *, workers: int = 1
    ) -> pa.RecordBatchReader:
        """See `Origin.rows`. Partitioned, inherited and foreign tables and views are read by one worker."""
        relation = self._find_relation(name)
        self._require_columns(relation, [c.name for c in columns])
        part = self._build_part(relation, increment)
        workers = 1 if part.order else workers
        readings = tuple(resolve_reading(relation.types[c.name], c.type) for c in columns)
        ranges = split_by_size(relation.pages, workers)
        copy = Copy(relation.table.name, tuple(columns), readings, part, ranges)
        return open_reader(self._connections, copy, workers)

    def rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> pa.RecordBatchReader:
        """See `Origin.rows_of` and key_search.py."""
        relation = self._find_relation(name)
        self._require_columns(relation, [*(c.name for c in columns), *keys.column_names])
        readings = tuple(resolve_reading(relation.types[c.name], c.type) for c in columns)
        wanted = tuple(key_search.build_conditions(relation, keys))
        copy = Copy(relation.table.name, tuple(columns), readings, ranges=wanted)
        return open_reader(self._connections, copy, workers=1)

    def count(self, name: TableName) -> int:
        relation = self._find_relation(name)
        return int(self._connections.query(f"SELECT count(*) FROM {quote_table_name(relation.table.name)}")[0][0])  # noqa: S608

    def digest_table(self, name: TableName, workers: int = 1) -> TableDigests:
        """The digests of a table, computed by the server; see digests.py."""
        return TableDigests(self._connections, self._find_relation(name), workers)

    def copy_raw(
        self, name: TableName, columns: Sequence[str], casts: Mapping[str, str], increment: Increment | None = None,
        *, workers: int = 1,
    ) -> list[Iterator[bytes]]:  # fmt: skip
        """The same rows for another Postgres; see binary_copy.py."""
        relation = self._find_relation(name)
        self._require_columns(relation, columns)
        part = self._build_part(relation, increment)
        return copy_binary(self._connections, relation, columns, casts, part, workers=1 if part.order else workers)

    def require_readable(self, name: TableName, columns: Sequence[str]) -> None:
        """See `ChecksReading`."""
        relation = self._find_relation(name)
        self._require_columns(relation, columns)
        names = ", ".join(map(quote_identifier, columns))
        # A policy that hides rows is an error of its planning (row_security is off).
        self._connections.query(f"SELECT {names} FROM {quote_table_name(relation.table.name)} LIMIT 0")  # noqa: S608

    def _require_columns(self, relation: catalog.Relation, columns: Sequence[str]) -> None:
        catalog.require_columns(self._connections, relation, columns)

    def _build_part(self, relation: catalog.Relation, increment: Increment | None) -> Part:
        """The rows that an increment wants; all of them without one."""
        if increment is None:
            return Part()
        bound = cursor.compute_lower_bound(self._connections, relation, increment)
        order = quote_identifier(increment.cursor) if increment.ordered else ""
        return Part(cursor.build_condition(relation, increment, bound), order)

    def lower_bound(self, name: TableName, increment: Increment) -> str | None:
        return cursor.compute_lower_bound(self._connections, self._find_relation(name), increment)

    def newest(self, name: TableName, cursor_name: str) -> str | None:
        return cursor.read_newest(self._connections, self._find_relation(name), cursor_name)

    def _find_relation(self, name: TableName) -> catalog.Relation:
        with self._lock:
            self._connections.query("SELECT 1")
            known = name if name.schema else TableName(self._connections.default_schema, name.name)
            if known not in self._relations:
                self._relations[known] = catalog.describe_relation(self._connections, known)
            return self._relations[known]
