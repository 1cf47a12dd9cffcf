"""Pages of an API as one data frame, all in memory."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from dbt_bridge.arrow.python_frames import to_frames
from dbt_bridge.arrow.python_rows import fit_batch
from dbt_bridge.errors import MissingExtra, UsageError

WHERE = "api_to_df"


def build_data_frame(data: Any, schema: pa.Schema | None) -> Any:
    """A pandas frame with Arrow's types; see `dbt_bridge.api_to_df`."""
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError as missing:
        raise MissingExtra("pandas", "api_to_df") from missing
    found = to_frames(data, WHERE)
    if len(found) != 1:
        raise UsageError(
            f"api_to_df makes one frame, and the source has {len(found)} resources:"
            f" {', '.join(str(f.name) for f in found)}",
            mend="pass one of them: source.resources['...']",
        )
    rows = found[0].batches.read_all().combine_chunks()
    columns = {field.name: _simplify(rows.column(field.name)) for field in rows.schema}
    table = pa.table(columns)
    if schema is not None:
        table = _cast_table(table, schema)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _simplify(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """JSON as structs and lists where one shape holds all its values, else as text; UUIDs as text."""
    if column.type == pa.json_():
        texts = column.cast(pa.string())
        return _find_structs(texts) or texts
    if column.type == pa.uuid():
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())
    return column


def _find_structs(texts: pa.ChunkedArray) -> pa.Array | None:
    values = [None if text is None else json.loads(text) for text in texts.to_pylist()]
    try:
        structured = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return None
    if _has_empty_struct(structured.type) or not all(map(_is_same, structured.to_pylist(), values)):
        return None
    return structured


def _has_empty_struct(type_: pa.DataType) -> bool:
    """DuckDB has no struct without fields."""
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not children) or any(map(_has_empty_struct, children))


def _is_same(structured: Any, value: Any) -> bool:
    """Whether nothing changed but keys that are absent, which a struct holds as NULL."""
    if isinstance(value, dict):
        return isinstance(structured, dict) and all(_is_same(v, value.get(k)) for k, v in structured.items())
    if isinstance(value, list):
        return isinstance(structured, list) and len(structured) == len(value) and all(map(_is_same, structured, value))
    return bool(structured == value)


def _cast_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([fit_batch(batch, schema, WHERE) for batch in table.to_batches()], schema=schema)
