"""Single rows of any tables: inserted, updated and deleted so that their keys and foreign keys stay valid."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import TableName
from dbt_bridge.simulate.values import ValueType, can_draw, draw_unique, draw_value
from dbt_bridge.simulate.writer import NothingToChange

_POOL = 10_000  # keys of a table that are kept to choose from
_INTEGERS = ("int2", "int4", "int8")

_TABLES: LiteralString = """
SELECT n.nspname, c.relname, c.oid::int8, c.relkind = 'p'
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
ORDER BY 1, 2
"""
_COLUMNS: LiteralString = """
SELECT a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), coalesce(e.typname, b.typname)::text,
       coalesce(b.typelem <> 0 AND b.typcategory = 'A', false), greatest(a.atttypmod, t.typtypmod),
       a.attnotnull OR t.typnotnull, a.atthasdef, a.attidentity = 'a' OR a.attgenerated <> '',
       (SELECT array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = coalesce(e.oid, b.oid))
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_UNIQUE: LiteralString = """
SELECT indisprimary, indkey::int2[]
FROM pg_index
WHERE indrelid = %s AND indisunique AND indpred IS NULL AND NOT 0 = ANY (indkey::int2[])
"""
_FOREIGN: LiteralString = """
SELECT conrelid::int8, conkey, confrelid::int8, confkey FROM pg_constraint
WHERE contype = 'f' AND conparentid = 0 AND (conrelid = %(oid)s OR confrelid = %(oid)s)
"""


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    number: int
    type: ValueType
    required: bool
    has_default: bool
    by_server: bool


@dataclass(frozen=True, slots=True)
class _Reference:
    """A foreign key: these columns hold the other table's."""

    oid: int
    columns: tuple[int, ...]
    other: int
    other_columns: tuple[int, ...]


@dataclass(slots=True)
class _Target:
    """A table that is written to, its constraints, and the keys of some of its rows."""

    name: TableName
    oid: int
    is_partitioned: bool
    columns: tuple[_Column, ...]
    key: tuple[str, ...]
    unique: frozenset[int]
    references: tuple[_Reference, ...]
    referenced_by: tuple[_Reference, ...]
    pool: list[tuple[str, ...]]
    next_number: dict[str, int]

    @property
    def changeable(self) -> tuple[_Column, ...]:
        """Columns that an update may set: in no key, and nobody's foreign key."""
        fixed = set(self.unique) | {number for r in self.references for number in r.columns}
        free = (c for c in self.columns if c.number not in fixed and c.name not in self.key and not c.by_server)
        return tuple(c for c in free if can_draw(c.type))

    @property
    def row_key(self) -> tuple[str, ...]:
        """The columns that find a row: its key, or where it lies."""
        return self.key or ("ctid",)


