"""Suspicious rows are fetched from both sides, by their keys or in one whole reading, and judged by their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.canonical import Canon
from dbt_bridge.verify.digest import digests
from dbt_bridge.verify.elements import canonical
from dbt_bridge.verify.judging import Findings, judge
from dbt_bridge.verify.matching import Suspects, both_kept, parts
from dbt_bridge.verify.paired import Pair
from dbt_bridge.verify.sent import KEY, Numbers, Sender

KEYS_PER_QUESTION = 25_000
_MOST_SHARE = 0.2  # of the rows: beyond it one whole reading is cheaper


def examine(
    senders: tuple[Sender, Sender], found: Suspects, engine: Any, folder: Path, memory_mb: int, findings: Findings
) -> None:
    """Judge all suspicious rows."""
    if not len(found.keys):
        return
    asked = 0
    if _can_ask_by_key(senders[0], found):
        for sides in _asked_by_key(senders, found):
            judge(sides, senders[0].paired, engine, findings)
            asked += KEYS_PER_QUESTION
    if asked >= len(found.keys):
        return
    wanted = _Wanted(replace(found, keys=found.keys[asked:]))
    place = _place_among(senders)
    kept = both_kept(
        (lambda: _suspicious(senders[0], wanted, place), lambda: _suspicious(senders[1], wanted, place)),
        folder,
        place,
        memory_mb,
    )
    for origin, destination in parts(kept):
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


def _asked_by_key(senders: tuple[Sender, Sender], found: Suspects) -> Iterator[tuple[pa.Table | None, pa.Table | None]]:
    """The suspicious rows, `KEYS_PER_QUESTION` keys at a time; ends early where a side does not find its own rows."""
    sides = found.origin, found.destination
    tables = [pa.concat_tables(side) if side else None for side in sides]
    for start in range(0, len(found.keys), KEYS_PER_QUESTION):
        digests_ = found.keys[start : start + KEYS_PER_QUESTION]
        try:
            origin, destination = (
                None if table is None else _rows_of(sender, table, digests_)
                for sender, table in zip(senders, tables, strict=True)
            )
        except _NotFound:
            return
        yield origin, destination


class _NotFound(Exception):
    """By its keys a side gave other rows than it had sent."""


def _rows_of(sender: Sender, keys: pa.Table, digests_: Numbers) -> pa.Table | None:
    """The rows with these keys, in the columns of `paired.compared`.

    Keys that are equal may be spelled in several ways at one side ('1.0' and '1' as text), so each is asked for. What
    comes is not trusted: a database may take a key for another one, or miss one, and what is missed would pass for
    equal.

    Raises:
        _NotFound: the side had sent more or fewer rows with these keys.
    """
    here = keys.filter(pa.array(np.isin(keys.column(KEY).to_numpy(), digests_)))
    if not len(here):
        return None
    pairs, compared = sender.paired.key, sender.paired.compared
    wanted = here.drop_columns([KEY]).rename_columns([pair.at(sender.end).name for pair in pairs])
    read = []
    for batch in sender.rows(compared, wanted):
        among = np.isin(sender.digest(dict(zip(compared, batch.columns, strict=True))), digests_)
        read.append(batch if among.all() else batch.filter(pa.array(among)))
    if sum(batch.num_rows for batch in read) != len(here):
        raise _NotFound
    return pa.Table.from_batches(read) if read else None


class _Wanted:
    """Tells suspicious rows by their digest."""

    def __init__(self, found: Suspects) -> None:
        self._keys = found.keys
        self._all = not len(found.in_flight) and len(found.keys) > _MOST_SHARE * max(found.rows)

    def among(self, digests_: Numbers) -> NDArray[np.bool_] | None:
        """Which rows are wanted; None for all."""
        if self._all:
            return None
        places = np.searchsorted(self._keys, digests_)
        places[places == len(self._keys)] = 0
        return np.equal(self._keys[places], digests_)


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


def _place(arrays: dict[Pair, pa.Array], identity: Sequence[Pair]) -> Numbers:
    spelled_once = [
        (canonical(arrays[pair], pair.canon), Canon("text"))
        if _has_spellings(pair.canon)
        else (arrays[pair], pair.canon)
        for pair in identity
    ]
    return digests([array for array, _ in spelled_once], [canon for _, canon in spelled_once])
