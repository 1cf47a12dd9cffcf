"""Changes are applied to Delta tables: gathered per table, and written as one MERGE each when they are committed.

There is no transaction over tables: each stands at the LSN in its own log (`landing_table`), which tells what is still
to be applied after a crash between two commits. A transaction of the origin that does not fit into memory is merged in
pieces, which readers see; they are taken back unless the last one arrives.

Rows of a table without a key can be added and the table be emptied; other changes of it are refused, for a MERGE cannot
take one of several equal rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.file_types import build_schema, fit_schema
from dbt_bridge.connectors.lake.delta import history
from dbt_bridge.connectors.lake.delta.landing_table import FollowedTable, format_moment, regroup
from dbt_bridge.connectors.lake.delta.net_effect import NetMerge
from dbt_bridge.connectors.lake.delta.session import DeltaSession, query
from dbt_bridge.contracts.destination import (
    CHANGE,
    COMMITTED_AT,
    DELETED_AT,
    CannotReshape,
    Loaded,
    NotApplied,
    Replica,
    Staged,
)
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.changes import (
    INSERT,
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
)
from dbt_bridge.replicate.change_log import (
    LOG_COLUMNS,
    SEQUENCE,
    LogRows,
)
from dbt_bridge.replicate.change_runs import join_runs, select_part
from dbt_bridge.replicate.compaction import Lineages
from dbt_bridge.replicate.merge_rows import DELETED_AT_COLUMN
from dbt_bridge.replicate.replica_checks import check_names, recopy_command
from dbt_bridge.system.memory_room import share_memory

_LOG = tuple(Column(name, type_) for name, type_ in LOG_COLUMNS.items())
_MOST_ROWS = 1_200_000  # that wait in memory for a table
_MOST_BYTES, _PART = 256 << 20, 16  # that wait for all tables, or a part of the memory that there is


@dataclass(slots=True)
class _Followed:
    """A replica's tables, and what is still to be written to them."""

    replica: Replica
    landing: FollowedTable
    history: FollowedTable | None
    waiting: list[Event] = field(default_factory=list)
    log_rows: LogRows = field(default_factory=LogRows)

    @property
    def tables(self) -> list[FollowedTable]:
        return [self.landing] if self.history is None else [self.history, self.landing]

    def overflows(self, event: Event) -> bool:
        """Whether so many rows wait that they are to be written before this one waits too."""
        runs = [run for run in (*self.waiting, event) if isinstance(run, Changes)]
        return bool(self.waiting) and sum(map(len, runs)) > _MOST_ROWS

    @property
    def bytes(self) -> int:
        """That wait."""
        return sum(int(run.rows.nbytes) for run in self.waiting if isinstance(run, Changes))


