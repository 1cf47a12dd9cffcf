"""Values that pgoutput sent in binary (each type's send function), to the arrays that the initial copy makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.values import numeric
from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    apply_decode,
    gather,
    load_numbers,
    make_booleans,
    make_primitive,
    wrap_extension,
)
from dbt_bridge.connectors.postgres.changes.values.moments import (
    DAY_US,
    INFINITE_DAYS,
    INFINITE_US,
    MOST_HOURS,
    make_intervals,
)
from dbt_bridge.connectors.postgres.changes.values.text import decode_text, is_converted_by_value
from dbt_bridge.connectors.postgres.origin.casts import strict_cast
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type

_EPOCH_US = 946_684_800_000_000  # 2000-01-01, where Postgres begins to count
_EPOCH_DAYS = 10_957
_FIRST_US = -211_813_488_000_000_000  # 4714-11-24 BC, from 2000
_FIRST_DAY = -2_451_545
_AFTER_DAY = 2_145_031_949  # 5874898-01-01
_HOUR_US = 3_600_000_000
_TEXTS = {"text", "varchar", "bpchar", "name", "citext", "json", "jsonb"}  # their binary form is their text
_JSONB_VERSION = 1


def is_binary_decodable(origin: OriginType, wanted: pa.DataType) -> bool:
    """Whether the binary form of this type can be decoded to `wanted`; arrays and text of other types cannot."""
    if origin.name in _TEXTS:
        return True
    if origin.name == "numeric":
        return bool(pa.types.is_decimal128(wanted)) and wanted.scale >= 0
    own = natural_type(origin)
    return origin.name in _DECODE and (wanted == own or is_converted_by_value(own, wanted))


def decode_binary(values: Values, origin: OriginType, wanted: pa.DataType) -> pa.Array:
    """The values in the wanted type. Raises Unfit for one that does not fit."""
    if not is_binary_decodable(origin, wanted):
        raise Unfit(f"the binary form of {origin.name or 'a type'}, sent although it was not asked for")
    if origin.name in _TEXTS:
        if origin.name == "jsonb":
            values.refuse_where((values.length < 1) | (load_numbers(values, "u1") != _JSONB_VERSION))
            values = values.strip(1)
        return decode_text(values, origin, wanted)
    if origin.name == "numeric":
        return numeric.decode_decimals(values, wanted)
    own = natural_type(origin)
    array = _DECODE[origin.name](values)
    return wrap_extension(array, wanted) if wanted == own else apply_decode(array, strict_cast(wanted))


def _make_number_decoder(type_: pa.DataType, sent: str) -> Callable[[Values], pa.Array]:
    width = np.dtype(sent).itemsize

    def decode(values: Values) -> pa.Array:
        values.require_width(width)
        return make_primitive(type_, load_numbers(values, sent), values.valid)

    return decode


_decode_unsigned = _make_number_decoder(pa.uint32(), ">u4")


def _decode_booleans(values: Values) -> pa.Array:
    values.require_width(1)
    byte = load_numbers(values, "u1")
    values.refuse_where(byte > 1)
    return make_booleans(byte == 1, values.valid)


def _decode_uuids(values: Values) -> pa.Array:
    values.require_width(16)
    return make_primitive(pa.binary(16), load_numbers(values, "V16"), values.valid)


def _decode_dates(values: Values) -> pa.Array:
    values.require_width(4)
    days = load_numbers(values, ">i4").astype(np.int64)
    plus, minus = days == 2**31 - 1, days == -(2**31)
    values.refuse_where(~(plus | minus) & ((days < _FIRST_DAY) | (days >= _AFTER_DAY)))
    days = np.where(plus, INFINITE_DAYS, np.where(minus, -INFINITE_DAYS, days + _EPOCH_DAYS))
    return make_primitive(pa.date32(), days.astype(np.int32), values.valid)


def _decode_times(values: Values) -> pa.Array:
    values.require_width(8)
    micros = load_numbers(values, ">i8")
    values.refuse_where((micros < 0) | (micros > DAY_US))
    return make_primitive(pa.time64("us"), micros, values.valid)


def _make_timestamp_decoder(type_: pa.DataType) -> Callable[[Values], pa.Array]:
    def decode(values: Values) -> pa.Array:
        values.require_width(8)
        micros = load_numbers(values, ">i8")
        odd = values.where_valid((micros < _FIRST_US) | (micros >= INFINITE_US - _EPOCH_US))
        if not odd.any():
            return make_primitive(type_, micros + _EPOCH_US, values.valid)
        plus, minus = micros == 2**63 - 1, micros == -(2**63)
        far = odd & ~(plus | minus)
        if far.any():
            raise Unfit(f"{micros[far.argmax()]} microseconds after 2000-01-01 (after the year 294246)")
        finite = np.where(odd, 0, micros) + _EPOCH_US
        return make_primitive(type_, np.where(plus, INFINITE_US, np.where(minus, -INFINITE_US, finite)), values.valid)

    return decode


def _decode_intervals(values: Values) -> pa.Array:
    values.require_width(16)
    micros = load_numbers(values, ">i8")
    most = (MOST_HOURS + 1) * _HOUR_US
    far = values.where_valid((micros >= most) | (micros <= -most))
    if far.any():
        raise Unfit(f"{micros[far.argmax()]} microseconds (more than {MOST_HOURS} hours, or infinity)")
    days, months = load_numbers(values, ">i4", 8), load_numbers(values, ">i4", 12)
    return make_intervals(values, months, days, np.where(values.where_valid(~far), micros, 0) * 1000)


_DECODE: dict[str, Callable[[Values], pa.Array]] = {
    "int2": _make_number_decoder(pa.int16(), ">i2"),
    "int4": _make_number_decoder(pa.int32(), ">i4"),
    "int8": _make_number_decoder(pa.int64(), ">i8"),
    "oid": lambda values: _decode_unsigned(values).cast(pa.int64()),
    "float4": _make_number_decoder(pa.float32(), ">f4"),
    "float8": _make_number_decoder(pa.float64(), ">f8"),
    "bool": _decode_booleans,
    "bytea": lambda values: gather(values, pa.binary()),
    "uuid": _decode_uuids,
    "date": _decode_dates,
    "time": _decode_times,
    "timestamp": _make_timestamp_decoder(pa.timestamp("us")),
    "timestamptz": _make_timestamp_decoder(pa.timestamp("us", "UTC")),
    "interval": _decode_intervals,
}
