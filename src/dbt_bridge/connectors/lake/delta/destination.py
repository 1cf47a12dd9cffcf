"""Delta tables, written by delta-rs without Spark: one load is one commit, and rows stream through.

    replace   one overwrite, with the new rows' schema
    append    one commit; with a window, one overwrite of the rows inside it (Delta's replaceWhere)
    merge     one MERGE. The new rows are held in memory, to keep the last one of each key

A killed load leaves files that no commit names, which nobody reads and `VACUUM` removes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.counted_reader import CountedReader
from dbt_bridge.arrow.file_types import build_schema, cast_batch, fit_schema, map_column
from dbt_bridge.connectors.lake.delta.landing_table import find_matches
from dbt_bridge.connectors.lake.delta.marks import find_mark, has_token, list_transactions, prepare_merge
from dbt_bridge.connectors.lake.delta.session import STANDS_AT, DeltaSession, query, schema_of, translate
from dbt_bridge.connectors.lake.location import Lake, lake_of
from dbt_bridge.connectors.lake.state import DatasetState
from dbt_bridge.contracts.destination import (
    Load,
    Loaded,
    Replica,
    Window,
)
from dbt_bridge.contracts.outgoing import CREATED, Mark, Outgoing
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_literal,
)
from dbt_bridge.replicate.fit_standing import cast_standing, describe_evolution, fit_evolving, fit_standing, pad_columns
from dbt_bridge.replicate.loads import check_cursor, check_load, last_per_key, several_rows

if TYPE_CHECKING:
    from dbt_bridge.connectors.lake.delta.apply import DeltaApplication

# The minimum and maximum of a decimal column are doubles in Delta's log. deltalake 1.x compares with them to pass over
# files, and finds none of the rows whose values differ after those digits.
_STATISTICS_DIGITS = 15
_GONE = "_dbt_bridge_gone"
_TEXTS = ("string", "large_string", "string_view")


class DeltaDestination:
    """A `Destination` of Delta tables below one folder or bucket."""

    def __init__(self, name: str, lake: Lake) -> None:
        self.name = name
        self._lake = lake
        self.session = DeltaSession(lake)

    @classmethod
    def of(cls, name: str, configuration: Any) -> DeltaDestination:
        """From the configuration of dlt's filesystem destination."""
        return cls(name, lake_of(configuration))

    def close(self) -> None:
        """Nothing is held open between loads."""

    def map_column(self, column: Column) -> Column:
        """See `arrow/file_types.py`."""
        return map_column(column)

    def find_table(self, name: TableName) -> Table | None:
        table = self.session.open(name)
        return None if table is None else Table.of_schema(name, schema_of(table))

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Load one table in one commit.

        Raises:
            UsageError, KeyRefused, TypeRefused: before anything is written, or before the commit.
            DestinationError: the store refused or broke off; no commit was made.
        """
        check_load(load)
        there = self.session.open(load.table.name)
        if load.write_disposition == "merge":
            return self._merge(load, batches, there)
        shape = _Shape.of(load, there)
        schema = shape.schema
        passing = CountedReader(batches, schema, shape.cast)
        written = passing
        if load.one_per_key:
            kept = last_per_key(load, passing.reader().read_all())
            written = CountedReader(kept.to_reader(), schema, lambda batch: batch)
        before = 0 if there is None else there.count()
        predicate = _build_predicate(load.window, schema_of(there), load.table.name) if load.window and there else None
        replace = there is None or load.write_disposition == "replace"
        self._write(load, written, predicate, replace=replace, shape=shape)
        after = self._count_rows(load.table.name)
        if load.write_disposition == "replace":
            return Loaded(passing.rows, after, 0, before, passing.bytes, shape.changes)
        return Loaded(passing.rows, passing.rows, 0, before + passing.rows - after, passing.bytes, shape.changes)

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """What `load` would do, counted against the table's rows."""
        check_load(load)
        there = self.session.open(load.table.name)
        shape = _Shape.of(load, there)
        passing = CountedReader(batches, shape.schema, shape.cast)
        if load.write_disposition == "merge":
            rows = last_per_key(load, passing.reader().read_all())
            updated = 0 if there is None else count_matching(there, rows, load.table.key)
            gone = None if load.delivery is None else load.delivery.deletes
            deleted = 0 if there is None or gone is None else count_matching(there, gone, load.table.key)
            return Loaded(passing.rows, len(rows) - updated, updated, deleted, passing.bytes, shape.changes)
        for _ in passing.reader():
            pass
        deleted = 0
        if there is not None and load.write_disposition == "replace":
            deleted = there.count()
        elif there is not None and load.window is not None:
            inside = _build_predicate(load.window, schema_of(there), load.table.name)
            counted = query(there, f"SELECT count(*) AS n FROM t WHERE {inside}").read_all()  # noqa: S608
            deleted = int(counted["n"][0].as_py())
        return Loaded(passing.rows, passing.rows, 0, deleted, passing.bytes, shape.changes)

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """See `RemembersAppends`."""
        table = self.session.open(name)
        return table is not None and has_token(table, delivery) and bool(table.count())

    def find_mark(self, name: TableName, delivery: Outgoing) -> Mark:
        """See `DeletesOwn`."""
        return find_mark(self.session, name, delivery)

    def hold(self, name: TableName, delivery: Outgoing) -> AbstractContextManager[None]:
        """See `DeletesOwn`. Nothing is held in files: of two commits at once Delta refuses the second."""
        return nullcontext()

    @contextmanager
    def open_state(self) -> Iterator[DatasetState]:
        """Each table at the version that it has when it is asked for first. Delta has no state of several tables."""
        yield DatasetState(self.session.open_finished)

    # --- Follows -----------------------------------------------------------------------------------------------

    chunk_rows = 1_000_000  # a MERGE rewrites most files of a table, however few its rows are

    @contextmanager
    def open_application(self, load_id: str) -> Iterator[DeltaApplication]:
        """Apply changes; see `apply`."""
        from dbt_bridge.connectors.lake.delta.apply import DeltaApplication

        application = DeltaApplication(self.session, load_id)
        try:
            yield application
        finally:
            application.undo()

    def check_key(self, name: TableName, column: Column) -> None:
        """See `ComparesKeys`."""
        if pa.types.is_nested(column.type) and _holds_floats(column.type):
            raise KeyRefused(
                f"{name}: the key column {column.name!r} holds floats inside of {column.type}, and Delta takes one NaN"
                " for another value than the next",
                mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
            )

    def position(self, replica: Replica) -> int | None:
        """The LSN in the table's log, or in its history's where that is less; None without one."""
        names = [replica.table.name, *([replica.history_name] if replica.history else [])]
        tables = [self.session.open(name) for name in names]
        found = [None if table is None else table.transaction_version(STANDS_AT) for table in tables]
        known = [int(position) for position in found if position is not None]
        return min(known) if len(known) == len(names) else None

    # --- inside ------------------------------------------------------------------------------------------------

    def _count_rows(self, name: TableName) -> int:
        table = self.session.open(name)
        return 0 if table is None else int(table.count())

    def _write(
        self, load: Load, passing: CountedReader, predicate: str | None, *, replace: bool, shape: _Shape
    ) -> None:
        from deltalake import write_deltalake

        write: Any = write_deltalake  # its overloads tell overwriting and appending apart
        overwrite = replace or predicate is not None
        self._committing(
            load,
            passing,
            lambda: write(
                self._lake.folder(load.table.name),
                passing.reader(),
                mode="overwrite" if overwrite else "append",
                schema_mode=None if shape.is_standing and replace else "overwrite" if replace else "merge",
                description=shape.mark,
                predicate=predicate,
                storage_options=dict(self._lake.storage_options),
                commit_properties=_properties(load),
            ),
        )

    def _merge(self, load: Load, batches: pa.RecordBatchReader, there: Any) -> Loaded:
        shape = _Shape.of(load, there)
        schema = shape.schema
        passing = CountedReader(batches, schema, shape.cast)
        rows = last_per_key(load, passing.reader().read_all())
        prepare_merge(self.session, load.table.name, load.delivery)
        if there is None:
            all_new = CountedReader(rows.to_reader(), schema, lambda batch: batch)
            self._write(load, all_new, None, replace=True, shape=shape)
            return Loaded(passing.rows, len(rows), 0, 0, passing.bytes, shape.changes)
        _refuse_doubles(there, rows, load)
        counted = self._committing(load, passing, lambda: _merge_rows(there, rows, load))
        inserted, updated, deleted = (counted[f"num_target_rows_{did}"] for did in ("inserted", "updated", "deleted"))
        return Loaded(passing.rows, inserted, updated, deleted, passing.bytes, shape.changes)

    def _committing(self, load: Load, passing: CountedReader, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except Exception as error:
            if passing.failure is not None:
                raise passing.failure from None
            raise translate(error, load.table.name) from error


@dataclass(frozen=True, slots=True)
class _Shape:
    """The schema in which a load is written.

    Attributes:
        cast: a batch of the load in that schema.
        is_standing: the table's own schema, which is not to change.
        changes: what the load does to the table itself, where it is a delivery.
        mark: of a table that this load creates as a delivery.
    """

    schema: pa.Schema
    cast: Callable[[pa.RecordBatch], pa.RecordBatch]
    is_standing: bool = False
    changes: tuple[str, ...] = ()
    mark: str | None = None

    @classmethod
    def of(cls, load: Load, there: Any) -> _Shape:
        """For a table that stands, or None.

        Raises:
            TypeRefused: a column does not fit the table.
        """
        schema, delivery = build_schema(load.table), load.delivery

        def cast(batch: pa.RecordBatch) -> pa.RecordBatch:
            return cast_batch(batch, load.table, schema)

        if there is None:
            return cls(schema, cast) if delivery is None else cls(schema, cast, changes=(CREATED,), mark=delivery.mark)
        existing = schema_of(there)
        replaces = load.write_disposition == "replace"
        if delivery is None:
            schema = schema if replaces else fit_schema(existing, schema, load.table)
            return cls(schema, cast)
        if delivery.evolve or delivery.owns(there.metadata().description):
            if not replaces:
                schema = fit_evolving(existing, schema, load)
            elif existing.names != schema.names and set(existing.names) - set(schema.names):
                kept = [field for field in existing if field.name not in schema.names]  # which somebody may have added
                return cls._padded(load, pa.schema([*schema, *kept]), schema, existing)
            return cls(schema, cast, changes=describe_evolution(existing, schema))
        incoming = schema
        schema = fit_standing(existing, incoming, load)
        standing = cast_standing(load, incoming, schema, cast)
        if not replaces:
            return cls(schema, standing, is_standing=True)
        return cls(existing, lambda batch: pad_columns(standing(batch), existing), is_standing=True)

    @classmethod
    def _padded(cls, load: Load, whole: pa.Schema, brought: pa.Schema, existing: pa.Schema) -> _Shape:
        def cast(batch: pa.RecordBatch) -> pa.RecordBatch:
            return pad_columns(cast_batch(batch, load.table, brought), whole)

        return cls(whole, cast, changes=describe_evolution(existing, brought))


def _merge_rows(there: Any, rows: pa.Table, load: Load) -> dict[str, Any]:
    """Columns that the load does not bring keep their values in updated rows; what a delivery deletes goes too."""
    values = {quote_identifier(c): f"s.{quote_identifier(c)}" for c in rows.column_names}
    keys = [quote_identifier(c) for c in load.table.key]
    rest = {c: value for c, value in values.items() if c not in keys}
    gone = None if load.delivery is None else load.delivery.deletes
    deletes = gone is not None and bool(gone.num_rows)
    merger = there.merge(
        _add_gone(rows, gone) if deletes else rows,
        predicate=" AND ".join(f"t.{k} = s.{k}" for k in keys),
        source_alias="s",
        target_alias="t",
        merge_schema=not set(rows.column_names) <= set(schema_of(there).names),
        commit_properties=_properties(load),
    )
    comes = f"NOT s.{_GONE}" if deletes else None
    if deletes:
        merger = merger.when_matched_delete(predicate=f"s.{_GONE}")
    merger = merger.when_matched_update(updates=rest or values, predicate=comes)
    return dict(merger.when_not_matched_insert(updates=values, predicate=comes).execute())


def _add_gone(rows: pa.Table, gone: pa.Table) -> pa.Table:
    """The keys of rows that go, below those that come, told apart by a column that no clause takes to the table."""
    schema = pa.schema([field.with_nullable(True) for field in rows.schema]).append(pa.field(_GONE, pa.bool_()))
    keys = gone.cast(pa.schema([rows.schema.field(name) for name in gone.column_names]))
    columns = [keys[f.name] if f.name in keys.column_names else pa.nulls(len(keys), f.type) for f in rows.schema]
    going = [*columns, pa.repeat(pa.scalar(value=True), len(keys))]
    coming = [*rows.columns, pa.repeat(pa.scalar(value=False), len(rows))]
    parts = [pa.Table.from_arrays(coming, schema=schema), pa.Table.from_arrays(going, schema=schema)]
    return pa.concat_tables(parts)


def _properties(load: Load) -> Any:
    from deltalake import CommitProperties

    told = {"dbt_bridge_load_id": load.load_id}
    return CommitProperties(custom_metadata=told, app_transactions=list_transactions(load.delivery))


def _build_predicate(window: Window, schema: pa.Schema, name: TableName) -> str:
    """`cursor >= at_least` in delta-rs's SQL."""
    index = schema.get_field_index(window.cursor)
    check_cursor(name, window.cursor, None if index < 0 else str(schema.field(index).type), _TEXTS)
    type_ = schema.field(index).type
    literal = quote_literal(window.at_least)
    if pa.types.is_timestamp(type_):
        zone = f'Some("{type_.tz}")' if type_.tz else "None"
        literal = f"arrow_cast({literal}, 'Timestamp(Microsecond, {zone})')"
    elif pa.types.is_date(type_):
        literal = f"CAST({literal} AS DATE)"
    elif pa.types.is_decimal(type_):
        if len(re.sub(r"\D", "", window.at_least).strip("0")) > _STATISTICS_DIGITS:
            raise TypeRefused(
                f"{name}: the cursor {window.cursor!r} has reached {window.at_least}, and Delta's statistics keep"
                f" {_STATISTICS_DIGITS} digits, so an append cannot tell which rows to bring again",
                mend="write_disposition: merge with a primary_key, or replication: initial_copy",
            )
        literal = f"arrow_cast({literal}, 'Decimal128({type_.precision}, {type_.scale})')"
    else:
        literal = str(pc.cast(pa.scalar(window.at_least), type_).as_py())
    return f"{quote_identifier(window.cursor)} >= {literal}"


def _refuse_doubles(there: Any, rows: pa.Table, load: Load) -> None:
    if count_matching(there, rows, load.table.key) > len(rows):
        raise several_rows(load.table.name, load.table.key, is_delivery=load.delivery is not None)


def count_matching(there: Any, rows: pa.Table, key: tuple[str, ...]) -> int:
    """How many rows of the table have a key of the new rows."""
    keys = rows.select(list(key))
    columns = ", ".join(quote_identifier(k) for k in key)
    found = 0
    for batch in query(there, f"SELECT {columns} FROM t"):  # noqa: S608
        theirs = pa.Table.from_batches([batch]).cast(keys.schema)
        found += len(find_matches(theirs, keys)[0])
    return found


def _holds_floats(type_: pa.DataType) -> bool:
    if pa.types.is_nested(type_):
        return any(_holds_floats(type_.field(i).type) for i in range(type_.num_fields))
    return bool(pa.types.is_floating(type_))
