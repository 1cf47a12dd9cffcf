"""Values that pgoutput sent as text, to the Arrow arrays that the initial copy makes of the same values.

`column_types.resolve_reading` decides how the initial copy gets them; this is the same decision for the text of the
types' output functions.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.changes.values import arrays, moments
from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    apply_decode,
    cast_texts,
    gather,
    gather_texts,
    load_numbers,
    make_booleans,
    make_primitive,
    wrap_extension,
)
from dbt_bridge.connectors.postgres.origin.casts import strict_cast
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type


def decode_text(values: Values, origin: OriginType, wanted: pa.DataType) -> pa.Array:
    """The values in the wanted type. Raises Unfit for one that does not fit."""
    if not len(values):
        return pa.nulls(0, wanted)
    if pa.types.is_string(wanted):
        return decode_as_text(values, origin)
    if origin.element is not None and pa.types.is_list(wanted):
        return arrays.decode_lists(values, origin.element, wanted, decode_text)
    own = natural_type(origin)
    if wanted == own:
        return wrap_extension(_decode_natural(values, origin, own), wanted)
    if isinstance(wanted, pa.UuidType):
        return wrap_extension(_decode_uuids(values), wanted)
    if isinstance(wanted, pa.JsonType):
        return wrap_extension(_check_documents(decode_as_text(values, origin)), wanted)
    if pa.types.is_binary(wanted):
        return decode_as_text(values, origin).cast(pa.binary())
    if is_converted_by_value(own, wanted):
        return apply_decode(_decode_natural(values, origin, own), strict_cast(wanted))
    return apply_decode(decode_as_text(values, origin), strict_cast(wanted))


def is_converted_by_value(own: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the initial copy casts the natural type's numbers, and not the text."""
    return (_is_number(own) and _is_number(wanted)) or (pa.types.is_timestamp(own) and pa.types.is_timestamp(wanted))


def decode_as_text(values: Values, origin: OriginType) -> pa.Array:
    """`value::text`, which is the output function's text for every type but boolean (pg_cast)."""
    if origin.name == "bool":
        return pc.cast(_decode_booleans(values), pa.string())
    return gather_texts(values)


def _decode_natural(values: Values, origin: OriginType, own: pa.DataType) -> pa.Array:
    if decode := _DECODE.get(origin.name):
        return decode(values)
    return cast_texts(values, strict_cast(own))


def _decode_oids(values: Values) -> pa.Array:
    numbers = cast_texts(values, strict_cast(pa.int64()))
    found = np.frombuffer(numbers.buffers()[1], np.int64)[: len(values)]
    leading_zero = (values.length > 1) & (load_numbers(values, "u1") == ord("0"))
    values.refuse_where((found < 0) | (found > 2**32 - 1) | leading_zero)
    return numbers


def _make_float_decoder(type_: pa.DataType) -> Callable[[Values], pa.Array]:
    """Arrow's parser makes infinity of a number that is too large, and 0 of one that is too small."""

    def decode(values: Values) -> pa.Array:
        numbers = cast_texts(values, strict_cast(type_))
        found = np.frombuffer(numbers.buffers()[1], f"f{type_.bit_width // 8}")[: len(values)]
        odd = np.flatnonzero(values.where_valid(np.isinf(found) | (found == 0)))
        if len(odd):
            sent = values.take(odd)
            said = sent.equal(b"Infinity") | sent.equal(b"-Infinity") | sent.equal(b"0") | sent.equal(b"-0")
            sent.refuse_where(~said)
        return numbers

    return decode


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _decode_booleans(values: Values) -> pa.Array:
    letter = load_numbers(values, "u1")
    true = letter == ord("t")
    values.refuse_where((values.length != 1) | ~(true | (letter == ord("f"))))
    return make_booleans(true, values.valid)


