"""The net effect of a run of changes on a keyed Delta table: one MERGE, or an append where all rows are new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.lake.delta.landing_table import FollowedTable, build_same_key, prunes_exactly, refuse_missing
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.compaction import Net
from dbt_bridge.replicate.merge_rows import (
    DELETED_AT_COLUMN,
    DO,
    FRESH,
    GONE,
    KEEPING,
    MOVED,
    Effects,
    build_staging,
    choose_actions,
    count_effects,
)
from dbt_bridge.replicate.replica_checks import recopy_command


class NetMerge:
    """One run's net effect on one table; reads what it needs of the table when it is made.

    Raises:
        KeyRefused: rows that a change continues are not there.
        TypeRefused: a value does not fit.
    """

    def __init__(self, replica: Replica, table: FollowedTable, net: Net) -> None:
        own = (DELETED_AT_COLUMN,) if replica.deletes == "soft" else ()
        names = {c.name for c in (*replica.table.columns, *own)}
        moves = net.written.moved
        self._replica = replica
        self._table = table
        self._net = net
        self._do = choose_actions(net.written)
        self._extra = [name for name in table.schema.names if name not in names]
        staging = build_staging(replica, own, net.written, net.deleted, self._do)
        self._kept = staging.kept
        columns = [c for c in staging.all_columns if c.name not in staging.found.values()]
        self._columns = [c.name for c in staging.columns]
        self._rows = table.cast_rows(columns, staging.rows.select([c.name for c in columns]))
        if moves.any():
            self._take_along(moves)
        self._expect_kept()

    def step(self, properties: Any) -> Effects:
        """Write it in one commit."""
        if not len(self._net.deleted) and (self._do == FRESH).all() and not self._stand(self._do == FRESH):
            return self._append(properties)
        done = self._merge(properties)
        inserted, updated, deleted = (done[f"num_target_rows_{what}"] for what in ("inserted", "updated", "deleted"))
        return count_effects(self._replica, self._net, inserted, updated, deleted)

    def _append(self, properties: Any) -> Effects:
        from deltalake import write_deltalake

        rows = self._rows.select(self._columns)
        write_deltalake(self._table.delta, rows, mode="append", schema_mode="merge", commit_properties=properties)
        return Effects(len(rows), 0, 0)

    def _merge(self, properties: Any) -> dict[str, Any]:
        key = self._replica.table.key
        do = f"s.{quote_identifier(DO)}"
        updates = {
            quote_identifier(name): self._value(name)
            for name in self._columns
            if name not in key or self._is_float(name)
        }
        inserts = {quote_identifier(name): f"s.{quote_identifier(name)}" for name in self._columns}
        for name in self._extra:
            brought = f"WHEN {MOVED} THEN s.{quote_identifier(name)} " if name in self._rows.column_names else ""
            updates[quote_identifier(name)] = (
                f"CASE {do} {brought}WHEN {FRESH} THEN NULL ELSE t.{quote_identifier(name)} END"
            )
            if brought:
                inserts[quote_identifier(name)] = f"s.{quote_identifier(name)}"
        merger = self._table.delta.merge(
            self._rows,
            predicate=build_same_key(self._rows.schema, key),
            source_alias="s",
            target_alias="t",
            streamed_exec=not prunes_exactly(self._rows, self._replica.table.key),
            commit_properties=properties,
        )
        merger = merger.when_matched_delete(f"{do} = {GONE}")
        merger = merger.when_matched_update(updates or {quote_identifier(key[0]): f"s.{quote_identifier(key[0])}"})
        return dict(merger.when_not_matched_insert(inserts, predicate=f"{do} <> {GONE}").execute())

    def _is_float(self, name: str) -> bool:
        """0.0 and -0.0 are one key, written in two ways."""
        return bool(pa.types.is_floating(self._rows.schema.field(name).type))

    def _value(self, name: str) -> str:
        if name not in self._kept:
            return f"s.{quote_identifier(name)}"
        column, is_kept = quote_identifier(name), quote_identifier(self._kept[name])
        return f"CASE WHEN s.{is_kept} THEN t.{column} ELSE s.{column} END"

    def _take_along(self, moves: Any) -> None:
        """Rows that come to another key bring what only the table has, from under their old one."""
        written = self._net.written
        assert written.found_under is not None
        columns = [c for c in self._replica.table.columns if c.name in self._replica.table.key]
        keys = self._table.cast_rows(
            columns, written.found_under.filter(pa.array(moves)).select([c.name for c in columns])
        )
        names = [*self._kept, *self._extra]
        there = self._table.find_rows(keys, names)
        refuse_missing(self._table.name, len(keys), len(there), recopy_command(self._replica.node))
        moving, rows = np.flatnonzero(moves), self._rows
        for name in names:
            if name in self._extra:
                nothing = pa.nulls(len(rows), there.schema.field(name).type)
                rows = rows.append_column(name, nothing)
                chosen = np.ones(len(moving), bool)
            else:
                chosen = written.kept[name][moving]
                flag = self._kept[name]
                flags = written.kept[name].copy()
                flags[moving] = False
                flags = np.append(flags, np.zeros(len(rows) - len(flags), bool))
                rows = rows.set_column(rows.column_names.index(flag), flag, pa.array(flags))
            place = np.arange(len(rows))
            place[moving[chosen]] = len(rows) + np.flatnonzero(chosen)
            both = pa.chunked_array([*rows[name].chunks, *there[name].chunks], rows[name].type)
            rows = rows.set_column(rows.column_names.index(name), name, both.take(pa.array(place)))
        self._rows = rows

    def _expect_kept(self) -> None:
        keeping = self._do == KEEPING
        if keeping.any():
            mend = recopy_command(self._replica.node)
            refuse_missing(self._table.name, int(keeping.sum()), self._stand(keeping), mend)

    def _stand(self, chosen: Any) -> int:
        """How many of these written rows the table has."""
        keys = self._rows.slice(0, len(self._do)).select(list(self._replica.table.key)).filter(pa.array(chosen))
        return len(self._table.find_rows(keys, []))
