"""What sets a landing table right: its keys that differ, as changes from what it holds to what the origin holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import Replica
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import KeyRefused, OriginError
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
)

KIND, AT_ORIGIN, AT_DESTINATION = "_kind", "_origin_rows", "_destination_rows"
_PIECE = 50_000  # keys that are read and applied at once


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The keys of a table that differ, by what heals them.

    Attributes:
        missing, wrong, doubled, extra: keys (of a table without a key: whole rows), without what was found of them;
            `wrong` lie there with other values, `doubled` more than once.
        surplus: rows that lie there beyond the first of their key.
        times: of a table without a key: how often each row of `missing`, and of `extra`, is wanted or too much.
    """

    missing: pa.Table
    wrong: pa.Table
    doubled: pa.Table
    extra: pa.Table
    surplus: int = 0
    times: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """How many rows are touched."""
        return sum(self.counts)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows that are inserted, updated and deleted."""
        if self.times is not None:
            return int(self.times[0].sum()), 0, int(self.times[1].sum())
        return len(self.missing), len(self.wrong) + len(self.doubled), len(self.extra) + self.surplus


def plan_repair(replica: Replica, keys: pa.Table, key: Sequence[str]) -> RepairPlan:
    """What is to be done for the keys that differ (`Parity.keys`).

    Args:
        key: by which rows were compared; empty for whole rows.

    Raises:
        KeyRefused: the origin has several rows of one key, and the landing table has one.
    """
    ours, theirs = keys[AT_ORIGIN].to_numpy(), keys[AT_DESTINATION].to_numpy()
    named = keys.drop_columns([KIND, AT_ORIGIN, AT_DESTINATION])

    def those(chosen: np.ndarray) -> pa.Table:
        return named.filter(pa.array(chosen))

    if not key:
        more, less = ours > theirs, ours < theirs
        times = (ours - theirs)[more], (theirs - ours)[less]
        return RepairPlan(those(more), named.slice(0, 0), named.slice(0, 0), those(less), times=times)
    if (several := int((ours > 1).sum())) > 0:
        raise KeyRefused(
            f"{several} keys ({', '.join(key)}) of {replica.table.name} have several rows at the origin, so none of"
            " them is the right one",
            mend="name a key that is unique at the origin in primary_key:",
        )
    there = ours == 1
    return RepairPlan(
        those(there & (theirs == 0)),
        those(there & (theirs == 1)),
        those(there & (theirs > 1)),
        those(ours == 0),
        surplus=int(np.maximum(theirs - 1, 0).sum()),
    )


def stream_changes(
    replica: Replica, found: RepairPlan, origin: Side, at: tuple[int, int], *, overwrites: bool
) -> Iterator[Changes]:
    """In pieces: the rows as the origin has them, and the keys that it has not.

    Args:
        origin: rows are read there by key, in the state that was compared.
        at: the changes' ordinal (see `Position`) and moment (microseconds since 1970).
        overwrites: an update leaves one row of a key, however many lie there; else they are deleted first.

    Raises:
        OriginError: a row is not there any more; the origin holds no snapshot, and was written to.
    """
    schema = replica.table.arrow_schema
    if found.times is not None:
        for rows, times, kind in ((found.missing, found.times[0], INSERT), (found.extra, found.times[1], DELETE)):
            whole = rows.select(schema.names).take(pa.array(np.repeat(np.arange(len(rows)), times)))
            for piece in _pieces(whole):
                yield _of(piece.cast(schema), kind, at)
        return
    gone = [found.extra] if overwrites else [found.extra, found.doubled]
    for keys in (piece for named in gone for piece in _pieces(named)):
        yield _of(_only_keys(keys, schema), DELETE, at)
    again = UPDATE if overwrites else INSERT
    for named, kind in ((found.wrong, UPDATE), (found.doubled, again), (found.missing, INSERT)):
        for keys in _pieces(named):
            rows = origin.rows(schema.names, keys).read_all()
            if len(rows) != len(keys):
                raise OriginError(
                    f"{origin.name} has {len(rows)} rows of {len(keys)} keys that are to be repaired: it was written to"
                    " meanwhile",
                    mend="run the same command again",
                )
            yield _of(rows.cast(schema), kind, at)


def now() -> int:
    """Microseconds since 1970, by our clock."""
    return time.time_ns() // 1000


def _pieces(rows: pa.Table) -> Iterator[pa.Table]:
    for first in range(0, len(rows), _PIECE):
        yield rows.slice(first, _PIECE)


def _only_keys(keys: pa.Table, schema: pa.Schema) -> pa.Table:
    arrays = [
        pc.cast(keys[field.name], field.type) if field.name in keys.column_names else pa.nulls(len(keys), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([field.with_nullable(True) for field in schema]))


def _of(rows: pa.Table, kind: int, at: tuple[int, int]) -> Changes:
    ordinal, moment = at
    count = len(rows)
    return Changes(
        rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema])),
        np.full(count, kind, np.uint8),
        np.full(count, ordinal, np.int64),
        np.full(count, moment, np.int64),
        repairs=True,
    )
