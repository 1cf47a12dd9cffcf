"""Suspicious rows are fetched from both sides, by their keys or in one whole reading, and judged by their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.canonical.row_digest import compute_digests
from dbt_bridge.verify.rows.column_pairs import ColumnPair
from dbt_bridge.verify.rows.digest_batches import KEY, Numbers, Sender
from dbt_bridge.verify.rows.judge_suspects import Findings, judge
from dbt_bridge.verify.rows.match import Suspects, both_kept, parts
from dbt_bridge.verify.rows.partitions import Kept

_MOST_SHARE = 0.2  # of the rows: beyond it one whole reading is cheaper
Both = tuple[Kept, Kept]


def examine(
    senders: tuple[Sender, Sender], found: Suspects, engine: Any, folder: Path, memory_mb: int, findings: Findings
) -> None:
    """Judge all suspicious rows."""
    if not len(found.keys):
        return
    kept = _asked_by_key(senders, found, folder / "asked", memory_mb) if _can_ask_by_key(senders[0], found) else None
    for origin, destination in parts(kept or _read_again(senders, found, folder / "read", memory_mb)):
        if any(side is not None and side.num_rows for side in (origin, destination)):
            judge((origin, destination), senders[0].paired, engine, findings)


def _can_ask_by_key(sender: Sender, found: Suspects) -> bool:
    """Whether the keys are few, and such that a side finds its rows by them: no hashes, and no second spelling."""
    key = sender.paired.key
    few = found.origin is not None and len(found.keys) <= _MOST_SHARE * max(found.rows)
    return few and bool(key) and not any(pair.masked or _has_spellings(pair.canon) for pair in key)


def _has_spellings(canon: Canon | None) -> bool:
    """Whether equal values may have different digests."""
    return canon is not None and (canon.kind == "json" or _has_spellings(canon.of))


def _asked_by_key(senders: tuple[Sender, Sender], found: Suspects, folder: Path, memory_mb: int) -> Both | None:
    """The suspicious rows, with a digest (`place`) that those of one key share; None where a side does not find its own
    rows."""
    place = _place_among(senders)
    origin, destination = (pa.concat_tables(keys) if keys else None for keys in (found.origin, found.destination))
    try:
        return both_kept(
            (
                lambda: _rows_of(senders[0], origin, found.keys, place),
                lambda: _rows_of(senders[1], destination, found.keys, place),
            ),
            folder,
            place,
            memory_mb,
            senders[1].cancel,
        )
    except _NotFound:
        return None


class _NotFound(Exception):
    """By its keys a side gave other rows than it had sent."""


def _rows_of(sender: Sender, keys: pa.Table | None, digests_: Numbers, place: str) -> Iterator[pa.RecordBatch]:
    """The rows with these keys, in the columns of `paired.compared`.

    Keys that are equal may be spelled in several ways at one side ('1.0' and '1' as text), so each is asked for. What
    comes is not trusted: a database may take a key for another one, or miss one, and what is missed would pass for
    equal.

    Raises:
        _NotFound: the side had sent more or fewer rows with these keys.
    """
    if keys is None or not len(keys):
        return
    compared, missing = sender.paired.compared, len(keys)
    wanted = keys.drop_columns([KEY]).rename_columns([pair.at(sender.end).name for pair in sender.paired.key])
    for batch in sender.rows(compared, wanted):
        places = sender.digest(dict(zip(compared, batch.columns, strict=True)))
        read = _placed(batch, places, place)
        among = _among(digests_, places)
        read = read if among.all() else read.filter(pa.array(among))
        missing -= read.num_rows
        yield read
    if missing:
        raise _NotFound


def _placed(batch: pa.RecordBatch, places: Numbers, place: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*batch.columns, pa.array(places)], schema=batch.schema.append(pa.field(place, pa.int64()))
    )


def _read_again(senders: tuple[Sender, Sender], found: Suspects, folder: Path, memory_mb: int) -> Both:
    """The suspicious rows of one whole reading."""
    wanted = _Wanted(found)
    place = _place_among(senders)
    return both_kept(
        (lambda: _suspicious(senders[0], wanted, place), lambda: _suspicious(senders[1], wanted, place)),
        folder,
        place,
        memory_mb,
        senders[1].cancel,
    )


class _Wanted:
    """Tells suspicious rows by their digest."""

    def __init__(self, found: Suspects) -> None:
        self._keys = found.keys
        self._all = not len(found.in_flight) and len(found.keys) > _MOST_SHARE * max(found.rows)

    def among(self, digests_: Numbers) -> NDArray[np.bool_] | None:
        """Which rows are wanted; None for all."""
        if self._all:
            return None
        return _among(self._keys, digests_)


def _among(wanted: Numbers, digests_: Numbers) -> NDArray[np.bool_]:
    """Which of the digests are among the wanted ones, which are sorted; at least one."""
    places = np.searchsorted(wanted, digests_)
    places[places == len(wanted)] = 0
    return np.equal(wanted[places], digests_)


def _place_among(senders: tuple[Sender, Sender]) -> str:
    """A name that no column has."""
    taken = {column.name for sender in senders for column in sender.side.table.columns}
    name = "_place"
    while name in taken:
        name += "_"
    return name


def _suspicious(sender: Sender, wanted: _Wanted, place: str) -> Iterator[pa.RecordBatch]:
    """The suspicious rows of one whole reading, with a digest (`place`) that equal rows (of one key) share."""
    pairs = tuple(sender.paired)
    compared = sender.paired.compared
    for batch in sender.rows(pairs):
        arrays = dict(zip(pairs, batch.columns, strict=True))
        mask = wanted.among(sender.digest(arrays))
        if sender.late is not None and not sender.paired.key:
            in_time = sender.late.of(arrays).to_numpy() == 0
            mask = in_time if mask is None else mask & in_time
        rows = batch if mask is None else batch.filter(pa.array(mask))
        if rows.num_rows:
            arrays = dict(zip(pairs, rows.columns, strict=True))
            named = {pair.at(sender.end).name: arrays[pair] for pair in compared}
            yield pa.RecordBatch.from_pydict(named | {place: pa.array(_place(arrays, sender.paired.key or compared))})


def _place(arrays: dict[ColumnPair, pa.Array], identity: Sequence[ColumnPair]) -> Numbers:
    spelled_once = [
        (to_canonical(arrays[pair], pair.canon), Canon("text"))
        if _has_spellings(pair.canon)
        else (arrays[pair], pair.canon)
        for pair in identity
    ]
    return compute_digests([array for array, _ in spelled_once], [canon for _, canon in spelled_once])
