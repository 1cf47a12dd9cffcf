"""Parquet files as they are: those that are complete when their table is asked for first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.dataset as ds

from dbt_bridge.connectors.lake.dataset_state import DatasetState
from dbt_bridge.nouns.table import TableName


class ParquetState(DatasetState):
    """A folder of files has no state: one that a load replaces while it is read ends the reading with an error.

    Args:
        listed: the complete files of a table, oldest first.
        filesystem: of fsspec.
    """

    def __init__(self, listed: Callable[[TableName], Sequence[str]], filesystem: Any) -> None:
        super().__init__(lambda name: _files(listed(name), filesystem))


def _files(paths: Sequence[str], filesystem: Any) -> Any:
    """The newest file has every column; earlier ones have NULL in those that came later."""
    import pyarrow.parquet as pq

    if not paths:
        return None
    with filesystem.open(paths[-1], "rb") as file:
        schema = pq.read_schema(file)
    return ds.dataset(list(paths), schema=schema, format="parquet", filesystem=filesystem)
