"""Rows of both sides meet by the digests of their keys: those that cannot be equal are suspicious."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.verify.freed import give_back_memory
from dbt_bridge.verify.rows.column_pairs import ColumnPairs
from dbt_bridge.verify.rows.digest_batches import (
    KEY,
    LATE,
    ROW,
    Numbers,
)
from dbt_bridge.verify.rows.engine import differ
from dbt_bridge.verify.rows.in_parallel import side_by_side
from dbt_bridge.verify.rows.partitions import (
    PARTS,
    Kept,
    most_bytes,
    split,
)

_BYTES_AT_ONCE = 4 << 20
MOST_KEYS = 100_000  # suspicious ones that are asked for by key; beyond that one whole reading is cheaper
Sent = Callable[[], Iterator[pa.RecordBatch]]
Taken = Callable[[pa.RecordBatch], None]
Met = tuple[pa.Table | None, pa.Table | None]


@dataclass(slots=True)
class Suspects:
    """Rows that are not the same on both sides, as far as their digests tell.

    Attributes:
        keys: sorted digests of the keys (of the rows, without a key).
        in_flight: digests of the keys that the bound left out.
        origin, destination: the suspicious keys as each side has them, with their digests in `_key`; None when they are
            too many.
        rows: that each side sent.
    """

    keys: Numbers
    in_flight: Numbers
    rows: tuple[int, int]
    origin: list[pa.Table] | None = field(default_factory=list)
    destination: list[pa.Table] | None = field(default_factory=list)

    @classmethod
    def none(cls, rows: tuple[int, int]) -> Suspects:
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), rows)


def both_read(senders: tuple[Sent, Sent], takers: tuple[Taken, Taken], cancel: Callable[[], None]) -> None:
    """Read both sides side by side: the origin in this thread, the destination in another.

    Args:
        takers: are given each batch of their side, in its thread.
        cancel: see `side_by_side`.
    """

    def read(side: int, stopped: Event) -> None:
        for batch in senders[side]():
            if stopped.is_set():
                return
            takers[side](batch)

    side_by_side(lambda stopped: read(0, stopped), lambda stopped: read(1, stopped), cancel)
    give_back_memory()


def both_kept(
    senders: tuple[Sent, Sent], folder: Path, digest: str, memory_mb: int, cancel: Callable[[], None]
) -> tuple[Kept, Kept]:
    """What both sides send; see `both_read` and `Kept`."""
    most = most_bytes(memory_mb)
    kept = Kept(folder / "origin", digest, most), Kept(folder / "destination", digest, most)
    both_read(senders, (kept[0].add, kept[1].add), cancel)
    if any(side.in_files for side in kept):
        for side in kept:
            side.to_files()
    return kept


def parts(kept: tuple[Kept, Kept]) -> Iterator[Met]:
    """The rows of both sides, those that belong together at once; about `_BYTES_AT_ONCE` of them."""
    last = PARTS - 1 if any(side.in_files for side in kept) else 0
    together = _Together()
    for part in range(last + 1):
        origin, destination = (side.part(part) for side in kept)
        if sum(table.nbytes for table in (origin, destination) if table is not None) <= 2 * _BYTES_AT_ONCE:
            yield from together.with_((origin, destination))
            continue
        pieces = [
            [None] * PARTS if table is None else split(table, kept[0].digest, 1) for table in (origin, destination)
        ]
        del origin, destination
        for met in zip(*pieces, strict=True):
            yield from together.with_(met)
    yield from together.rest()


class _Together:
    """Small parts of both sides, several at once."""

    def __init__(self) -> None:
        self._read: tuple[list[pa.Table], list[pa.Table]] = ([], [])

    def with_(self, met: Met) -> Iterator[Met]:
        for table, into in zip(met, self._read, strict=True):
            if table is not None:
                into.append(table)
        if sum(table.nbytes for tables in self._read for table in tables) > _BYTES_AT_ONCE:
            yield from self.rest()

    def rest(self) -> Iterator[Met]:
        origin, destination = (pa.concat_tables(tables) if tables else None for tables in self._read)
        self._read = ([], [])
        if origin is not None or destination is not None:
            yield origin, destination


def suspects(kept: tuple[Kept, Kept], paired: ColumnPairs, engine: Any) -> Suspects:
    """Which keys are suspicious."""
    found: list[Numbers] = []
    late: list[Numbers] = []
    answer = Suspects.none((kept[0].rows, kept[1].rows))
    number = 0
    for origin, destination in parts(kept):
        sides = [table for table in (origin, destination) if table is not None]
        if not sides:
            continue
        digests = _unequal(origin, destination, paired, engine)
        if LATE in sides[0].column_names:
            late.append(_in_flight(origin, destination, paired, engine))
            digests = np.setdiff1d(digests, late[-1]) if paired.key else digests
        found.append(digests)
        number += len(digests)
        _keep_keys(answer, (origin, destination), digests, number)
    give_back_memory()  # of the engine
    answer.keys = np.sort(np.concatenate(found)) if found else answer.keys
    answer.in_flight = np.concatenate(late) if late else answer.in_flight
    return answer


def _keep_keys(answer: Suspects, sides: tuple[pa.Table | None, pa.Table | None], digests: Numbers, number: int) -> None:
    if number > MOST_KEYS:
        answer.origin = answer.destination = None
    for table, into in zip(sides, (answer.origin, answer.destination), strict=True):
        if table is not None and into is not None and len(digests):
            keys = [name for name in table.column_names if name == KEY or name.startswith("k")]
            among = np.isin(table.column(KEY).to_numpy(), digests)
            into.append(table.select(keys).filter(pa.array(among)))


def _unequal(origin: pa.Table | None, destination: pa.Table | None, paired: ColumnPairs, engine: Any) -> Numbers:
    if not paired.key:
        there = (origin if origin is not None else destination).column_names  # type: ignore[union-attr]
        in_time = f" AND {LATE} = 0" if LATE in there else ""
        apart = f"count(*) FILTER (side = 1{in_time}) <> count(*) FILTER (side = 2{in_time})"
        unequal = f"SELECT {KEY} FROM met GROUP BY {KEY} HAVING {apart}"  # noqa: S608
        return _digests(unequal, origin, destination, engine)
    compared = [(i, pair) for i, pair in enumerate(paired.carried) if pair.compared]
    values = "".join(f", min(c{i}) FILTER (side = {n}) AS c{i}_{n}" for i, _ in compared for n in (1, 2))
    apart = "".join(f" OR {differ(pair, f'c{i}_1', f'c{i}_2')}" for i, pair in compared)
    unequal = f"""
        SELECT {KEY}
        FROM (
            SELECT {KEY}, count(*) AS rows, bit_xor(side) AS sides, bit_xor({ROW}) AS apart{values}
            FROM met
            GROUP BY {KEY}
        )
        WHERE rows <> 2 OR sides <> 3 OR apart <> 0{apart}"""  # noqa: S608
    return _digests(unequal, origin, destination, engine)


def _in_flight(origin: pa.Table | None, destination: pa.Table | None, paired: ColumnPairs, engine: Any) -> Numbers:
    """The digests of what is in flight: keys, or the origin's rows without one."""
    if not paired.key:
        of_origin = f"SELECT {KEY} FROM met WHERE side = 1 AND {LATE} = 1"  # noqa: S608
        return _digests(of_origin, origin, destination, engine)
    late = f"""
        SELECT {KEY}
        FROM met
        GROUP BY {KEY}
        HAVING bool_or(side = 1 AND {LATE} = 1)
            OR (count(*) FILTER (side = 1) = 0 AND bool_or({LATE} = 1))"""  # noqa: S608
    return _digests(late, origin, destination, engine)


def _digests(query: str, origin: pa.Table | None, destination: pa.Table | None, engine: Any) -> Numbers:
    sides = {name: table for name, table in (("origin", origin), ("destination", destination)) if table is not None}
    union = "\nUNION ALL\n".join(
        f"SELECT CAST({1 if name == 'origin' else 2} AS TINYINT) AS side, * FROM {name}"  # noqa: S608
        for name in sides
    )
    for name, table in sides.items():
        unread = [column for column in table.column_names if column.startswith("k")]  # of the sides' own types
        engine.register(name, table.drop_columns(unread))
    try:
        answer = engine.sql(f"WITH met AS ({union})\n{query}").to_arrow_table()
    finally:
        for name in sides:
            engine.unregister(name)
    return np.asarray(answer.column(0).to_numpy(), np.int64)
