"""`unfit: text`: a table lands whose columns have no exact form at the destination, in a form that is still exact.

a column without an exact type there, or of    its origin's own text form; a column whose landing table has text
which a value does not fit its type            stays text until a full refresh
columns whose names are one there              each that is not all in lower case gets a suffix, `_` and the first
                                               four hexadecimal digits of the SHA-256 of its name: `ID` is `ID_3843`
a table without columns                        is left out, and told
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dbt_bridge.contracts.capabilities import HoldsTables
from dbt_bridge.contracts.destination import Destination
from dbt_bridge.contracts.origin import Described, Increment, Origin
from dbt_bridge.errors import BridgeError, TypeRefused
from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.names import Folding
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.wanted import Wanted, describe_wanted
from dbt_bridge.system.owned_reader import make_reader


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table as it can land: its origin under the names that land, and what is to land as text."""

    origin: Origin
    wanted: Wanted
    found: Described


def fit(ends: Ends, wanted: Wanted, *, anew: bool = False) -> Fitted:
    """The table as its origin describes it; made to fit where its declaration says so.

    Args:
        anew: the landing table is replaced, whatever it holds.
    """
    found = describe_wanted(ends.origin, wanted)
    if wanted.table.unfit != "text":
        return Fitted(ends.origin, wanted, found)
    origin = ends.origin
    names = suffix_twins([column.name for column in found.table.columns], ends.names.same_column)
    if any(name != landing for name, landing in names.items()) and wanted.table.replication != "cdc":
        origin = RenamedOrigin(origin, names)
        found = origin.rename(found)
        wanted = _name_as_landed(wanted, names)
    return Fitted(origin, fit_types(wanted, found.table, ends.destination, anew=anew), found)


def _name_as_landed(wanted: Wanted, names: Mapping[str, str]) -> Wanted:
    """The declaration, which calls columns as the origin does, under the names that land."""
    table = wanted.table

    def land(name: str) -> str:
        return names.get(name, name)

    def land_all(globs: tuple[str, ...]) -> tuple[str, ...]:
        """A glob stands for the origin's names that it matches."""
        return tuple(dict.fromkeys(land(name) for glob in globs for name in (fnmatch.filter(names, glob) or [glob])))

    return replace(
        wanted,
        table=replace(
            table,
            primary_key=tuple(map(land, table.primary_key)),
            cursor=None if table.cursor is None else land(table.cursor),
            types={land(name): type_ for name, type_ in table.types.items()},
            mask={land(name): how for name, how in table.mask.items()},
            columns=Columns(land_all(table.columns.include), land_all(table.columns.exclude)),
        ),
    )


def fit_types(wanted: Wanted, table: Table, destination: Destination, *, anew: bool = False) -> Wanted:
    """With an override for each column that lands as text because nothing else fits.

    Args:
        table: as the origin has it.
        anew: see `fit`.
    """
    if wanted.table.unfit != "text":
        return wanted
    standing = None if anew else destination.find_table(wanted.landing)
    for column in table.columns:
        if column.name in wanted.table.types or column.name in wanted.table.mask:
            continue
        if _must_be_text(column, destination) or (standing is not None and _became_text(column, standing, destination)):
            wanted = land_as_text(wanted, column.name)
    return wanted


def land_as_text(wanted: Wanted, column: str) -> Wanted:
    """As if `types: {column: text}` were declared."""
    return replace(wanted, table=replace(wanted.table, types={**wanted.table.types, column: "text"}))


def may_be_text(wanted: Wanted, error: BridgeError) -> str | None:
    """The column that an error refuses, where it may land as text instead."""
    column = error.column if isinstance(error, TypeRefused) else ""
    fits = wanted.table.unfit == "text" and column and column not in wanted.table.types
    return column if fits and column not in wanted.table.mask else None


