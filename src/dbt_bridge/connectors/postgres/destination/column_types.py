"""How columns land in Postgres, and how the driver carries them there.

A column that comes from Postgres keeps its own built-in type (`numeric(12,2)`, `inet`, `int4range`); where Arrow has
no such type its text form travels and Postgres reads it back. Enums, domains, composites and types of extensions
land as text: their definitions are the origin's. So does money, whose text depends on the server's locale. All
others land by their Arrow type:

    bool, int16/32/64, float32/64       boolean, smallint/integer/bigint, real/double precision
    int8, uint8, uint16, uint32         the next wider signed integer
    uint64                              numeric(20,0)
    decimal(p,s)                        numeric(p,s)
    string                              text
    binary                              bytea
    uuid, json                          uuid, json
    date, time, timestamp, with zone    date, time, timestamp, timestamptz (microseconds)
    duration, interval                  interval
    list of one of these                its array
    struct, map, list of lists          text
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import Column, Table

Encode = Callable[[pa.Array], pa.Array]

_EPOCH_US = 946_684_800_000_000  # from 1970 to 2000, where Postgres's timestamps begin
_EPOCH_DAYS = 10_957

_TEXT = {"text", "character varying", "character", "name", "xml"}  # their binary form is their text
_BY_TEXT = {
    "time with time zone", "inet", "cidr", "macaddr", "macaddr8", "bit", "bit varying", "point", "line", "lseg",
    "box", "path", "polygon", "circle", "tsvector", "tsquery", "pg_lsn", "interval", "numeric", "jsonpath",
    *(f"{kind}range" for kind in ("int4", "int8", "num", "ts", "tstz", "date")),
    *(f"{kind}multirange" for kind in ("int4", "int8", "num", "ts", "tstz", "date")),
}  # fmt: skip
BY_ARROW: dict[str, pa.DataType] = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "bytea": pa.binary(),
    "uuid": pa.uuid(),
    "json": pa.json_(),
    "jsonb": pa.json_(),
    "date": pa.date32(),
    "time without time zone": pa.time64("us"),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}


def base(sql_type: str) -> str:
    """A type without its modifiers: `timestamp(3) without time zone` -> `timestamp without time zone`."""
    plain = re.sub(r"\([^)]*\)", "", sql_type)
    return "interval" if plain.startswith("interval") else re.sub(r" +", " ", plain).strip()


def map_column(column: Column) -> Column:
    """The column as it must travel to land in Postgres exactly.

    Raises:
        TypeRefused: a union or an unknown extension type.
    """
    own = column.origin_type
    if own.endswith("[]") and _is_own(replace(column, type=pa.string())):
        return column.as_text()  # keeps dimensions and lower bounds, which Arrow lists do not have
    if base(own) == "interval" and _is_own(replace(column, type=pa.string())):
        return column.as_text()  # Arrow's nanoseconds end at 292 years
    if _is_own(column):
        return column
    return replace(column, type=_map_type(column, column.type))


def _map_type(column: Column, type_: pa.DataType) -> pa.DataType:
    if is_.is_dictionary(type_) or is_.is_run_end_encoded(type_):
        return _map_type(column, type_.value_type)
    if is_.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    if is_.is_time(type_):
        return pa.time64("us")
    if is_.is_duration(type_):
        return pa.duration("us")
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        inner = type_.value_type
        if is_.is_nested(inner) or isinstance(inner, pa.BaseExtensionType):
            return pa.string()
        return pa.list_(_map_type(column, inner))
    if is_.is_struct(type_) or is_.is_map(type_) or is_.is_null(type_):
        return pa.string()
    if is_.is_union(type_) or (
        isinstance(type_, pa.BaseExtensionType) and not isinstance(type_, pa.UuidType | pa.JsonType)
    ):
        raise TypeRefused(
            f"column {column.name!r} has the type {column.origin_type or type_}, for which Postgres has no exact form",
            mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
        )
    return type_


def _is_own(column: Column) -> bool:
    """Whether the column comes from Postgres and travels so that its own type takes it."""
    own, type_ = column.origin_type, column.type
    if own.endswith("[]"):
        element = base(own.removesuffix("[]"))
        return is_.is_string(type_) and element in _TEXT | _BY_TEXT | BY_ARROW.keys()
    plain = base(own)
    if plain == "numeric" and is_.is_decimal(type_):
        return True
    if plain == "interval" and type_ == pa.month_day_nano_interval():
        return True
    if plain in _TEXT or plain in _BY_TEXT:
        return bool(is_.is_string(type_))
    return plain in BY_ARROW and bool(BY_ARROW[plain] == type_)


def landing_type(column: Column) -> str:
    """The column's SQL type in the landing table, as `format_type` spells it."""
    return column.origin_type if _is_own(column) else _sql_type(column.type)


