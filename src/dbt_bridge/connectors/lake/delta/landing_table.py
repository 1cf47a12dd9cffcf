"""A Delta table that changes are applied to: each step is a commit, and only the last one says where the table stands.

Delta has no transaction over several commits. Each commit carries application transactions in the table's log (the
`txn` action, https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers):

    dbt-bridge              the LSN at which the table stands
    dbt-bridge/unfinished   1 + the version to go back to, while the table holds changes that belong to no LSN; else 0

Changes that are left unfinished, because they were undone or the process died, are taken back by Delta's RESTORE before
anything else is applied, so that nothing is ever applied twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.file_types import build_schema, cast_batch, fit_schema
from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.connectors.lake.delta.session import STANDS_AT, UNFINISHED, query, schema_of, translate
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
)
from dbt_bridge.replicate.key_codes import match_rows

Step = Callable[[Any], Any]  # takes deltalake's CommitProperties, answers what was counted


class FollowedTable:
    """One Delta table, from the first change of an application to its commit.

    Args:
        anew: it was just copied, so the LSN in its log belongs to the rows before, perhaps to another server.
    """

    def __init__(self, name: TableName, delta: Any, load_id: str, *, anew: bool = False) -> None:
        self.name = name
        self._anew = anew
        self.delta = delta
        self._load_id = load_id
        self._recover()
        self._version = int(delta.version())

    @property
    def position(self) -> int:
        """The LSN that its log says; 0 without one."""
        if self._anew:
            return 0
        return int(self.delta.transaction_version(STANDS_AT) or 0)

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.delta)

    def step(self, write: Step) -> Any:
        """A commit that belongs to no LSN yet."""
        return self._commit(write, {UNFINISHED: self._version + 1})

    def last_step(self, write: Step | None, upto: int) -> Any:
        """The commit that ends at an LSN; without anything to write, the log alone says so."""
        if write is None:
            said = self.delta.transaction_version(STANDS_AT)
            if not self._anew and said is not None and said >= upto and not self.delta.transaction_version(UNFINISHED):
                return None
            write = self._nothing
        marks = {STANDS_AT: max(upto, self.position), UNFINISHED: 0}
        counted = self._commit(write, marks)
        if self.delta.transaction_version(UNFINISHED):  # a delete or MERGE that met no row made no commit
            self._commit(self._nothing, marks)
        self._version, self._anew = int(self.delta.version()), False
        return counted

    def undo(self) -> None:
        """Back to where the table stood."""
        self.delta.update_incremental()
        self._recover()

    def _recover(self) -> None:
        mark = int(self.delta.transaction_version(UNFINISHED) or 0)
        if not mark:
            return
        try:
            self.delta.restore(mark - 1, commit_properties=self._properties({UNFINISHED: 0}))
        except Exception as error:
            raise translate(error, self.name) from error
        self.delta.update_incremental()

    def _nothing(self, properties: Any) -> None:
        self.delta.create_write_transaction([], "append", self.delta.schema(), commit_properties=properties)

    def _commit(self, write: Step, marks: dict[str, int]) -> Any:
        try:
            counted = write(self._properties(marks))
            self.delta.update_incremental()
        except Exception as error:
            raise translate(error, self.name) from error
        return counted

    def _properties(self, marks: dict[str, int]) -> Any:
        from deltalake import CommitProperties, Transaction

        return CommitProperties(
            custom_metadata={"dbt_bridge_load_id": self._load_id},
            app_transactions=[Transaction(app_id, version) for app_id, version in marks.items()],
        )

    # --- reading and writing -----------------------------------------------------------------------------------

    def cast_rows(self, columns: Sequence[Column], rows: pa.Table) -> pa.Table:
        """Rows in the types of the standing table.

        Raises:
            TypeRefused: a value does not fit.
        """
        table = Table(self.name, tuple(columns))
        schema = fit_schema(self.schema, build_schema(table), table)
        batches = [cast_batch(batch, table, schema) for batch in rows.to_batches()]
        return pa.Table.from_batches(batches, schema)

    def find_rows(self, keys: pa.Table, columns: Sequence[str]) -> pa.Table:
        """The rows with these keys, as far as they are there: the key columns, and those that are named.

        Args:
            keys: distinct, in the types of the standing table.
        """
        names = [*keys.column_names, *(c for c in columns if c not in keys.column_names)]
        statement = f"SELECT {', '.join(quote_identifier(n) for n in names)} FROM t WHERE {_between(keys)}"  # noqa: S608
        parts, places = [], []
        for chunk in regroup(query(self.delta, statement)):
            theirs = chunk.cast(pa.schema([_as_in(self.schema, field) for field in chunk.schema]))
            hits, place = find_matches(theirs.select(keys.column_names), keys)
            if len(hits):
                parts.append(theirs.take(to_arrow(hits)))
                places.append(place)
        if not parts:
            return pa.schema([_as_in(self.schema, self.schema.field(n)) for n in names]).empty_table()
        return pa.concat_tables(parts).take(to_arrow(np.argsort(np.concatenate(places), kind="stable")))

    def append(self, rows: pa.Table) -> None:
        """Add rows, by a commit that belongs to no LSN yet."""
        self.step(self.build_append(rows))

    def build_append(self, rows: pa.Table) -> Step:
        """A step that adds rows."""
        from deltalake import write_deltalake

        def write(properties: Any) -> None:
            write_deltalake(self.delta, rows, mode="append", schema_mode="merge", commit_properties=properties)

        return write

    def add_columns(self, columns: Sequence[Column]) -> None:
        """Columns that are NULL in every row."""
        from deltalake import Schema

        fields = Schema.from_arrow(build_schema(Table(self.name, tuple(columns)))).fields
        self.step(lambda properties: self.delta.alter.add_columns(fields, commit_properties=properties))


def find_matches(theirs: pa.Table, keys: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """As `match_rows`; Arrow joins columns of plain types faster, and takes no others."""
    if any(pa.types.is_nested(field.type) or pa.types.is_floating(field.type) for field in keys.schema):
        return match_rows(theirs, keys)
    wanted = keys.append_column(_PLACE, to_arrow(np.arange(len(keys))))
    numbered = theirs.append_column(_ROW, to_arrow(np.arange(len(theirs))))
    hits = numbered.join(wanted, keys=keys.column_names, join_type="inner")
    return hits[_ROW].to_numpy(), hits[_PLACE].to_numpy()


def _between(keys: pa.Table) -> str:
    """The range of the keys, by which files are passed over."""
    parts = []
    for name in keys.column_names if len(keys) else ():
        if pa.types.is_integer(keys.schema.field(name).type):
            ends = pc.min_max(keys[name]).as_py()
            parts.append(f"{quote_identifier(name)} BETWEEN {ends['min']} AND {ends['max']}")
    return " AND ".join(parts) or "true"


def regroup(batches: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Larger tables, for each join costs as much as the wanted keys are many."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) >= _CHUNK_ROWS or sum(b.nbytes for b in waiting) >= _CHUNK_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


_CHUNK_ROWS, _CHUNK_BYTES = 1_000_000, 64 << 20
_PLACE, _ROW = "_dbt_bridge_place", "_dbt_bridge_row"


def _as_in(schema: pa.Schema, field: pa.Field) -> pa.Field:
    """The field as pyarrow's own types have it: DataFusion answers with views of strings."""
    own = schema.field(field.name).type
    names = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.field(field.name, names.get(own, own))


