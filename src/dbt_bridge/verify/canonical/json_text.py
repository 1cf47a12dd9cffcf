"""The canonical text of a JSON value: keys sorted, no spaces, numbers as the shortest decimals.

Where a key occurs twice the last one counts, as in jsonb.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.verify.canonical.hash_numeric import format_number


def format_nested(value: object, type_: pa.DataType) -> str:
    """The canonical text of a struct, a map or a list, as Arrow gives it to Python."""
    return _format(_as_json_value(value, type_))


class _Number(float):
    """A number that `json` writes in its canonical text."""

    def __new__(cls, text: str) -> _Number:
        number = super().__new__(cls)
        number.text = format_number(text, 0)
        return number

    text: str

    def __repr__(self) -> str:
        return self.text


def sort_json(text: str) -> str:
    """The canonical text of a JSON text; one that is no JSON stays as it is."""
    try:
        return _format(json.loads(text, parse_float=_Number, parse_int=_Number))
    except (json.JSONDecodeError, RecursionError):
        return text


def _format(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_format_string(str(k))}:{_format(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_format, value)) + "]"
    if isinstance(value, str):
        return _format_string(value)
    return repr(value) if isinstance(value, _Number) else json.dumps(value)


def _format_string(value: str) -> str:
    """Half of a surrogate pair, which a json may escape, has no UTF-8: it stays escaped."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _as_json_value(value: Any, type_: pa.DataType) -> object:
    """A value in the types of JSON. A map is an object of its keys' texts."""
    if value is None or isinstance(value, bool | str):
        return value
    if is_.is_struct(type_):
        return {field.name: _as_json_value(value[field.name], field.type) for field in type_}
    if is_.is_map(type_):
        return {str(k): _as_json_value(v, type_.item_type) for k, v in value}
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        return [_as_json_value(v, type_.value_type) for v in value]
    if isinstance(value, int | float | Decimal):
        return _Number(str(value)) if format_number(str(value), 0)[-1:].isdigit() else str(value)
    return value.hex() if isinstance(value, bytes) else str(value)
