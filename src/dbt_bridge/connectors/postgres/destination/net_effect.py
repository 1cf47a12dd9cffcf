"""The net effect of a run of changes, written to a keyed landing table in Postgres.

Measured on 5 million rows, 100,000 changes (70% insert, 20% update, 10% delete), PostgreSQL 15 and 18: DELETE of the
gone keys and INSERT ON CONFLICT of the rest 0.75 s; MERGE 2.4 s, DELETE and INSERT 2.4 s, UPDATE and INSERT 2.6 s:
these three read the whole table, where ON CONFLICT always asks the index. It also works before PostgreSQL 15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import is_written_in_several_forms
from dbt_bridge.connectors.postgres.destination.landing_table import (
    as_staged,
    join_list,
    quote_identifiers,
    same_key,
    value,
)
from dbt_bridge.connectors.postgres.destination.relation import Relation, identifier
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.table import TableName
from dbt_bridge.replicate.compaction import Net
from dbt_bridge.replicate.merge_rows import (
    DELETED_AT_COLUMN,
    DO,
    FRESH,
    GONE,
    KEEPING,
    MOVED,
    WHOLE,
    Effects,
    build_staging,
    choose_actions,
    count_effects,
)
from dbt_bridge.replicate.replica_checks import recopy_command


class NetWriter:
    """Writes one staged net effect."""

    def __init__(self, cur: Cursor[Any], replica: Replica, into: Relation, net: Net) -> None:
        self._cur = cur
        self._replica = replica
        self._into = into
        self._net = net
        self._own = (DELETED_AT_COLUMN,) if replica.deletes == "soft" else ()
        names = {c.name for c in (*replica.table.columns, *self._own)}
        self._extra = [name for name in into.columns if name not in names]
        self._do = choose_actions(net.written)
        self._waits = {do: int((self._do == do).sum()) for do in (WHOLE, FRESH, KEEPING, MOVED)}
        key = [column for column in replica.table.columns if column.name in replica.table.key]
        self._has_forms = any(map(is_written_in_several_forms, key))
        self.staging = build_staging(replica, self._own, net.written, net.deleted, self._do)

    def write(self, staged: TableName) -> Effects:
        """From the staging table, in this order: read what stays under old keys, delete, update, insert."""
        names = {
            "target": identifier(self._into.name),
            "staged": identifier(staged),
            "same": same_key(self._replica, self._into),
            "do": sql.Identifier("s", DO),
        }
        if self._has_forms:
            self._settle_forms(names)
        if self._waits[MOVED]:
            self._fill_moved(names)
        deleted = self._delete(names)
        updated = self._update_keeping(names)
        inserted, overwritten = self._insert(names)
        return count_effects(self._replica, self._net, inserted, updated + overwritten, deleted)

    def _settle_forms(self, names: Mapping[str, sql.Composable]) -> None:
        """Of keys that are one in several forms (1.0 and 1.00) the last one stays: what left its row under one form,
        or died so, came again under another."""
        alike = [
            sql.SQL("{} = {}").format(value(column, self._into, "s"), value(column, self._into, "w"))
            for column in self._replica.table.columns
            if column.name in self._replica.table.key
        ]
        self._cur.execute(
            sql.SQL(
                "DELETE FROM {staged} AS s\nUSING {staged} AS w\n"
                "WHERE {later} <> {gone} AND ({do} = {gone} OR w.ctid > s.ctid) AND {alike}"
            ).format(**names, later=sql.Identifier("w", DO), gone=sql.Literal(GONE), alike=sql.SQL(" AND ").join(alike))
        )
        rows = self._cur.execute(sql.SQL("SELECT {do}, count(*) FROM {staged} AS s GROUP BY {do}").format(**names))
        counted = dict(rows.fetchall())
        self._waits = {do: int(counted.get(do, 0)) for do in self._waits}

    def _fill_moved(self, names: Mapping[str, sql.Composable]) -> None:
        """Rows that come to another key take along what the changes do not bring."""
        cur, extra = self._cur, self._extra
        for name in extra:
            cur.execute(
                sql.SQL("ALTER TABLE {staged} ADD COLUMN {column} {type}").format(
                    **names, column=sql.Identifier(name), type=sql.SQL(self._into.columns[name])
                )
            )
        changes = [sql.SQL("{0} = t.{0}").format(sql.Identifier(name)) for name in extra]
        changes += [
            sql.SQL("{0} = CASE WHEN s.{1} THEN {2} ELSE s.{0} END").format(
                sql.Identifier(column.name), sql.Identifier(self.staging.kept[column.name]), as_staged(column)
            )
            for column in self.staging.columns
            if column.name in self.staging.kept
        ]
        if not changes:
            return
        cur.execute(
            sql.SQL("UPDATE {staged} AS s\nSET {set}\nFROM {target} AS t\nWHERE {do} = {moved} AND {found}").format(
                **names,
                set=join_list(changes),
                moved=sql.Literal(MOVED),
                found=same_key(self._replica, self._into, self.staging.found),
            )
        )
        self._expect(self._waits[MOVED])

    def _delete(self, names: Mapping[str, sql.Composable]) -> int:
        gone = [GONE]
        if self._extra and self._replica.table.key:
            gone.append(FRESH)  # what somebody wrote into the extra columns was of another row
        if not len(self._net.deleted) and FRESH not in gone:
            return 0
        self._cur.execute(
            sql.SQL("DELETE FROM {target} AS t\nUSING {staged} AS s\nWHERE {do} IN ({gone}) AND {same}").format(
                **names, gone=join_list([sql.Literal(one) for one in gone])
            )
        )
        return self._cur.rowcount

    def _update_keeping(self, names: Mapping[str, sql.Composable]) -> int:
        """In place, so that values stored out of line are not even read."""
        expected = self._waits[KEEPING]
        if not expected:
            return 0
        changes = []
        for column in self.staging.columns:
            if column.name in self._replica.table.key:
                continue
            new, name = value(column, self._into), sql.Identifier(column.name)
            if column.name in self.staging.kept:
                flag = sql.Identifier("s", self.staging.kept[column.name])
                new = sql.SQL("CASE WHEN {} THEN t.{} ELSE {} END").format(flag, name, new)
            changes.append(sql.SQL("{} = {}").format(name, new))
        self._cur.execute(
            sql.SQL("UPDATE {target} AS t\nSET {set}\nFROM {staged} AS s\nWHERE {do} = {keeping} AND {same}").format(
                **names, set=join_list(changes), keeping=sql.Literal(KEEPING)
            )
        )
        self._expect(expected)
        return expected

    def _insert(self, names: Mapping[str, sql.Composable]) -> tuple[int, int]:
        """Rows inserted, and rows that stood and were written over."""
        if not (self._waits[MOVED] and self._extra):
            return self._insert_those(names, [WHOLE, FRESH, MOVED], [])
        first = self._insert_those(names, [WHOLE, FRESH], [])
        then = self._insert_those(names, [MOVED], self._extra)
        return first[0] + then[0], first[1] + then[1]

    def _insert_those(
        self, names: Mapping[str, sql.Composable], do: Sequence[int], extra: Sequence[str]
    ) -> tuple[int, int]:
        wanted = sum(self._waits[one] for one in do)
        if not wanted:
            return 0, 0
        columns = [*(c.name for c in self.staging.columns), *extra]
        values = [value(c, self._into) for c in self.staging.columns] + [sql.Identifier("s", name) for name in extra]
        key = () if self._has_forms else self._replica.table.key
        rest = [name for name in columns if name not in key]
        over: sql.Composable = sql.SQL("NOTHING")
        if rest:
            over = sql.SQL("UPDATE SET {}").format(
                join_list([sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in rest])
            )
        # A row that was updated carries the lock of the update as xmax; partitioned tables do not tell it.
        told = sql.SQL("xmax = 0" if self._into.kind == "r" else "true")
        row = self._cur.execute(
            sql.SQL(
                "WITH written AS (\n"
                "  INSERT INTO {target} ({columns})\n"
                "  OVERRIDING SYSTEM VALUE\n"
                "  SELECT {values}\n"
                "  FROM {staged} AS s\n"
                "  WHERE {do} IN ({which})\n"
                "  ON CONFLICT ({key}) DO {over}\n"
                "  RETURNING {told} AS is_new\n"
                ")\n"
                "SELECT count(*) FILTER (WHERE is_new)\n"
                "FROM written"
            ).format(
                **names,
                columns=quote_identifiers(columns),
                values=join_list(values),
                which=join_list([sql.Literal(one) for one in do]),
                key=quote_identifiers(self._replica.table.key),
                over=over,
                told=told,
            )
        ).fetchone()
        assert row is not None
        return int(row[0]), wanted - int(row[0])

    def _expect(self, rows: int) -> None:
        """Refuse to lose what only the landing table had.

        Raises:
            KeyRefused: rows that a change continues are not there.
        """
        if self._cur.rowcount != rows:
            raise KeyRefused(
                f"{rows - self._cur.rowcount} rows of {self._into.name} are not there any more, and changes of them"
                " do not bring every value",
                mend=recopy_command(self._replica.node),
            )
