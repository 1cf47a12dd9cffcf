"""A dbt warehouse that is reached through dlt: Snowflake, BigQuery, Redshift, Databricks, and the rest.

Tables become visible one by one, and their checkpoints after them: a crash in between reads the same rows again, which
merge and replace absorb. The audit tables are loaded like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from dbt_bridge.arrow import decimals
from dbt_bridge.connectors.dlt.apply import APPLIED, DltApplication
from dbt_bridge.connectors.dlt.databases import in_database
from dbt_bridge.connectors.dlt.destination import DltDestination
from dbt_bridge.connectors.dlt.queries import DltQueries
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns import parity_row
from dbt_bridge.nouns.checkpoint import CHECKPOINT_FIELDS, Checkpoint
from dbt_bridge.nouns.parity_row import PARITY, ParityRow
from dbt_bridge.nouns.receipt import (
    RECEIPTS,
    Receipt,
    as_arrow,
    new_load_id,
)
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.audit_tables import CHECKPOINTS
from dbt_bridge.system.owned_reader import make_reader

_BATCH_ROWS = 20_000


class DltWarehouse(DltDestination):
    """A `Ledger` over any dlt destination with SQL. Its constructor is DltDestination's."""

    def checkpoint(self, node: str) -> Checkpoint | None:
        return next((point for point in self.checkpoints() if point.node == node), None)

    def queries(self, schema: str) -> DltQueries:
        """Its relations, asked in SQL."""
        return DltQueries(self.session, schema)

    def open_database(self, name: str, *, to_write: bool = False) -> DltWarehouse:
        """See `HoldsDatabases`. Whether rows may land there is for the warehouse to say."""
        return DltWarehouse(self.name, in_database(self.session.destination, name))

    # --- Follows -----------------------------------------------------------------------------------------------

    chunk_rows = 200_000

    @contextmanager
    def open_application(self, load_id: str) -> Iterator[DltApplication]:
        """Apply changes; see `apply`."""
        application = DltApplication(self, load_id)
        try:
            yield application
        finally:
            application.undo()

    def position(self, replica: Replica) -> int | None:
        """The LSN that was written with the table's rows; None before the first."""
        applied = TableName(replica.table.name.schema, APPLIED)
        if self.find_table(applied) is None:
            return None
        with self.session.pipeline(applied) as pipeline:
            found = self.session.select(pipeline, applied, ("node", "lsn")) or []
        return next((int(lsn) for node, lsn in found if node == replica.node), None)

    def ensure_applied(self, schema: str) -> None:
        """The table that says where each one stands."""
        table = Table(TableName(schema, APPLIED), (Column("node", pa.string()), Column("lsn", pa.int64())))
        if self.find_table(table.name) is None:
            self.load(Load(table, "replace", new_load_id()), table.arrow_schema.empty_table().to_reader())

    def save_ledger(self, checkpoints: Sequence[Checkpoint], receipts: Sequence[Receipt]) -> None:
        """After the changes: a crash in between leaves checkpoints behind the tables, whose own LSN `position` has."""
        if checkpoints or receipts:
            self.save(checkpoints, receipts)

    # --- Ledger ------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        there = self.find_table(CHECKPOINTS.name)
        if there is None:
            return []
        # A table that an earlier version made lacks the later fields until the next checkpoint is saved.
        names = tuple(name for name in CHECKPOINT_FIELDS if there.column(name) is not None)
        with self.session.pipeline(CHECKPOINTS.name) as pipeline:
            found = self.session.select(pipeline, CHECKPOINTS.name, names)
        return [Checkpoint.of_row(dict(zip(names, row, strict=True))) for row in found or []]

    def forget(self, node: str) -> None:
        left = [point for point in self.checkpoints() if point.node != node]
        self.load(Load(CHECKPOINTS, "replace", new_load_id()), _checkpoint_rows(left))

    def save(self, checkpoints: Sequence[Checkpoint], receipts: Sequence[Receipt]) -> None:
        """Keep checkpoints, then receipts: a receipt is never there before its checkpoint."""
        if checkpoints:
            self.load(Load(CHECKPOINTS, "merge", new_load_id()), _checkpoint_rows(checkpoints))
        self.record(receipts)

    def record(self, receipts: Sequence[Receipt]) -> None:
        if receipts:
            self.load(Load(RECEIPTS, "append", new_load_id()), as_arrow(tuple(receipts)).to_reader())

    def record_parity(self, rows: Sequence[ParityRow]) -> None:
        if rows:
            self.load(Load(PARITY, "append", new_load_id()), parity_row.as_arrow(rows).to_reader())

    def read(self, name: TableName, columns: Sequence[str] = (), as_text: Collection[str] = ()) -> pa.RecordBatchReader:
        """Stream a table's or view's rows through dlt's SQL client, in the warehouse's own casts to text.

        Raises:
            DestinationError: no such relation.
        """
        table = self.find_table(name, columns)
        if table is None:
            raise DestinationError(f"there is no table {name} in {self.name!r}", mend="dbt-bridge build")
        wanted = [c for c in table.columns if not columns or c.name in columns]
        if columns:
            wanted.sort(key=lambda column: columns.index(column.name))
        schema = pa.schema([pa.field(c.name, pa.string() if c.name in as_text else c.type) for c in wanted])
        return make_reader(schema, self._rows(name, schema, frozenset(as_text)))

    def _rows(self, name: TableName, schema: pa.Schema, as_text: frozenset[str]) -> Iterator[pa.RecordBatch]:
        with self.session.sql_client(name) as sql:
            names = [sql.escape_column_name(column) for column in schema.names]
            parts = [
                f"CAST({sql_name} AS VARCHAR) AS {sql_name}" if column in as_text else sql_name
                for column, sql_name in zip(schema.names, names, strict=True)
            ]
            statement = f"SELECT {', '.join(parts)} FROM {sql.make_qualified_table_name(name.name)}"  # noqa: S608
            with sql.execute_query(statement) as cur:
                for table in cur.iter_arrow(chunk_size=_BATCH_ROWS):
                    arrays = [decimals.cast(a, field.type) for a, field in zip(table.columns, schema, strict=True)]
                    yield from pa.table(arrays, schema=schema).to_batches()


def _checkpoint_rows(checkpoints: Sequence[Checkpoint]) -> pa.RecordBatchReader:
    return pa.Table.from_pylist([c.as_row() for c in checkpoints], schema=CHECKPOINTS.arrow_schema).to_reader()
