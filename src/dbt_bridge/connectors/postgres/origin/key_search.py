"""How a column of each type of a Postgres origin is searched for keys. The queries are built in wire/key_search.py."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin.catalog import Relation
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type, resolve_reading
from dbt_bridge.connectors.postgres.wire import key_search
from dbt_bridge.connectors.postgres.wire.key_search import Comparison, Lookup
from dbt_bridge.nouns.table import quote_identifier

# Types whose `=` is the identity of their values as they travel, once zeros have one sign.
_BY_VALUE = {
    "int2", "int4", "int8", "oid", "float4", "float8", "bool", "bytea", "uuid", "date", "time", "timestamp",
    "timestamptz", "inet", "cidr", "macaddr", "macaddr8",
}  # fmt: skip
_BY_BOTH = {"text", "varchar", "bpchar", "name", "numeric", "interval"}


def build_conditions(relation: Relation, keys: pa.Table) -> Iterator[str]:
    """What stands after WHERE, query by query; see `wire.key_search.build_conditions`."""

    def lookup(name: str) -> Lookup:
        wanted = keys.schema.field(name).type
        return Lookup(
            _comparisons(relation, name, wanted), _null_condition(quote_identifier(name), relation.types[name])
        )

    return key_search.build_conditions(keys, lookup)


def _null_condition(column: str, origin: OriginType) -> str:
    """A row of a composite type whose fields are NULL `IS NULL` too, and is not NULL (functions-comparison.html)."""
    return f"{column} IS NULL" if origin.name or origin.element else f"num_nulls({column}) = 1"


def _comparisons(relation: Relation, name: str, wanted: pa.DataType) -> list[Comparison]:
    column, origin = quote_identifier(name), relation.types[name]
    by_text = Comparison(f'({resolve_reading(origin, pa.string()).expression(column)}) COLLATE "C"', '{} COLLATE "C"')
    if pa.types.is_list(wanted) and origin.element is not None and natural_type(origin) == wanted:
        own, found = origin.element.name, relation.table.column(name)
        assert found is not None, "its types are those of its columns"
        return (
            [Comparison(column, f"{{}}::{own}[]")] if own in _BY_VALUE else [_compare_output(column, found.origin_type)]
        )
    by_value = Comparison(column, f"{{}}::{origin.name}")
    if origin.name in _BY_VALUE and (wanted == natural_type(origin) or pa.types.is_string(wanted)):
        return [by_value]
    if origin.name in _BY_BOTH and (wanted == natural_type(origin) or pa.types.is_string(wanted)):
        # A decimal travels with its column's scale, so that its text is that of the stored value.
        exact = {
            "interval": _compare_output(column, "interval"),
            "bpchar": Comparison(f'{column} COLLATE "C"', '{}::bpchar COLLATE "C"'),
        }.get(origin.name, by_text)
        return [by_value] if pa.types.is_decimal(wanted) else [by_value, exact]
    if pa.types.is_string(wanted) or isinstance(wanted, pa.JsonType):
        return [by_text]
    return [_compare_override(column, origin, wanted)]


def _compare_output(column: str, type_: str) -> Comparison:
    """Compares the texts that the server writes of the stored value and of the key."""
    return Comparison(f'{column}::text COLLATE "C"', f'{{}}::{type_}::text COLLATE "C"')


def _compare_override(column: str, origin: OriginType, wanted: pa.DataType) -> Comparison:
    """For a column that travels as another type than its own: the server too reads its text as that type."""
    type_ = next((name for matches, name in _SERVER_TYPES if matches(wanted)), "text")
    text = resolve_reading(origin, pa.string()).expression(column)
    if type_ == "bytea":
        return Comparison(f"convert_to({text}, 'UTF8')", "{}::bytea")
    return Comparison(f"({text})::{type_}", f"{{}}::{type_}")


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
