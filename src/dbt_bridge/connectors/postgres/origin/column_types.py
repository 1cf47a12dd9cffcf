"""Where the types of a Postgres origin are decided: a column's natural Arrow type, and how it is read as any type.

    natural_type     the Arrow type that keeps every value of a Postgres type; text where no other does
    resolve_reading  for a column that travels as a given type (its natural one, or that of an override): the expression
                     that is selected, and how the arrays of the ADBC driver are decoded

connectors/postgres/changes/values/ takes the same decision for changes, from the replication protocol's bytes. The
other acts in which a type is decided are listed in arrow/__init__.py.

Conventions of the batches:

    infinity      a timestamp of +-(2**63 - 1) microseconds, or a date of +-(2**31 - 1) days, is +-infinity, as DuckDB
                  stores it. A destination without infinity must refuse these values, and years that it cannot hold.
    time          24:00:00 is 86,400,000,000 microseconds.
    text          is Postgres's own output of the value, under fixed settings (ISO dates, UTC, shortest floats).

See docs/types.md for the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin.casts import Decode, list_decode, strict_cast
from dbt_bridge.connectors.postgres.wire.bulk import repair_moments
from dbt_bridge.nouns.table import quote_literal


@dataclass(frozen=True, slots=True)
class OriginType:
    """A column's type, domains resolved to what they are made of.

    Attributes:
        name: `pg_type.typname` of a built-in type or of citext; empty for every other type.
        modifier: `pg_attribute.atttypmod`; -1 for none.
        element: the type of an array's elements, whose `modifier` is the array's.
    """

    name: str
    modifier: int = -1
    element: OriginType | None = None


@dataclass(frozen=True, slots=True)
class WireColumn:
    """A column as the server describes it: in a result's description, or in a Relation message.

    Attributes:
        type_oid, modifier: `pg_attribute.atttypid` and `atttypmod`; of a domain its own oid.
    """

    name: str
    type_oid: int
    modifier: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How a column is read as the type that it travels in.

    Attributes:
        expression: from the quoted column to the SQL that is selected.
        decode: from the array that the driver gives to the array in the wanted type. Raises pa.ArrowInvalid or
            ValueError for a value that does not fit.
        refused_elsewhere: Postgres or the driver refuses a value that does not fit, and does not name the column.
    """

    expression: Callable[[str], str]
    decode: Decode
    refused_elsewhere: bool = False


UNFIT = "dbt-bridge cannot keep"  # begins the text that Postgres fails to cast; see `_refuse_in_sql`

_UTC = pa.timestamp("us", "UTC")
_NATURAL: dict[str, pa.DataType] = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    "bytea": pa.binary(),
    "uuid": pa.uuid(),
    "json": pa.json_(),
    "jsonb": pa.json_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": _UTC,
    "interval": pa.month_day_nano_interval(),
}
_RAW_TEXT = {"text", "varchar", "bpchar", "name"}  # as they are: `bpchar::text` would lose its padding
# `inet::text` appends /32, and `xml::text` shows an encoding that is no longer its own; their output does neither.
_BY_OUTPUT = {"inet", "xml"}


def natural_type(origin: OriginType) -> pa.DataType:
    """The Arrow type that keeps every value of this type; text where no other does."""
    if origin.element is not None:
        element = origin.element
        if element.element is not None:
            return pa.string()
        inner = natural_type(element)
        return pa.list_(pa.string() if isinstance(inner, pa.JsonType) else inner)
    if origin.name == "numeric":
        return _decimal_type(origin.modifier) or pa.string()
    return _NATURAL.get(origin.name, pa.string())


def resolve_reading(origin: OriginType, wanted: pa.DataType) -> Reading:
    """How a column of this type travels as `wanted`."""
    if pa.types.is_string(wanted):
        return Reading(_text_expression(origin), _keep_array)
    if origin.element is not None and pa.types.is_list(wanted):
        return _read_as_list(origin.element, wanted)
    own = natural_type(origin)
    if wanted == own:
        return _read_as_natural(origin, own)
    if isinstance(wanted, pa.UuidType):
        return Reading(_cast_expression("text", "uuid"), _keep_array, refused_elsewhere=True)
    if isinstance(wanted, pa.JsonType):
        return Reading(_cast_expression("text", "json"), _keep_array, refused_elsewhere=True)
    if pa.types.is_binary(wanted):
        return Reading(lambda c: f"convert_to({_text_expression(origin)(c)}, 'UTF8')", _keep_array)
    if (_is_number(own) and _is_number(wanted)) or (pa.types.is_timestamp(own) and pa.types.is_timestamp(wanted)):
        first = _read_as_natural(origin, own)
        return Reading(first.expression, lambda a: strict_cast(wanted)(first.decode(a)))
    return Reading(_text_expression(origin), strict_cast(wanted))