def leave_out_empty(wanted: Iterable[Wanted], origin: Origin, tell: Callable[[str], None]) -> list[Wanted]:
    """The tables without those that have no column, and whose declaration leaves such ones out."""
    kept = []
    for item in wanted:
        if item.table.unfit == "text" and _has_no_columns(item, origin):
            tell(f"{item.relation} is left out: its table at the origin has no columns")
        else:
            kept.append(item)
    return kept


def _has_no_columns(wanted: Wanted, origin: Origin) -> bool:
    try:
        found = origin.describe(TableName(wanted.source.origin_schema or "", wanted.table.identifier))
    except BridgeError:  # whoever lands it tells
        return False
    if isinstance(origin, HoldsTables):
        origin.let_go(found.table.name)
    return not found.table.columns


def _must_be_text(column: Column, destination: Destination) -> bool:
    try:
        destination.map_column(column)
    except TypeRefused:
        return True
    return False


def _became_text(column: Column, standing: Table, destination: Destination) -> bool:
    there = standing.column(column.name)
    return there is not None and _is_text(there.type) and not _is_text(destination.map_column(column).type)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def suffix_twins(names: Sequence[str], same: Folding) -> dict[str, str]:
    """Each name as it lands: with its suffix where another one is the same to the destination.

    It depends on the name itself alone, so that neither order nor other columns change it.
    """
    times = Counter(map(same, names))
    return {name: name if times[same(name)] == 1 or name == name.lower() else add_suffix(name) for name in names}


def add_suffix(name: str) -> str:
    return f"{name}_{hashlib.sha256(name.encode()).hexdigest()[:4]}"


class RenamedOrigin:
    """An `Origin` in which columns of one table have other names."""

    def __init__(self, origin: Origin, names: Mapping[str, str]) -> None:
        self.name = origin.name
        self._origin = origin
        self._landing = dict(names)
        self._own = {landing: name for name, landing in names.items()}

    def rename(self, found: Described) -> Described:
        """The table under the names that land."""
        table = found.table
        columns = tuple(replace(column, name=self._landing[column.name]) for column in table.columns)
        return replace(found, table=replace(table, columns=columns, key=tuple(self._landing[k] for k in table.key)))

    def tables(self, schema: str | None) -> list[TableName]:
        return self._origin.tables(schema)

    def describe(self, name: TableName) -> Described:
        return self.rename(self._origin.describe(name))

    def rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None = None, *, workers: int = 1
    ) -> pa.RecordBatchReader:
        own = None if increment is None else self._as_own_increment(increment)
        rows = self._origin.rows(name, self._as_own(columns), own, workers=workers)
        return _rename_rows(rows, [column.name for column in columns])

    def rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> pa.RecordBatchReader:
        keys = keys.rename_columns([self._own.get(key, key) for key in keys.column_names])
        return _rename_rows(self._origin.rows_of(name, self._as_own(columns), keys), [c.name for c in columns])

    def count(self, name: TableName) -> int:
        return self._origin.count(name)

    def lower_bound(self, name: TableName, increment: Increment) -> str | None:
        return self._origin.lower_bound(name, self._as_own_increment(increment))

    def newest(self, name: TableName, cursor: str) -> str | None:
        return self._origin.newest(name, self._own.get(cursor, cursor))

    def close(self) -> None:
        self._origin.close()

    def __enter__(self) -> RenamedOrigin:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _as_own(self, columns: Sequence[Column]) -> list[Column]:
        return [replace(column, name=self._own.get(column.name, column.name)) for column in columns]

    def _as_own_increment(self, increment: Increment) -> Increment:
        return replace(increment, cursor=self._own.get(increment.cursor, increment.cursor))


def _rename_rows(rows: pa.RecordBatchReader, names: Sequence[str]) -> pa.RecordBatchReader:
    schema = pa.schema([field.with_name(name) for field, name in zip(rows.schema, names, strict=True)])
    return make_reader(schema, (pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in rows), rows)
