"""Origins and destinations as the sides of a comparison: `verify` knows neither of them.

A masked column is compared as what lands of it, the hash of the origin's text. Such a side digests its rows itself only
where its server hashes them too, and finds rows by a masked key only by looking at every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from dbt_bridge.arrow.mask import mask_batches
from dbt_bridge.contracts.canon import Digested
from dbt_bridge.contracts.capabilities import DigestsReplicas, DigestsTables
from dbt_bridge.contracts.destination import Replica, State
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.side import BucketSelection, Cancels, Digests, Side
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.replicate.stored_values import Keys
from dbt_bridge.system.owned_reader import make_reader


def make_origin_side(
    origin: Origin, described: Table, columns: Sequence[Column], mask: Mapping[str, str], workers: int, label: str
) -> Side:
    """A table of an origin.

    Args:
        described: as the origin has it.
        columns: those that are compared, as they travel.
        mask: column -> how it is masked.
        workers: at once, for a big table.
        label: for people.
    """
    side = OriginSide(origin, described, columns, mask, workers, label)
    return (
        DigestingSide(side, origin.digest_table(described.name, workers)) if isinstance(origin, DigestsTables) else side
    )


def make_landing_side(state: State, replica: Replica, label: str) -> Side:
    """A table of a destination: one that landed, was delivered, or that dbt built."""
    side = LandedSide(state, replica, label)
    if not isinstance(state, DigestsReplicas):
        return side
    return DigestingSide(side, state.digest_replica(replica))


class OriginSide:
    """A `Side` over a table of an origin; see `make_origin_side`."""

    def __init__(
        self, origin: Origin, described: Table, columns: Sequence[Column], mask: Mapping[str, str], workers: int,
        label: str,
    ) -> None:  # fmt: skip
        self.name = label
        self._origin = origin
        self._table = described.name
        self._workers = workers
        self._travelling = {c.name: c.as_text() if c.name in mask else c for c in columns}
        self.mask = {name: how for name, how in mask.items() if name in self._travelling}
        shown = tuple(_to_hash(c) if c.name in self.mask else c for c in self._travelling.values())
        key = described.key if all(name in self._travelling for name in described.key) else ()
        self.table = Table(described.name, shown, key)

    def count(self) -> int:
        return self._origin.count(self._table)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `Side.rows`."""
        if keys is not None and self.mask.keys() & set(keys.column_names):
            return self._filtered(columns, keys)
        wanted = [_find_column(self._travelling, name, self.name) for name in columns]
        if keys is None:
            rows = self._origin.rows(self._table, wanted, workers=self._workers)
        else:
            rows = self._origin.rows_of(self._table, wanted, keys)
        return mask_batches(rows, {name: self.mask[name] for name in columns if name in self.mask})

    def travelling(self, digested: Digested) -> Digested:
        """The column as the origin has it, with its mask."""
        name = digested.column.name
        return replace(digested, column=self._travelling[name], mask=self.mask.get(name, digested.mask))

    def _filtered(self, columns: Sequence[str], keys: pa.Table) -> pa.RecordBatchReader:
        """Every row is looked at: the origin knows no hashes."""
        others = [name for name in keys.column_names if name not in columns]
        rows = self.rows([*columns, *others])
        wanted = Keys(keys)
        batches = (wanted.filter(batch) for batch in rows)
        return _first(make_reader(rows.schema, batches, rows), len(columns))


class LandedSide:
    """A `Side` over a table of a destination; see `make_landing_side`."""

    def __init__(self, state: State, replica: Replica, label: str) -> None:
        self.name = label
        self.table = replace(replica.table, key=())  # nothing at a destination enforces the declared one
        self._state = state
        self._replica = replica

    def count(self) -> int:
        return self._state.count(self._replica)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `Side.rows`."""
        known = {column.name: column for column in self.table.columns}
        others = [name for name in (keys.column_names if keys is not None else ()) if name not in columns]
        read = tuple(_find_column(known, name, self.name) for name in (*columns, *others))
        narrow = replace(self._replica, table=replace(self._replica.table, columns=read))
        rows = self._state.rows(narrow, keys)
        return _first(rows, len(columns)) if others else rows

    def cancel(self) -> None:
        """See `Cancels.cancel`."""
        if isinstance(self._state, Cancels):
            self._state.cancel()

    def travelling(self, digested: Digested) -> Digested:
        return digested


class DigestingSide:
    """A side whose server computes digests too: `Side` and `Digests`."""

    def __init__(self, side: OriginSide | LandedSide, digests: Digests) -> None:
        self.name = side.name
        self.table = side.table
        self._side = side
        self._digests = digests

    @property
    def wire_bytes(self) -> int:
        return self._digests.wire_bytes

    def count(self) -> int:
        return self._side.count()

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        return self._side.rows(columns, keys)

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: BucketSelection | None = None
    ) -> pa.RecordBatchReader:
        return self._digests.digests(*self._travelling(key, values), within)

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        return self._digests.buckets(*self._travelling(key, values), buckets)

    def transfer_rate(self) -> float:
        return self._digests.transfer_rate()

    def cancel(self) -> None:
        """See `Cancels.cancel`."""
        if isinstance(self._side, Cancels):
            self._side.cancel()

    def _travelling(self, key: Sequence[Digested], values: Sequence[Digested]) -> tuple[list[Digested], list[Digested]]:
        return [self._side.travelling(d) for d in key], [self._side.travelling(d) for d in values]


def _to_hash(column: Column) -> Column:
    """A masked column as it lands: text, whatever the origin's type is."""
    return replace(column.as_text(), origin_type="")


def _find_column(columns: Mapping[str, Column], name: str, side: str) -> Column:
    if name not in columns:
        raise UsageError(f"{side} has no column {name!r} to compare", mend=f"name one of {', '.join(columns)}")
    return columns[name]


def _first(rows: pa.RecordBatchReader, count: int) -> pa.RecordBatchReader:
    """The first columns alone."""
    schema = pa.schema([rows.schema.field(place) for place in range(count)])
    batches = (pa.RecordBatch.from_arrays(batch.columns[:count], schema=schema) for batch in rows)
    return make_reader(schema, batches, rows)
