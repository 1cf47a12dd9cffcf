"""Changes are applied to a warehouse that is reached through dlt: staged as a table, then merged by SQL.

dlt loads the staging table as it loads any other: into Snowflake by PUT, into Redshift and BigQuery by their own ways,
and into Databricks through a Unity Catalog volume (`staging_volume_name` of dlt's Databricks destination, which makes a
managed volume `_dlt_staging_load_volume` by default; dlt's documentation, "Databricks", "Staging support").

All statements of a commit, with the LSN in `_dbt_bridge_applied` beside the tables, are one transaction where the
warehouse has them (all but Databricks). Without transactions each is safe to repeat: a MERGE of a net effect leaves the
same rows again, and a log takes no entry twice; what would not be (a moved row that keeps values) is refused.

A history is not kept here: its versions cannot be written exactly once without transactions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from dbt_bridge.connectors.dlt.merge_sql import MergeSql, table_of
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    DELETED_AT,
    CannotReshape,
    Load,
    Loaded,
    Replica,
    Staged,
)
from dbt_bridge.errors import KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.changes import (
    INSERT,
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.change_log import (
    LOG_COLUMNS,
    SEQUENCE,
    UNCHANGED,
    LogRows,
)
from dbt_bridge.replicate.change_runs import join_runs, select_part
from dbt_bridge.replicate.compaction import Lineages
from dbt_bridge.replicate.merge_rows import (
    DELETED_AT_COLUMN,
    build_staging,
    choose_actions,
)
from dbt_bridge.replicate.replica_checks import check_names, recopy_command

APPLIED = "_dbt_bridge_applied"
_STAGING = "_dbt_bridge_stage"
_LOG = tuple(Column(n, pa.string() if pa.types.is_list(t) else t) for n, t in LOG_COLUMNS.items())
# Where dlt's `begin_transaction` begins one; its capabilities do not tell (1.31): of Databricks it does nothing.
_TRANSACTIONS = ("snowflake", "bigquery", "redshift", "postgres", "duckdb")
_MOST_ROWS, _MOST_BYTES = 1_000_000, 256 << 20


@dataclass(slots=True)
class _Followed:
    """A replica, what waits in memory, and what is staged with the statements that will write it."""

    replica: Replica
    position: int
    waiting: list[Event] = field(default_factory=list)
    statements: list[_Statement] = field(default_factory=list)
    log_rows: LogRows = field(default_factory=LogRows)

    def is_full(self) -> bool:
        runs = [event for event in self.waiting if isinstance(event, Changes)]
        return sum(map(len, runs)) >= _MOST_ROWS or sum(run.rows.nbytes for run in runs) >= _MOST_BYTES


@dataclass(frozen=True, slots=True)
class _Statement:
    """SQL to run at the commit; one that counts refuses what it counts."""

    sql: str
    counts: bool = False


class DltApplication:
    """An `Application` over a destination of dlt's with SQL."""

    def __init__(self, destination: Any, load_id: str) -> None:
        self._destination = destination
        self._load_id = load_id
        abilities = destination.session.capabilities()
        self._dialect = str(abilities.sqlglot_dialect)
        self._transactions = self._dialect in _TRANSACTIONS
        self._followed: dict[TableName, _Followed] = {}
        self._staged: list[TableName] = []

    # --- Application -------------------------------------------------------------------------------------------

    def join(self, replica: Replica, staged: Staged | Loaded, copied_at: int) -> Loaded:
        """The rows are there already; what a replica has beside them is added."""
        assert isinstance(staged, Loaded), "no stages here"
        check_names(replica, str.lower)
        _check_kind(replica)
        own = _own(replica)
        if own:
            self._add_columns(replica, (*replica.table.columns, *own))
        followed = _Followed(replica, -1)
        if replica.change_log:
            with self._sql(replica) as (path, stored, _):
                followed.statements += self._log_copy(path(replica.table.name.name), stored, copied_at)
        self._followed[replica.table.name] = followed
        return staged

    def apply(self, replica: Replica, event: Event) -> Loaded:
        """Take it; written at the commit. Counts: rows_loaded, and None."""
        followed = self._of(replica)
        if isinstance(event, Reshaped):
            self._stage(followed)
            self._reshape(replica, event)
            return Loaded(0, 0, 0, 0, 0)
        if isinstance(event, Changes) and not replica.table.key and not replica.change_log:
            _refuse_whole_rows(replica, event)
        followed.replica = replica
        followed.waiting.append(event)
        if followed.is_full():
            self._stage(followed)
        if isinstance(event, Truncated):
            return Loaded(1, None, None, None, 0)
        return Loaded(len(event), None, None, None, int(event.rows.nbytes))

    def commit(self, upto: int, checkpoints: Sequence[Checkpoint] = (), receipts: Sequence[Receipt] = ()) -> None:
        for followed in self._followed.values():
            self._stage(followed)
        for schema in {name.schema for name in self._followed}:
            self._run([f for name, f in self._followed.items() if name.schema == schema], upto)
        self._followed.clear()
        self.undo()
        self._destination.save_ledger(checkpoints, receipts)

    def undo(self) -> None:
        """Drop what was staged."""
        self._followed.clear()
        staged, self._staged = self._staged, []
        for schema in {name.schema for name in staged}:
            with self._destination.session.sql_client(TableName(schema, _STAGING)) as client:
                client.drop_tables(*[name.name for name in staged if name.schema == schema])

    # --- inside ------------------------------------------------------------------------------------------------

    def _of(self, replica: Replica) -> _Followed:
        name = replica.table.name
        if name not in self._followed:
            _check_kind(replica)
            names = [column.name for column in (*replica.table.columns, *_own(replica))]
            there = self._destination.find_table(name, names)
            mend = recopy_command(replica.node)
            if there is None:
                raise TypeRefused(f"the table {name} is not there any more", mend=mend)
            for column in names:
                if there.column(column) is None:
                    raise TypeRefused(f"{name} has no column {column!r} any more", mend=mend)
            self._followed[name] = _Followed(replica, self._destination.position(replica) or -1)
        return self._followed[name]

    def _stage(self, followed: _Followed) -> None:
        """Bring what waits to the warehouse, and note how it will be written."""
        runs = [select_part(run, followed.position, None) for run in join_runs(followed.waiting)]
        followed.waiting = []
        for run in runs:
            if run is not None:
                followed.statements += self._statements(followed, run)

    def _statements(self, followed: _Followed, run: Changes | Truncated) -> list[_Statement]:
        replica = followed.replica
        if replica.change_log:
            return self._log(followed, run)
        if isinstance(run, Truncated):
            return self._build_truncate(replica, run)
        if replica.table.key:
            return self._net(replica, run)
        return self._build_append(replica, replica.table.columns, run.rows)

    def _net(self, replica: Replica, run: Changes) -> list[_Statement]:
        net = Lineages.of(replica.table, run).net(soft=replica.deletes == "soft")
        moves = net.written.moved
        own = _own(replica)
        staging = build_staging(replica, own, net.written, net.deleted, choose_actions(net.written))
        rows, columns = staging.rows, list(staging.all_columns)
        names = {c.name for c in staging.columns}
        there = self._destination.find_table(replica.table.name, names)
        assert there is not None, "looked at before"
        extra = [c for c in there.columns if c.name not in names]
        if moves.any():
            if not self._transactions and (staging.kept or extra):
                raise CannotReshape(
                    f"rows of {replica.table.name} moved to other keys and keep values that only the landing table has,"
                    f" which {self._destination.name!r} cannot take along without transactions",
                    mend=recopy_command(replica.node),
                )
            columns += extra
            for column in extra:
                rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
        staged = self._load(replica, columns, rows)
        with self._sql(replica) as (path, stored, _):
            merge = MergeSql(
                self._dialect,
                path(replica.table.name.name),
                path(staged.name),
                replica.table.key,
                [c.name for c in staging.columns],
                staging.kept,
                staging.found if moves.any() else {},
                [c.name for c in extra],
                stored,
            )
            statements = [_Statement(count, counts=True) for count in (merge.missing() if staging.kept else [])]
            if moves.any() and (staging.kept or extra):
                statements.append(_Statement(merge.take_along()))
                statements += [_Statement(settle) for settle in [merge.settle()] if settle]
            return statements + [_Statement(statement) for statement in merge.write()]

    def _build_truncate(self, replica: Replica, run: Truncated) -> list[_Statement]:
        with self._sql(replica) as (path, stored, _):
            target = table_of(path(replica.table.name.name))
            if replica.deletes == "hard":
                return [_Statement(exp.Delete(this=target).where(exp.true()).sql(self._dialect))]
            column = exp.column(exp.to_identifier(stored(DELETED_AT), quoted=True))
            update = exp.Update(this=target, expressions=[exp.EQ(this=column, expression=_moment(run.committed_at))])
            return [_Statement(update.where(column.is_(exp.null())).sql(self._dialect))]

    def _log(self, followed: _Followed, run: Changes | Truncated) -> list[_Statement]:
        replica = followed.replica
        rows = followed.log_rows.build(replica.table, run)
        unsent = pc.binary_join(rows[UNCHANGED].combine_chunks(), ",") if len(rows) else pa.array([], pa.string())
        rows = rows.set_column(rows.column_names.index(UNCHANGED), UNCHANGED, unsent)
        columns = _LOG if isinstance(run, Truncated) else (*replica.table.columns, *_LOG)
        return self._build_append(replica, columns, rows, once=(CHANGE_LSN, SEQUENCE))

    def _build_append(
        self, replica: Replica, columns: Sequence[Column], rows: pa.Table, once: Sequence[str] = ()
    ) -> list[_Statement]:
        """Rows that are added; those that are there already, by some columns, are not."""
        if not once and not self._transactions:
            raise UsageError(
                f"{replica.table.name} has no key, and {self._destination.name!r} has no transactions, so a row could"
                " be added twice",
                mend="`write_disposition: append` for a log of its changes, or a primary key at the origin",
            )
        staged = self._load(replica, columns, rows)
        with self._sql(replica) as (path, stored, _):
            names = [exp.to_identifier(stored(c.name), quoted=True) for c in columns]
            target = path(replica.table.name.name)
            new = exp.select(*(exp.column(n, table="s") for n in names)).from_(table_of(path(staged.name), "s"))
            if once:
                keys = [exp.to_identifier(stored(n), quoted=True) for n in once]
                same = exp.and_(*(exp.column(k, table="t").eq(exp.column(k, table="s")) for k in keys))
                new = new.where(exp.not_(exp.Exists(this=exp.select("1").from_(table_of(target, "t")).where(same))))
            into = exp.Schema(this=table_of(target), expressions=list(names))
            return [_Statement(exp.Insert(this=into, expression=new).sql(self._dialect))]

    def _log_copy(self, target: Sequence[str], stored: Callable[[str], str], copied_at: int) -> list[_Statement]:
        names = [exp.column(exp.to_identifier(stored(n), quoted=True)) for n in (CHANGE, COMMITTED_AT)]
        values = [exp.Literal.string("insert"), _moment(copied_at)]
        changes = [exp.EQ(this=n, expression=v) for n, v in zip(names, values, strict=True)]
        update = exp.Update(this=table_of(target), expressions=changes).where(names[0].is_(exp.null()))
        return [_Statement(update.sql(self._dialect))]

    def _run(self, followed: Sequence[_Followed], upto: int) -> None:
        """All statements of one dataset, and where its tables stand then."""
        self._destination.ensure_applied(followed[0].replica.table.name.schema)
        with ExitStack() as stack:
            path, stored, client = stack.enter_context(self._sql(followed[0].replica))
            if self._transactions:
                stack.enter_context(client.begin_transaction())
            for one in followed:
                for statement in one.statements:
                    self._execute(client, one.replica, statement)
                for done in self._stands_at(path(APPLIED), stored, one.replica.node, upto):
                    client.execute_sql(done)

    def _execute(self, client: Any, replica: Replica, statement: _Statement) -> None:
        found = client.execute_sql(statement.sql)
        if statement.counts and found and found[0][0]:
            raise KeyRefused(
                f"{found[0][0]} rows of {replica.table.name} are not there any more, and changes of them do not bring"
                " every value",
                mend=recopy_command(replica.node),
            )

    def _stands_at(self, applied: Sequence[str], stored: Callable[[str], str], node: str, upto: int) -> list[str]:
        names = [exp.to_identifier(stored(n), quoted=True) for n in ("node", "lsn")]
        whose = exp.column(names[0]).eq(exp.Literal.string(node))
        values = exp.select(exp.Literal.string(node), exp.Literal.number(upto))
        into = exp.Schema(this=table_of(applied), expressions=list(names))
        return [
            exp.Delete(this=table_of(applied)).where(whose).sql(self._dialect),
            exp.Insert(this=into, expression=values).sql(self._dialect),
        ]

    def _load(self, replica: Replica, columns: Sequence[Column], rows: pa.Table) -> TableName:
        name = TableName(replica.table.name.schema, f"{_STAGING}_{secrets.token_hex(6)}")
        self._staged.append(name)
        table = Table(name, tuple(columns))
        chosen = rows.select([c.name for c in columns]).cast(table.arrow_schema)
        self._destination.load(Load(table, "append", self._load_id), chosen.to_reader())
        return name

    def _add_columns(self, replica: Replica, columns: Sequence[Column]) -> None:
        """dlt adds the columns that even a load without rows brings."""
        table = Table(replica.table.name, tuple(columns))
        self._destination.load(Load(table, "append", self._load_id), table.arrow_schema.empty_table().to_reader())

    def _reshape(self, replica: Replica, event: Reshaped) -> None:
        mend = recopy_command(replica.node)
        there = self._destination.find_table(replica.table.name, [c.name for c in event.columns])
        before = {c.name: c.type for c in replica.table.columns}
        if event.renamed or any(before.get(c.name, c.type) != c.type for c in event.columns):
            raise CannotReshape(f"columns of {replica.table.name} cannot be changed through dlt", mend=mend)
        added = [c for c in event.columns if c.name not in before]
        if taken := next((c.name for c in added if there is not None and there.column(c.name)), None):
            raise CannotReshape(f"{replica.table.name} already has a column {taken!r}", mend=mend)
        if added:
            self._add_columns(replica, (*event.columns, *_own(replica)))

    @contextmanager
    def _sql(self, replica: Replica) -> Iterator[tuple[Callable[[str], list[str]], Callable[[str], str], Any]]:
        """How tables and columns are spelled there, and the client."""
        with self._destination.session.sql_client(replica.table.name) as client:

            def path(name: str) -> list[str]:
                return list(client.make_qualified_table_name_path(name, quote=False))

            def stored(name: str) -> str:
                return str(client.escape_column_name(name, quote=False))

            yield path, stored, client


def _own(replica: Replica) -> tuple[Column, ...]:
    if replica.change_log:
        return _LOG
    return (DELETED_AT_COLUMN,) if replica.deletes == "soft" else ()


def _check_kind(replica: Replica) -> None:
    if replica.history and not replica.change_log:
        raise UsageError(
            f"{replica.table.name}: a history is kept in DuckDB, Postgres and Delta; through dlt it would not be exact",
            mend="leave out `history:`, or `write_disposition: append` for a log, from which every version follows",
        )


def _refuse_whole_rows(replica: Replica, changes: Changes) -> None:
    if not bool((changes.kind == INSERT).all()):
        raise KeyRefused(
            f"{replica.table.name} has no key, and through dlt no single one of equal rows can be changed",
            mend="name a key in primary_key:, or `write_disposition: append` for a log of its changes; until then"
            f" {recopy_command(replica.node)}",
        )


def _moment(microseconds: int) -> exp.Expression:
    from datetime import UTC, datetime, timedelta

    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return exp.cast(exp.Literal.string(at.isoformat(sep=" ", timespec="microseconds")), "timestamptz")