def refuse_missing(name: TableName, expected: int, found: int, mend: str) -> None:
    """Raises KeyRefused where the table lacks rows whose values no change brings again, or has them twice."""
    if found != expected:
        raise KeyRefused(
            f"{name} has {found} of {expected} rows that were changed, and the changes do not bring every value",
            mend=mend,
        )


def prunes_exactly(rows: pa.Table, key: tuple[str, ...]) -> bool:
    """Whether Delta's statistics keep every digit of the key, so that a MERGE may pass over files by them.

    Decimals and floats are doubles there, timestamps may be milliseconds, long strings are cut off.
    """
    return all(pa.types.is_integer(rows.schema.field(name).type) for name in key)


def build_same_key(schema: pa.Schema, key: Sequence[str]) -> str:
    """That `t` and `s` have one key, in DataFusion's SQL, to which every NaN is another value than one whose bits
    differ."""
    parts = []
    for name in key:
        column, type_ = quote_identifier(name), schema.field(name).type
        form = "{}"
        if pa.types.is_floating(type_):
            form = f"nanvl({{}}, arrow_cast('NaN', 'Float{type_.bit_width}'))"
        parts.append(f"{form.format(f't.{column}')} = {form.format(f's.{column}')}")
    return " AND ".join(parts)


def format_moment(microseconds: int) -> str:
    """A moment in DataFusion's SQL."""
    return f"arrow_cast({microseconds}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
