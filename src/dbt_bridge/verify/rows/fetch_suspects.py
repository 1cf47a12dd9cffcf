"""Suspects are fetched from both sides, by their keys or in one whole reading, and judged by their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.canonical.row_digest import compute_digests
from dbt_bridge.verify.rows.column_pairs import ColumnPair
from dbt_bridge.verify.rows.comparison import Comparison
from dbt_bridge.verify.rows.findings import Findings
from dbt_bridge.verify.rows.judge_suspects import judge
from dbt_bridge.verify.rows.match import Stream, Suspects, partition_both, stream_meetings
from dbt_bridge.verify.rows.partitions import Partitions
from dbt_bridge.verify.rows.sender import KEY, Arrays, Numbers, Sender

_MOST_SHARE = 0.2  # of the rows: beyond it one whole reading is cheaper


def fetch_and_judge(comparison: Comparison, suspects: Suspects, findings: Findings) -> None:
    """Judge all suspects by their values."""
    if not len(suspects.digests):
        return
    rows = _fetch_by_key(comparison, suspects) or _fetch_by_reading(comparison, suspects)
    for meeting in stream_meetings(rows):
        if any(table is not None and table.num_rows for table in meeting):
            judge(meeting, comparison.pairs, comparison.workspace.engine, findings)


# --- by their keys ---------------------------------------------------------------------------------------------------


class _NotFound(Exception):
    """By its keys a side gave other rows than it had sent."""


def _fetch_by_key(comparison: Comparison, suspects: Suspects) -> Both[Partitions] | None:
    """The suspects, in partitions by a digest (`group`) that those of one key share.

    None where they are too many, or a side does not find its own rows.
    """
    if suspects.keys is None or not _can_find_by_key(comparison, suspects):
        return None
    keys = suspects.keys.map(lambda tables: pa.concat_tables(tables) if tables else None)
    group = _choose_group_name(comparison)

    def stream(sender: Sender) -> Stream:
        return lambda: _stream_by_key(sender, keys.at(sender.end), suspects.digests, group)

    workspace = comparison.workspace.inside("suspects_by_key")
    try:
        return partition_both(comparison.senders.map(stream), workspace, group, comparison.senders.destination.cancel)
    except _NotFound:
        return None


def _can_find_by_key(comparison: Comparison, suspects: Suspects) -> bool:
    """Whether the keys are few, and such that a side finds its rows by them: no hashes, and no second spelling."""
    key = comparison.pairs.key
    if not key or len(suspects.digests) > _MOST_SHARE * max(suspects.rows):
        return False
    return not any(pair.masked or _has_spellings(pair.canon) for pair in key)


def _has_spellings(canon: Canon | None) -> bool:
    """Whether equal values may have different digests."""
    return canon is not None and (canon.kind == "json" or _has_spellings(canon.of))


def _stream_by_key(sender: Sender, keys: pa.Table | None, digests: Numbers, group: str) -> Iterator[pa.RecordBatch]:
    """The rows with these keys, in the columns of `ColumnPairs.to_compare` and `group`.

    Keys that are equal may be spelled in several ways at one side ('1.0' and '1' as text), so each spelling is looked
    up. What comes is not trusted: a database may take one key for another, or miss one, and what is missed would pass
    for equal.

    Raises:
        _NotFound: the side had sent more or fewer rows with these keys.
    """
    if keys is None or not len(keys):
        return
    pairs, missing = sender.pairs.to_compare, len(keys)
    wanted = keys.drop_columns([KEY]).rename_columns([pair.name_at(sender.end) for pair in sender.pairs.key])
    for batch in sender.stream_rows(pairs, wanted):
        groups = sender.digest_identity(dict(zip(pairs, batch.columns, strict=True)))
        among = _are_among(digests, groups)
        rows = _append_column(batch, group, groups)
        rows = rows if among.all() else rows.filter(pa.array(among))
        missing -= rows.num_rows
        yield rows
    if missing:
        raise _NotFound


def _append_column(batch: pa.RecordBatch, name: str, numbers: Numbers) -> pa.RecordBatch:
    schema = batch.schema.append(pa.field(name, pa.int64()))
    return pa.RecordBatch.from_arrays([*batch.columns, pa.array(numbers)], schema=schema)


# --- in one whole reading --------------------------------------------------------------------------------------------


def _fetch_by_reading(comparison: Comparison, suspects: Suspects) -> Both[Partitions]:
    """The suspects among all rows, in partitions by a digest (`group`) that equal rows (of one key) share."""
    wanted = _Wanted(suspects)
    group = _choose_group_name(comparison)

    def stream(sender: Sender) -> Stream:
        return lambda: _stream_wanted(sender, wanted, group)

    workspace = comparison.workspace.inside("suspects_by_reading")
    return partition_both(comparison.senders.map(stream), workspace, group, comparison.senders.destination.cancel)


class _Wanted:
    """Finds the suspects by their digest."""

    def __init__(self, suspects: Suspects) -> None:
        self._digests = suspects.digests
        self._all = not len(suspects.in_flight) and len(suspects.digests) > _MOST_SHARE * max(suspects.rows)

    def mark(self, digests: Numbers) -> NDArray[np.bool_] | None:
        """Which rows are wanted; None for all."""
        return None if self._all else _are_among(self._digests, digests)


def _stream_wanted(sender: Sender, wanted: _Wanted, group: str) -> Iterator[pa.RecordBatch]:
    pairs = tuple(sender.pairs)
    for batch in sender.stream_rows(pairs):
        arrays = dict(zip(pairs, batch.columns, strict=True))
        mask = wanted.mark(sender.digest_identity(arrays))
        if sender.limit is not None and not sender.pairs.key:
            in_time = sender.limit.mark_above(arrays).to_numpy() == 0
            mask = in_time if mask is None else mask & in_time
        rows = batch if mask is None else batch.filter(pa.array(mask))
        if rows.num_rows:
            arrays = dict(zip(pairs, rows.columns, strict=True))
            named = {pair.name_at(sender.end): arrays[pair] for pair in sender.pairs.to_compare}
            groups = pa.array(_digest_canonical(arrays, sender.pairs.identity))
            yield pa.RecordBatch.from_pydict(named | {group: groups})


def _digest_canonical(arrays: Arrays, pairs: Sequence[ColumnPair]) -> Numbers:
    """A digest that all spellings of one value share."""
    columns = [
        (to_canonical(arrays[pair], pair.canon), Canon("text"))
        if _has_spellings(pair.canon)
        else (arrays[pair], pair.canon)
        for pair in pairs
    ]
    return compute_digests([array for array, _ in columns], [canon for _, canon in columns])


def _are_among(wanted: Numbers, digests: Numbers) -> NDArray[np.bool_]:
    """Which of the digests are among the wanted ones, which are sorted; at least one is wanted."""
    places = np.searchsorted(wanted, digests)
    places[places == len(wanted)] = 0
    return np.equal(wanted[places], digests)


def _choose_group_name(comparison: Comparison) -> str:
    """A name for `group` that no column has."""
    taken = {column.name for end in ENDS for column in comparison.sides.at(end).table.columns}
    name = "_group"
    while name in taken:
        name += "_"
    return name