_SQL: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (is_.is_boolean, "boolean"),
    (is_.is_int8, "smallint"), (is_.is_uint8, "smallint"), (is_.is_int16, "smallint"),
    (is_.is_uint16, "integer"), (is_.is_int32, "integer"),
    (is_.is_uint32, "bigint"), (is_.is_int64, "bigint"),
    (is_.is_uint64, "numeric(20,0)"),
    (is_.is_float16, "real"), (is_.is_float32, "real"), (is_.is_float64, "double precision"),
    (is_.is_binary, "bytea"), (is_.is_large_binary, "bytea"), (is_.is_fixed_size_binary, "bytea"),
    (is_.is_binary_view, "bytea"),
    (is_.is_date, "date"), (is_.is_time, "time without time zone"),
    (is_.is_duration, "interval"), (is_.is_interval, "interval"),
)  # fmt: skip


def _sql_type(type_: pa.DataType) -> str:
    if isinstance(type_, pa.UuidType):
        return "uuid"
    if isinstance(type_, pa.JsonType):
        return "json"
    if is_.is_decimal(type_):
        scale = max(type_.scale, 0)
        return f"numeric({max(type_.precision - min(type_.scale, 0), scale)},{scale})"
    if is_.is_timestamp(type_):
        return "timestamp with time zone" if type_.tz else "timestamp without time zone"
    if is_.is_dictionary(type_):
        return _sql_type(type_.value_type)
    if _is_list(type_):
        return f"{_sql_type(type_.value_type)}[]"
    return next((sql for matches, sql in _SQL if matches(type_)), "text")


def copied_as(table: Table) -> dict[str, str] | None:
    """The SQL types to which another Postgres must cast columns (text, or a domain's own base type) so that its
    binary COPY fits; the others are sent as they are. None where an override asks for another type.
    """
    casts = {c.name: landing_type(c) for c in table.columns if not _is_own(c)}
    known = _TEXT | _BY_TEXT | BY_ARROW.keys() | {""}
    overridden = any(
        casts.get(c.name, "text") != "text" and base(c.origin_type.removesuffix("[]")) in known for c in table.columns
    )
    return casts if table.columns and not overridden else None


@dataclass(frozen=True, slots=True)
class Wire:
    """How a column's values get to the staging table.

    Attributes:
        sql_type: of the column that the driver copies into.
        encode: from the array that travels to the one that the driver writes. Raises pa.ArrowInvalid for a value that
            would change.
        cast: whether `sql_type` is text that Postgres must still read as `landing_type`.
    """

    sql_type: str
    encode: Encode
    cast: bool = False


def wire(column: Column) -> Wire:
    """How this column is copied. adbc_driver_postgresql writes binary COPY by the Arrow type alone."""
    sql_type, type_ = landing_type(column), column.type
    plain = base(sql_type)
    if _is_own(column) and is_.is_string(type_) and (sql_type.endswith("[]") or plain in _BY_TEXT):
        return Wire("text", _as_is, cast=True)
    if plain == "jsonb":
        return Wire(sql_type, _jsonb)
    if _is_list(type_) and (is_.is_timestamp(type_.value_type) or is_.is_date(type_.value_type)):
        return Wire("text", _moments_as_text, cast=True)
    return Wire(sql_type, _encoder(type_))


_WIDENED: dict[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int16(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.null(): pa.string(),
}


def _encoder(type_: pa.DataType) -> Encode:
    if isinstance(type_, pa.BaseExtensionType):
        return lambda array: array.storage
    if is_.is_timestamp(type_):
        # As the server's own numbers: the driver refuses infinity.
        return lambda array: _shift(pc.cast(array, pa.timestamp("us", type_.tz)).view(pa.int64()), _EPOCH_US)
    if is_.is_date(type_):
        return lambda array: _shift(pc.cast(array, pa.date32()).view(pa.int32()), _EPOCH_DAYS)
    if is_.is_time(type_):
        return lambda array: pc.cast(array, pa.time64("us")).view(pa.int64())
    other = _WIDENED.get(type_)
    if is_.is_dictionary(type_) or is_.is_run_end_encoded(type_):
        other = type_.value_type
    if is_.is_nested(type_) and not is_.is_list(type_) and not is_.is_large_list(type_):
        other = pa.list_(type_.value_type)
    return (lambda array: pc.cast(array, other)) if other is not None else _as_is


def _shift(numbers: pa.Array, epoch: int) -> pa.Array:
    """From 1970 to 2000; plus and minus the type's maximum is infinity, there as here."""
    width = 64 if numbers.type == pa.int64() else 32
    most = 2 ** (width - 1) - 1

    def scalar(value: int) -> pa.Scalar:
        return pa.scalar(value, numbers.type)

    extremes = pc.min_max(numbers).as_py()
    if extremes["max"] != most and extremes["min"] not in (-most, -most - 1):
        return pc.subtract_checked(numbers, scalar(epoch))
    plus, minus = pc.equal(numbers, scalar(most)), pc.less_equal(numbers, scalar(-most))
    finite = pc.if_else(pc.or_(plus, minus), scalar(0), numbers)
    moved = pc.subtract_checked(finite, scalar(epoch))
    return pc.if_else(plus, scalar(most), pc.if_else(minus, scalar(-most - 1), moved))


def _is_list(type_: pa.DataType) -> bool:
    return bool(is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_))


