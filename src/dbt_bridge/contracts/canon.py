"""The canonical form of a value: what two engines must agree on before rows can be compared.

The last of the four acts in which a column's type is decided; arrow/__init__.py lists them with their files.

Two columns are compared in one `Canon`, which both sides are brought to: in SQL where an engine computes digests
itself, and in Arrow arrays everywhere else. The digest of a row is defined by PostgreSQL (14 and later):

    hash_record_extended(ROW(e1, e2, ...), 0)       -- of the columns' elements, below

that is `h = 31 * h + e` modulo 2^64 from 0 on, with e the 64-bit extended hash of each element (hashfn.c, Jenkins's
lookup3) and 0 for NULL (rowtypes.c). PostgreSQL computes it in a third of the time of an md5, and
`verify/canonical/row_digest.py` the same number from Arrow arrays. A digest is a filter: rows that differ in it are
fetched, and compared value by value in the arrays of `verify/canonical/elements.py`. Equal digests mean equal values
(but for 1 in 2^64).

    kind        elements in PostgreSQL                 canonical Arrow array
    int         32 bits: x; 64 bits: int8send(x)       int64
    decimal     x::numeric, x < 0 (2 for Infinity)     string: `scale` digits after the point, or as many as it needs;
                                                       a float has the fewest digits that read back as its double, and
                                                       beyond 2^53, where all doubles are whole, all of its digits
    float       float8send(x), -0 as 0, NaNs alike     float64, -0 as 0
    text        x COLLATE "C"                          string
    binary      x (bytea)                              binary
    uuid        x                                      fixed_size_binary(16)
    date        x                                      date32; +-infinity as +-(2^31 - 1) days
    time        time_send(x)                           time64[us]
    timestamp   timestamp_send(x)                      timestamp[us], UTC; +-infinity as +-(2^63 - 1); string where fine
    interval    interval_send(x)                       string: PostgreSQL's text form
    json        x::text                                string: keys sorted, no spaces, numbers as the shortest decimals
    list        int8send(hash_array_extended(x::text[] COLLATE "C", 0))    string: PostgreSQL's text form

Booleans are int (0, 1). Hashes that lose something are never an element alone: hashint8 (of bigint, time and
timestamp) folds its halves together, hash_numeric ignores the sign and hashes NaN and infinity like NULL, and
hashfloat8 hashes 0 like NULL.

For json the digest is over the text as it is: two texts of one value look different, and are then found equal by their
canonical form. Elements of a list are compared as texts, in which -0 is not 0. A text that is compared with another
type (`form`) is brought to that type's text where it reads as one, and stays as it is otherwise: it differs then, as it
should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.errors import BridgeError, TypeRefused
from dbt_bridge.nouns.table import Column

Kind = Literal[
    "int", "decimal", "float", "text", "binary", "uuid", "date", "time", "timestamp", "interval", "json", "list"
]


class NoDigests(BridgeError):
    """This side computes no digests that could be compared: a server that hashes otherwise, a type it cannot hash.

    Not a failure: values are read instead, and the report says why.
    """


@dataclass(frozen=True, slots=True)
class Canon:
    """How the values of one compared column are written alike on both sides.

    Attributes:
        scale: for decimal: digits after the point, the larger of both sides.
        bits: for int: 32 where neither side can hold more, otherwise 64.
        form: for text: `char` where trailing spaces do not count, as one side is a char(n), which cannot tell;
            `uuid` where a text is compared with a uuid. For json: `nested` where both sides are structs or maps, whose
            digest is then over the canonical text. Empty otherwise.
        fine: for timestamp: one side has nanoseconds.
        of: for list: the element's.
    """

    kind: Kind
    scale: int = 0
    bits: int = 64
    form: Literal["", "char", "uuid", "nested"] = ""
    fine: bool = False
    of: Canon | None = None


@dataclass(frozen=True, slots=True)
class Digested:
    """A column as one side of a comparison digests it.

    Attributes:
        column: as this side calls and types it.
        canon: what both sides agreed on.
        mask: how its values are masked on their way (`sha256` of the origin's text form); the canon is then text.
    """

    column: Column
    canon: Canon
    mask: str = ""


def choose_canon(origin: Column, destination: Column) -> Canon:
    """The form in which both columns can be compared.

    Where types differ, the one that tells less decides: a timestamp without zone is in UTC, trailing spaces do not
    count beside a char(n), and a date is its midnight. Not so of numbers: a float beside an integer or a decimal is the
    decimal that it is written as, so that what it could not hold differs.

    Raises:
        TypeRefused: there is none, as for a date and a number.
    """
    canon = _common_canon(_Family.of(origin), _Family.of(destination))
    if canon is None:
        raise TypeRefused(
            f"column {origin.name!r} ({_format_type(origin)}) cannot be compared with column {destination.name!r}"
            f" ({_format_type(destination)}): no form of a value is common to both",
            mend="compare it through an expression that makes one type of both, or leave the column out",
        )
    return canon


def _format_type(column: Column) -> str:
    return column.origin_type or str(column.type)


@dataclass(frozen=True, slots=True)
class _Family:
    """A type as far as comparisons care."""

    name: str
    type: pa.DataType
    origin_type: str

    @classmethod
    def of(cls, column: Column) -> _Family:
        type_ = column.type
        while is_.is_dictionary(type_) or is_.is_run_end_encoded(type_):
            type_ = type_.value_type
        own = column.origin_type.lower()
        return cls(_family(type_, own), type_, own)

    @property
    def element(self) -> _Family:
        return _Family.of(Column("", self.type.value_type, self.origin_type.removesuffix("[]")))

    @property
    def is_char(self) -> bool:
        return self.name == "text" and self.origin_type.split("(")[0] in ("character", "char", "bpchar", "nchar")

    @property
    def is_numeric(self) -> bool:
        """A numeric of PostgreSQL that fits no decimal type, and travels as text: 1.10 is 1.1."""
        return self.name == "text" and self.origin_type.split("(")[0] == "numeric"

    @property
    def is_fine(self) -> bool:
        return bool(is_.is_timestamp(self.type)) and self.type.unit == "ns"


def _family(type_: pa.DataType, own: str) -> str:
    if isinstance(type_, pa.UuidType):
        return "uuid"
    if isinstance(type_, pa.JsonType):
        return "json"
    if isinstance(type_, pa.BaseExtensionType):
        return _family(type_.storage_type, own)
    if is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_):
        return own if own in ("uuid", "json") else "json" if own == "jsonb" else "text"
    for name, belongs in _FAMILIES.items():
        if any(test(type_) for test in belongs):
            return name
    return "unknown"


_FAMILIES = {
    "null": (is_.is_null,),
    "bool": (is_.is_boolean,),
    "decimal": (is_.is_decimal, is_.is_uint64),  # uint64 fits no signed integer
    "int": (is_.is_integer,),
    "float": (is_.is_floating,),
    "binary": (is_.is_binary, is_.is_large_binary, is_.is_binary_view, is_.is_fixed_size_binary),
    "date": (is_.is_date32, is_.is_date64),
    "time": (is_.is_time,),
    "timestamp": (is_.is_timestamp,),
    "interval": (is_.is_interval, is_.is_duration),
    "list": (is_.is_list, is_.is_large_list, is_.is_fixed_size_list),
    "nested": (is_.is_struct, is_.is_map),
}
_NUMBERS = {"bool", "int", "decimal", "float"}
_WITH_TEXT = {"bool", "float", "date", "time", "timestamp", "interval"}  # compared in PostgreSQL's text form


def _common_canon(one: _Family, other: _Family) -> Canon | None:
    names = {one.name, other.name}
    if "unknown" in names:
        return None
    if "null" in names:
        typed = one if other.name == "null" else other
        return Canon("text") if typed.name == "null" else _common_canon(typed, typed)
    if names <= _NUMBERS:
        return _number(one, other)
    if names == {"text"}:
        return _texts(one, other)
    if names == {"list"}:
        return _list(one, other)
    if names == {"nested"}:
        return Canon("json", form="nested")
    if names == {"list", "text"} and (one if one.name == "list" else other).origin_type.endswith("[]"):
        return Canon("text")  # a PostgreSQL array where only its text could land
    if names <= {"json", "nested", "list", "text"}:
        return Canon("json")
    if "text" in names:
        return _with_text(*((one, other) if other.name == "text" else (other, one)))
    if names <= {"date", "timestamp"}:
        return Canon("date" if names == {"date"} else "timestamp", fine=one.is_fine or other.is_fine)
    if names <= {"time", "interval"}:
        return Canon("time" if names == {"time"} else "interval")
    if names == {"uuid", "binary"}:
        binary = one.type if one.name == "binary" else other.type
        return Canon("uuid") if is_.is_fixed_size_binary(binary) and binary.byte_width == 16 else None
    return Canon(one.name) if len(names) == 1 else None  # type: ignore[arg-type]


def _texts(one: _Family, other: _Family) -> Canon:
    if one.is_numeric and other.is_numeric:
        return Canon("decimal")
    return Canon("text", form="char" if one.is_char or other.is_char else "")


def _number(one: _Family, other: _Family) -> Canon:
    names = {one.name, other.name}
    if names == {"float"}:
        return Canon("float")
    if names & {"float", "decimal"}:
        return Canon("decimal", scale=max(_scale(one), _scale(other)))
    return Canon("int", bits=32 if _bits(one) <= 32 and _bits(other) <= 32 else 64)


def _scale(family: _Family) -> int:
    return max(family.type.scale, 0) if is_.is_decimal(family.type) else 0


def _bits(family: _Family) -> int:
    """Of the signed integer that holds every value."""
    unsigned = is_.is_unsigned_integer(family.type)
    return 1 if family.name == "bool" else int(family.type.bit_width) + (1 if unsigned else 0)


def _with_text(typed: _Family, text: _Family) -> Canon | None:
    if typed.name in ("int", "decimal") or (typed.name in _NUMBERS and text.is_numeric):
        return Canon("decimal", scale=_scale(typed))
    if typed.name == "binary":
        return Canon("binary")
    if typed.name == "uuid":
        return Canon("text", form="uuid")
    return Canon("text") if typed.name in _WITH_TEXT else None


def _list(one: _Family, other: _Family) -> Canon | None:
    of = _common_canon(one.element, other.element)
    nested = of is not None and (of.kind == "list" or of.form == "nested")
    return None if of is None else Canon("json", form="nested") if nested else Canon("list", of=of)
