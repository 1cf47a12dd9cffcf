"""What each declared capability must do; see `contracts/capabilities.py` and `contracts/side.py`.

Subclass what your origin, state or warehouse has, and give it the fixture that the class names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pytest

from dbt_bridge.contracts.canon import Digested, choose_canon
from dbt_bridge.contracts.capabilities import DigestsReplicas, HasClock, OpensOnce, SendsRawCopy, TakesRawCopy
from dbt_bridge.contracts.destination import Load, Replica, State, Warehouse
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.contracts.side import BucketSelection, Cancels, Digests, Side
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests

_LONG = 60


class DigestingSide(Side, Digests, Protocol):
    """A relation that digests its rows where they are, with a key."""


class DigestsTests:
    """Needs the fixture `side`: a `DigestingSide` of more than a hundred rows."""

    def test_digests_are_those_of_the_rows_that_it_sends(self, side: DigestingSide) -> None:
        key, values = split_columns(side)
        sent = side.digests(key, values).read_all()
        rows = side.rows([d.column.name for d in (*key, *values)]).read_all()
        expected = dict(zip(row_keys(rows, key), digests_of(rows, values), strict=True))
        assert dict(zip(row_keys(sent, key), sent["_row"].to_pylist(), strict=True)) == expected

    def test_buckets_are_sums_of_their_rows(self, side: DigestingSide) -> None:
        key, values = split_columns(side)
        buckets = side.buckets(key, values, 8)
        assert sum(buckets["rows"].to_pylist()) == side.count()
        rows = side.rows([d.column.name for d in (*key, *values)]).read_all()
        keys, others = digests_of(rows, key), digests_of(rows, values)
        totals: dict[int, int] = {}
        for bucket, mixed in zip((k & 7 for k in keys), mixes(keys, others), strict=True):
            totals[bucket] = totals.get(bucket, 0) + mixed
        found = zip(buckets["bucket"].to_pylist(), buckets["total"].to_pylist(), strict=True)
        assert {bucket: int(total) for bucket, total in found} == totals

    def test_some_buckets_are_sent_alone(self, side: DigestingSide) -> None:
        key, values = split_columns(side)
        whole = side.digests(key, values).read_all()
        parts = [side.digests(key, values, BucketSelection(4, [n])).read_all() for n in range(4)]
        assert sum(map(len, parts)) == len(whole)
        assert sorted(pa.concat_tables(parts)["_row"].to_pylist()) == sorted(whole["_row"].to_pylist())

    def test_the_wire_has_a_rate_and_what_was_sent_is_counted(self, side: DigestingSide) -> None:
        before = side.wire_bytes
        side.digests(*split_columns(side)).read_all()
        assert side.wire_bytes > before
        assert side.transfer_rate() > 0


class ReplicaSide:
    """A replica in a state that digests, with the declared key."""

    def __init__(self, state: State, replica: Replica) -> None:
        assert isinstance(state, DigestsReplicas)
        self.name = str(replica.table.name)
        self.table = replica.table
        self._state, self._replica = state, replica
        self._digests = state.digest_replica(replica)
        self.digests = self._digests.digests
        self.buckets = self._digests.buckets
        self.transfer_rate = self._digests.transfer_rate

    @property
    def wire_bytes(self) -> int:
        return self._digests.wire_bytes

    def count(self) -> int:
        return self._state.count(self._replica)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        known = {column.name: column for column in self.table.columns}
        part = replace(self.table, columns=tuple(known[name] for name in columns))
        return self._state.rows(replace(self._replica, table=part), keys)


@dataclass(frozen=True, slots=True)
class ReplicaBench:
    """A state of a destination that digests replicas.

    Attributes:
        replica: with a key, of more than a hundred rows, and with soft-deleted ones where the destination keeps them.
    """

    state: State
    replica: Replica


class DigestsReplicasTests(DigestsTests):
    """Needs the fixture `held`: a `ReplicaBench`."""

    @pytest.fixture
    def side(self, held: ReplicaBench) -> ReplicaSide:
        return ReplicaSide(held.state, held.replica)


@dataclass(slots=True)
class Reading:
    """A thread's reading of rows, until they end or break off.

    Attributes:
        began: set as soon as the first batch arrived; from then on the thread is reading.
        count: of the rows that arrived.
        error: what ended the reading; None where it came to its end.
    """

    rows: pa.RecordBatchReader
    began: threading.Event = field(default_factory=threading.Event)
    count: int = 0
    error: Exception | None = None

    def drain(self) -> None:
        try:
            for batch in self.rows:
                self.count += len(batch)
                self.began.set()
        except Exception as error:  # each driver has its own; the test looks at it
            self.error = error


class CancelsTests:
    """Needs the fixture `side`: a `Side` and `Cancels`, of so many rows that reading them takes about a second."""

    def test_another_thread_ends_what_is_read(self, side: Side) -> None:
        assert isinstance(side, Cancels)
        expected = side.count()
        reading = Reading(side.rows([column.name for column in side.table.columns]))
        thread = threading.Thread(target=reading.drain, daemon=True)
        thread.start()
        assert reading.began.wait(_LONG), reading.error
        side.cancel()
        thread.join(_LONG)
        assert not thread.is_alive()
        assert reading.error is not None or reading.count < expected, "all rows arrived: nothing was cancelled"


@dataclass(frozen=True, slots=True)
class OpensOnceBench:
    """A warehouse that can be opened only once in a process.

    Attributes:
        own: credentials that mean its database.
        others: such as mean another one.
    """

    warehouse: Warehouse
    own: OriginSettings
    others: Sequence[OriginSettings]


class OpensOnceTests:
    """Needs the fixture `once`: an `OpensOnceBench`."""

    def test_it_knows_its_own_database(self, once: OpensOnceBench) -> None:
        assert isinstance(once.warehouse, OpensOnce)
        assert once.warehouse.is_database_of(once.own)
        assert not [other for other in once.others if once.warehouse.is_database_of(other)]


class HasClockTests:
    """Needs the fixture `origin`: open, and with a clock."""

    def test_the_clock_stands_at_the_snapshots_begin(self, origin: Origin) -> None:
        assert isinstance(origin, HasClock)
        at = origin.read_clock()
        assert abs(time.time() * 1e6 - at) < 86_400e6, "microseconds since 1970"
        time.sleep(0.01)
        assert origin.read_clock() == at


@dataclass(frozen=True, slots=True)
class RawCopyBench:
    """An origin and a warehouse of one format.

    Attributes:
        table: of the origin, with more than one row and a NULL.
    """

    origin: Origin
    warehouse: Warehouse
    table: TableName


class RawCopyTests:
    """Needs the fixture `raw`: a `RawCopyBench`."""

    def test_what_arrives_undecoded_is_what_would_be_decoded(self, raw: RawCopyBench) -> None:
        origin, warehouse = raw.origin, raw.warehouse
        assert isinstance(origin, SendsRawCopy) and isinstance(warehouse, TakesRawCopy)
        assert origin.raw_format == warehouse.raw_format
        described = origin.describe(raw.table).table
        landing = tuple(warehouse.map_column(column) for column in described.columns)
        decoded = origin.rows(raw.table, landing).read_all()
        for workers in (1, 3):
            name = TableName("landing", f"raw_{workers}")
            load = Load(Table(name, landing), "replace", "load-1")
            casts = warehouse.find_raw_casts(load)
            assert casts is not None
            streams = origin.copy_raw(raw.table, [c.name for c in landing], casts, workers=workers)
            staged = warehouse.stage_raw(load, streams)
            (loaded,) = warehouse.publish([staged])
            assert loaded.rows_loaded == len(decoded)
            assert as_set(warehouse.read(name).read_all()) == as_set(decoded)


def split_columns(side: Side) -> tuple[list[Digested], list[Digested]]:
    """The key's columns and the others, each in the form that a side like it would agree to."""

    def of(column: Column) -> Digested:
        return Digested(column, choose_canon(column, column))

    columns = {column.name: of(column) for column in side.table.columns}
    return [columns[n] for n in side.table.key], [d for n, d in columns.items() if n not in side.table.key]


def digests_of(rows: pa.Table, columns: list[Digested]) -> list[int]:
    arrays = [rows[d.column.name].combine_chunks() for d in columns]
    return [int(n) for n in compute_digests(arrays, [d.canon for d in columns])]


def mixes(keys: list[int], values: list[int]) -> list[int]:
    return [int(n) for n in mix_digests(np.array(keys, np.int64), np.array(values, np.int64))]


def row_keys(rows: pa.Table, key: list[Digested]) -> list[tuple[object, ...]]:
    return list(zip(*(rows[d.column.name].to_pylist() for d in key), strict=True))


def as_set(rows: pa.Table) -> set[str]:
    return {repr(row) for row in rows.to_pylist()}
