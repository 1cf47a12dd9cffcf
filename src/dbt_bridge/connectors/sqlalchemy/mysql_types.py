"""MySQL and MariaDB, value by value exact: the natural type of each column, and the form in which the server sends it.

What the server sends is chosen by the SELECT, because drivers decode some types wrongly or lossily:

    decimal, date, datetime, timestamp, year(4) ...   CAST(c AS CHAR), parsed strictly by Arrow. PyMySQL turns the
        zero date '0000-00-00' into text, and TIME over 24 hours into a timedelta; here both are refused.
    float                     c * 1e0: the text of a FLOAT has 6 digits only (MySQL manual, "Problems with
                              Floating-Point Values"); as a double it has all of them
    timestamp                 the session's time zone is UTC, so it is a moment in time; datetime has no zone
    bit(n)                    bit(1) is a boolean; others are their unsigned integer
    tinyint(1)                an integer: MySQL keeps -128 to 127 in it, whatever it is called
    unsigned                  the next wider signed type; bigint unsigned is decimal(20,0)
    geometry                  the server's own bytes (SRID and WKB); as text, ST_AsText
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.connectors.sqlalchemy.casts import Decode, Values, cast_exactly, cast_text
from dbt_bridge.connectors.sqlalchemy.column_types import Reading
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_text
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.reconciliation import in_parentheses
from dbt_bridge.nouns.table import Column

_SIGNED = {"tinyint": pa.int8(), "smallint": pa.int16(), "mediumint": pa.int32(), "int": pa.int32()}
_UNSIGNED = {"tinyint": pa.int16(), "smallint": pa.int32(), "mediumint": pa.int32(), "int": pa.int64()}
BINARY = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"}
_GEOMETRY = {
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "geomcollection",
}  # fmt: skip
PLAIN_TEXT = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}


def kind_of(origin_type: str) -> str:
    return re.split(r"[ (]", origin_type.lower(), maxsplit=1)[0]


def natural_type(origin_type: str) -> pa.DataType:
    """The Arrow type of a column type as `information_schema.columns.column_type` writes it."""
    kind, unsigned = kind_of(origin_type), " unsigned" in origin_type.lower()
    digits = [int(n) for n in re.findall(r"\d+", origin_type)]
    if kind in _SIGNED:
        return (_UNSIGNED if unsigned else _SIGNED)[kind]
    if kind == "bigint":
        return pa.decimal128(20, 0) if unsigned else pa.int64()
    if kind == "decimal":
        precision, scale = digits[0], digits[1] if len(digits) > 1 else 0
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    if kind == "bit":
        return pa.bool_() if digits[0] == 1 else pa.int64() if digits[0] < 64 else pa.decimal128(20, 0)
    if kind in BINARY or kind in _GEOMETRY:
        return pa.binary()
    fixed = {
        "year": pa.int16(), "float": pa.float32(), "double": pa.float64(), "date": pa.date32(),
        "time": pa.time64("us"), "datetime": pa.timestamp("us"), "timestamp": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return fixed.get(kind, pa.string())


def resolve_reading(column: Column) -> Reading:
    """How a column is read in the type that it travels in."""
    kind, plain = kind_of(column.origin_type), make_column(column.name)
    if pa.types.is_string(column.type):
        return read_as_text(plain, kind)
    return Reading(_exact_expression(plain, kind), _decoder(kind, natural_type(column.origin_type), column.type))


def read_as_text(plain: ColumnElement[Any], kind: str) -> Reading:
    """A column in the server's text form. Bytes are not converted by it: it would write '?' for what is not UTF-8."""
    if kind in BINARY:
        return Reading(plain, _decode_bytes_as_text)
    if kind in _GEOMETRY:
        return Reading(sa.func.ST_AsText(plain), _decode_text)
    if kind in PLAIN_TEXT:
        return Reading(plain, _decode_text)
    if kind == "float":
        plain = plain * sa.literal_column("1e0")
    if kind == "bit":
        plain = plain + sa.literal_column("0")
    return Reading(sa.cast(plain, sa.CHAR()), _decode_text)


