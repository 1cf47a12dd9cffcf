"""Values become Arrow arrays of exactly the wanted type, or are refused: nothing is rounded, cut or made NULL.

Arrow alone is not strict enough (pyarrow 25): `pa.array([1.5], pa.int64())` gives 1, float to decimal rounds, and
int to timestamp takes the number for microseconds. So values are first brought into their natural type, by class,
and every further cast must give the same values when it is cast back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow import decimals
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import Column, TableName

Values = Sequence[Any]
Decode = Callable[[Values], pa.Array]

_OFFSET = r":\d\d(\.\d+)? ?([zZ]|[+-]\d\d(:?\d\d)?)$"
_REFUSALS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, TypeError, OverflowError)


def cast_text(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Strings parsed as `wanted`; raises ArrowInvalid for what is not exactly one of its values.

    Times are parsed as the time of a day, because Arrow has no cast from strings to time64.
    """
    if pa.types.is_string(wanted):
        return values
    if pa.types.is_time(wanted):
        whole = pc.binary_join_element_wise("1970-01-01 ", values, "")
        return pc.cast(pc.cast(whole, pa.timestamp("us")), wanted)
    if pa.types.is_timestamp(wanted) and wanted.tz is not None:
        return _cast_moment(values, wanted)
    return decimals.cast(values, wanted)


def _cast_moment(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Texts without an offset are in UTC, to which the sessions are set; some may have one, and others none."""
    try:
        return pc.cast(pc.cast(values, pa.timestamp("us")), wanted)
    except pa.ArrowInvalid:
        zoned = pc.match_substring_regex(values, _OFFSET)
        nothing = pa.scalar(None, pa.string())
        with_offset = pc.cast(pc.if_else(zoned, values, nothing), wanted)
        without = pc.cast(pc.cast(pc.if_else(zoned, nothing, values), pa.timestamp("us")), wanted)
        return pc.coalesce(with_offset, without)


def cast_exactly(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The same values in another type; raises ArrowInvalid when one of them would change."""
    if values.type.equals(wanted):
        return values
    if pa.types.is_string(values.type):
        return cast_text(values, wanted)
    if pa.types.is_integer(values.type) and pa.types.is_temporal(wanted):
        raise pa.ArrowInvalid(f"an integer is not a {wanted}")
    if decimals.is_decimal_cast(values.type, wanted):
        return decimals.cast_exactly(values, wanted)
    cast = pc.cast(values, wanted, safe=True)
    if pa.types.is_decimal(values.type) and pa.types.is_integer(wanted):
        values = pc.cast(values, pa.decimal256(76, values.type.scale))  # an integer needs 19 digits to be cast back
    back = pc.cast(cast, values.type, safe=True)
    if not back.equals(values) and not _same_with_nan(back, values):
        raise pa.ArrowInvalid(f"not exactly representable as {wanted}")
    return cast


def _same_with_nan(left: pa.Array, right: pa.Array) -> bool:
    if not pa.types.is_floating(left.type):
        return False
    same = pc.or_(pc.equal(left, right), pc.and_(pc.is_nan(left), pc.is_nan(right)))
    return bool(pc.all(pc.fill_null(same, True)).as_py()) and left.is_null().equals(right.is_null())


def decode_column(values: Values, decode: Decode, column: Column, table: TableName) -> pa.Array:
    """The driver's values of a column as an Arrow array.

    Raises:
        TypeRefused: naming table, column and the first value that does not fit.
    """
    try:
        return decode(values)
    except _REFUSALS as error:
        culprit = _find_refused(values, decode)
        kind = f" ({column.origin_type})" if column.origin_type else ""
        raise TypeRefused(
            f"{table}, column {column.name!r}{kind}: {_format_value(culprit)} cannot be kept exactly as {column.type}",
            mend=_find_mend(values, column),
            needs_override=True,
            column=column.name,
        ) from error


def _find_mend(values: Values, column: Column) -> str:
    """The line that lets these values land: as text, else as bytes, where they are; nothing keeps texts beside bytes
    that are none."""
    name = quote_in_yaml(column.name)
    if not pa.types.is_string(column.type) and all(map(_is_text, values)):
        return f"add `types: {{{name}: text}}` to the table's bridge block, or correct the value"
    if not pa.types.is_binary(column.type):
        return f"add `types: {{{name}: bytes}}` to the table's bridge block, or correct the value"
    return (
        f"correct the value, or leave the column out: add `columns: {{exclude: [{name}]}}` to the table's bridge block"
    )


def _is_text(value: object) -> bool:
    if not isinstance(value, bytes):
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _find_refused(values: Values, decode: Decode) -> object:
    for value in values:
        try:
            decode([value])
        except _REFUSALS:
            return value
    return "a value"


def _format_value(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
