"""Rows of one table as a stream of Arrow batches: threads read its ranges into a bounded queue."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin.casts import describe_first_failure
from dbt_bridge.connectors.postgres.origin.column_types import UNFIT, Reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.ctid_ranges import EVERYTHING
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection
from dbt_bridge.connectors.postgres.wire.watch import Silence, Watch
from dbt_bridge.errors import BridgeError, OriginError, TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import (
    Column,
    TableName,
    quote_identifier,
    quote_table_name,
)
from dbt_bridge.system.owned_reader import make_reader

QUEUE_BATCHES = 3
_GOODBYE = 10.0  # seconds: a server that no longer answers cannot be cancelled; the threads are daemons

_REFUSED_ELSEWHERE = re.compile(
    r"invalid input syntax for (type \w+.*)"  # Postgres, of a text cast to json or uuid
    r"|Interval with time (value -?\d+ usec) would overflow"  # adbc_driver_postgresql, of an element of an array
)


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows, and in which order: SQL after WHERE and after ORDER BY; empty for all rows, and for no order."""

    condition: str = ""
    order: str = ""

    def build_clauses(self, range_: str) -> str:
        """WHERE and ORDER BY for the part's rows in one range of the table; empty where neither is needed."""
        where = " AND ".join(condition for condition in (range_, self.condition) if condition)
        return (f" WHERE {where}" if where else "") + (f" ORDER BY {self.order}" if self.order else "")


@dataclass(frozen=True, slots=True)
class Copy:
    """What is read of one table.

    Attributes:
        columns: in the order and types of the batches.
        readings: how each of them is read.
        ranges: conditions of one query each: on ctid, together covering the table, or on keys; one empty string for
            one scan of all rows.
        rows: SQL after FROM; empty for the table of this name.
    """

    name: TableName
    columns: tuple[Column, ...]
    readings: tuple[Reading, ...]
    part: Part = Part()
    ranges: tuple[str, ...] = EVERYTHING
    rows: str = ""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    def build_select(self, range_: str) -> str:
        """The query of one range."""
        wanted = ", ".join(
            f"{reading.expression(quote_identifier(column.name))} AS {quote_identifier(column.name)}"
            for column, reading in zip(self.columns, self.readings, strict=True)
        )
        rows = self.rows or quote_table_name(self.name)
        return f"SELECT {wanted} FROM {rows}{self.part.build_clauses(range_)}"  # noqa: S608


def open_reader(connections: Connections, copy: Copy, workers: int) -> pa.RecordBatchReader:
    """The batches of a copy. Threads start at the first batch, and end when the reader is closed or dropped."""
    return make_reader(copy.schema, _stream_batches(connections, copy, workers))


def _stream_batches(connections: Connections, copy: Copy, workers: int) -> Iterator[pa.RecordBatch]:
    if not copy.columns:
        return
    readers = _Readers(connections, copy)
    connections.stop_on_close(readers.stop)
    threads = [
        threading.Thread(target=readers.run, name=f"dbt-bridge {copy.name}", daemon=True)
        for _ in range(min(workers, len(copy.ranges)))
    ]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item = readers.next()
            if isinstance(item, pa.RecordBatch):
                yield item
            elif item is None:
                running -= 1
            else:
                raise item
    finally:
        readers.stop()
        connections.forget_stop(readers.stop)
        until = time.monotonic() + (0 if readers.is_lost else _GOODBYE)
        for thread in threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))


