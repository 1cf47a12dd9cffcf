"""Changes are applied in Postgres: rows, checkpoints and receipts of all tables in one transaction.

A run of changes travels as Arrow into an unlogged table, which a connection of its own commits, and from there into
the landing table by a few statements. The landing table is never dropped, so views and grants stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination import audit, change_log, history, keyless
from dbt_bridge.connectors.postgres.destination.join_copy import join
from dbt_bridge.connectors.postgres.destination.landing_table import (
    ensure_key,
    own_columns,
    require_table,
    reshape,
)
from dbt_bridge.connectors.postgres.destination.net_effect import NetWriter
from dbt_bridge.connectors.postgres.destination.relation import Relation, identifier
from dbt_bridge.connectors.postgres.destination.stage import Carrier
from dbt_bridge.contracts.destination import (
    DELETED_AT,
    Loaded,
    Replica,
    Staged,
)
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.change_log import LogRows
from dbt_bridge.replicate.compaction import Lineages
from dbt_bridge.replicate.full_row import full_rows
from dbt_bridge.replicate.merge_rows import Effects
from dbt_bridge.replicate.replica_checks import check_names


@dataclass(frozen=True, slots=True)
class _Tables:
    landing: Relation
    history: Relation | None


_MOST_COLUMNS = 1600  # https://www.postgresql.org/docs/current/limits.html


class PostgresApplication:
    """An `Application` inside one transaction of `connection`.

    Args:
        carrier: brings changes to where the transaction reads them.
        new_staging: names a staging table in a schema.
        lock: keeps other writers of a table away until the transaction ends.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        carrier: Carrier,
        new_staging: Callable[[str], TableName],
        lock: Callable[[Cursor[Any], TableName], None],
    ) -> None:
        self._connection = connection
        self._carrier = carrier
        self._new_staging = new_staging
        self._lock = lock
        self._tables: dict[TableName, _Tables] = {}
        self._log_rows: dict[TableName, LogRows] = {}
        self.staged: list[TableName] = []
        # The planner's defaults are of spinning disks: it reads 5 million rows rather than look for 30,000 by index.
        connection.execute("SET LOCAL random_page_cost = 1.1")
        connection.execute("SET LOCAL jit = off")

    # --- Application -------------------------------------------------------------------------------------------

    def join(self, replica: Replica, staged: Staged | Loaded, copied_at: int) -> Loaded:
        assert isinstance(staged, Staged), "a warehouse has stages"
        name = replica.table.name
        self._tables.pop(name, None)
        check_names(replica)
        _check_width(replica)
        with self._telling(name) as cur:
            self._lock(cur, name)
            return join(cur, replica, staged, copied_at)

    def apply(self, replica: Replica, event: Event) -> Loaded:
        name = replica.table.name
        with self._telling(name) as cur:
            if isinstance(event, Reshaped):
                self._tables.pop(name, None)
                self._lock(cur, name)
                reshape(cur, replica, event)
                return Loaded(0, 0, 0, 0, 0)
            if isinstance(event, Changes) and not len(event):
                return Loaded(0, 0, 0, 0, 0)
            if replica.change_log:
                return self._log(cur, replica, event)
            tables = self._standing(cur, replica)
            if isinstance(event, Truncated):
                return Loaded(1, 0, 0, _truncate(cur, replica, tables, event), 0)
            if replica.table.key:
                return self._net(cur, replica, tables, event)
            return self._whole_rows(cur, replica, tables, event)

    def commit(self, upto: int, checkpoints: Sequence[Checkpoint] = (), receipts: Sequence[Receipt] = ()) -> None:
        with self._telling("checkpoints") as cur:
            if checkpoints or receipts:
                audit.ensure(cur)
                audit.save_checkpoints(cur, checkpoints)
                audit.append_receipts(cur, receipts)
            self._connection.commit()
        self.staged.clear()

    # --- inside ------------------------------------------------------------------------------------------------

    def _net(self, cur: Cursor[Any], replica: Replica, tables: _Tables, changes: Changes) -> Loaded:
        lineages = Lineages.of(replica.table, changes)
        if tables.history is not None:
            versions = lineages.versions()
            how = history.stage_versions(replica, versions)
            with self._staging(cur, replica, how.all_columns, how.rows) as staged:
                waiting = history.StagedVersions(staged, how, int(changes.ordinal[0]))
                history.write(cur, replica, tables.landing, tables.history, waiting)
        writer = NetWriter(cur, replica, tables.landing, lineages.net(soft=replica.deletes == "soft"))
        what = writer.staging
        with self._staging(cur, replica, what.all_columns, what.rows) as staged:
            return _count_loaded(changes, writer.write(staged))

    def _whole_rows(self, cur: Cursor[Any], replica: Replica, tables: _Tables, changes: Changes) -> Loaded:
        what = full_rows(replica.table, changes, soft=replica.deletes == "soft")
        rows, columns = keyless.sign_rows(replica, what)
        with self._staging(cur, replica, columns, rows) as staged:
            keyless.write_signed(cur, replica, tables.landing, staged, rows)
        return _count_loaded(changes, Effects(what.inserts, what.updates, what.deletes))

    def _log(self, cur: Cursor[Any], replica: Replica, event: Changes | Truncated) -> Loaded:
        name = replica.table.name
        into = require_table(cur, replica, name, change_log.OWN_TYPES)
        rows = self._log_rows.setdefault(name, LogRows()).build(replica.table, event)
        columns = change_log.OWN if isinstance(event, Truncated) else (*replica.table.columns, *change_log.OWN)
        with self._staging(cur, replica, columns, rows) as staged:
            inserted = change_log.append(cur, into, columns, staged)
        return Loaded(1 if isinstance(event, Truncated) else len(event), inserted, 0, 0, rows.nbytes)

    def _standing(self, cur: Cursor[Any], replica: Replica) -> _Tables:
        name = replica.table.name
        if name not in self._tables:
            self._lock(cur, name)
            landing = require_table(cur, replica, name, own_columns(replica))
            if replica.table.key:
                ensure_key(cur, replica, landing)
            past = history.require_history(cur, replica) if replica.history else None
            self._tables[name] = _Tables(landing, past)
        return self._tables[name]

    @contextmanager
    def _staging(
        self, cur: Cursor[Any], replica: Replica, columns: Sequence[Column], rows: pa.Table
    ) -> Iterator[TableName]:
        name = replica.table.name
        _check_count(replica, len(columns) - len(replica.table.columns))
        staging = self._new_staging(name.schema)
        self.staged.append(staging)
        self._carrier.carry(staging, name, columns, rows)
        yield staging
        cur.execute(sql.SQL("DROP TABLE {}").format(identifier(staging)))

    @contextmanager
    def _telling(self, where: object) -> Iterator[Cursor[Any]]:
        try:
            with self._connection.cursor() as cur:
                yield cur
        except psycopg.DataError as error:
            raise TypeRefused(
                f"{where}: a value cannot be kept in Postgres: {error.diag.message_primary}",
                mend="types: {column: text}, or correct the column's type at the destination",
            ) from error


