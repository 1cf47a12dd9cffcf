"""What an origin is to the rest of the bridge: tables described, and their rows as Arrow batches.

An open origin holds one consistent snapshot where its database has them: everything that `tables`, `describe`,
`newest` and `rows` answer until `close` is the state at that one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from dbt_bridge.nouns.table import Column, Table, TableName


@dataclass(frozen=True, slots=True)
class Described:
    """A table as the origin's catalog has it.

    Attributes:
        table: its name, columns in order with their natural Arrow types, and primary key.
        rows: the catalog's estimate; None when it has none.
        bytes: size on the origin's disk; None when unknown.
        forms: what the values of its columns look like, beyond their types: what identifies a type, under whatever
            name, -> facts (the labels of an enum). More facts change no stored value; where one is gone, rows that
            stand read otherwise.
    """

    table: Table
    rows: int | None = None
    bytes: int | None = None
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Increment:
    """The rows at or after a cursor value: `cursor >= at_least` (all rows when `at_least` is None).

    Attributes:
        cursor: the column's name.
        at_least: a checkpoint's text.
        lag: how far before `at_least` to read again, for rows that were committed late: seconds for dates and
            timestamps, units for numbers.
        ordered: the rows come in the order of the cursor, for a key of which the newest version is wanted.
    """

    cursor: str
    at_least: str | None = None
    lag: float = 0
    ordered: bool = False


class Origin(Protocol):
    """Where rows come from. A context manager; used from several threads at once."""

    name: str

    def tables(self, schema: str | None) -> list[TableName]:
        """Every ordinary, partitioned or foreign table of a schema (the default schema when None), sorted."""

    def describe(self, name: TableName) -> Described:
        """A table or view; an empty schema in its name means the origin's default one.

        Raises OriginError for a missing table or privilege. Never TypeRefused: types are decided by the caller.
        """

    def rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None = None, *, workers: int = 1
    ) -> pa.RecordBatchReader:
        """Stream rows; each column exactly in its `type` (string means the origin's own text form).

        Raises TypeRefused, naming table, column and value, when a value does not fit its column's type. With
        several workers a big table is read in parallel ranges, in no order.
        """

    def rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> pa.RecordBatchReader:
        """Stream the rows with one of these keys, otherwise as `rows`.

        Args:
            keys: some of the table's columns, in the types in which `rows` gives them; NULL equals NULL.
        """

    def count(self, name: TableName) -> int:
        """How many rows the table has, counted by the origin."""

    def lower_bound(self, name: TableName, increment: Increment) -> str | None:
        """`at_least - lag` as text that both this origin and the destination cast to the cursor's type."""

    def newest(self, name: TableName, cursor: str) -> str | None:
        """The greatest cursor value as text that the origin reads back exactly; None for no rows.

        Raises UsageError for a cursor column that is absent, holds NULLs, or whose type is neither a number, a
        date nor a timestamp.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Origin: ...

    def __exit__(self, *exc: object) -> None: ...
