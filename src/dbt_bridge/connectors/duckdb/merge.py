"""Staged rows are merged into a standing table of DuckDB by key.

DuckDB's UPDATE and MERGE leave a value as it stands where the new one compares equal: -0.0 over 0.0 and `30 days` over
`1 mon` are not written, at any depth of a STRUCT (1.5.5; 2.0 also takes `29 days` for `1 mon -1 day`). Such rows are
written anew first.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation
from dbt_bridge.contracts.destination import Staged
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.duckdb_equality import as_key, holds_floats, is_float
from dbt_bridge.replicate.loads import several_rows

_REWRITTEN = "_dbt_bridge_rewritten"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the staged rows, quoted as the standing table `t` and the staged rows `s` spell it."""

    name: str
    staged: str
    type: str
    is_key: bool

    @property
    def same_key(self) -> str:
        return f"{as_key(f't.{self.name}', self.type)} = {as_key(self.staged, self.type)}"


def merge_rows(on: CatalogCursor, staged: Staged, into: Relation) -> tuple[int, int]:
    """Rows inserted and updated. Columns that the load does not bring keep their values in updated rows."""
    columns = _columns(on, staged, into)
    keys = [c for c in columns if c.is_key]
    same = " AND ".join(c.same_key for c in keys)
    target, staging = on.sql_name(into.name), on.sql_name(staged.staging)
    before = on.scalar(f"SELECT count(*) FROM {target}")  # noqa: S608
    distinct = on.scalar(f"SELECT count(*) FROM {staging}")  # noqa: S608
    _write_equal_values(on, into, columns, f"{target} AS t JOIN {staging} AS s ON {same}")
    rest = [c for c in columns if not c.is_key]
    update = columns if any(_has_equals(c) for c in keys) else rest or keys  # a key is spelled as it came last
    touched = on.scalar(
        f"MERGE INTO {target} AS t\n"  # noqa: S608
        f"USING {staging} AS s\n"
        f"ON {same}\n"
        f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{c.name} = {c.staged}' for c in update)}\n"
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(c.name for c in columns)}) "
        f"VALUES ({', '.join(c.staged for c in columns)})"
    )
    if touched != distinct:
        raise several_rows(into.name, staged.load.table.key, is_delivery=staged.load.delivery is not None)
    inserted = on.scalar(f"SELECT count(*) FROM {target}") - before  # noqa: S608
    return inserted, touched - inserted


def _columns(on: CatalogCursor, staged: Staged, into: Relation) -> list[_Column]:
    source = on.find_relation(staged.staging)
    assert source is not None
    columns = []
    for name, came in source.columns.items():
        there = into.column(name) or name
        type_ = into.columns[there]
        if "INTERVAL" in (came, type_) and came != type_:
            type_ = ""  # compared as DuckDB casts them
        is_key = name in staged.load.table.key
        columns.append(_Column(quote_identifier(there), f"s.{quote_identifier(name)}", type_, is_key))
    return columns


def _write_equal_values(on: CatalogCursor, into: Relation, columns: list[_Column], joined: str) -> None:
    """Rows with a value that is equal to the standing one and yet another are deleted and inserted as they are now."""
    differing = [c for c in columns if _has_equals(c)]
    if not differing:
        return
    may_differ = " OR ".join(f"{c.staged} = 0" if is_float(c.type) else f"{c.staged} IS NOT NULL" for c in differing)
    differs = " OR ".join(_differs(c) for c in differing)
    brought = {c.name: c.staged for c in columns}
    names = [quote_identifier(name) for name in into.columns]
    values = ", ".join(f"{brought.get(name, f't.{name}')} AS {name}" for name in names)
    target = on.sql_name(into.name)
    on.execute(
        f"CREATE OR REPLACE TEMP TABLE {_REWRITTEN} AS\n"
        f"SELECT t.rowid AS {_REWRITTEN}, {values}\nFROM {joined}\nWHERE ({may_differ}) AND ({differs})"
    )
    if on.scalar(f"SELECT count(*) FROM {_REWRITTEN}"):  # noqa: S608
        on.execute(f"DELETE FROM {target} WHERE rowid IN (SELECT {_REWRITTEN} FROM {_REWRITTEN})")  # noqa: S608
        on.execute(f"INSERT INTO {target} ({', '.join(names)})\nSELECT {', '.join(names)} FROM {_REWRITTEN}")
    on.execute(f"DROP TABLE {_REWRITTEN}")


def _has_equals(column: _Column) -> bool:
    """Whether two values of the column may be equal to DuckDB without being the same. Lists are always written."""
    return not column.type.endswith("]") and (holds_floats(column.type) or "INTERVAL" in column.type)


def _differs(column: _Column) -> str:
    """Whether a staged value equals the standing one without being the same.

    The equality is of expressions: of two columns that are equal DuckDB's optimizer hands on either for the other.
    """
    there, came = f"t.{column.name}", column.staged
    if is_float(column.type):
        return f"({there} = 0 AND {came} = 0 AND signbit({there}) <> signbit({came}))"
    return f"([{there}] = [{came}] AND CAST({there} AS VARCHAR) <> CAST({came} AS VARCHAR))"