def _check_width(replica: Replica) -> None:
    """Refuse, before its first row, a table none of whose changes could be brought."""
    if replica.change_log:
        _check_count(replica, len(change_log.OWN))
    else:
        _check_count(replica, 1 + max(len(history.OWN) * replica.history, len(own_columns(replica))))


def _check_count(replica: Replica, own: int) -> None:
    """Raises TypeRefused: Postgres has no room for the columns of a changed row beside those that say what becomes of
    it, one of them for each column whose value was not sent."""
    if (count := len(replica.table.columns)) + own > _MOST_COLUMNS:
        raise TypeRefused(
            f"{replica.table.name} has {count} columns, and its changes come with {own} more: a table of Postgres has"
            f" {_MOST_COLUMNS} at most",
            mend=f"leave {count + own - _MOST_COLUMNS} of them out with `columns: {{exclude: [...]}}`, or"
            " `replication: initial_copy`",
        )


def _count_loaded(changes: Changes, counted: Effects) -> Loaded:
    size = int(changes.rows.nbytes)
    return Loaded(len(changes), counted.inserted, counted.updated, counted.deleted, size)


def _truncate(cur: Cursor[Any], replica: Replica, tables: _Tables, event: Truncated) -> int:
    """Rows that are gone, or got the time of the TRUNCATE."""
    if tables.history is not None:
        history.truncate(cur, tables.history, event)
    target = identifier(tables.landing.name)
    if replica.deletes == "soft":
        cur.execute(
            sql.SQL("UPDATE {} SET {} = {} WHERE {} IS NULL").format(
                target,
                sql.Identifier(DELETED_AT),
                history.moment_literal(event.committed_at),
                sql.Identifier(DELETED_AT),
            )
        )
        return cur.rowcount
    # Not TRUNCATE: readers would wait for the whole transaction, and could find a table without its rows.
    cur.execute(sql.SQL("DELETE FROM {}").format(target))
    return cur.rowcount