def _decode_bytes(values: Values) -> pa.Array:
    r"""`\x` and two digits per byte. Once gathered, the digits of all values lie one after the other."""
    values.refuse_where((values.length < 2) | (load_numbers(values, ">u2") != _HEX_BEGINS) | (values.length % 2 != 0))
    digits = gather(values.strip(2), pa.binary())
    n = len(digits)
    if n == 0:
        return digits
    offsets = np.frombuffer(digits.buffers()[1], np.int32)[: n + 1]
    data = digits.buffers()[2]
    try:
        plain = binascii.unhexlify(memoryview(data)[: offsets[-1]] if data is not None else b"")
    except binascii.Error:
        wrong = _find_wrong_digit(np.frombuffer(data, np.uint8)[: offsets[-1]])
        row = int(np.searchsorted(offsets, wrong, side="right")) - 1
        raise Unfit(values.format_value(row)) from None
    return pa.Array.from_buffers(pa.binary(), n, [digits.buffers()[0], pa.py_buffer(offsets // 2), pa.py_buffer(plain)])


_HEX_BEGINS = int.from_bytes(b"\\x")
_HEX = np.isin(np.arange(256), list(b"0123456789abcdefABCDEF"))


def _find_wrong_digit(digits: np.ndarray) -> int:
    return int((~_HEX[digits]).argmax())


_DASHES = [8, 13, 18, 23]
_GROUPS = ((0, 8), (9, 13), (14, 18), (19, 23), (24, 36))


def _decode_uuids(values: Values) -> pa.Array:
    """uuid_out writes 8-4-4-4-12 digits; other forms that uuid_in takes (of a text column) are read one by one."""
    n = len(values)
    if n == 0:
        return pa.array([], pa.binary(16))
    raw = np.ascontiguousarray(load_numbers(values, "V36")).view(np.uint8).reshape(-1, 36)
    digits = np.empty((n, 32), np.uint8)
    at = 0
    for first, last in _GROUPS:
        digits[:, at : at + last - first] = raw[:, first:last]
        at += last - first
    plain = (values.length == 36) & (raw[:, _DASHES] == ord("-")).all(axis=1)
    if values.valid is not None:
        digits[~values.valid] = ord("0")
    odd = values.where_valid(~plain)
    for row in np.flatnonzero(odd):
        digits[row] = np.frombuffer(_parse_odd_uuid(values, int(row)), np.uint8)
    try:
        found = binascii.unhexlify(digits.data)
    except binascii.Error:
        raise Unfit(values.format_value(_find_wrong_digit(digits.reshape(-1)) // 32)) from None
    return make_primitive(pa.binary(16), np.frombuffer(found, "V16"), values.valid)


def _parse_odd_uuid(values: Values, row: int) -> bytes:
    """What uuid_in takes: braces around, and a hyphen after any group of four digits (uuid.c, string_to_uuid)."""
    text = values.bytes(row)
    digits = text[1:-1] if text[:1] == b"{" and text[-1:] == b"}" else text
    pairs, rest = [], digits
    for i in range(16):
        pairs.append(rest[:2])
        rest = rest[2:]
        if rest[:1] == b"-" and i % 2 == 1 and i < 15:
            rest = rest[1:]
    found = b"".join(pairs)
    if rest or len(found) != 32:
        raise Unfit(values.format_value(row))
    return found


def _check_documents(array: pa.Array) -> pa.Array:
    """The same texts; each of them is a JSON document, as Postgres's parser understands it.

    Each distinct text is parsed once.
    """
    for text in array.unique():
        value = text.as_py()
        try:
            if value is not None:
                json.loads(value, parse_constant=_refuse_constant, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            raise Unfit(repr(value[:80])) from None
    return array


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # Python takes NaN and Infinity


_DECODE: dict[str, Callable[[Values], pa.Array]] = {
    "oid": _decode_oids,
    "float4": _make_float_decoder(pa.float32()),
    "float8": _make_float_decoder(pa.float64()),
    "bool": _decode_booleans,
    "bytea": _decode_bytes,
    "uuid": _decode_uuids,
    "json": gather_texts,
    "jsonb": gather_texts,
    "date": moments.decode_dates,
    "time": moments.decode_times,
    "timestamp": lambda values: moments.decode_timestamps(values, pa.timestamp("us")),
    "timestamptz": lambda values: moments.decode_timestamps(values, pa.timestamp("us", "UTC")),
    "interval": moments.decode_intervals,
}
