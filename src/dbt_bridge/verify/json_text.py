"""The canonical text of a JSON value: keys sorted, no spaces, numbers as the shortest decimals.

Of keys that occur twice the last one counts, as in jsonb.
"""

from __future__ import annotations

import json
from decimal import Decimal

from dbt_bridge.verify import numerics


def of_value(value: object) -> str:
    """Of a struct, a map or a list, as Arrow gives it to Python."""
    return _as_json(_plain(value))


class _Number(float):
    """A number that `json` writes as we spell it."""

    def __new__(cls, text: str) -> _Number:
        number = super().__new__(cls)
        number.text = numerics.spelled(text, 0)
        return number

    text: str

    def __repr__(self) -> str:
        return self.text


def sorted_text(text: str) -> str:
    """The canonical text of a JSON text; one that is no JSON stays as it is."""
    try:
        return _as_json(json.loads(text, parse_float=_Number, parse_int=_Number))
    except (json.JSONDecodeError, RecursionError):
        return text


def _as_json(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k), ensure_ascii=False)}:{_as_json(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_as_json, value)) + "]"
    return repr(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> object:
    """A value of a struct, a map or a list in the types of JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float | Decimal):
        return _Number(str(value)) if numerics.spelled(str(value), 0)[-1:].isdigit() else str(value)
    return value.hex() if isinstance(value, bytes) else str(value)
