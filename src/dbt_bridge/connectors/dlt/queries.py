"""Queries of a warehouse that is reached through dlt's SQL client: Snowflake, BigQuery, Redshift, and the rest.

dlt gives the types of a relation's columns only roughly and those of expressions not at all: types are what the first
rows come in, and a later value that does not fit them is refused while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dbt_bridge.arrow import decimals
from dbt_bridge.connectors.dlt.session import DltSession
from dbt_bridge.errors import BridgeError, DestinationError, TypeRefused, scrubbed
from dbt_bridge.nouns.reconciliation import (
    Selection,
    in_parentheses,
    require_distinct,
    strip_semicolon,
)
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.system.owned_reader import make_reader

_BATCH_ROWS = 20_000
_DECIMAL_SCALE = 9  # where neither dlt nor the warehouse gives a scale
_KEYS_PER_QUERY = 200
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(slots=True)
class DltRows:
    """The rows of a query: a `contracts.side.Side`."""

    name: str
    database: DltQueries
    table: Table
    query: str

    def count(self) -> int:
        statement = f"SELECT count(*) FROM {in_parentheses(self.query)}"  # noqa: S608
        with self.database.client() as sql, sql.execute_query(statement) as cur:
            return int(cur.fetchall()[0][0])

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows. Keys of whole numbers and plain words are searched by the warehouse, others in what it sends.

        Raises (while it is read):
            TypeRefused: a value does not fit its column's type.
            DestinationError: the warehouse broke off.
        """
        fields = {field.name: field for field in self.table.arrow_schema}
        schema = pa.schema([fields[name] for name in columns])
        return make_reader(schema, self._batches(schema, keys))

    def _batches(self, schema: pa.Schema, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        if keys is None:
            for rows in self._read(schema, ""):
                yield from rows.to_batches()
            return
        fields = {field.name: field for field in self.table.arrow_schema}
        whole = pa.schema([*schema, *(fields[name] for name in keys.column_names if name not in schema.names)])
        distinct = list({tuple(row.values()): None for row in keys.to_pylist()})
        columns = [self.database.quote_identifier(name) for name in keys.column_names]
        for condition, some in self.database.conditions(columns, distinct):
            wanted = set(some)
            for rows in self._read(whole, condition):
                held = rows.select(keys.column_names).to_pylist()
                kept = pa.array([tuple(row.values()) in wanted for row in held], pa.bool_())
                yield from rows.filter(kept).select(schema.names).to_batches()

    def _read(self, schema: pa.Schema, condition: str) -> Iterator[pa.Table]:
        with self.database.client() as sql:
            wanted = ", ".join(sql.escape_column_name(name, casefold=False) for name in schema.names)
            statement = f"SELECT {wanted} FROM {in_parentheses(self.query)}{condition}"  # noqa: S608
            with sql.execute_query(statement) as cur:
                for rows in cur.iter_arrow(chunk_size=_BATCH_ROWS):
                    arrays = [
                        self._cast_column(column, field) for column, field in zip(rows.columns, schema, strict=True)
                    ]
                    yield pa.table(arrays, schema=schema)

    def _cast_column(self, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
        try:
            return decimals.cast(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TypeRefused(
                f"{self.name}, column {field.name!r}: {error}", mend=f"give {field.name!r} a CAST in its expression"
            ) from error


class DltQueries:
    """A warehouse that answers queries through dlt. See `contracts.queries.Queries`."""

    def __init__(self, session: DltSession, schema: str) -> None:
        self.name = session.name
        self._session = session
        self._place = TableName(schema, "query")

    @contextmanager
    def client(self) -> Iterator[Any]:
        """dlt's SQL client, and what the warehouse refuses in the bridge's words."""
        try:
            with self._session.sql_client(self._place) as sql:
                yield sql
        except BridgeError as error:
            if not isinstance(error, DestinationError) or error.__cause__ is None:
                raise
            said = scrubbed(" ".join(str(error.__cause__).split()))
            raise DestinationError(
                f"{self.name!r} refused the query: {said}", mend="correct its SQL in the YAML"
            ) from error

    def quote_identifier(self, identifier: str) -> str:
        """A name, quoted, as the warehouse stores it; `names` answers such names."""
        with self.client() as sql:
            return str(sql.escape_column_name(identifier, casefold=False))

    def relation(self, name: TableName) -> str:
        """A relation as people write it without quotes."""
        with self.client() as sql:
            return ".".join(str(sql.escape_column_name(part)) for part in (name.schema, name.name) if part)

    def names(self, rows: str) -> list[str]:
        with self.client() as sql, sql.execute_query(f"SELECT * FROM {rows} WHERE 1 = 0") as cur:  # noqa: S608
            return require_distinct([column[0] for column in cur.description], self.name)

    def key(self, name: TableName) -> tuple[str, ...]:
        """Warehouses of this kind enforce none."""
        return ()

    def side(self, name: str, selection: Selection) -> DltRows:
        query = selection.sql(self.quote_identifier)
        return DltRows(name, self, Table(TableName(self.name, "query"), self._columns(query)), query)

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        columns = self._columns(strip_semicolon(sql))
        rows = DltRows(self.name, self, Table(TableName(self.name, "query"), columns), strip_semicolon(sql))
        return columns, rows.rows([c.name for c in columns]).read_all()

    def close(self) -> None:
        """Nothing is held open between queries."""

    def conditions(
        self, columns: Sequence[str], keys: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[str, Sequence[tuple[Any, ...]]]]:
        """WHERE, query by query, and its keys: it finds every row that has one of them, and may find others.

        Drivers differ in how they bind, and in what they make of a percent sign beside bound values. So only whole
        numbers and plain words stand in the query, which need no quoting; all rows are read where a key is another.

        Args:
            columns: the key's, quoted.
        """
        literals = [[_literal(value) for value in key] for key in keys]
        if any(literal is None for key in literals for literal in key):
            yield "", keys
            return
        for start in range(0, len(literals), _KEYS_PER_QUERY):
            some = literals[start : start + _KEYS_PER_QUERY]
            alternatives = (" AND ".join(f"{c} {v}" for c, v in zip(columns, key, strict=True)) for key in some)
            yield (
                f" WHERE {' OR '.join(f'({alternative})' for alternative in alternatives)}",
                keys[start : start + _KEYS_PER_QUERY],
            )

    def _columns(self, query: str) -> tuple[Column, ...]:
        names = self.names(in_parentheses(query))
        with self.client() as sql, sql.execute_query(query) as cur:
            first = next(iter(cur.iter_arrow(chunk_size=_BATCH_ROWS)), None)
        if first is None:
            return tuple(Column(name, pa.string()) for name in names)
        return tuple(Column(name, _map_type(column.type)) for name, column in zip(names, first.columns, strict=True))


def _literal(value: Any) -> str | None:
    """The comparison with a value; None where it would have to be quoted."""
    if value is None:
        return "IS NULL"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"= {value:d}"
    return f"= '{value}'" if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _map_type(found: pa.DataType) -> pa.DataType:
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_decimal(found):
        return pa.decimal128(38, max(found.scale, _DECIMAL_SCALE))
    if pa.types.is_timestamp(found):
        return pa.timestamp("us", "UTC" if found.tz else None)
    return found
