"""Rows on their way into a DuckDB staging table: checked, counted, and written under a hidden name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.duckdb.memory import Memory, Window
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation, fold_case
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.names import find_twins
from dbt_bridge.nouns.table import Column, TableName, quote_identifier
from dbt_bridge.replicate.loads import check_request
from dbt_bridge.system.owned_reader import make_reader

ROW = "_dbt_bridge_row"


def check(load: Load) -> None:
    """All that is wrong with a request before its rows are looked at."""
    check_request(load)
    table = load.table
    if not table.columns:
        raise TypeRefused(
            f"{table.name} has no columns, and DuckDB has no tables without columns",
            mend="leave the table out with `exclude:`, or say `unfit: text` in the bridge block of its source",
        )
    for column in table.columns:
        if not column.name or column.name == ROW:
            raise TypeRefused(
                f"{table.name} has a column named {column.name!r}, which DuckDB cannot take",
                mend="rename the column at the origin, or read a view that does",
            )
    if twins := find_twins((column.name for column in table.columns), fold_case):
        raise TypeRefused(
            f"{table.name} has the columns {twins[0]!r} and {twins[1]!r}, which are one name to DuckDB",
            mend="rename or leave out one of them; in the bridge of a source: `unfit: text` lands it under another"
            f" name where rows are copied, and `columns: {{exclude: [{quote_in_yaml(twins[1])}]}}` leaves it out",
        )


class Counter:
    """Counts what passes, checks keys, makes room, and keeps the error that DuckDB would only quote."""

    def __init__(self, load: Load, batches: pa.RecordBatchReader, memory: Memory) -> None:
        self._memory = memory
        self._window = Window()
        self.rows = 0
        self.bytes = 0
        self._load = load
        self._batches = batches
        self._error: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        schema = self._load.table.arrow_schema
        if self._load.keeps_last:
            schema = schema.append(pa.field(ROW, pa.int64()))
        return make_reader(_nullable(schema), self._count_batches(), self._batches)

    def _count_batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self._check_key(batch)
                self._memory.make_room(self._window.add(batch), batch.num_columns, self._load.table.name)
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


def create_staging(cur: Any, on: CatalogCursor, staging: TableName, load: Load, counter: Counter) -> None:
    standing = on.find_table(load.table.name)
    columns = [_select_staged(c, standing) for c in load.table.columns]
    if load.keeps_last:
        columns.append(quote_identifier(ROW))
    cur.register("_dbt_bridge_batches", counter.reader())
    try:
        cur.execute(f"CREATE TABLE {on.sql_name(staging)} AS\nSELECT {', '.join(columns)}\nFROM _dbt_bridge_batches")
    finally:
        cur.unregister("_dbt_bridge_batches")


def _select_staged(column: Column, standing: Relation | None) -> str:
    """A column of NULLs has no type of its own: it has that of the standing table, or is text until values come."""
    name = quote_identifier(column.name)
    if not pa.types.is_null(column.type):
        return name
    there = standing.column(column.name) if standing else None
    return f"CAST({name} AS {standing.columns[there] if standing and there else 'VARCHAR'}) AS {name}"


def sql_types(cur: Any, schema: pa.Schema) -> dict[str, str]:
    """The SQL type of each column of an Arrow schema."""
    # Schema.empty_table() fails for lists of extension types (pyarrow 25)
    cur.register("_dbt_bridge_nothing", pa.Table.from_batches([], _nullable(schema)))
    try:
        return {row[0]: row[1] for row in cur.execute("DESCRIBE FROM _dbt_bridge_nothing").fetchall()}
    finally:
        cur.unregister("_dbt_bridge_nothing")
