"""Values of any ordinary type of Postgres, as text that the server casts."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass

_WORDS = ("amber", "bríosca", "cedar", "dünn", "ember", "fjord", "grün", "harbour", "ivory", "日本", "кофе", "naïve")


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a column can hold.

    Attributes:
        name: `pg_type.typname`, of a domain's base type; of an array its element's.
        sql: the whole type as the server writes it, for a cast: `numeric(12,2)[]`.
        is_array: one dimension.
        labels: of an enum, in order.
        precision, scale: of a numeric; precision 0 has no bound.
        length: of char and varchar; 0 has no bound.
    """

    name: str
    sql: str
    is_array: bool = False
    labels: tuple[str, ...] = ()
    precision: int = 0
    scale: int = 0
    length: int = 0


def can_draw(type_: ValueType) -> bool:
    """Whether `draw_value` makes values of it."""
    return bool(type_.labels) or type_.name in _MAKERS


def draw_value(type_: ValueType, draws: random.Random) -> str:
    """A value's text."""
    if not type_.is_array:
        return _single(type_, draws)
    items = [json.dumps(_single(type_, draws), ensure_ascii=False) for _ in range(draws.randint(0, 3))]
    return "{" + ",".join(items) + "}"


def draw_unique(type_: ValueType, draws: random.Random) -> str | None:
    """A value that no other row has, but for an accident; None for types with too few values."""
    if type_.is_array or type_.labels:
        return None
    if type_.name == "uuid":
        return _uuid(draws)
    if type_.name in ("text", "varchar", "bpchar"):
        text = f"{draws.getrandbits(96):024x}"
        return text[: type_.length or None] if not type_.length or type_.length >= 12 else None
    if type_.name == "bytea":
        return f"\\x{draws.getrandbits(128):032x}"
    return None


def _single(type_: ValueType, draws: random.Random) -> str:
    if type_.labels:
        return draws.choice(type_.labels)
    if type_.name == "numeric":
        return _numeric(type_, draws)
    text = _MAKERS[type_.name](draws)
    return text[: type_.length] if type_.length else text


def _numeric(type_: ValueType, draws: random.Random) -> str:
    digits = min(type_.precision or 12, 15)
    scale = min(type_.scale if type_.precision else 4, digits)
    number = draws.randint(0, 10**digits - 1)
    return f"{number // 10**scale}.{number % 10**scale:0{scale}d}" if scale else str(number)


def _day(draws: random.Random) -> str:
    return f"20{draws.randint(10, 35)}-{draws.randint(1, 12):02d}-{draws.randint(1, 28):02d}"


def _clock(draws: random.Random) -> str:
    at = draws.randint(0, 86_399)
    return f"{_day(draws)} {at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}.{draws.randint(0, 999_999):06d}"


def _document(draws: random.Random) -> str:
    return json.dumps({"word": draws.choice(_WORDS), "number": draws.randint(0, 99), "none": None})


def _uuid(draws: random.Random) -> str:
    return str(uuid.UUID(int=draws.getrandbits(128), version=4))


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "bool": lambda draws: draws.choice(("true", "false")),
    "int2": lambda draws: str(draws.randint(-32_768, 32_767)),
    "int4": lambda draws: str(draws.randint(-(2**31), 2**31 - 1)),
    "int8": lambda draws: str(draws.randint(-(2**63), 2**63 - 1)),
    "float4": lambda draws: str(draws.randint(-(10**6), 10**6) / 64),
    "float8": lambda draws: repr(draws.uniform(-1e9, 1e9)),
    "numeric": lambda draws: str(draws.randint(0, 10**6)),
    "text": lambda draws: " ".join(draws.choices(_WORDS, k=draws.randint(1, 6))),
    "varchar": lambda draws: " ".join(draws.choices(_WORDS, k=3)),
    "bpchar": lambda draws: draws.choice(_WORDS),
    "uuid": _uuid,
    "json": _document,
    "jsonb": _document,
    "bytea": lambda draws: "\\x" + draws.randbytes(draws.randint(0, 16)).hex(),
    "date": _day,
    "time": lambda draws: f"{draws.randint(0, 23):02d}:{draws.randint(0, 59):02d}:{draws.randint(0, 59):02d}.25",
    "timestamp": _clock,
    "timestamptz": lambda draws: f"{_clock(draws)}+00",
    "interval": lambda draws: f"{draws.randint(0, 400)} days {draws.randint(0, 86399)} seconds",
    "inet": lambda draws: f"10.{draws.randint(0, 255)}.{draws.randint(0, 255)}.{draws.randint(0, 255)}",
    "cidr": lambda draws: f"10.{draws.randint(0, 255)}.0.0/16",
}
