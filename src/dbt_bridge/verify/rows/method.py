"""How rows are best compared: where digests are computed, and what goes over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dbt_bridge.contracts.side import Digests, NoDigests, Side
from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.nouns.parity import Method
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs

# One core of PostgreSQL 18 hashes 5 million rows of 17 columns in 3.6 s: the wire has this long for each value.
_SECONDS_PER_VALUE = 42e-9
_BYTES_BESIDE_KEY = 14  # a digest, and what frames a row in a binary COPY
_SOON = 1.0  # seconds
_MEASURABLE = 5e9  # bytes per second: a small answer comes too soon to tell more


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """How rows are compared, and why that way."""

    method: Method
    why: str


def choose_method(sides: Both[Side], pairs: ColumnPairs, request: VerifyRequest) -> MethodChoice:
    """The requested method where it is possible; otherwise the one that will take least time."""
    hashing = [side for side in sides if isinstance(side, Digests)]
    if request.method == "values":
        return MethodChoice("values", "as it was asked for")
    if not hashing:
        return MethodChoice("values", "neither side computes digests, so both send their values")
    if request.tolerances:
        return MethodChoice("values", "columns with a tolerance are compared by value in every row")
    if request.method == "digests":
        return MethodChoice("digests", "as it was asked for")
    if request.bound is not None:
        return MethodChoice("digests", "rows in flight are left out one by one, which sums of buckets cannot do")
    if not has_unique_key(sides, pairs):
        why = "a key that comes twice on both sides shows in no sum, and no primary key forbids it"
        return MethodChoice("digests", why)
    if request.method == "buckets":
        return MethodChoice("buckets", "as it was asked for")
    try:
        return _choose_by_wire(hashing, pairs)
    except NoDigests as error:
        return MethodChoice("values", f"{error.what}, so values are read")


def has_unique_key(sides: Both[Side], pairs: ColumnPairs) -> bool:
    """Whether a side enforces a primary key by which each compared key has one row there (or rows have no key)."""
    if not pairs.key:
        return True
    keys = {end: set(sides.at(end).table.key) for end in ENDS}
    return any(keys[end] and keys[end] <= {pair.name_at(end) for pair in pairs.key} for end in ENDS)


def _choose_by_wire(hashing: Sequence[Side], pairs: ColumnPairs) -> MethodChoice:
    """Digests of every row where the wire carries them as fast as they are computed, or soon enough."""
    rates = [max(side.transfer_rate(), 1.0) for side in hashing if isinstance(side, Digests)]
    rate = min(rates)
    side = hashing[rates.index(rate)]
    row_bytes = _BYTES_BESIDE_KEY + sum(_width(pair.columns.origin.type) for pair in pairs.key)
    megabytes = f"{'over ' if rate > _MEASURABLE else ''}{min(rate, _MEASURABLE) / 1e6:,.0f} MB/s"
    carries = f"the wire to {side.name} carries {megabytes}"
    computing = _SECONDS_PER_VALUE * len(tuple(pairs))
    if row_bytes / rate <= computing:
        return MethodChoice("digests", f"{carries}: {row_bytes} bytes for each row arrive as fast as they are computed")
    seconds = side.count() * row_bytes / rate
    if seconds <= _SOON:
        return MethodChoice("digests", f"{carries}: {row_bytes} bytes for each row take {seconds:.1f} s")
    return MethodChoice(
        "buckets", f"{carries}: {row_bytes} bytes for each row would take {seconds:,.0f} s, sums of buckets take none"
    )


def _width(type_: pa.DataType) -> int:
    """Bytes of a key's value on the wire, about."""
    try:
        return 4 + int(type_.bit_width) // 8
    except ValueError:  # of no fixed width
        return 20