def _read_as_natural(origin: OriginType, own: pa.DataType) -> Reading:
    if pa.types.is_decimal(own):  # the driver decodes numerics slowly; text and Arrow's parser are 3 times as fast
        return Reading(_cast_expression("text"), strict_cast(own))
    if origin.name == "oid":  # unsigned 32 bits, which the driver reads as signed
        return Reading(_cast_expression("int8"), _keep_array)
    if origin.name == "interval":
        return Reading(_refuse_long_interval, _keep_array)
    return Reading(_plain_expression, repair_moments(own))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _read_as_list(element: OriginType, wanted: pa.DataType) -> Reading:
    """An array of one dimension that starts at 1; Postgres refuses every other one while it is read."""
    inner = wanted.value_type
    own = natural_type(element)
    if pa.types.is_string(inner) and element.name not in _RAW_TEXT:
        casts = ("text", "text[]") if element.name in _BY_OUTPUT else ("text[]",)  # the array's output
        return Reading(_refuse_odd_bounds(_cast_expression(*casts), "text[]"), _keep_array)
    if pa.types.is_decimal(inner) or inner != own:
        return Reading(
            _refuse_odd_bounds(_cast_expression("text[]"), "text[]"),
            list_decode(wanted, strict_cast(inner)),
        )
    name = "int8[]" if element.name == "oid" else f"{element.name}[]"
    decode = list_decode(wanted, repair_moments(own))
    return Reading(
        _refuse_odd_bounds(_cast_expression(name), name), decode, refused_elsewhere=element.name == "interval"
    )


def _refuse_odd_bounds(expression: Callable[[str], str], array: str) -> Callable[[str], str]:
    """Arrow lists have one dimension and no lower bound; the driver flattens silently, so the server refuses."""
    return lambda column: _refuse_in_sql(
        f"array_ndims({column}) > 1 OR array_lower({column}, 1) <> 1", column, array, expression(column)
    )


def _refuse_long_interval(column: str) -> str:
    """An interval whose time part fits 64 bits of nanoseconds, as Arrow has it; infinity (PostgreSQL 17) does not."""
    return _refuse_in_sql(
        f"NOT isfinite({column}) OR abs(extract(hour FROM {column})) > 2562046", column, "interval", column
    )


def _refuse_in_sql(unfit: str, column: str, type_: str, otherwise: str) -> str:
    """Raise in the middle of the read, with column and value in the message: a marked text is no value of any type."""
    marked = quote_literal(f"{UNFIT} {column}: ")
    return f"CASE WHEN {unfit} THEN CAST({marked} || left({column}::text, 80) AS {type_}) ELSE {otherwise} END"


def _text_expression(origin: OriginType) -> Callable[[str], str]:
    if origin.name in _RAW_TEXT:
        return _plain_expression
    if origin.name in _BY_OUTPUT:
        return lambda column: f"{origin.name}_out({column})::text"
    return _cast_expression("text")


def _plain_expression(column: str) -> str:
    return column


def _cast_expression(*names: str) -> Callable[[str], str]:
    return lambda column: f"{column}" + "".join(f"::{name}" for name in names)


def _keep_array(array: pa.Array) -> pa.Array:
    return array


def _decimal_type(modifier: int) -> pa.DataType | None:
    """numeric(p,s) as decimal128 where it fits.

    The modifier is ((p << 16) | (s & 0x7ff)) + 4, s an 11-bit two's complement (numeric.c, make_numeric_typmod).
    """
    if modifier < 4:
        return None
    precision = ((modifier - 4) >> 16) & 0xFFFF
    scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    if scale < 0:  # numeric(2,-3) holds multiples of 1000 up to 99000
        precision, scale = precision - scale, 0
    precision = max(precision, scale)  # numeric(3,5) holds 0.00999
    return pa.decimal128(precision, scale) if precision <= 38 else None
