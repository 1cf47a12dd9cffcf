"""Rows of a Postgres table by their keys: conditions that its index answers, a few thousand keys each.

Rows are streamed by COPY, which takes no parameters (sql-copy.html), so keys stand in the query as one array literal
per column. A comparison with `=` finds them by the index; where `=` takes different values for one (intervals of 30
days and of a month, numerics of different scales, texts in a collation that ignores case), their text is compared too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.extract.postgres.catalog import Relation
from dbt_bridge.extract.postgres.column_types import OriginType, natural, travel
from dbt_bridge.extract.postgres.key_texts import texts
from dbt_bridge.table import quoted

KEYS_PER_QUERY = 10_000

# Types whose `=` is the identity of their values as they travel, once zeros have one sign.
_BY_VALUE = {
    "int2", "int4", "int8", "oid", "float4", "float8", "bool", "bytea", "uuid", "date", "time", "timestamp",
    "timestamptz", "inet", "cidr", "macaddr", "macaddr8",
}  # fmt: skip
_BY_BOTH = {"text", "varchar", "bpchar", "name", "numeric", "interval"}


@dataclass(frozen=True, slots=True)
class _Compared:
    """One thing that must be equal: SQL over the table, and over a key's text `{}`."""

    stored: str
    key: str


def conditions(relation: Relation, keys: pa.Table) -> Iterator[str]:
    """What stands after WHERE, query by query; no row fulfils two of them.

    Args:
        keys: columns of the table in the types in which they travel; NULL equals NULL.
    """
    written = pa.table({name: texts(_one(keys[name])) for name in keys.column_names})
    distinct = written.group_by(written.column_names).aggregate([]).combine_chunks()
    if not distinct.num_columns:
        return
    pattern = _null_patterns(distinct)
    for number in pc.unique(pattern).to_pylist():
        alike = distinct.filter(pc.equal(pattern, number))
        nulls = [name for place, name in enumerate(distinct.column_names) if number >> place & 1]
        for start in range(0, len(alike), KEYS_PER_QUERY):
            yield _condition(relation, keys.schema, alike.slice(start, KEYS_PER_QUERY), nulls)


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _null_patterns(keys: pa.Table) -> pa.Array:
    """Which columns are NULL, as bits: `IS NOT DISTINCT FROM` uses no index, `IS NULL` does."""
    found = pa.repeat(pa.scalar(0, pa.int64()), len(keys))
    for place, name in enumerate(keys.column_names):
        bit = pc.multiply(pc.cast(_one(keys[name]).is_null(), pa.int64()), pa.scalar(1 << place, pa.int64()))
        found = pc.add(found, bit)
    return found


def _condition(relation: Relation, schema: pa.Schema, keys: pa.Table, nulls: Sequence[str]) -> str:
    parts = [_is_null(quoted(name), relation.types[name]) for name in nulls]
    given = [name for name in keys.column_names if name not in nulls]
    if given:
        stored, selected = [], []
        for place, name in enumerate(given):
            for compared in _compared(relation, name, schema.field(name).type):
                stored.append(compared.stored)
                selected.append(compared.key.format(f"k.c{place}"))
        arrays = ", ".join(_array_literal(_one(keys[name])) for name in given)
        names = ", ".join(f"c{place}" for place in range(len(given)))
        parts.append(
            f"({', '.join(stored)}) IN (SELECT {', '.join(selected)} FROM unnest({arrays}) AS k ({names}))"  # noqa: S608
        )
    return " AND ".join(parts)


def _is_null(column: str, origin: OriginType) -> str:
    """A row of a composite type whose fields are NULL `IS NULL` too, and is not NULL (functions-comparison.html)."""
    return f"{column} IS NULL" if origin.name or origin.element else f"num_nulls({column}) = 1"


def _compared(relation: Relation, name: str, wanted: pa.DataType) -> list[_Compared]:
    column, origin = quoted(name), relation.types[name]
    by_text = _Compared(f'({travel(origin, pa.string()).expression(column)}) COLLATE "C"', '{} COLLATE "C"')
    if pa.types.is_list(wanted) and origin.element is not None and natural(origin) == wanted:
        own, found = origin.element.name, relation.table.column(name)
        assert found is not None, "its types are those of its columns"
        return [_Compared(column, f"{{}}::{own}[]")] if own in _BY_VALUE else [_as_stored(column, found.origin_type)]
    by_value = _Compared(column, f"{{}}::{origin.name}")
    if origin.name in _BY_VALUE and (wanted == natural(origin) or pa.types.is_string(wanted)):
        return [by_value]
    if origin.name in _BY_BOTH and (wanted == natural(origin) or pa.types.is_string(wanted)):
        # A decimal has been given its column's scale, so its text is the stored value's.
        exact = {
            "interval": _as_stored(column, "interval"),
            "bpchar": _Compared(f'{column} COLLATE "C"', '{}::bpchar COLLATE "C"'),
        }.get(origin.name, by_text)
        return [by_value] if pa.types.is_decimal(wanted) else [by_value, exact]
    if pa.types.is_string(wanted) or isinstance(wanted, pa.JsonType):
        return [by_text]
    return [_overridden(column, origin, wanted)]


def _as_stored(column: str, type_: str) -> _Compared:
    """The texts that the server itself writes of both."""
    return _Compared(f'{column}::text COLLATE "C"', f'{{}}::{type_}::text COLLATE "C"')


def _overridden(column: str, origin: OriginType, wanted: pa.DataType) -> _Compared:
    """A column that travels as another type than its own: the server reads its text as that type too."""
    type_ = next((name for matches, name in _SERVER_TYPES if matches(wanted)), "text")
    text = travel(origin, pa.string()).expression(column)
    if type_ == "bytea":
        return _Compared(f"convert_to({text}, 'UTF8')", "{}::bytea")
    return _Compared(f"({text})::{type_}", f"{{}}::{type_}")


_SERVER_TYPES = (
    (lambda type_: isinstance(type_, pa.UuidType), "uuid"),
    (pa.types.is_integer, "numeric"),
    (pa.types.is_decimal, "numeric"),
    (pa.types.is_floating, "float8"),
    (pa.types.is_boolean, "bool"),
    (pa.types.is_binary, "bytea"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
    (lambda type_: pa.types.is_timestamp(type_) and type_.tz is None, "timestamp"),
    (pa.types.is_timestamp, "timestamptz"),
)


def _array_literal(values: pa.Array) -> str:
    """An array of texts, right whatever `standard_conforming_strings` is."""
    escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
    body = "{" + ",".join(f'"{text}"' for text in escaped.to_pylist()) + "}"
    return "E'" + body.replace("\\", "\\\\").replace("'", "''") + "'::text[]"
