"""Keys that two rows share for a moment: a transaction rotates them under a constraint that is checked at its end.

    UPDATE 1 -> 2, UPDATE 2 -> 1        with a DEFERRABLE primary key: in between both rows have the key 2

Which row a change means is then told by its old values, all of which REPLICA IDENTITY FULL sends. Here the touches of
such a key are put into an order in which one row has it after the other, as if each had waited for the next to go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.nouns.changes import DELETE, UPDATE, Changes
from dbt_bridge.replicate.key_codes import encode_rows

_Index = Any  # numpy array of int64


class Tangled(Exception):
    """At the end of a transaction two rows have the key, or a change means a row that nobody has seen."""


@dataclass(frozen=True, slots=True)
class Touch:
    """What a change is to one key.

    Attributes:
        place: its number among all touches.
        commit: the ordinal of its transaction.
        comes: a row has the key from here on.
        goes: a row had it until here.
        before, after: codes of the row's values; what there is of them.
    """

    place: int
    commit: int
    comes: bool
    goes: bool
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Untangled:
    """The touches of one key.

    Attributes:
        stays: those of one row while it had the key, for each row that had it.
        order: as they would be if no two rows had had it at once; without what came and went beside a row that stood.
    """

    stays: Sequence[Sequence[int]]
    order: Sequence[int]


def encode_values(changes: Changes) -> tuple[_Index, _Index] | None:
    """Codes of the values of the rows before and after each change; None where not all old values were sent."""
    rows, before, has_before = changes.rows, changes.before, changes.has_before
    updates = changes.kind == UPDATE
    if changes.unchanged or (updates.any() and (has_before is None or not has_before[updates].all())):
        return None
    with_old = np.flatnonzero(updates)
    if len(with_old) and (before is None or not set(rows.column_names) <= set(before.column_names)):
        return None
    columns = []
    for name in rows.column_names:
        old = [] if before is None else before[name].take(to_arrow(with_old)).chunks
        columns.append(pa.chunked_array([*rows[name].chunks, *old], rows.schema.field(name).type))
    codes = encode_rows(columns)
    after = codes[: len(changes)]
    earlier = np.full(len(changes), -1)
    earlier[with_old] = codes[len(changes) :]
    deletes = changes.kind == DELETE
    earlier[deletes] = after[deletes]
    return earlier, after


def untangle_keys(
    by_key: _Index, code: _Index, tangled: _Index, stay: _Index, describe: Callable[[int], Touch]
) -> tuple[_Index, _Index]:
    """Touches by key in an order in which no two rows have a key at once, and the number of each touch's stay.

    Args:
        by_key: places of touches, by key and then time.
        code: of their keys, in that order.
        tangled: codes of the keys that two rows had at once.
        stay: of each touch, as if there were no such keys.
        describe: a touch, by its place.

    Raises:
        Tangled: see there.
    """
    stay, number, parts, done = stay.copy(), int(stay.max()) + 1, [], 0
    first = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    end = np.append(first[1:], len(code))
    for key in np.flatnonzero(np.isin(code[first], tangled)).tolist():
        parts.append(by_key[done : first[key]])
        done = end[key]
        untangled = untangle([describe(place) for place in by_key[first[key] : done].tolist()])
        for one in untangled.stays:
            stay[one] = number
            number += 1
        parts.append(np.array(untangled.order, np.int64))
    parts.append(by_key[done:])
    return np.concatenate(parts), stay


def untangle(touches: Sequence[Touch]) -> Untangled:
    """Follow the rows that have one key.

    Args:
        touches: in the order in which they happened.

    Raises:
        Tangled: see there.
    """
    key = _Key()
    for number, touch in enumerate(touches):
        if number and touch.commit != touches[number - 1].commit:
            key.commit()
        key.take(touch)
    key.commit()
    return Untangled(key.stays, key.order)


@dataclass(slots=True)
class _Holder:
    value: int
    stay: list[int]


class _Key:
    def __init__(self) -> None:
        self.stays: list[list[int]] = []
        self.order: list[int] = []
        self._holders: list[_Holder] = []
        self._may_stand = True  # a row that was there before, and was not touched yet
        self._here: list[tuple[list[int], int]] = []  # of this transaction: the stay and place of each touch

    def take(self, touch: Touch) -> None:
        if touch.comes:
            holder = self._begin(touch.after)
        else:
            holder = self._find(touch.before)
            holder.value = touch.after
        holder.stay.append(touch.place)
        self._here.append((holder.stay, touch.place))
        if touch.goes:
            self._holders.remove(holder)

    def commit(self) -> None:
        """A transaction ends: at most one row has the key."""
        if len(self._holders) > 1:
            raise Tangled
        if self._holders or not self._may_stand:
            last = self._holders[0].stay if self._holders else None
            self.order += [place for stay, place in self._here if stay is not last]
            self.order += [place for stay, place in self._here if stay is last]
        # else what came went again, beside a row that stands, if any
        self._may_stand = self._may_stand and not self._holders
        self._here = []

    def _begin(self, value: int) -> _Holder:
        self.stays.append([])
        self._holders.append(_Holder(value, self.stays[-1]))
        return self._holders[-1]

    def _find(self, value: int) -> _Holder:
        """The row with these values; else the one that was there before."""
        for holder in self._holders:
            if holder.value == value:
                return holder
        if not self._may_stand:
            raise Tangled
        self._may_stand = False
        return self._begin(value)
