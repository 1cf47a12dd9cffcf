"""The cursor (the ordering column of incremental loading): its greatest value, and where to begin again."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from difflib import get_close_matches

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin.catalog import Relation
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.contracts.origin import Increment
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column, quote_identifier, quote_literal, quote_table_name

_LEAST = {"int2": -(2**15), "int4": -(2**31), "int8": -(2**63), "oid": 0}
_NUMBERS = {*_LEAST, "numeric"}
_TIMES = {"date", "timestamp", "timestamptz"}
_ENDLESS = {"NaN", "Infinity", "infinity"}


def read_newest(connections: Connections, relation: Relation, cursor: str) -> str | None:
    """The greatest cursor value as text; None for no rows.

    Raises:
        UsageError: the column is absent, holds NULLs, or is neither a number, a date nor a timestamp.
    """
    resolve_cursor_type(relation, cursor)
    column = quote_identifier(cursor)
    table = quote_table_name(relation.table.name)
    greatest, has_null = connections.query(
        f"SELECT max({column})::text, EXISTS (SELECT FROM {table} WHERE {column} IS NULL) FROM {table}"  # noqa: S608
    )[0]
    if has_null or greatest in _ENDLESS:
        what = "holds NULLs, and their rows" if has_null else f"holds {greatest}, and all rows after it"
        raise UsageError(
            f"{relation.table.name}: the cursor {cursor!r} {what} would never be loaded",
            mend="choose a cursor that is NOT NULL and finite, or `replication: initial_copy`",
        )
    return None if greatest is None else str(greatest)


def compute_lower_bound(connections: Connections, relation: Relation, increment: Increment) -> str | None:
    """`at_least - lag` as text; None when there is no checkpoint yet."""
    if increment.at_least is None:
        return None
    name = resolve_cursor_type(relation, increment.cursor)
    if not increment.lag:
        return increment.at_least
    parameters: dict[str, object] = {"value": increment.at_least, "lag": increment.lag}
    if name in _LEAST:
        sql = "SELECT greatest(%(value)s::numeric - ceil(%(lag)s::numeric), %(least)s::numeric)::text"
        parameters["least"] = _LEAST[name]
    elif name == "numeric":
        parameters["lag"] = _round_lag(increment.lag, relation.table.column(increment.cursor))
        sql = "SELECT (%(value)s::numeric - %(lag)s::numeric)::text"
    elif name == "date":  # lowered by whole days
        sql = "SELECT (%(value)s::date - ceil(%(lag)s::float8 / 86400)::int)::text"
    else:
        sql = f"SELECT (%(value)s::{name} - make_interval(secs => %(lag)s::float8))::text"
    return str(connections.query(sql, parameters)[0][0])


def _round_lag(lag: float, column: Column | None) -> Decimal:
    """The lag, no finer than the column's digits: a destination would round a finer bound, and miss rows beside it."""
    exact = Decimal(repr(lag))
    if column is None or not pa.types.is_decimal(column.type):
        return exact
    return exact.quantize(Decimal(1).scaleb(-column.type.scale), ROUND_CEILING)


def build_condition(relation: Relation, increment: Increment, bound: str | None) -> str:
    """What stands after WHERE for an increment. The bound is a literal of the cursor's own type."""
    name = resolve_cursor_type(relation, increment.cursor)
    if bound is None:
        return ""
    return f"{quote_identifier(increment.cursor)} >= {quote_literal(bound)}::{name}"


def resolve_cursor_type(relation: Relation, cursor: str) -> str:
    """The cursor's built-in type name."""
    origin = relation.types.get(cursor)
    if origin is None:
        near = get_close_matches(cursor, relation.types, n=1)
        raise UsageError(
            f"{relation.table.name} has no column {cursor!r} for a cursor",
            mend=f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(relation.types)}",
        )
    if origin.name not in _NUMBERS | _TIMES:
        column = relation.table.column(cursor)
        raise UsageError(
            f"{relation.table.name}: the cursor {cursor!r} has the type {column.origin_type if column else '?'}, which"
            " is neither a number, a date nor a timestamp",
            mend="choose an integer, numeric, date or timestamp column that grows",
        )
    return origin.name