def _moments_as_text(array: pa.Array) -> pa.Array:
    """Lists in Postgres's text form: in a list the driver takes infinity for a number, which is out of range or wraps
    around (1.13). A session of ours is in UTC."""
    from dbt_bridge.verify.canonical.elements import to_canonical

    kind = "date" if is_.is_date(array.type.value_type) else "timestamp"
    return to_canonical(array, Canon("list", of=Canon(kind)))  # type: ignore[arg-type]


def _jsonb(array: pa.Array) -> pa.Array:
    """The text after a version byte of 1 (jsonb.c, jsonb_recv)."""
    return pc.binary_join_element_wise("\x01", array.storage, "")


def _as_is(array: pa.Array) -> pa.Array:
    return array


# Evolution: types as `format_type` spells them.

INTEGERS = ("smallint", "integer", "bigint")
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
TEXTS = {"text", "character varying", "character", "name"}


def wider(existing: str, incoming: str) -> str | None:
    """The type that holds every value of both; None where they are of different kinds."""
    if existing == incoming:
        return existing
    if existing.endswith("[]") and incoming.endswith("[]"):
        element = wider(existing[:-2], incoming[:-2])
        return f"{element}[]" if element else None
    a, b = base(existing), base(incoming)
    if a in INTEGERS and b in INTEGERS:
        return max(a, b, key=INTEGERS.index)
    if {a, b} <= {*INTEGERS, "numeric"}:
        return _wider_numeric(existing, incoming)
    if {a, b} <= {"real", "double precision", "smallint", "integer"}:
        return "double precision"
    if a in TEXTS and b in TEXTS:
        return "text"
    if a == b:  # of other precision: timestamp(3), bit varying(8)
        return a
    if {a, b} == {"date", "timestamp without time zone"}:
        return "timestamp without time zone"
    return None


def _wider_numeric(existing: str, incoming: str) -> str:
    if "numeric" in (existing, incoming):
        return "numeric"
    (whole_a, scale_a), (whole_b, scale_b) = _digits(existing), _digits(incoming)
    whole, scale = max(whole_a, whole_b), max(scale_a, scale_b)
    return f"numeric({whole + scale},{scale})" if whole + scale <= 1000 else "numeric"


def _digits(type_: str) -> tuple[int, int]:
    """Digits before and after the point."""
    if found := _NUMERIC.fullmatch(type_):
        return max(int(found[1]) - int(found[2]), 0), max(int(found[2]), 0)
    return _DIGITS[type_], 0


# Text that Postgres reads strictly; not dates, whose input takes 'now' and guesses the order of day and month.
_PARSED = {"uuid", "json", "jsonb", "inet", "cidr", "macaddr", "macaddr8", "xml"}


def fits(existing: str, incoming: str, *, is_enum: bool) -> bool:
    """Whether an assignment into the existing type keeps each value or raises, so that the type can stay."""
    a, b = base(existing), base(incoming)
    if existing == incoming or wider(existing, incoming) == existing:
        return True
    if b in TEXTS and (is_enum or a in _PARSED or a in TEXTS or a == "citext"):
        return True
    if a in INTEGERS and (b in INTEGERS or (_NUMERIC.fullmatch(incoming) and _digits(incoming)[1] == 0)):
        return True
    if {a, b} == {"json", "jsonb"}:
        return True
    if (new := _NUMERIC.fullmatch(existing)) and b in (*INTEGERS, "numeric") and incoming != "numeric":
        return int(new[2]) >= _digits(incoming)[1]
    return False


# --- keys ----------------------------------------------------------------------------------------------------------

_NO_EQUALITY = {"json", "xml", "jsonpath", "point", "line", "lseg", "box", "path", "polygon", "circle"}
_OF_SEVERAL_FORMS = {
    "numeric", "interval", "real", "double precision", "jsonb", "numrange", "nummultirange", "bpchar", "character",
}  # fmt: skip


def check_key(name: object, column: Column) -> None:
    """Refuse a key column whose landing type has no index by which rows are found.

    Raises:
        KeyRefused: names table, column and type.
    """
    element = base(landing_type(column).removesuffix("[]"))
    if element in _NO_EQUALITY:
        raise KeyRefused(
            f"{name}: the key column {column.name!r} is {landing_type(column)}, which PostgreSQL does not compare",
            mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
        )


def is_written_in_several_forms(column: Column) -> bool:
    """Whether `=` takes several values of the landing type for one: 1.0 and 1.00, `1 mon` and `30 days`."""
    element = landing_type(column).removesuffix("[]")
    return base(element) in _OF_SEVERAL_FORMS and not re.match(r"(numeric|character)\(", element)