class _Readers:
    """The threads of one copy, their queue, and how they are stopped."""

    def __init__(self, connections: Connections, copy: Copy) -> None:
        self.batches: queue.Queue[pa.RecordBatch | BridgeError | None] = queue.Queue(QUEUE_BATCHES)
        self._connections = connections
        self._copy = copy
        self._ranges: queue.SimpleQueue[str] = queue.SimpleQueue()
        for range_ in copy.ranges:
            self._ranges.put(range_)
        self._stopped = threading.Event()
        self._reading: set[BulkConnection] = set()
        self._watches: list[Watch] = []
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Cancel the queries, and tell the threads to end."""
        self._stopped.set()
        with self._lock:
            reading = tuple(self._reading)
        for connection in reading:
            connection.cancel()

    @property
    def is_lost(self) -> bool:
        """Whether a thread waits for what will never come."""
        return any(watch.is_over for watch in self._watches)

    def next(self) -> pa.RecordBatch | BridgeError | None:
        """The next batch, an error, or None when a thread has ended."""
        while True:
            try:
                return self.batches.get(timeout=0.2)
            except queue.Empty:
                if (lost := self._look()) is not None:
                    return lost
                if self._stopped.is_set():
                    return OriginError(
                        f"{self._copy.name}: the origin was closed while its rows were read",
                        mend="run the same command again",
                    )

    def _look(self) -> BridgeError | None:
        """Why nothing more will come over one of the connections."""
        try:
            for watch in tuple(self._watches):
                watch.look_at_waiting()
        except Silence as error:
            return self._connections.translate_error(error, self._copy.name)
        return None

    def run(self) -> None:
        """A thread: ranges one after the other until none is left."""
        connection = None
        try:
            connection = self._connections.borrow_bulk(self._watches.append)
            while not self._stopped.is_set():
                try:
                    range_ = self._ranges.get_nowait()
                except queue.Empty:
                    break
                self._read(connection, range_)
            if self._stopped.is_set():
                self._connections.drop_bulk(connection)
            else:
                self._connections.return_bulk(connection)
            self._enqueue(None)
        except Exception as error:
            if connection is not None:
                self._connections.drop_bulk(connection)
            refusal = find_refusal(self._copy, str(error))
            self._enqueue(refusal or self._connections.translate_error(error, self._copy.name))

    def _read(self, connection: BulkConnection, range_: str) -> None:
        with self._lock:
            self._reading.add(connection)
        try:
            with contextlib.closing(connection.stream(self._copy.build_select(range_))) as batches:
                for batch in batches:
                    if not self._enqueue(decode_batch(self._copy, batch)):
                        return
        finally:
            with self._lock:
                self._reading.discard(connection)

    def _enqueue(self, item: pa.RecordBatch | BridgeError | None) -> bool:
        """False when nobody reads any more."""
        while not self._stopped.is_set():
            try:
                self.batches.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def decode_batch(copy: Copy, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The driver's batch in the types that its columns travel in.

    Raises:
        TypeRefused: a value does not fit; names table, column and value.
    """
    arrays = []
    for column, reading, array in zip(copy.columns, copy.readings, batch.columns, strict=True):
        try:
            arrays.append(reading.decode(array))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise build_refusal(copy.name, column, describe_first_failure(array, reading.decode)) from error
    return pa.RecordBatch.from_arrays(arrays, schema=copy.schema)


def build_refusal(table: TableName, column: Column, value: str) -> TypeRefused:
    """The refusal of a value, with the line of YAML that lands the column as text."""
    return TypeRefused(
        f"{table}.{column.name}: {value[:120]} does not fit {column.type}"
        + (f" (origin type {column.origin_type})" if column.origin_type else ""),
        mend=f"add `types: {{{quote_in_yaml(column.name)}: text}}` to the table's bridge",
        needs_override=True,
        column=column.name,
    )


def find_refusal(copy: Copy, message: str) -> TypeRefused | None:
    """The refusal that a message of the server stands for; None where it says something else."""
    message = " ".join(message.split())
    if UNFIT in message:
        for column in copy.columns:
            mark = f"{UNFIT} {quote_identifier(column.name)}: "
            if mark in message:
                value = re.sub(r'"( DETAIL.*)?$', "", message.split(mark, 1)[1])
                return build_refusal(copy.name, column, f"the value {value}")
    if found := _REFUSED_ELSEWHERE.search(message):
        unnamed = [c for c, reading in zip(copy.columns, copy.readings, strict=True) if reading.refused_elsewhere]
        if len(unnamed) == 1:
            return build_refusal(copy.name, unnamed[0], f"the value ({found[1] or found[2]})")
    return None
