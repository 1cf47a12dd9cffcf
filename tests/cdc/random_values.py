"""Random values of Postgres's types, as text that the server casts: seeded, so that a failure can be played again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

_WORDS = ["", "a", "ä€😀", "tab\tnew\nline", "NULL", "\\N", "quo'te\"s", "back\\slash", " padded ", "Zürich"]


def value(rng: random.Random, type_: str) -> str:
    """A value of a type as `format_type` writes it."""
    if type_.endswith("[]"):
        return _array(rng, type_.removesuffix("[]"))
    name, _, modifier = type_.partition("(")
    if name == "numeric" and modifier:
        precision, scale = (int(part) for part in modifier.rstrip(")").split(","))
        digits = rng.randint(-(10**precision) + 1, 10**precision - 1)
        return f"{digits}e-{scale}"
    if modifier and name.startswith("character"):
        return word(rng)[: int(modifier.rstrip(")"))]
    return _BY_TYPE[name](rng)


def word(rng: random.Random) -> str:
    return rng.choice(_WORDS) if rng.random() < 0.5 else f"w{rng.randint(0, 99)}"


def large(rng: random.Random) -> str:
    """Is stored out of line (TOAST): more than 2 kB that do not compress."""
    return rng.randbytes(rng.randint(2500, 6000)).hex()


def _text(rng: random.Random) -> str:
    return large(rng) if rng.random() < 0.2 else word(rng)


def _integer(bits: int) -> Callable[[random.Random], str]:
    most = 2 ** (bits - 1)
    return lambda rng: str(rng.choice([-most, most - 1, 0, rng.randint(-100, 100)]))


def _document(rng: random.Random) -> str:
    return json.dumps(rng.choice([None, [], {"b": 1, "a": [1.5, None, "ü"]}, {"k": word(rng), "n": rng.random()}]))


def _array(rng: random.Random, element: str) -> str:
    values = [None if rng.random() < 0.2 else value(rng, element) for _ in range(rng.randint(0, 3))]
    cells = ["NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values]
    return "{" + ",".join(cells) + "}"


def _day(rng: random.Random) -> str:
    return f"{rng.randint(1, 9999):04}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}.{rng.randint(0, 999999):06}"


def _moment(zone: str) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(["infinity", "-infinity", *[f"{_day(rng)} {_clock(rng)}{zone}"] * 8])


_BY_TYPE: dict[str, Callable[[random.Random], str]] = {
    "smallint": _integer(16),
    "integer": _integer(32),
    "bigint": _integer(64),
    "text": _text,
    "numeric": lambda rng: rng.choice(["NaN", "0", "1.500", f"{rng.randint(-(10**40), 10**40)}e-{rng.randint(0, 30)}"]),
    "double precision": lambda rng: rng.choice(["NaN", "Infinity", "-0", "1e-300", repr(rng.uniform(-1e9, 1e9))]),
    "real": lambda rng: rng.choice(["NaN", "-Infinity", "0.1", repr(rng.uniform(-10, 10))]),
    "boolean": lambda rng: rng.choice("tf"),
    "date": lambda rng: rng.choice(["infinity", "-infinity", *[_day(rng)] * 8]),
    "timestamp without time zone": _moment(""),
    "timestamp with time zone": _moment("+00"),
    "time without time zone": _clock,
    "interval": lambda rng: f"{rng.randint(-9, 9)} mons {rng.randint(-40, 40)} days {_clock(rng)}",
    "uuid": lambda rng: rng.randbytes(16).hex(),
    "json": _document,
    "jsonb": _document,
    "bytea": lambda rng: "\\x" + rng.randbytes(rng.choice([0, 3, 4000])).hex(),
    "inet": lambda rng: f"10.{rng.randint(0, 255)}.0.1/{rng.choice([8, 24, 32])}",
    "mood": lambda rng: rng.choice(["sad", "so so"]),
}
