"""A page of JSON, whose values are kept as they are written or refused by name.

Python's own reader makes infinity of 1e400, drops digits that a double has no room for, takes NaN, and says of a
document that is nested too deeply, or of a number of 5,000 digits, nothing about where it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

from dbt_bridge.errors import TypeRefused

_EXACT = 15  # digits of a decimal that every double keeps
_WIDEST = 38  # digits of the widest decimal of DuckDB and Arrow's 128 bits
_DEEPEST = 500
_MEND = "let the API give that value as a text, or leave the record out of what it is asked for"


class _Unfit:
    """Stands for a number that no type keeps, until it is known where it is."""

    def __init__(self, text: str, why: str) -> None:
        self.text, self.why = text, why


def read_json(body: bytes, charset: str | None, where: str) -> Any:
    """The document.

    Args:
        charset: that the answer names; None where it leaves that to JSON, whose first bytes tell it.
        where: which answer it is, for messages.

    Raises:
        json.JSONDecodeError: it is no JSON.
        TypeRefused: a number beyond what a double or a decimal keeps, NaN, or too deep.
    """
    found: list[_Unfit] = []

    def keep(text: str, why: str) -> _Unfit:
        found.append(_Unfit(text, why))
        return found[-1]

    def read_integer(text: str) -> Any:
        return int(text) if len(text.lstrip("-")) <= _WIDEST else keep(text, f"has more than {_WIDEST} digits")

    def read_float(text: str) -> Any:
        if _fits_double(text):
            return float(text)
        return keep(text, "is beyond what a double keeps")

    try:
        page = json.loads(
            _decode(body, charset),
            parse_int=read_integer,
            parse_float=read_float,
            parse_constant=lambda text: keep(text, "is no number of JSON"),
        )
    except RecursionError:
        raise _too_deep(body, where) from None
    for at in _find_unfit(page) if found else ():  # none where a later value of the same key has taken its place
        raise _refuse(*at, where)
    return page


def _decode(body: bytes, charset: str | None) -> str:
    """RFC 8259 wants UTF-8; what says by its first bytes that it is another one is read as that."""
    guessed = json.detect_encoding(body)
    return body.decode(guessed if charset is None or guessed != "utf-8" else charset, "surrogatepass")


def _fits_double(text: str) -> bool:
    """Whether the number is a double, or is what some double prints as with so many digits."""
    number = float(text)
    if math.isinf(number):
        return False
    digits = sum(map(str.isdigit, text.lower().partition("e")[0]))
    if digits <= _EXACT and (number or not any(d in text.lower().partition("e")[0] for d in "123456789")):
        return True
    try:
        written = Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits
        return False
    if written == Decimal(repr(number)):
        return True
    with localcontext() as context:
        context.prec = max(1, len(written.as_tuple().digits))
        return +Decimal(number) == written


def _refuse(path: str, record: str, unfit: _Unfit, where: str) -> TypeRefused:
    text = unfit.text if len(unfit.text) <= 40 else f"{unfit.text[:20]}...{unfit.text[-10:]}"
    whose = f" of the record {record}" if record else ""
    return TypeRefused(f"{where}: {text} at {path}{whose} {unfit.why}", mend=_MEND)


def _find_unfit(page: Any) -> Iterator[tuple[str, str, _Unfit]]:
    """Where each one is, the `id` of the object that holds it, and itself."""
    waiting: list[tuple[str, str, Any]] = [("$", "", page)]
    while waiting:
        path, record, value = waiting.pop()
        if isinstance(value, _Unfit):
            yield path, record, value
        elif isinstance(value, dict):
            own = value.get("id")
            record = f"with id {own!r}" if isinstance(own, str | int) else record
            waiting += [(f"{path}.{name}", record, inner) for name, inner in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{path}[{place}]", record, inner) for place, inner in reversed([*enumerate(value)])]


def _too_deep(body: bytes, where: str) -> TypeRefused:
    """Says at which byte, and in which of the records that are items of the outermost list."""
    depth = listed = number = place = 0
    quoted = escaped = False
    for place, byte in enumerate(body):  # noqa: B007 - told below
        if quoted:
            quoted, escaped = escaped or byte != ord('"'), not escaped and byte == ord("\\")
        elif byte == ord('"'):
            quoted = True
        elif byte in b"[{":
            depth += 1
            if not listed and byte == ord("["):
                listed = depth
            if depth > _DEEPEST:
                break
        elif byte in b"]}":
            depth -= 1
        elif byte == ord(",") and depth == listed:
            number += 1
    return TypeRefused(
        f"{where}: record {number + 1} is nested more than {_DEEPEST} levels deep, at byte {place + 1}", mend=_MEND
    )
