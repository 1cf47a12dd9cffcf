"""The tables that are followed: what a Relation message means for each, and its rows as changes of its landing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.mask import mask_array
from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.connectors.postgres.changes.messages import UNCHANGED, Announcement, Cells, Rows, Truncation
from dbt_bridge.connectors.postgres.changes.values import columns as values
from dbt_bridge.connectors.postgres.origin.catalog import ResolvedColumns
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, WireColumn
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.connectors.postgres.origin.shape_changes import Verdict, compare_shapes, find_passed_partition
from dbt_bridge.connectors.postgres.wire.relation import Relation
from dbt_bridge.contracts.change_feed import FollowedTable, TableEvents
from dbt_bridge.errors import BridgeError, KeyRefused, OriginError, TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.replicate.key_codes import encode_rows


class Catalog(Protocol):
    """The origin's catalog, as it is at the moment of each call; the feed's thread asks it."""

    def shape(self, oid: int) -> Shape | None:
        """A table's shape; None when it is gone."""

    def types(self, columns: Sequence[WireColumn]) -> ResolvedColumns:
        """The natural columns and types of a Relation message's columns (`catalog.resolve_columns`)."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A followed table, with its shape read from the text."""

    table: FollowedTable
    shape: Shape

    @classmethod
    def of(cls, table: FollowedTable) -> _Followed:
        return cls(table, Shape.from_json(table.shape))

    def with_shape(self, shape: Shape) -> _Followed:
        return _Followed(replace(self.table, shape=shape.as_json()), shape)


@dataclass(slots=True)
class _Version:
    """A followed table as its current Relation message has it."""

    relation: Relation
    types: Mapping[str, OriginType]
    places: Mapping[str, int]


