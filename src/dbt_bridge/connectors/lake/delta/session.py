"""Delta tables are opened, made and queried, and delta-rs's errors become the bridge's.

Where a table stands is in its own log, as application transactions (the `txn` action,
https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers); see `landing_table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.errors import BridgeError, DestinationError, TypeRefused, scrubbed
from dbt_bridge.nouns.table import TableName, quote_identifier

STANDS_AT = "dbt-bridge"
UNFINISHED = "dbt-bridge/unfinished"


class DeltaSession:
    """The tables below one folder or bucket."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def open(self, name: TableName) -> Any:
        """deltalake's own table; None when there is none."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        folder = self._lake.folder(name)
        try:
            return DeltaTable(folder, storage_options=dict(self._lake.storage_options))
        except TableNotFoundError:
            return None
        except Exception as error:
            raise translate(error, name) from error

    def create(self, name: TableName, schema: pa.Schema) -> Any:
        """An empty table."""
        from deltalake import DeltaTable

        try:
            options = dict(self._lake.storage_options)
            return DeltaTable.create(self._lake.folder(name), schema=schema, storage_options=options)
        except Exception as error:
            raise translate(error, name) from error

    def replace(self, name: TableName, rows: pa.Table, key: Sequence[str]) -> None:
        """One row in the place of that with its key; the table is made where there is none."""
        there = self.open(name) or self.create(name, rows.schema)
        same = " AND ".join(f"t.{quote_identifier(k)} = s.{quote_identifier(k)}" for k in key)
        try:
            merger = there.merge(rows, predicate=same, source_alias="s", target_alias="t")
            merger.when_matched_update_all().when_not_matched_insert_all().execute()
        except Exception as error:
            raise translate(error, name) from error

    def open_finished(self, name: TableName) -> Any:
        """A dataset of pyarrow's: the table without what a crash left unfinished in it; None when there is none."""
        table = self.open(name)
        if table is None:
            return None
        if mark := int(table.transaction_version(UNFINISHED) or 0):
            table.load_as_version(mark - 1)
        return table.to_pyarrow_dataset()


def schema_of(table: Any) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())


def query(there: Any, statement: str) -> pa.RecordBatchReader:
    """The answer of DataFusion; the table is `t`, or several have the names of a mapping."""
    from deltalake import QueryBuilder

    builder = QueryBuilder()
    for name, table in (there if isinstance(there, Mapping) else {"t": there}).items():
        builder = builder.register(name, table)
    return pa.RecordBatchReader.from_stream(builder.execute(statement))


def translate(error: Exception, name: TableName) -> BridgeError:
    """delta-rs's error as a BridgeError. Its message has a Rust backtrace below the first line, which is left out."""
    if isinstance(error, BridgeError):
        return error
    text = scrubbed(str(error).split("\n   0:")[0].strip().splitlines()[0] if str(error).strip() else repr(error))
    lowered = text.lower()
    if "schema" in lowered and "invalid data type" in lowered:
        return TypeRefused(f"{name}: {text}", mend="types: {column: text}")
    mend = next((advice for word, advice in _ADVICE.items() if word in lowered), "run the same command again")
    return DestinationError(f"the Delta table {name} was not written: {text}", mend=mend)


_ADVICE = {
    "permission denied": "give the user of this process the right to write there",
    "read-only": "give the user of this process the right to write there",
    "no space left": "free space at the destination, then run the same command again",
    "file too large": "free space at the destination, then run the same command again",
    "credentials": "check [destination.NAME.credentials] in .dlt/secrets.toml",
    "403": "check [destination.NAME.credentials] in .dlt/secrets.toml",
}
