"""The override of a column's type, which a user writes in the YAML: `types: {amount: "decimal(38,10)", payload: text}`.

The second of the four acts in which a column's type is decided; arrow/__init__.py lists them. Here a name becomes an
Arrow type; how an origin reads a column as that type is in the origin's column_types.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

import pyarrow as pa

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Table

_NAMED: dict[str, pa.DataType] = {
    "text": pa.string(),
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.uuid(),
    "json": pa.json_(),
    "bytes": pa.binary(),
}
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")


def parse_type(name: str) -> pa.DataType:
    """The Arrow type of an override's name: `text`, `bigint`, `decimal(38,10)`, ...

    Raises:
        UsageError: the name is none of these; names the nearest.
    """
    wanted = name.strip().lower()
    if wanted in _NAMED:
        return _NAMED[wanted]
    if found := _DECIMAL.fullmatch(wanted):
        precision, scale = int(found[1]), int(found[2] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return pa.decimal128(precision, scale)
        raise UsageError(
            f"type {name!r}: a decimal has 1 to 38 digits, and no more of them after the point",
            mend='write for example "decimal(38,10)", or text',
        )
    nearest = get_close_matches(wanted, [*_NAMED, "decimal(38,10)"], n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UsageError(f"type {name!r} is unknown", mend=f"{hint}one of {', '.join(_NAMED)}, decimal(p,s)")


def apply_overrides(table: Table, types: Mapping[str, str]) -> Table:
    """The table with its overrides applied.

    Raises:
        UsageError: an override names a column that the table does not have.
    """
    for column in types:
        if table.column(column) is None:
            nearest = get_close_matches(column, [c.name for c in table.columns], n=1)
            raise UsageError(
                f"types: {table.name} has no column {column!r}",
                mend=f"did you mean {nearest[0]!r}?" if nearest else "take it out of `types:`",
            )
    return table.with_types({column: parse_type(name) for column, name in types.items()})
