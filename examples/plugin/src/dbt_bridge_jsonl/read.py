"""What the folder holds, to be compared: `dbt_bridge.contracts.destination.State`, for `dbt-bridge verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from dbt_bridge.contracts.destination import Replica
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.table import TableName
from dbt_bridge.replicate.stored_values import Keys, cast_columns, check_keys, missing_column
from dbt_bridge_jsonl.table_file import TableFile, count_rows, read_batches


class JsonlState:
    """Tables as each is when it is asked for first: whoever writes it meanwhile makes the reading fail.

    Args:
        find: None where there is no such table.
    """

    def __init__(self, find: Callable[[TableName], TableFile | None]) -> None:
        self._find = find
        self._files: dict[TableName, TableFile] = {}

    def __enter__(self) -> JsonlState:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.clear()

    def count(self, replica: Replica) -> int:
        return count_rows(self._file(replica))

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `State.rows`."""
        file, schema, name = self._file(replica), replica.table.arrow_schema, replica.table.name
        wanted = None if keys is None else Keys(check_keys(replica, keys))
        stored = [column for column in map(file.table.column, schema.names) if column is not None]

        def stream() -> Iterator[pa.RecordBatch]:
            if keys is not None and not keys.num_rows:
                return
            for batch in read_batches(file, stored):
                whole = cast_columns(batch.columns, schema, name)
                yield whole if wanted is None else wanted.filter(whole)

        return pa.RecordBatchReader.from_batches(schema, stream())

    def _file(self, replica: Replica) -> TableFile:
        name = replica.table.name
        found = self._files.get(name) or self._find(name)
        if found is None:
            raise DestinationError(f"there is no table {name}", mend="dbt-bridge deliver, or dbt-bridge sync")
        for column in replica.table.columns:
            if found.table.column(column.name) is None:
                raise missing_column(name, column.name, replica)
        self._files[name] = found
        return found