def _exact_expression(plain: ColumnElement[Any], kind: str) -> ColumnElement[Any]:
    """What the server sends for a column that is not wanted as text."""
    if kind in BINARY or kind in _GEOMETRY or kind in PLAIN_TEXT or kind in ("double", "year"):
        return plain
    if kind in _SIGNED or kind == "bigint":
        return plain
    if kind == "float":
        return plain * sa.literal_column("1e0")
    if kind == "bit":
        return sa.cast(plain + sa.literal_column("0"), sa.CHAR())
    return sa.cast(plain, sa.CHAR())


def _decoder(kind: str, first: pa.DataType, wanted: pa.DataType) -> Decode:
    """From the driver's values to the natural type, and from there exactly to the wanted one."""
    if kind in _SIGNED or kind in ("bigint", "year"):
        whole = pa.int64() if first != pa.decimal128(20, 0) else first
        return lambda values: cast_exactly(pa.array(values, whole), wanted)
    if kind in ("double", "float"):
        return lambda values: cast_exactly(cast_exactly(pa.array(values, pa.float64()), first), wanted)
    if pa.types.is_binary(first):
        return lambda values: cast_exactly(pa.array(values, pa.binary()), wanted)
    if kind == "bit" and pa.types.is_boolean(first):
        return lambda values: cast_exactly(cast_exactly(cast_text(_decode_text(values), pa.int64()), first), wanted)
    return lambda values: cast_exactly(cast_text(_decode_text(values), first), wanted)


def _decode_text(values: Values) -> pa.Array:
    """Text values; some servers send the text of JSON and of catalog expressions as bytes."""
    if any(isinstance(value, bytes) for value in values):
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    return pa.array(values, pa.string())


def _decode_bytes_as_text(values: Values) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string())


# What the protocol says of a result's columns:
# https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset_column_definition.html
_BINARY_CHARSET, _UNSIGNED_FLAG = 63, 32
_TYPE_CODES = {
    1: "tinyint", 2: "smallint", 3: "int", 4: "float", 5: "double", 6: "varchar", 7: "timestamp", 8: "bigint",
    9: "mediumint", 10: "date", 11: "time", 12: "datetime", 13: "year", 14: "date", 245: "longtext", 247: "enum",
    248: "set", 255: "geometry",
}  # fmt: skip
_DECIMAL_CODES, _BIT_CODE, _TEXT_CODES = (0, 246), 16, (15, 249, 250, 251, 252, 253, 254)


def describe_query(connection: sa.Connection, query: str, names: Sequence[str]) -> list[Column]:
    """The columns of a query, as the server describes its result; no row is read.

    Raises:
        UsageError: the driver is not PyMySQL, which alone tells all of it.
    """
    result = connection.execute(make_text(f"SELECT * FROM {in_parentheses(query)} WHERE 1 = 0"))  # noqa: S608
    fields = getattr(getattr(result.cursor, "_result", None), "fields", None)
    result.close()
    if fields is None:
        raise UsageError(
            f"the driver {connection.dialect.driver!r} does not tell the types of expressions",
            mend="connect with mysql+pymysql://, or compare plain columns of a relation",
        )
    types = {field.name: _column_type(field) for field in fields}
    return [Column(name, natural_type(types[name]), types[name]) for name in names]


def _column_type(field: Any) -> str:
    """The type of a PyMySQL field, in the words of `information_schema.columns.column_type`."""
    unsigned = bool(field.flags & _UNSIGNED_FLAG)
    if field.type_code in _DECIMAL_CODES:  # its length counts the sign and the point (my_decimal_length_to_precision)
        precision = field.length - (0 if unsigned else 1) - (1 if field.scale else 0)
        return f"decimal({min(max(precision, field.scale, 1), 65)},{field.scale})"
    if field.type_code == _BIT_CODE:
        return f"bit({field.length})"
    if field.type_code in _TEXT_CODES:
        return "varbinary" if field.charsetnr == _BINARY_CHARSET else "varchar"
    return _TYPE_CODES[field.type_code] + (" unsigned" if unsigned else "")
