"""Changes of several tables become visible in DuckDB together, in one transaction with checkpoints and receipts.

Rows are deleted by key and inserted, never updated in place: of 100,000 changes (70% inserts, 20% updates, 10% deletes)
of a table of 5 million rows and 10 columns, MERGE takes 0.7 to 4 s and its commit rewrites most of the file (3 to 12 s
together); DELETE and INSERT take 0.1 s, 0.3 s where values are kept (DuckDB 1.5.5, 2 cores). Two DELETEs, of rows that
are gone and of rows that come again, cost 0.05 s more than one, and give exact counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.duckdb import audit
from dbt_bridge.connectors.duckdb.following import history
from dbt_bridge.connectors.duckdb.following import keyless as multiset
from dbt_bridge.connectors.duckdb.following.join_copy import join, to_datetime
from dbt_bridge.connectors.duckdb.landing_table import (
    Source,
    Target,
    check_values,
    complete_rows,
    describe_types,
    insert,
    lend_rows,
    require_columns,
    require_table,
    reshape,
)
from dbt_bridge.connectors.duckdb.memory import Memory, Window, is_out_of_memory
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, fold_case
from dbt_bridge.connectors.duckdb.session import roll_back, translate_errors
from dbt_bridge.contracts.destination import (
    DELETED_AT,
    BeginAgain,
    Loaded,
    NotApplied,
    Replica,
    Staged,
    TooManyTables,
)
from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import TableName, quote_identifier
from dbt_bridge.replicate.change_log import LogRows
from dbt_bridge.replicate.compaction import Lineages, Net
from dbt_bridge.replicate.full_row import full_rows
from dbt_bridge.replicate.merge_rows import Effects
from dbt_bridge.replicate.replica_checks import check_names

_NOTHING = Loaded(0, 0, 0, 0, 0)
_KEYS, _LOGGED = "_dbt_bridge_keys", "_dbt_bridge_logged"


class DuckDBApplication:
    """An `Application` on one cursor. The transaction begins with the first call, so that copies which were staged
    before are seen."""

    def __init__(self, cur: Any, catalog: str, memory: Memory) -> None:
        self._cur = cur
        self._memory = memory
        self._windows: dict[TableName, Window] = {}
        self._largest: tuple[int, str] = (0, "")  # bytes that are needed at once, and whose they are
        self._catalog = catalog
        self._on = CatalogCursor(cur, catalog)
        self._open = False
        self._over = False
        self._changed: set[TableName] = set()
        self._touched: set[TableName] = set()
        self._last: dict[TableName, int] = {}  # the commit that the last piece of a history belongs to
        self._log_rows: dict[TableName, LogRows] = {}

    def join(self, replica: Replica, staged: Staged | Loaded, copied_at: int) -> Loaded:
        """Show a staged copy, with what the replica keeps beside its columns."""
        assert isinstance(staged, Staged), "DuckDB stages"
        with self._in_memory(replica.table.name, replica.node), translate_errors(replica.table.name, is_out_of_memory):
            self._begin()
            self._changed.add(replica.table.name)
            return join(self._on, replica, staged, copied_at)

    def apply(self, replica: Replica, event: Event) -> Loaded:
        """Apply a run of changes, a TRUNCATE or a change of the columns."""
        with self._in_memory(replica.table.name, replica.node), translate_errors(replica.table.name, is_out_of_memory):
            self._begin()
            self._touched.add(replica.table.name)
            check_names(replica, fold_case)
            if isinstance(event, Reshaped):
                return self._reshape(replica, event)
            self._changed.add(replica.table.name)
            if isinstance(event, Truncated):
                return self._truncate(replica, event)
            return self._change(replica, event) if len(event) else _NOTHING

    def commit(self, upto: int, checkpoints: Sequence[Checkpoint] = (), receipts: Sequence[Receipt] = ()) -> None:
        """Make it visible."""
        with self._in_memory("the changes' commit", ""), translate_errors("the changes' commit", is_out_of_memory):
            self._begin()
            audit.save_checkpoints(self._cur, self._catalog, checkpoints)
            audit.append_receipts(self._cur, self._catalog, receipts)
            self._cur.execute("COMMIT")
            self._open, self._over = False, True

    def undo(self) -> None:
        """Roll back what was not committed."""
        self._over = True
        if self._open:
            self._open = False
            roll_back(self._cur)

    @contextmanager
    def _in_memory(self, where: object, node: str) -> Iterator[None]:
        """Where it is too little, there is more of it the next time; or fewer tables are to be committed at once; a
        table that needs more than there is, is refused.

        Raises:
            BeginAgain: begin again at the last commit.
            TooManyTables: there is no more of it for all of them.
            TypeRefused: there is no more of it for this table.
            NotApplied: the same at the commit.
        """
        try:
            yield
        except duckdb.Error as error:  # none but those that are out of memory come so far
            if self._memory.make_more(where):
                raise BeginAgain(f"DuckDB was out of memory on {where}") from error
            if len(self._touched) > 1:
                raise TooManyTables(f"DuckDB was out of memory on {where}") from error
            if self._memory.make_all(where):
                raise BeginAgain(f"DuckDB was out of memory on {where}") from error
            refused = self._memory.refuse(self._largest[0], where)
            if not node and self._largest[1]:
                raise NotApplied(self._largest[1], refused) from error
            raise refused from error

    def _make_room(self, replica: Replica, rows: pa.Table) -> None:
        window = self._windows.setdefault(replica.table.name, Window()).add(rows)
        needed = self._memory.make_room(window, rows.num_columns, replica.table.name)
        self._largest = max(self._largest, (needed, replica.node))

    def _begin(self) -> None:
        assert not self._over, "an application is committed once"
        if not self._open:
            self._cur.execute("BEGIN")
            self._open = True

    def _change(self, replica: Replica, changes: Changes) -> Loaded:
        self._make_room(replica, changes.rows)
        if replica.change_log:
            return self._log(replica, changes)
        soft = replica.deletes == "soft"
        names = [*changes.rows.column_names, *([DELETED_AT] if soft else [])]
        state = require_columns(self._on, replica, replica.table.name, names)
        if not replica.table.key:
            rows = full_rows(replica.table, changes, soft=soft)
            multiset.write(self._on, replica, state, rows)
            return Loaded(len(changes), rows.inserts, rows.updates, rows.deletes, changes.rows.nbytes)
        lineages = Lineages.of(replica.table, changes)
        if replica.history:
            first = int(changes.ordinal[0])
            unfinished = first if first == self._last.get(replica.table.name) else None
            history.write(self._on, replica, state, lineages.versions(), unfinished)
            self._last[replica.table.name] = int(changes.ordinal[-1])
        effects = _write(self._on, replica, state, lineages.net(soft=soft))
        return Loaded(len(changes), effects.inserted, effects.updated, effects.deleted, changes.rows.nbytes)

    def _truncate(self, replica: Replica, event: Truncated) -> Loaded:
        if replica.change_log:
            return self._log(replica, event)
        at = to_datetime(event.committed_at)
        if replica.history:
            history.truncate(self._on, replica, event.ordinal, at)
        name = self._on.sql_name(require_table(self._on, replica, replica.table.name).name)
        if replica.deletes == "soft":
            marked = (
                f"UPDATE {name}\nSET {quote_identifier(DELETED_AT)} = ?\nWHERE {quote_identifier(DELETED_AT)} IS NULL"
            )
            deleted = self._on.scalar(marked, [at])
        else:
            deleted = self._on.scalar(f"DELETE FROM {name}")  # noqa: S608
        return Loaded(1, 0, 0, int(deleted), 0)

    def _reshape(self, replica: Replica, event: Reshaped) -> Loaded:
        names = [replica.table.name, *([replica.history_name] if replica.history else [])]
        changed = replica.table.name in self._changed
        altered = [reshape(self._on, replica, event, name, changed=changed) for name in names]
        if all(altered):  # and so rebuilt; what only loses a column at its origin stays as it was changed
            self._changed.discard(replica.table.name)
        return _NOTHING

    def _log(self, replica: Replica, event: Changes | Truncated) -> Loaded:
        rows = self._log_rows.setdefault(replica.table.name, LogRows()).build(replica.table, event)
        changes, size = (1, 0) if isinstance(event, Truncated) else (len(event), event.rows.nbytes)
        log = require_columns(self._on, replica, replica.table.name, [*rows.column_names])
        with lend_rows(self._on, _LOGGED, rows):
            check_values(self._on, log, _LOGGED, describe_types(self._on, _LOGGED))
            columns = {log.own[name]: quote_identifier(name) for name in rows.column_names}
            return Loaded(changes, insert(self._on, log, Source(_LOGGED, columns)), 0, 0, size)


def _write(on: CatalogCursor, replica: Replica, state: Target, net: Net) -> Effects:
    """Write it. With soft deletes a row that is written as deleted counts as that."""
    key, rows = list(replica.table.key), net.written.rows
    keys, dead = rows.select(key), rows.select(key).slice(0, 0)
    if DELETED_AT in rows.column_names:
        died = rows[DELETED_AT].is_valid()
        keys, dead = keys.filter(pc.invert(died)), keys.filter(died)
    with complete_rows(on, replica, state, net.written, state) as sources:
        deleted = _delete(on, state, net.deleted)
        _delete(on, state, dead)
        found = _delete(on, state, keys)
        written = sum(insert(on, state, source) for source in sources)
    updated = min(found, len(keys))  # of several rows with one key, which somebody made here, one stays
    return Effects(len(keys) - updated, updated, deleted + written - len(keys) + found - updated)


def _delete(on: CatalogCursor, state: Target, keys: pa.Table) -> int:
    if not len(keys):
        return 0
    matches = state.same_key(keys.column_names, f"{_KEYS}_")
    renamed = keys.rename_columns([f"{_KEYS}_{i}" for i in range(keys.num_columns)])
    with lend_rows(on, _KEYS, renamed):
        return int(on.scalar(f"DELETE FROM {state.sql} AS t\nUSING {_KEYS} AS s\nWHERE {matches}"))  # noqa: S608
