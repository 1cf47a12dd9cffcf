"""A merge with `deletes: own`: only what changed is sent, and what an earlier delivery inserted and the model has no
more is deleted; rows of others never.

The keys of the destination's table are read each time: a row that is gone there is sent again, and only what is there
is deleted. Nothing else is asked of it: a value that somebody changed there since stays until the model's row changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.contracts.destination import Destination, Ledger, Load, Loaded, Readable, Replica
from dbt_bridge.contracts.outgoing import TOKEN_DIGITS, DeletesOwn, Mark, Outgoing
from dbt_bridge.deliver.digests import SIZE, Digester, refuse_null_keys
from dbt_bridge.deliver.ledger import SentRows, read_sent, write_sent
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.replicate.loads import with_room
from dbt_bridge.system.owned_reader import make_reader, owning

OpenRows = Callable[[], AbstractContextManager[pa.RecordBatchReader]]
_NO_ROWS = Loaded(0, 0, 0, 0, 0)
_OTHERS_WROTE = (
    "somebody wrote to the table meanwhile: which new rows are the delivery's own is not known, so they stay when they"
    " leave the model"
)


class _Destination(Destination, DeletesOwn, Readable, Protocol):
    """What a delivery with `deletes: own` needs of its destination."""


def deliver_own(
    delivery: Delivery, warehouse: Ledger, destination: Destination, load: Load, open_rows: OpenRows, *, dry_run: bool
) -> Loaded:
    """Send what is new or changed, and delete what left the model.

    Args:
        warehouse: that keeps the ledger.
        open_rows: the model's rows as they travel; asked for twice.

    Raises:
        UsageError: the destination cannot do it.
        KeyRefused: a key is NULL.
    """
    if not isinstance(destination, DeletesOwn) or not isinstance(destination, Readable):
        raise UsageError(
            f"{delivery.node}: `deletes: own` is not for the destination {destination.name!r}, which deletes no rows in"
            " the transaction of a merge",
            mend="take `deletes` out, or deliver to PostgreSQL, DuckDB or Delta",
        )
    assert load.delivery is not None, "a delivery"
    with nullcontext() if dry_run else destination.hold(load.table.name, load.delivery):
        return _Own(delivery, warehouse, destination, load, open_rows).deliver(dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class _Own:
    """One delivery; its parameters are those of `deliver_own`."""

    delivery: Delivery
    warehouse: Ledger
    destination: _Destination
    load: Load
    open_rows: OpenRows

    def deliver(self, *, dry_run: bool) -> Loaded:
        name, outgoing = self.load.table.name, self._outgoing
        there = self.destination.find_table(name)
        mark = Mark() if there is None else self.destination.find_mark(name, outgoing)
        secret = mark.secret or secrets.token_bytes(32)
        before = read_sent(self.warehouse, self.delivery, mark)
        digests = _Digests.of(self.load, there, secret)
        model = with_room(lambda: digests.read_model(self.open_rows))
        gone = before.filter(pc.invert(pc.is_in(before.keys, value_set=model.keys)))
        left = gone.keys.filter(gone.own)
        present, deletes = with_room(lambda: digests.read_keys(self.destination, there, left))
        changes = _compare(model, before, present)
        if not len(changes.chosen) and not deletes.num_rows:
            if not dry_run and (len(gone.keys) or len(model.keys) != len(before.keys)):
                self._write(secret, {mark.token: changes.after})
            return replace(_NO_ROWS, changes=("nothing changed since the last delivery, so nothing was sent",))
        token = secrets.token_hex(8)[:TOKEN_DIGITS]
        if not dry_run:
            known = {mark.token: before} if mark.secret else {}  # of what another secret digests nothing can be said
            self._write(secret, {**known, token: changes.after})
        sent = replace(outgoing, secret=secret, token=token, follows=mark.token, deletes=deletes)
        loaded = self._send(replace(self.load, delivery=sent), digests, changes, dry_run=dry_run)
        told = [*loaded.changes, *_tell_staying(gone)]
        if not dry_run and loaded.rows_inserted not in (None, changes.inserts):
            self._write(secret, {token: replace(changes.after, own=changes.was_own)})
            told.append(_OTHERS_WROTE)
        return replace(loaded, changes=tuple(told))

    @property
    def _outgoing(self) -> Outgoing:
        assert self.load.delivery is not None, "a delivery"
        return self.load.delivery

    def _write(self, secret: bytes, states: Mapping[str, SentRows]) -> None:
        write_sent(self.warehouse, self.delivery, secret, states, self.load.load_id)

    def _send(self, load: Load, digests: _Digests, changes: _Changes, *, dry_run: bool) -> Loaded:
        def once() -> Loaded:
            with owning(digests.read_chosen(self.open_rows, changes.chosen)) as rows:
                return self.destination.preview(load, rows) if dry_run else self.destination.load(load, rows)

        return with_room(once)


def _tell_staying(gone: SentRows) -> Iterator[str]:
    stays = len(gone.keys) - int(pc.sum(gone.own).as_py() or 0)
    if stays:
        yield f"{stays} rows left the model and stay: no delivery from here is known to have inserted them"


@dataclass(frozen=True, slots=True)
class _Changes:
    """What differs between the model and what was sent.

    Attributes:
        chosen: digests of the keys that are sent.
        inserts: how many of these are not there yet.
        after: all of the model, as it will stand there.
        was_own: which rows of that were own before.
    """

    chosen: pa.Array
    inserts: int
    after: SentRows
    was_own: pa.Array


def _compare(model: SentRows, before: SentRows, present: pa.Array) -> _Changes:
    place = pc.index_in(model.keys, value_set=before.keys)
    same = pc.fill_null(pc.equal(before.rows.take(place), model.rows), fill_value=False)
    is_there = pc.is_in(model.keys, value_set=present)
    sent = pc.invert(pc.and_(same, is_there))
    was_own = pc.fill_null(before.own.take(place), fill_value=False)
    own = pc.or_(was_own, pc.invert(is_there))
    inserts = int(pc.sum(pc.invert(is_there)).as_py() or 0)
    return _Changes(model.keys.filter(sent), inserts, SentRows(model.keys, model.rows, own), was_own)


@dataclass(frozen=True, slots=True)
class _Digests:
    """How the keys and rows of one delivery are digested."""

    load: Load
    key: Digester
    row: Digester
    key_there: Digester

    @classmethod
    def of(cls, load: Load, there: Table | None, secret: bytes) -> _Digests:
        by_name = {column.name: column for column in load.table.columns}
        key = [by_name[name] for name in load.table.key]
        stored = [_find_column(there, column) for column in key]
        row = Digester.of(load.table.columns, load.table.columns, secret)
        return cls(load, Digester.of(key, stored, secret), row, Digester.of(stored, key, secret))

    def read_model(self, open_rows: OpenRows) -> SentRows:
        """The model's rows: of several with one key the last one stays, as in the merge."""
        keys, rows = [], []
        with open_rows() as batches:
            for batch in batches:
                refuse_null_keys(batch, self.load.table.key, self.load.table.name)
                keys.append(self.key.digest(batch))
                rows.append(self.row.digest(batch))
        whole = pa.table(
            {"key": pa.chunked_array(keys, pa.binary(SIZE)), "row": pa.chunked_array(rows, pa.binary(SIZE))}
        )
        whole = whole.append_column("n", to_arrow(np.arange(len(whole))))
        last = whole.group_by("key", use_threads=False).aggregate([("n", "max")])
        kept = whole.take(last["n_max"]).combine_chunks()
        key, row = (pa.concat_arrays([pa.array([], pa.binary(SIZE)), *kept[name].chunks]) for name in ("key", "row"))
        return SentRows(key, row, pa.repeat(pa.scalar(value=False), len(key)))

    def read_keys(self, destination: Readable, there: Table | None, wanted: pa.Array) -> tuple[pa.Array, pa.Table]:
        """The digests of the keys that the destination has, and the keys of those among them that are wanted."""
        schema = pa.schema([(column.name, column.type) for column in self.key.columns])
        present, found = [pa.array([], pa.binary(SIZE))], [schema.empty_table()]
        if there is None:
            return present[0], found[0]
        replica = Replica(
            self.load.delivery.node if self.load.delivery else "", Table(there.name, self.key_there.columns)
        )
        with destination.open_state() as state, owning(state.rows(replica)) as rows:
            for batch in rows:
                digests = self.key_there.digest(batch)
                present.append(digests)
                chosen = pc.is_in(digests, value_set=wanted)
                if pc.any(chosen).as_py():
                    named = pa.Table.from_batches([batch.filter(chosen)]).rename_columns(schema.names)
                    found.append(named.cast(schema))
        return pa.concat_arrays(present), pa.concat_tables(found)

    def read_chosen(self, open_rows: OpenRows, chosen: pa.Array) -> pa.RecordBatchReader:
        """The model's rows with these keys."""

        def batches() -> Iterator[pa.RecordBatch]:
            with open_rows() as rows:
                for batch in rows:
                    part = batch.filter(pc.is_in(self.key.digest(batch), value_set=chosen))
                    if part.num_rows:
                        yield part

        return make_reader(self.load.table.arrow_schema, batches())


def _find_column(there: Table | None, column: Column) -> Column:
    """The column of the destination's table, whose database may not tell upper from lower case."""
    if there is None:
        return column
    return there.column(column.name) or next(
        (c for c in there.columns if c.name.lower() == column.name.lower()), column
    )


def sent_keys(delivery: Delivery, warehouse: Ledger, destination: Destination, load: Load) -> tuple[pa.Array, Digester]:
    """The digests of the keys that the last delivery left at the destination, and what digests a key there."""
    there = destination.find_table(load.table.name)
    mark = Mark()
    if isinstance(destination, DeletesOwn) and isinstance(load.delivery, Outgoing) and there is not None:
        mark = destination.find_mark(load.table.name, load.delivery)
    digests = _Digests.of(load, there, mark.secret or bytes(32))
    return read_sent(warehouse, delivery, mark).keys, digests.key