class DeltaApplication:
    """An `Application` over the Delta tables below one folder or bucket."""

    def __init__(self, session: DeltaSession, load_id: str) -> None:
        self._session = session
        self._load_id = load_id
        self._followed: dict[TableName, _Followed] = {}
        self._most_bytes = share_memory(_MOST_BYTES, _PART)
        self._bytes = 0  # that wait for all tables

    # --- Application -------------------------------------------------------------------------------------------

    def join(self, replica: Replica, staged: Staged | Loaded, copied_at: int) -> Loaded:
        """The rows are there already; what a replica has beside them is added."""
        assert isinstance(staged, Loaded), "Delta has no stages"
        name = replica.table.name
        self._bytes -= gone.bytes if (gone := self._followed.pop(name, None)) is not None else 0
        check_names(replica, str.lower)
        landing = self._open(name, replica, anew=True)
        own = _LOG if replica.change_log else (DELETED_AT_COLUMN,) if replica.deletes == "soft" else ()
        if missing := [column for column in own if column.name not in landing.schema.names]:
            landing.add_columns(missing)
        if replica.change_log:
            _log_copy(landing, copied_at)
        past = None
        if replica.history:
            past = history.join(self._session, replica, landing, copied_at, self._load_id)
        self._followed[name] = _Followed(replica, landing, past)
        return staged

    def apply(self, replica: Replica, event: Event) -> Loaded:
        """Take it; written at the commit, or when too much waits.

        Counts: rows_loaded; None of the others, which are known at the commit only.
        """
        followed = self._of(replica)
        if isinstance(event, Changes):
            _refuse_whole_rows(replica, event)
        if isinstance(event, Reshaped):
            self._write(followed)
            _reshape(followed, event)
            return Loaded(0, 0, 0, 0, 0)
        if followed.overflows(event):
            self._write(followed)
        loaded, size = (1, 0) if isinstance(event, Truncated) else (len(event), int(event.rows.nbytes))
        self._write_largest(size, followed)
        followed.replica = replica
        followed.waiting.append(event)
        self._bytes += size
        return Loaded(loaded, None, None, None, size)

    def commit(self, upto: int, checkpoints: Sequence[Checkpoint] = (), receipts: Sequence[Receipt] = ()) -> None:
        """Write what waits, one commit per table. Delta is no ledger: it keeps no checkpoints and receipts."""
        assert not checkpoints and not receipts, "Delta is no ledger"
        for followed in self._followed.values():
            self._write_another(followed, upto)
        self._followed.clear()
        self._bytes = 0

    def undo(self) -> None:
        """Take back what was written in pieces and belongs to no LSN."""
        for followed in self._followed.values():
            for table in followed.tables:
                table.undo()
        self._followed.clear()
        self._bytes = 0

    # --- inside ------------------------------------------------------------------------------------------------

    def _of(self, replica: Replica) -> _Followed:
        name = replica.table.name
        if name not in self._followed:
            landing = self._open(name, replica)
            past = self._open(replica.history_name, replica) if replica.history else None
            _check(replica, landing, past)
            self._followed[name] = _Followed(replica, landing, past)
        return self._followed[name]

    def _open(self, name: TableName, replica: Replica, *, anew: bool = False) -> FollowedTable:
        delta = self._session.open(name)
        if delta is None:
            raise TypeRefused(f"the Delta table {name} is not there any more", mend=recopy_command(replica.node))
        return FollowedTable(name, delta, self._load_id, anew=anew)

    def _write_largest(self, more: int, to: _Followed) -> None:
        """Before so many more bytes wait for a table: write those for which most of them do, until there is room."""
        while self._bytes and self._bytes + more > self._most_bytes:
            largest = max(self._followed.values(), key=lambda followed: followed.bytes)
            if largest is to:
                self._write(largest)
            else:
                self._write_another(largest)

    def _write_another(self, followed: _Followed, upto: int | None = None) -> None:
        """Write what waits for a table while another one, or all of them, are asked for: which one refused is told."""
        try:
            self._write(followed, upto)
        except (TypeRefused, KeyRefused, CannotReshape) as error:
            raise NotApplied(followed.replica.node, error) from error

    def _write(self, followed: _Followed, upto: int | None = None) -> None:
        """Write what waits; with `upto` each table's last commit says where it stands.

        The history goes first, for it needs values of the rows that stand. After a crash between the two it is ahead:
        what it has already is then for the landing table alone, however many batches or pieces bring that again.
        """
        runs = join_runs(followed.waiting)
        self._bytes -= followed.bytes
        followed.waiting = []
        stands = ahead = followed.landing.position
        if followed.history is not None:
            ahead = max(stands, followed.history.position)
        if ahead > stands:
            behind = [select_part(run, stands, ahead) for run in runs]
            self._land(followed, behind, None if upto is None else min(upto, ahead))
        if followed.history is not None:
            history.write(followed.replica, followed.landing, followed.history, runs, upto)
        self._land(followed, [select_part(run, ahead, None) for run in runs], upto)

    def _land(self, followed: _Followed, parts: Sequence[Changes | Truncated | None], upto: int | None) -> None:
        runs = [run for run in parts if run is not None]
        table = followed.landing
        for i, run in enumerate(runs):
            write = _build_step(followed, run)
            if upto is not None and i + 1 == len(runs):
                table.last_step(write, upto)
            else:
                table.step(write)
        if upto is not None and not runs:
            table.last_step(None, upto)


