"""How rows are best compared: where digests are computed, and what goes over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dbt_bridge.contracts.side import Digests, NoDigests, Side
from dbt_bridge.nouns.parity import Method
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs

# One core of PostgreSQL 18 hashes 5 million rows of 17 columns in 3.6 s: the wire has this long for each value.
_SECONDS_PER_VALUE = 42e-9
_BYTES_BESIDE_KEY = 14  # a digest, and what frames a row in a binary COPY
_SOON = 1.0  # seconds
_MEASURABLE = 5e9  # bytes per second: a small answer comes too soon to tell more


@dataclass(frozen=True, slots=True)
class Chosen:
    """How rows are compared, and why that way."""

    method: Method
    why: str


def chosen(origin: Side, destination: Side, paired: ColumnPairs, asked: VerifyRequest) -> Chosen:
    """The method that was asked for where it can be; otherwise the one that will take least time."""
    hashing = [side for side in (origin, destination) if isinstance(side, Digests)]
    if asked.method == "values":
        return Chosen("values", "as it was asked for")
    if not hashing:
        return Chosen("values", "neither side computes digests, so both send their values")
    if asked.tolerances:
        return Chosen("values", "columns with a tolerance are compared by value in every row")
    if asked.method == "digests":
        return Chosen("digests", "as it was asked for")
    if asked.bound is not None:
        return Chosen("digests", "rows in flight are left out one by one, which sums of buckets cannot do")
    if not is_unique((origin, destination), paired):
        return Chosen("digests", "a key that comes twice on both sides shows in no sum, and no primary key forbids it")
    if asked.method == "buckets":
        return Chosen("buckets", "as it was asked for")
    try:
        return _by_the_wire(hashing, paired)
    except NoDigests as error:
        return Chosen("values", f"{error.what}, so values are read")


def is_unique(sides: tuple[Side, Side], paired: ColumnPairs) -> bool:
    """Whether a side enforces a primary key by which each compared key has one row there (or rows have no key)."""
    if not paired.key:
        return True
    named = {pair.name for pair in paired.key}, {pair.destination.name for pair in paired.key}
    return any(side.table.key and set(side.table.key) <= names for side, names in zip(sides, named, strict=True))


def _by_the_wire(hashing: Sequence[Side], paired: ColumnPairs) -> Chosen:
    """Digests of every row where the wire carries them as fast as they are computed, or soon enough."""
    rates = [max(side.transfer_rate(), 1.0) for side in hashing if isinstance(side, Digests)]
    rate = min(rates)
    side = hashing[rates.index(rate)]
    told = min(rate, _MEASURABLE)
    row_bytes = _BYTES_BESIDE_KEY + sum(_width(pair.origin.type) for pair in paired.key)
    carries = f"the wire to {side.name} carries {'over ' if rate > _MEASURABLE else ''}{told / 1e6:,.0f} MB/s"
    computing = _SECONDS_PER_VALUE * len(tuple(paired))
    if row_bytes / rate <= computing:
        return Chosen("digests", f"{carries}: {row_bytes} bytes for each row arrive as fast as they are computed")
    seconds = side.count() * row_bytes / rate
    if seconds <= _SOON:
        return Chosen("digests", f"{carries}: {row_bytes} bytes for each row take {seconds:.1f} s")
    return Chosen(
        "buckets", f"{carries}: {row_bytes} bytes for each row would take {seconds:,.0f} s, sums of buckets take none"
    )


def _width(type_: pa.DataType) -> int:
    """Bytes of a key's value on the wire, about."""
    try:
        return 4 + int(type_.bit_width) // 8
    except ValueError:  # of no fixed width
        return 20
