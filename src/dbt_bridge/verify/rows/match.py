"""Rows of both sides meet by the digests of their keys: those that cannot be equal are suspects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dbt_bridge.nouns.both import ENDS, Both, End
from dbt_bridge.system.malloc import trim_memory
from dbt_bridge.verify.rows.column_pairs import ColumnPairs
from dbt_bridge.verify.rows.engine_values import differ_condition
from dbt_bridge.verify.rows.in_parallel import run_side_by_side
from dbt_bridge.verify.rows.partitions import PARTS, Partitions, bytes_in_memory, split_rows
from dbt_bridge.verify.rows.sender import KEY, LATE, ROW, Numbers, carried_column, is_key_column
from dbt_bridge.verify.rows.workspace import Workspace

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_KEYS = 100_000  # suspects that are fetched by key; beyond that one whole reading is cheaper
_BYTES_AT_ONCE = 4 << 20
_NUMBER: Both[int] = Both(1, 2)  # what the column `side` says in SQL: bit_xor of one row of each side is 3

Stream = Callable[[], Iterator[pa.RecordBatch]]
Meeting = Both[pa.Table | None]
"""Rows of both sides that may belong together; None where a side has none."""


@dataclass(slots=True)
class Suspects:
    """Rows that are not the same on both sides, as far as their digests tell.

    Attributes:
        digests: sorted, of the keys (of the rows, without a key).
        in_flight: digests of the keys that the bound left out.
        rows: how many each side sent.
        keys: the keys as each side has them, with their digests in `_key`; None when they are too many.
    """

    digests: Numbers
    in_flight: Numbers
    rows: Both[int]
    keys: Both[list[pa.Table]] | None

    @classmethod
    def none(cls, rows: Both[int]) -> Suspects:
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), rows, Both([], []))


def read_both(
    streams: Both[Stream], takers: Both[Callable[[pa.RecordBatch], None]], cancel: Callable[[], None]
) -> None:
    """Read both sides at once: the origin in this thread, the destination in another.

    Args:
        takers: get each batch of their side, in its thread.
        cancel: see `run_side_by_side`.
    """

    def read(end: End, stop: Event) -> None:
        for batch in streams.at(end)():
            if stop.is_set():
                return
            takers.at(end)(batch)

    run_side_by_side(ENDS.map(lambda end: partial(read, end)), cancel)
    trim_memory()


def partition_both(
    streams: Both[Stream], workspace: Workspace, digest: str, cancel: Callable[[], None]
) -> Both[Partitions]:
    """What both sides send, in partitions by the column `digest`: in files on both sides if one needs them."""
    most_bytes = bytes_in_memory(workspace.memory_mb)
    partitions = ENDS.map(lambda end: Partitions(workspace.folder / end, digest, most_bytes))
    read_both(streams, partitions.map(lambda side: side.add), cancel)
    if any(side.is_in_files for side in partitions):
        for side in partitions:
            side.move_to_files()
    return partitions


def stream_meetings(partitions: Both[Partitions]) -> Iterator[Meeting]:
    """The rows of both sides, those that belong together at once; about `_BYTES_AT_ONCE` of them."""
    digest = partitions.origin.digest
    parts = PARTS if any(side.is_in_files for side in partitions) else 1
    batcher = _Batcher()
    for part in range(parts):
        meeting: Meeting = Both(*(side.read_part(part) for side in partitions))
        if sum(table.nbytes for table in meeting if table is not None) <= 2 * _BYTES_AT_ONCE:
            yield from batcher.add(meeting)
            continue
        pieces = meeting.map(lambda table: [None] * PARTS if table is None else split_rows(table, digest, 1))
        del meeting
        for origin, destination in zip(*pieces, strict=True):
            yield from batcher.add(Both(origin, destination))
    yield from batcher.flush()


class _Batcher:
    """Puts small meetings together, so that the engine is asked less often."""

    def __init__(self) -> None:
        self._tables: Both[list[pa.Table]] = Both([], [])

    def add(self, meeting: Meeting) -> Iterator[Meeting]:
        for end in ENDS:
            if (table := meeting.at(end)) is not None:
                self._tables.at(end).append(table)
        if sum(table.nbytes for tables in self._tables for table in tables) > _BYTES_AT_ONCE:
            yield from self.flush()

    def flush(self) -> Iterator[Meeting]:
        meeting: Meeting = self._tables.map(lambda tables: pa.concat_tables(tables) if tables else None)
        self._tables = Both([], [])
        if any(table is not None for table in meeting):
            yield meeting


def find_suspects(partitions: Both[Partitions], pairs: ColumnPairs, engine: DuckDBPyConnection) -> Suspects:
    """The rows that are not the same on both sides, as far as their digests tell."""
    suspects = Suspects.none(partitions.map(lambda side: side.rows))
    found: list[Numbers] = []
    in_flight: list[Numbers] = []
    for meeting in stream_meetings(partitions):
        has_bound = any(table is not None and LATE in table.column_names for table in meeting)
        unequal = _unequal_keys_query(pairs) if pairs.key else _unequal_rows_query(has_bound)
        digests = _query_digests(unequal, meeting, engine)
        if has_bound:
            in_flight.append(_query_digests(_in_flight_query(pairs), meeting, engine))
            digests = np.setdiff1d(digests, in_flight[-1]) if pairs.key else digests
        found.append(digests)
        _add_keys(suspects, meeting, found)
    trim_memory()  # of the engine
    if found:
        suspects.digests = np.sort(np.concatenate(found))
    if in_flight:
        suspects.in_flight = np.concatenate(in_flight)
    return suspects


def _add_keys(suspects: Suspects, meeting: Meeting, found: list[Numbers]) -> None:
    """Add the keys of the suspects of one meeting, which are the last of those found, while they are few."""
    if sum(map(len, found)) > MOST_KEYS:
        suspects.keys = None
    if suspects.keys is None or not len(found[-1]):
        return
    for end in ENDS:
        if (table := meeting.at(end)) is not None:
            keys = table.select([name for name in table.column_names if name == KEY or is_key_column(name)])
            among = np.isin(table.column(KEY).to_numpy(), found[-1])
            suspects.keys.at(end).append(keys.filter(pa.array(among)))


# --- SQL over `met`: the rows of both sides, with `side` as `_NUMBER` has it -----------------------------------------


def _unequal_keys_query(pairs: ColumnPairs) -> str:
    """The keys that do not have exactly one row at each side, or whose rows differ."""
    carried = [(carried_column(place), pair) for place, pair in enumerate(pairs.carried) if pair.is_compared]
    values = "".join(
        f",\n                min({column}) FILTER (side = {_NUMBER.at(end)}) AS {end}_{column}"
        for column, _ in carried
        for end in ENDS
    )
    differ = "".join(
        f"\n            OR {differ_condition(pair, Both(*(f'{end}_{column}' for end in ENDS)))}"
        for column, pair in carried
    )
    return f"""
        SELECT {KEY}
        FROM (
            SELECT
                {KEY},
                count(*) AS rows,
                bit_xor(side) AS sides,
                bit_xor({ROW}) AS apart{values}
            FROM met
            GROUP BY {KEY}
        )
        WHERE rows <> 2
            OR sides <> {_NUMBER.origin ^ _NUMBER.destination}
            OR apart <> 0{differ}"""  # noqa: S608


def _unequal_rows_query(has_bound: bool) -> str:
    """Without a key: the rows that one side has more often, those in flight left out."""
    in_time = f" AND {LATE} = 0" if has_bound else ""
    counts = _NUMBER.map(lambda number: f"count(*) FILTER (side = {number}{in_time})")
    return f"""
        SELECT {KEY}
        FROM met
        GROUP BY {KEY}
        HAVING {counts.origin} <> {counts.destination}"""  # noqa: S608


def _in_flight_query(pairs: ColumnPairs) -> str:
    """What is in flight: keys; without a key the origin's rows."""
    if not pairs.key:
        return f"SELECT {KEY} FROM met WHERE side = {_NUMBER.origin} AND {LATE} = 1"  # noqa: S608
    return f"""
        SELECT {KEY}
        FROM met
        GROUP BY {KEY}
        HAVING bool_or(side = {_NUMBER.origin} AND {LATE} = 1)
            OR (count(*) FILTER (side = {_NUMBER.origin}) = 0 AND bool_or({LATE} = 1))"""  # noqa: S608


def _query_digests(query: str, meeting: Meeting, engine: DuckDBPyConnection) -> Numbers:
    tables = {end: table for end in ENDS if (table := meeting.at(end)) is not None}
    met = "\nUNION ALL\n".join(
        f"SELECT CAST({_NUMBER.at(end)} AS TINYINT) AS side, * FROM {end}"  # noqa: S608
        for end in tables
    )
    for end, table in tables.items():
        unread = [column for column in table.column_names if is_key_column(column)]  # of the sides' own types
        engine.register(end, table.drop_columns(unread))
    try:
        answer = engine.sql(f"WITH met AS (\n{met}\n)\n{query}").to_arrow_table()
    finally:
        for end in tables:
            engine.unregister(end)
    return np.asarray(answer.column(0).to_numpy(), np.int64)
