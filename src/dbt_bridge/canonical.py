"""The canonical form of a value: what two engines must agree on before rows can be compared.

Two columns are compared in one `Canon`, which both sides are brought to: in SQL where an engine computes digests
itself, and in Arrow arrays everywhere else. The digest of a row is defined by PostgreSQL (14 and later):

    hash_record_extended(ROW(c1, c2, ...), 0)       -- of the columns' canonical elements, below

that is `h = 31 * h + e` modulo 2^64 from 0 on, with e the 64-bit extended hash of each element (hashfn.c, Jenkins's
lookup3) and 0 for NULL (rowtypes.c). PostgreSQL computes it in a third of the time of an md5, and `verify.digest` the
same number from Arrow arrays. A digest is a filter: rows that differ in it are fetched and compared value by value.

    kind        element in PostgreSQL                  Arrow array that `verify.digest` takes
    int         int8send(x::int8)                      int64
    decimal     x::numeric(38, scale)::text            string, exactly `scale` digits after the point; NaN, Infinity
    float       x::float8 (-0 is 0, every NaN alike)   float64
    text        x COLLATE "C"                          string
    binary      x (bytea)                              binary
    uuid        x                                      fixed_size_binary(16)
    date        date_send(x)                           date32; +-infinity as +-INT32_MAX
    time        time_send(x)                           time64[us]
    timestamp   timestamp_send(x), timestamptz_send(x) timestamp[us], UTC where zoned; +-infinity as +-INT64_MAX
    interval    interval_send(x)                       month_day_nano_interval (nanoseconds in whole microseconds)
    json        -- (no engine agrees with another)     string: keys sorted, no spaces, numbers as the shortest decimals
    list        the elements' own text form, joined    list of the element's array

Booleans are int (0, 1). 32-bit hashes of PostgreSQL are never used alone: hashint8 folds its halves together and
hash_numeric ignores the sign, which is why integers, moments and numerics go through their send or text forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dbt_bridge.table import Column

Kind = Literal[
    "int", "decimal", "float", "text", "binary", "uuid", "date", "time", "timestamp", "interval", "json", "list"
]


@dataclass(frozen=True, slots=True)
class Canon:
    """How the values of one compared column are written alike on both sides.

    Attributes:
        scale: for decimal: digits after the point, the larger of both sides.
        of: for list: the element's.
    """

    kind: Kind
    scale: int = 0
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
