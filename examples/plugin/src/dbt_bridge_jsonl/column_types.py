"""The types of columns, and the JSON that their values are written as.

    in the schema file          Arrow                 JSON
    boolean                     bool                  true
    smallint, integer, bigint   int16, int32, int64   a number without point and exponent
    double                      float64               a number in its shortest form; "NaN", "Infinity", "-Infinity"
    decimal(p,s)                decimal128            a text, so that no reader rounds it: "12.50"
    text                        string                a text; where other JSON is read, it is kept as it is written
    date                        date32                "2024-02-29"
    timestamp                   timestamp[us]         "2024-02-29 23:59:59.999999"
    timestamptz                 timestamp[us, UTC]    "2024-02-29 23:59:59.999999Z"; any offset is read
    bytes                       binary                base64

A value that is not exactly one of its type's is refused. A column of another type lands in one of these that has all of
its values, or travels as text.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.arrow.type_names import parse_type
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column

REFUSALS = (ValueError, TypeError, OverflowError, pa.ArrowException)
"""What `decode` and `encode` raise for a value that is not exactly one of its type's."""

_NAMES: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.string(): "text",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", "UTC"): "timestamptz",
    pa.binary(): "bytes",
}
_WIDENED: dict[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int16(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float32(): pa.float64(),
    pa.timestamp("s"): pa.timestamp("us"),
    pa.timestamp("ms"): pa.timestamp("us"),
}
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


class Number(str):
    """A JSON number as it is written, for Python's own reading of it would round."""

    __slots__ = ()


def map_column(column: Column) -> Column:
    """The column as it must travel to be written exactly."""
    kind = _WIDENED.get(column.type, column.type)
    if is_.is_decimal(kind) and kind.precision <= 38:
        kind = pa.decimal128(kind.precision, kind.scale)
    if is_.is_timestamp(kind) and kind.tz and kind.unit != "ns":
        kind = pa.timestamp("us", "UTC")
    return replace(column, type=kind if find_name(kind) else pa.string())


def find_name(kind: pa.DataType) -> str | None:
    """A type's name in the schema file; None for one that is not written."""
    if is_.is_decimal128(kind) and 0 <= kind.scale <= kind.precision:
        return f"decimal({kind.precision},{kind.scale})"
    return _NAMES.get(kind)


def parse_name(name: str) -> pa.DataType:
    """The type of a name in the schema file.

    Raises:
        UsageError: it is none of them.
    """
    kind = parse_type(name)
    if find_name(kind) is None:
        raise UsageError(f"JSON lines keep no {name!r}", mend=f"one of {', '.join(_NAMES.values())}, decimal(p,s)")
    return kind


def decode(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """JSON values, whose numbers are `Number`, as an array of this type; raises one of REFUSALS."""
    if is_.is_boolean(kind):
        _check_classes(values, bool)
        return pa.array(values, kind)
    if is_.is_string(kind):
        return pa.array([v if v is None or isinstance(v, str) else format_json(v) for v in values], kind)
    if is_.is_floating(kind):
        return pa.array([None if v is None else _parse_double(v) for v in values], kind)
    is_number = is_.is_integer(kind) or is_.is_decimal(kind)
    _check_classes(values, *([Number] if is_number else []), *([] if is_.is_integer(kind) else [str]))
    if is_.is_binary(kind):
        return pa.array([None if v is None else base64.b64decode(v, validate=True) for v in values], kind)
    return decimals.cast(pa.array(values, pa.string()), kind)


def encode(array: pa.Array) -> list[Any]:
    """An array as JSON values, with Python's numbers; raises one of REFUSALS."""
    kind = array.type
    if is_.is_floating(kind):
        return [v if v is None or math.isfinite(v) else _format_not_finite(v) for v in array.to_pylist()]
    if is_.is_binary(kind):
        return [None if v is None else base64.b64encode(v).decode() for v in array.to_pylist()]
    if is_.is_decimal(kind):
        return [None if v is None else format(v, "f") for v in array.to_pylist()]
    if is_.is_date(kind) or is_.is_timestamp(kind):
        texts = pc.cast(array, pa.string())
        if not pc.cast(texts, kind).equals(array):  # years that do not have four digits, infinity
            raise ValueError("a moment outside of the years 0 to 9999")
        return list(texts.to_pylist())
    return list(array.to_pylist())


def format_json(value: Any) -> str:
    """A decoded JSON value, with its numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {format_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(format_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def find_kind(value: Any) -> str:
    """The kind of a JSON value: a column's type is inferred from those of its values."""
    if isinstance(value, bool):
        return "boolean"
    if not isinstance(value, Number):
        return "text" if isinstance(value, str) else "nested"
    if re.fullmatch(r"-?\d+", value):
        size = abs(int(value)) if len(value) <= 20 else 2**63  # Python reads no more than some thousand digits
        return "integer" if size <= 2**53 else "bigint" if size < 2**63 else "large number"
    try:
        _parse_double(value)
    except ValueError:
        return "long number"
    return "double"


def infer_type(kinds: set[str]) -> pa.DataType | None:
    """The one type that keeps values of these kinds; None where there is none."""
    for kind, fitting in _INFERRED.items():
        if kinds and kinds <= fitting:
            return kind
    return None


_INFERRED: dict[pa.DataType, set[str]] = {
    pa.bool_(): {"boolean"},
    pa.string(): {"text"},
    pa.int64(): {"integer", "bigint"},
    pa.float64(): {"integer", "double"},
}


def _check_classes(values: Sequence[Any], *classes: type) -> None:
    for value in values:
        if value is not None and type(value) not in classes:
            raise TypeError(f"{format_json(value)} is of another type")


def _parse_double(value: Any) -> float:
    if value in _NOT_FINITE and not isinstance(value, Number):
        return float(value)
    _check_classes([value], Number)
    number = float(value)
    if not math.isfinite(number) or Decimal(repr(number)) != Decimal(value):
        raise ValueError(f"{value} has more digits than a double keeps")
    return number


def _format_not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
