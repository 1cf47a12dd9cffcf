"""What repairs a landing table: its keys that differ, as changes from what it holds to what the origin holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dbt_bridge.contracts.capabilities import HasClock
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import KeyRefused, OriginError
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
)
from dbt_bridge.nouns.checkpoint import BEGINNING, HistoryClock
from dbt_bridge.nouns.position import Position
from dbt_bridge.replicate.history_time import keep_moment_ascending
from dbt_bridge.system.owned_reader import owning
from dbt_bridge.verify.rows.findings import DESTINATION_ROWS, KIND, ORIGIN_ROWS

_PIECE = 50_000  # keys that are read and applied at once


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows a repair inserts, updates and deletes."""

    inserted: int
    updated: int
    deleted: int

    @property
    def total(self) -> int:
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Of a table without a key: how often each row of `RepairPlan.missing` is missing, and each of `extra` too many."""

    missing: NDArray[np.int64]
    extra: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The keys of a table that differ, by what repairs them. (Of a table without a key: whole rows.)

    Attributes:
        missing: are inserted.
        wrong: have other values at the destination, and are updated.
        doubled: have several rows at the destination, and one at the origin.
        extra: are deleted.
        surplus: how many rows the destination has beyond the first of a key.
        repetitions: None for a table with a key.
    """

    missing: pa.Table
    wrong: pa.Table
    doubled: pa.Table
    extra: pa.Table
    surplus: int = 0
    repetitions: Repetitions | None = None

    @property
    def counts(self) -> RowCounts:
        if self.repetitions is not None:
            return RowCounts(int(self.repetitions.missing.sum()), 0, int(self.repetitions.extra.sum()))
        return RowCounts(len(self.missing), len(self.wrong) + len(self.doubled), len(self.extra) + self.surplus)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the changes of a repair say of their commit.

    Attributes:
        ordinal: see `Position`.
        moment: microseconds since 1970.
    """

    ordinal: int
    moment: int


def take_stamp(position: Position | None, origin: Origin, clock: HistoryClock = BEGINNING) -> Stamp:
    """The stamp of a repair at a position; of tables that follow no log, before all commits.

    Commits are at least two apart: one below the position is none of theirs, and before all that is to come.

    Args:
        clock: of the history that the repair is written to.
    """
    moment = origin.read_clock() if isinstance(origin, HasClock) else time.time_ns() // 1000
    _, moment = keep_moment_ascending(clock, moment)
    return Stamp(0 if position is None else position.ordinal - 1, moment)


def keys_alone(keys: pa.Table) -> pa.Table:
    """The columns of `Parity.keys` that are keys."""
    return keys.drop_columns([KIND, ORIGIN_ROWS, DESTINATION_ROWS])


def plan_repair(replica: Replica, keys: pa.Table, key: Sequence[str]) -> RepairPlan:
    """What is to be done for the keys that differ.

    Args:
        keys: `Parity.keys`.
        key: by which rows were compared; empty for whole rows.

    Raises:
        KeyRefused: the origin has several rows of one key, and the landing table has one.
    """
    at_origin, at_destination = keys[ORIGIN_ROWS].to_numpy(), keys[DESTINATION_ROWS].to_numpy()
    alone = keys_alone(keys)

    def where(condition: NDArray[np.bool_]) -> pa.Table:
        return alone.filter(pa.array(condition))

    if not key:
        missing, extra = at_origin > at_destination, at_origin < at_destination
        repetitions = Repetitions((at_origin - at_destination)[missing], (at_destination - at_origin)[extra])
        none = alone.slice(0, 0)
        return RepairPlan(where(missing), none, none, where(extra), repetitions=repetitions)
    if (several := int((at_origin > 1).sum())) > 0:
        raise KeyRefused(
            f"{several} keys ({', '.join(key)}) of {replica.table.name} have several rows at the origin, so none of"
            " them is the right one",
            mend="name a key that is unique at the origin in primary_key:",
        )
    has_origin = at_origin == 1
    return RepairPlan(
        missing=where(has_origin & (at_destination == 0)),
        wrong=where(has_origin & (at_destination == 1)),
        doubled=where(has_origin & (at_destination > 1)),
        extra=where(at_origin == 0),
        surplus=int(np.maximum(at_destination - 1, 0).sum()),
    )


def stream_changes(
    replica: Replica, plan: RepairPlan, origin: Side, stamp: Stamp, *, overwrites: bool
) -> Iterator[Changes]:
    """The changes of a repair, piece by piece: rows as the origin has them, and keys that it does not have.

    Args:
        origin: rows are read there by key, in the state that was compared.
        overwrites: an update leaves one row of a key, however many there are; otherwise they are deleted first.

    Raises:
        OriginError: a row is not there any more; the origin holds no snapshot, and was written to.
    """
    if plan.repetitions is not None:
        yield from _stream_rows(replica, plan, plan.repetitions, stamp)
        return
    schema = replica.table.arrow_schema
    for keys in [plan.extra] if overwrites else [plan.extra, plan.doubled]:
        for piece in _split(keys):
            yield _change(_with_nulls(piece, schema), DELETE, stamp)
    kinds = ((plan.wrong, UPDATE), (plan.doubled, UPDATE if overwrites else INSERT), (plan.missing, INSERT))
    for keys, kind in kinds:
        for piece in _split(keys):
            with owning(origin.rows(schema.names, piece)) as reader:
                rows = reader.read_all()
            if len(rows) != len(piece):
                raise OriginError(
                    f"{origin.name} has {len(rows)} rows of {len(piece)} keys that are to be repaired: it was written"
                    " to meanwhile",
                    mend="run the same command again",
                )
            yield _change(rows.cast(schema), kind, stamp)


def _stream_rows(replica: Replica, plan: RepairPlan, repetitions: Repetitions, stamp: Stamp) -> Iterator[Changes]:
    """Of a table without a key: the differing rows themselves, each as often as it is missing or too many."""
    schema = replica.table.arrow_schema
    kinds = ((plan.missing, repetitions.missing, INSERT), (plan.extra, repetitions.extra, DELETE))
    for rows, times, kind in kinds:
        repeated = rows.select(schema.names).take(pa.array(np.repeat(np.arange(len(rows)), times)))
        for piece in _split(repeated):
            yield _change(piece.cast(schema), kind, stamp)


def _split(rows: pa.Table) -> Iterator[pa.Table]:
    for first in range(0, len(rows), _PIECE):
        yield rows.slice(first, _PIECE)


def _with_nulls(keys: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of which nothing but the key is known."""
    arrays = [
        pc.cast(keys[field.name], field.type) if field.name in keys.column_names else pa.nulls(len(keys), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([field.with_nullable(True) for field in schema]))


def _change(rows: pa.Table, kind: int, stamp: Stamp) -> Changes:
    count = len(rows)
    return Changes(
        rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema])),
        np.full(count, kind, np.uint8),
        np.full(count, stamp.ordinal, np.int64),
        np.full(count, stamp.moment, np.int64),
        repairs=True,
    )