def _log_copy(log: FollowedTable, copied_at: int) -> None:
    """The copy's rows, which are there without the log's own columns, become inserts after a truncate, if any."""
    change, schema = quote_identifier(CHANGE), log.schema
    logs_already = query(log.delta, f"SELECT {change} FROM t WHERE {change} IS NOT NULL LIMIT 1").read_all()  # noqa: S608
    unsaid = query(log.delta, f"SELECT * FROM t WHERE {change} IS NULL")  # noqa: S608
    number = 0
    if len(logs_already):
        first = pa.table({CHANGE: ["truncate"], SEQUENCE: [0], COMMITTED_AT: pa.array([copied_at])})
        log.append(_as_written(first, schema))
        number = 1
    for chunk in regroup(unsaid):
        rows = chunk.drop_columns(list(LOG_COLUMNS))
        rows = rows.append_column(CHANGE, pa.repeat("insert", len(rows)))
        rows = rows.append_column(SEQUENCE, pa.array(np.arange(number, number + len(rows))))
        rows = rows.append_column(COMMITTED_AT, pa.array(np.full(len(rows), copied_at)))
        number += len(rows)
        log.append(_as_written(rows, schema))
    log.step(lambda properties: log.delta.delete(f"{change} IS NULL", commit_properties=properties))


def _as_written(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [rows[f.name] if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in schema]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _build_step(followed: _Followed, run: Changes | Truncated) -> Any:
    """What writes a run to its landing table, given the properties of the commit."""
    replica, table = followed.replica, followed.landing
    if replica.change_log:
        rows = followed.log_rows.build(replica.table, run)
        columns = _LOG if isinstance(run, Truncated) else (*replica.table.columns, *_LOG)
        return table.build_append(table.cast_rows(columns, rows.select([c.name for c in columns])))
    if isinstance(run, Truncated):
        return _build_truncate(replica, table, run)
    if not replica.table.key:
        return table.build_append(table.cast_rows(replica.table.columns, run.rows))
    return NetMerge(replica, table, Lineages.of(replica.table, run).net(soft=replica.deletes == "soft")).step


def _build_truncate(replica: Replica, table: FollowedTable, run: Truncated) -> Any:
    if replica.deletes == "hard":
        return lambda properties: table.delta.delete(commit_properties=properties)
    alive = f"{quote_identifier(DELETED_AT)} IS NULL"
    died = {quote_identifier(DELETED_AT): format_moment(run.committed_at)}
    return lambda properties: table.delta.update(updates=died, predicate=alive, commit_properties=properties)


def _refuse_whole_rows(replica: Replica, changes: Changes) -> None:
    if replica.table.key or replica.change_log or bool((changes.kind == INSERT).all()):
        return
    raise KeyRefused(
        f"{replica.table.name} has no key, and in a Delta table no single one of equal rows can be changed",
        mend="give the table a primary key, or name one in primary_key:, or `write_disposition: append` for a log of"
        " its changes",
    )


def _check(replica: Replica, landing: FollowedTable, past: FollowedTable | None) -> None:
    """Raises TypeRefused where a column is missing or has a type that does not take the changes."""
    mend = recopy_command(replica.node)
    own = _LOG if replica.change_log else (DELETED_AT_COLUMN,) if replica.deletes == "soft" else ()
    wanted = [(landing, own), *([(past, history.OWN)] if past is not None else [])]
    for table, more in wanted:
        there = table.schema
        for column in (*replica.table.columns, *more):
            if column.name not in there.names:
                raise TypeRefused(f"{table.name} has no column {column.name!r} any more", mend=mend)
        fit_schema(there, build_schema(Table(table.name, (*replica.table.columns, *more))), replica.table)


def _reshape(followed: _Followed, event: Reshaped) -> None:
    """Add columns. A column that the origin dropped stays, with its values.

    Raises:
        CannotReshape: a column was renamed, which Delta can only by rewriting its protocol, or changed its type.
    """
    replica = followed.replica
    mend = recopy_command(replica.node)
    if event.renamed:
        raise CannotReshape(f"columns of the Delta table {replica.table.name} cannot be renamed", mend=mend)
    before = {column.name for column in replica.table.columns}
    added = [column for column in event.columns if column.name not in before]
    for table in followed.tables:
        for column in added:
            if column.name in table.schema.names and not _is_empty(table, column.name):
                raise CannotReshape(f"{table.name} already has values in a column {column.name!r}", mend=mend)
        try:
            fit_schema(table.schema, build_schema(Table(table.name, tuple(event.columns))), replica.table)
        except TypeRefused as refused:
            raise CannotReshape(refused.what, mend=mend) from None
        if missing := [column for column in added if column.name not in table.schema.names]:
            table.add_columns(missing)


def _is_empty(table: FollowedTable, column: str) -> bool:
    statement = f"SELECT count({quote_identifier(column)}) AS n FROM t"  # noqa: S608
    return bool(query(table.delta, statement).read_all()["n"][0].as_py() == 0)