class Following:
    """All followed tables of one feed, and the events that were gathered since the last chunk.

    Args:
        tables: those of a slot.
        catalog: of the origin.
        binary: values come in binary where their types have such a form.
    """

    def __init__(self, tables: Sequence[FollowedTable], catalog: Catalog, *, binary: bool = False) -> None:
        self._binary = binary
        self._tables = {one.shape.oid: one for one in map(_Followed.of, tables)}
        self._versions: dict[int, _Version] = {}
        self._pending: dict[int, Relation] = {}
        self._announced: dict[int, dict[int, str]] = {}
        self._catalog = catalog
        self._events: list[tuple[str, Event]] = []
        self._taken_up: dict[str, FollowedTable] = {}
        self._lost: dict[str, str] = {}
        self._failed: dict[str, BridgeError] = {}
        self.bytes = 0

    @property
    def has_trouble(self) -> bool:
        """A table was lost or has failed since the last chunk."""
        return bool(self._lost or self._failed)

    def take_events(self) -> TableEvents:
        """What came since the last time; begins anew."""
        answer = TableEvents(_merge_neighbours(self._events), self.bytes, self._taken_up, self._lost, self._failed)
        self._events, self.bytes, self._taken_up, self._lost, self._failed = [], 0, {}, {}, {}
        return answer

    def list_nodes(self, oids: Collection[int]) -> tuple[str, ...]:
        """Those of these relations that are followed, and their partitions' roots."""
        return tuple(one.table.node for oid, one in self._tables.items() if oid in oids)

    def relation(self, sent: Relation) -> None:
        """Keep a Relation message until rows come that are to be applied: those before may be of an older shape."""
        if sent.oid in self._tables:
            self._pending[sent.oid] = sent

    def partition(self, announced: Announcement) -> None:
        """Keep the name of a partition whose changes come as those of a followed table, to see whether it still is one.

        What the log says of its end is nothing: not that it was dropped or detached.
        """
        one = self._tables.get(announced.root)
        if one is None or one.shape.kind != "p" or announced.oid in self._tables:
            return
        if announced.lsn < one.table.position.ordinal:
            return
        self._announced.setdefault(announced.root, {})[announced.oid] = announced.name
        if announced.root in self._versions:
            self._pending.setdefault(announced.root, self._versions[announced.root].relation)

    def take_up(self, oid: int) -> None:
        """Look at the last Relation message: the table is as it was, has other columns, or is lost."""
        sent, one = self._pending.pop(oid, None), self._tables.get(oid)
        if sent is None or one is None:
            return
        now, declared = self._catalog.shape(sent.oid), one.table.name
        if sent.name != declared and (now is None or now.table != declared):  # it may be renamed back since
            what = f"{declared} was renamed to {sent.name} at the origin"
            self._fail(
                one, OriginError(what, mend=f"identifier: {sent.name.name} in the dbt source, or rename it back")
            )
            return
        verdict = compare_shapes(one.shape, sent, now)
        announced = self._announced.pop(oid, {})
        if now is not None and (why := find_passed_partition(announced, one.shape, now)):
            verdict = Verdict(None, why)
        resolved = self._catalog.types([WireColumn(c.name, c.type_oid, c.modifier) for c in sent.columns])
        try:
            table = self._reshape(one, verdict, resolved.columns)
            _check_key(table, sent)
        except BridgeError as error:
            self._fail(one, error)
            return
        if verdict.shape is None:
            self._lose(one, verdict.lost)
        if verdict.shape is None or table.node in self._lost:
            return
        if self._binary and not all(values.is_binary_decodable(resolved.types[c.name], c.type) for c in table.columns):
            self._lose(one, "it has a column now whose values must be sent as text")
            return
        one = _Followed(table, one.shape).with_shape(verdict.shape)
        self._tables[sent.oid], self._taken_up[table.node] = one, one.table
        self._versions[sent.oid] = _Version(sent, resolved.types, {c.name: i for i, c in enumerate(sent.columns)})

    def _reshape(self, one: _Followed, verdict: Verdict, natural: tuple[Column, ...]) -> FollowedTable:
        """The table with the columns that the message tells of; loses it where only a new copy has its values."""
        table = one.table
        if verdict.shape is None or not verdict.is_changed:
            return table
        columns = table.map_columns(Table(table.name, natural, table.key), verdict.renames)
        before = {verdict.renames.get(c.name, c.name): c.type for c in table.columns}
        for column in columns:
            if before.get(column.name, column.type) != column.type:
                self._lose(one, f"the type of its column {column.name!r} changed")
                return table
        key = tuple(verdict.renames.get(c, c) for c in table.key)
        self._events.append((table.node, Reshaped(columns, dict(verdict.renames))))
        return replace(table, columns=columns, key=key)

    def rows(self, rows: Rows) -> int:
        """Take up rows; answers how many of them are changes of a followed table."""
        oid = rows.relation.oid
        one = self._tables.get(oid)
        if one is None or not len(rows):
            return 0
        first = int(np.searchsorted(rows.lsn, one.table.position.ordinal))
        if first == len(rows):
            return 0
        self.take_up(oid)
        one, version = self._tables.get(oid), self._versions.get(oid)
        if one is None or version is None:
            return 0
        try:
            changes = _changes(rows, one.table, version)
        except BridgeError as error:
            self._fail(one, error)
            return 0
        if first:
            changes = _from(changes, first)
        self._events.append((one.table.node, changes))
        self.bytes += changes.rows.nbytes
        return len(changes)

    def truncation(self, truncation: Truncation) -> int:
        """Take up a TRUNCATE; answers how many followed tables it emptied."""
        tables = [self._tables[oid].table for oid in truncation.oids if oid in self._tables]
        tables = [table for table in tables if truncation.lsn >= table.position.ordinal]
        event = Truncated(truncation.lsn, truncation.committed_at)
        self._events += [(table.node, event) for table in tables]
        return len(tables)

    def _lose(self, one: _Followed, why: str) -> None:
        self._lost[one.table.node] = why
        self._give_up(one)

    def _fail(self, one: _Followed, error: BridgeError) -> None:
        self._failed[one.table.node] = error
        self._give_up(one)

    def _give_up(self, one: _Followed) -> None:
        """Its changes of this chunk too: it will be copied anew, or stays as it last was."""
        self._events = [(node, event) for node, event in self._events if node != one.table.node]
        self._tables.pop(one.shape.oid, None)
        self._versions.pop(one.shape.oid, None)


def _check_key(table: FollowedTable, sent: Relation) -> None:
    """Raises KeyRefused: the log says no more which row changed."""
    if table.log_only or sent.identity == "f":
        return
    identity = {column.name for column in sent.columns if column.is_key}
    if not table.key or not set(table.key) <= identity:
        raise KeyRefused(
            f"{table.name} has lost the key that finds its changes ({', '.join(table.key) or 'all columns'})",
            mend=f"ALTER TABLE {table.name} ADD PRIMARY KEY (...), or REPLICA IDENTITY FULL; dbt-bridge sync",
        )


def _changes(rows: Rows, table: FollowedTable, version: _Version) -> Changes:
    """The rows with their values, in the columns of the landing table.

    Raises:
        TypeRefused: a value does not fit.
    """
    arrays = {c.name: _column(rows.cells, c, table, version) for c in table.columns}
    unchanged = {}
    for name in arrays:
        is_unchanged = rows.cells[version.places[name]].tag == UNCHANGED
        if is_unchanged.any():
            unchanged[name] = is_unchanged
    before, has_before = _before(rows, arrays, table, version)
    schema = pa.schema([pa.field(c.name, c.type) for c in table.columns])
    return Changes(
        pa.table(list(arrays.values()), schema=schema),
        rows.kind,
        rows.lsn,
        rows.committed_at,
        unchanged,
        before,
        has_before,
        rotates=_rotates(table, version),
    )


def _rotates(table: FollowedTable, version: _Version) -> bool:
    return table.rotates and not table.log_only and version.relation.identity == "f"