class Tables:
    """Writes one row per transaction, to one table after the other as they are drawn.

    Args:
        patterns: `schema.table`, `table` or globs of either.

    Raises:
        UsageError: a pattern names no table.
    """

    def __init__(self, connection: psycopg.Connection, patterns: Sequence[str], draws: random.Random) -> None:
        self._connection = connection
        self._draws = draws
        every = {row[2]: row for row in connection.execute(_TABLES).fetchall()}
        self._names = {oid: TableName(row[0], row[1]) for oid, row in every.items()}
        chosen = [oid for oid in every if any(_matches(self._names[oid], pattern) for pattern in patterns)]
        for pattern in patterns:
            if not any(_matches(self._names[oid], pattern) for oid in chosen):
                names = ", ".join(str(name) for name in self._names.values()) or "none"
                raise UsageError(f"--tables {pattern}: there is no such table", mend=f"there are: {names}")
        self._tables = {oid: self._describe(oid, every[oid][3]) for oid in chosen}

    def write(self, kind: str) -> Counter[tuple[str, str]]:
        """One row of one table.

        Raises:
            NothingToChange: no table has a row that can be changed so.
        """
        tables = list(self._tables.values())
        self._draws.shuffle(tables)
        doing = {"insert": self._insert, "update": self._update, "delete": self._delete}[kind]
        for table in tables:
            if doing(table):
                return Counter({(str(table.name), kind): 1})
        names = ", ".join(str(table.name) for table in tables)
        why = {
            "insert": "a foreign key has no row to point to",
            "update": "there are no rows, or no columns outside of keys",
            "delete": "there are no rows to which no other row points",
        }
        what = f"{kind}: not possible in {names}: {why[kind]}"
        raise NothingToChange(what, mend="simulate more inserts, or more tables")

    def _describe(self, oid: int, is_partitioned: bool) -> _Target:
        columns = tuple(_column(row) for row in self._connection.execute(_COLUMNS, [oid]).fetchall())
        names = {column.number: column.name for column in columns}
        indexes = self._connection.execute(_UNIQUE, [oid]).fetchall()
        key = next((tuple(names[number] for number in numbers) for primary, numbers in indexes if primary), ())
        foreign = [_Reference(a, tuple(b), c, tuple(d)) for a, b, c, d in self._read_references(oid)]
        return _Target(
            self._names[oid], oid, is_partitioned, columns, key,
            frozenset(number for _, numbers in indexes for number in numbers),
            tuple(r for r in foreign if r.oid == oid), tuple(r for r in foreign if r.other == oid), [], {},
        )  # fmt: skip

    def _read_references(self, oid: int) -> list[tuple[Any, ...]]:
        return self._connection.execute(_FOREIGN, {"oid": oid}).fetchall()

    # --- insert ------------------------------------------------------------------------------------------------

    def _insert(self, table: _Target) -> bool:
        values: dict[str, str | None] = {}
        for reference in table.references:
            foreign = self._point_to_row(table, reference)
            if foreign is None:
                return False
            values.update(foreign)
        for column in table.columns:
            if column.name not in values and not column.by_server:
                if column.has_default and (column.number in table.unique or not can_draw(column.type)):
                    continue  # a sequence counts better than we do
                values[column.name] = self._draw(table, column)
        columns = [column for column in table.columns if column.name in values]
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(
            _in_sql(table.name),
            sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
            sql.SQL(", ").join(_cast(column) for column in columns),
            _texts(table.row_key),
        )
        if not columns:
            statement = sql.SQL("INSERT INTO {} DEFAULT VALUES RETURNING {}").format(
                _in_sql(table.name), _texts(table.row_key)
            )
        row = self._connection.execute(statement, [values[column.name] for column in columns]).fetchone()
        if table.key and row is not None and len(table.pool) < _POOL:
            table.pool.append(row)
        return True

    def _point_to_row(self, table: _Target, reference: _Reference) -> dict[str, str | None] | None:
        """Values of a foreign key's columns: some row's of the other table, or NULL; None when neither can be."""
        own = [next(c for c in table.columns if c.number == number) for number in reference.columns]
        other = self._names[reference.other]
        theirs = self._connection.execute(_COLUMNS, [reference.other]).fetchall()
        names = [next(row[0] for row in theirs if row[1] == number) for number in reference.other_columns]
        row = self._some_row(other, names)
        if row is not None:
            return {column.name: value for column, value in zip(own, row, strict=True)}
        return None if any(column.required for column in own) else {column.name: None for column in own}

    def _some_row(self, name: TableName, columns: Sequence[str]) -> tuple[str, ...] | None:
        """The row at or after a random place of the order of these columns."""
        count = self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_in_sql(name))).fetchone()
        if count is None or not count[0]:
            return None
        return self._connection.execute(
            sql.SQL("SELECT {} FROM {} ORDER BY {} LIMIT 1 OFFSET %s").format(
                _texts(columns), _in_sql(name), sql.SQL(", ").join(map(sql.Identifier, columns))
            ),
            [self._draws.randrange(count[0])],
        ).fetchone()

    def _draw(self, table: _Target, column: _Column) -> str | None:
        if column.number in table.unique:
            if column.type.name in _INTEGERS and not column.type.is_array:
                return str(self._next_number(table, column))
            if (value := draw_unique(column.type, self._draws)) is not None:
                return value
        if not can_draw(column.type):
            if column.required:
                raise UsageError(
                    f"{table.name}: simulate makes no values of type {column.type.sql}, which {column.name} needs",
                    mend="leave the table out of --tables, or give the column a default",
                )
            return None
        if not column.required and self._draws.random() < 0.1:
            return None
        return draw_value(column.type, self._draws)

    def _next_number(self, table: _Target, column: _Column) -> int:
        """The number after the greatest one."""
        if column.name not in table.next_number:
            greatest = self._connection.execute(
                sql.SQL("SELECT max({}) FROM {}").format(sql.Identifier(column.name), _in_sql(table.name))
            ).fetchone()
            table.next_number[column.name] = (greatest[0] or 0) if greatest else 0
        table.next_number[column.name] += 1
        return table.next_number[column.name]

    # --- update and delete -------------------------------------------------------------------------------------

    def _update(self, table: _Target) -> bool:
        columns = table.changeable
        if not columns:
            return False
        chosen = self._draws.sample(columns, self._draws.randint(1, min(3, len(columns))))
        values = [self._draw(table, replace(column, required=True)) for column in chosen]
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column.name), _cast(column)) for column in chosen
        )
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(_in_sql(table.name), settings, _where(table))
        return self._on_some_row(table, statement, values, stays=True)

    def _delete(self, table: _Target) -> bool:
        free = [self._no_row_points_here(table, reference) for reference in table.referenced_by]
        conditions = sql.SQL(" AND ").join([_where(table), *free])
        statement = sql.SQL("DELETE FROM {} AS this WHERE {}").format(_in_sql(table.name), conditions)
        return self._on_some_row(table, statement, [], stays=False)

    def _no_row_points_here(self, table: _Target, reference: _Reference) -> sql.Composed:
        theirs = {row[1]: row[0] for row in self._connection.execute(_COLUMNS, [reference.oid]).fetchall()}
        own = {column.number: column.name for column in table.columns}
        same = sql.SQL(" AND ").join(
            sql.SQL("other.{} = this.{}").format(sql.Identifier(theirs[a]), sql.Identifier(own[b]))
            for a, b in zip(reference.columns, reference.other_columns, strict=True)
        )
        return sql.SQL("NOT EXISTS (SELECT 1 FROM {} AS other WHERE {})").format(
            _in_sql(self._names[reference.oid]), same
        )

    def _on_some_row(
        self, table: _Target, statement: sql.Composed, values: Sequence[str | None], *, stays: bool
    ) -> bool:
        """Whether a row was changed: rows that others deleted, or point to, are passed over."""
        for fresh in (False, True):
            if fresh or not table.pool:
                table.pool = self._some_keys(table)
            while table.pool:
                place = self._draws.randrange(len(table.pool))
                key = table.pool[place]
                if self._connection.execute(statement, [*values, *key]).rowcount:
                    if not stays or not table.key:
                        table.pool[place] = table.pool[-1]
                        table.pool.pop()
                    return True
                table.pool[place] = table.pool[-1]
                table.pool.pop()
        return False

    def _some_keys(self, table: _Target) -> list[tuple[str, ...]]:
        if not table.key and table.is_partitioned:
            return []  # where a row lies does not say in which partition
        size = self._connection.execute("SELECT greatest(reltuples, 1) FROM pg_class WHERE oid = %s", [table.oid])
        row = size.fetchone()
        percent = min(100.0, 100.0 * _POOL / row[0]) if row and not table.is_partitioned else 100.0
        statement = sql.SQL("SELECT {} FROM {} TABLESAMPLE BERNOULLI (%s) REPEATABLE (%s) LIMIT %s").format(
            _texts(table.row_key), _in_sql(table.name)
        )
        return self._connection.execute(statement, [percent, self._draws.randint(0, 2**31), _POOL]).fetchall()


def _column(row: Sequence[Any]) -> _Column:
    name, number, text, base, is_array, modifier, required, has_default, by_server, labels = row
    precision = scale = length = 0
    if base == "numeric" and modifier >= 4:
        # numeric.c, make_numeric_typmod: the scale is 11 bits with a sign
        precision, scale = (modifier - 4) >> 16, (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    elif base in ("varchar", "bpchar") and modifier >= 4:
        length = modifier - 4
    type_ = ValueType(base, text, is_array, tuple(labels or ()), precision, max(scale, 0), length)
    return _Column(name, number, type_, required, has_default, by_server)


def _matches(name: TableName, pattern: str) -> bool:
    return fnmatchcase(str(name) if "." in pattern else name.name, pattern)


def _in_sql(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def _cast(column: _Column) -> sql.SQL:
    return sql.SQL("%s::text::" + column.type.sql.replace("%", "%%"))  # the catalog's own text


def _texts(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)


def _where(table: _Target) -> sql.Composed:
    types = {column.name: column.type.sql.replace("%", "%%") for column in table.columns}
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL("%s::text::" + types.get(name, "tid")))
        for name in table.row_key
    )