def _column(cells: Sequence[Cells], column: Column, table: FollowedTable, version: _Version) -> pa.Array:
    try:
        array = values.decode_column(cells[version.places[column.name]], version.types[column.name], column.type)
    except values.Unfit as unfit:
        value = "a masked value" if column.name in table.mask else f"the value {unfit}"
        raise TypeRefused(
            f"table {table.name}, column {column.name!r}: {value} does not fit {column.type}",
            mend=f"types: {{{quote_in_yaml(column.name)}: text}}, then: dbt-bridge sync",
            column=column.name,
        ) from None
    how = table.mask.get(column.name)
    return mask_array(array, how) if how else array  # type: ignore[arg-type]


def _before(
    rows: Rows, new: Mapping[str, pa.Array], table: FollowedTable, version: _Version
) -> tuple[pa.Table | None, np.ndarray | None]:
    """The old keys (old rows without a key) of updates, spread over all changes; None when no key changed."""
    if not rows.has_before.any():
        return None, None
    whole = not table.key or _rotates(table, version)
    wanted = [c for c in table.columns if whole or c.name in table.key]
    if len(wanted) < len(table.key):  # a log that leaves out a part of the key
        return None, None
    has_before = rows.has_before
    old = {c.name: _column(rows.before, c, table, version) for c in wanted}
    places = np.flatnonzero(has_before)
    pairs = [] if whole else [(old[c.name], new[c.name].take(to_arrow(places))) for c in wanted]
    if not whole and all(_equal(*pair) for pair in pairs):
        return None, None
    if table.key and table.log_only:  # an old key is logged where it differs; under full identity every update sends it
        left = _differ(pairs)
        has_before = np.zeros(len(rows), bool)
        has_before[places[left]] = True
        old = {name: array.filter(to_arrow(left)) for name, array in old.items()}
    spread = np.cumsum(has_before) - 1
    indices = to_arrow(spread, mask=~has_before)
    taken = [old[c.name].take(indices) for c in wanted]
    return pa.table(taken, schema=pa.schema([pa.field(c.name, c.type) for c in wanted])), has_before


def _equal(a: pa.Array, b: pa.Array) -> bool:
    plain = [x.storage if isinstance(x.type, pa.BaseExtensionType) else x for x in (a, b)]
    return bool(plain[0].equals(plain[1]))


def _differ(pairs: Sequence[tuple[pa.Array, pa.Array]]) -> np.ndarray:
    """bool: where the rows of two lists of columns differ, as the origin compares them; NULL is equal to NULL."""
    codes = encode_rows([pa.chunked_array(pair) for pair in pairs])
    half = len(codes) // 2
    return np.asarray(codes[:half] != codes[half:])


def _from(changes: Changes, first: int) -> Changes:
    return Changes(
        changes.rows.slice(first),
        changes.kind[first:],
        changes.ordinal[first:],
        changes.committed_at[first:],
        {name: mask[first:] for name, mask in changes.unchanged.items() if mask[first:].any()},
        None if changes.before is None else changes.before.slice(first),
        None if changes.has_before is None else changes.has_before[first:],
        rotates=changes.rotates,
    )


def _merge_neighbours(events: Sequence[tuple[str, Event]]) -> tuple[tuple[str, Event], ...]:
    """Neighbouring changes of one table as one, so that a destination has few and large pieces."""
    by_node: dict[str, list[list[Event]]] = {}
    for node, event in events:
        groups = by_node.setdefault(node, [])
        if isinstance(event, Changes) and groups and isinstance(groups[-1][0], Changes):
            groups[-1].append(event)
        else:
            groups.append([event])
    return tuple((node, _concatenate(group)) for node, groups in by_node.items() for group in groups)


def _concatenate(group: Sequence[Event]) -> Event:
    changes = [event for event in group if isinstance(event, Changes)]
    if len(changes) < 2:
        return group[0]
    masks = {name for c in changes for name in c.unchanged}
    befores = [c for c in changes if c.before is not None]
    before = has_before = None
    if befores:
        schema = befores[0].before.schema  # type: ignore[union-attr]
        before = pa.concat_tables([_nulls(schema, len(c)) if c.before is None else c.before for c in changes])
        has_before = np.concatenate([np.zeros(len(c), bool) if c.has_before is None else c.has_before for c in changes])
    return Changes(
        pa.concat_tables([c.rows for c in changes]),
        np.concatenate([c.kind for c in changes]),
        np.concatenate([c.ordinal for c in changes]),
        np.concatenate([c.committed_at for c in changes]),
        {name: np.concatenate([c.unchanged.get(name, np.zeros(len(c), bool)) for c in changes]) for name in masks},
        before,
        has_before,
        rotates=any(c.rotates for c in changes),
    )


def _nulls(schema: pa.Schema, length: int) -> pa.Table:
    return pa.table([_null_column(field.type, length) for field in schema], schema=schema)


def _null_column(type_: pa.DataType, length: int) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.nulls(length, type_.storage_type))
    return pa.nulls(length, type_)
