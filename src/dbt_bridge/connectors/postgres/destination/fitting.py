"""Whether staged rows fit a table that is not ours as it stands: its types, lengths, NOT NULL, domains and checks.

Every value is cast to its column's type and back. Where it comes back as it was, it fits: 3.00 fits integer, 2.5 does
not; 0.25 fits real, 0.1 does not. Between types of different kinds (a number and a text) nothing fits but NULL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.column_types import INTEGERS, TEXTS, base, fits, wider
from dbt_bridge.connectors.postgres.destination.relation import Relation, identifier
from dbt_bridge.contracts.outgoing import count_rows, refuse_column, refuse_nulls, refuse_values
from dbt_bridge.errors import DestinationError, TypeRefused

_NUMBERS = {*INTEGERS, "numeric", "real", "double precision"}
_MOMENTS = {"date", "timestamp without time zone"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the standing table.

    Attributes:
        declared: its type as it was declared: a domain by its name.
        is_required: it takes no NULL.
        is_computed: its values come from an expression, and cannot be written.
    """

    type: str
    declared: str
    is_required: bool
    is_computed: bool
    is_enum: bool


def check_fit(cur: Cursor[Any], new: Relation, there: Relation) -> None:
    """Refuse staged rows that the standing table cannot take as it is.

    Raises:
        TypeRefused: a column is not there, or a value does not fit; names the column and both types.
        DestinationError: a check of the table refuses a row.
    """
    standing = _describe_columns(cur, there)
    conditions: dict[str, sql.Composable] = {}
    for name, incoming in new.columns.items():
        column = standing.get(name)
        if column is None:
            raise refuse_column(there.name, name, incoming, standing)
        if column.is_computed:
            raise TypeRefused(
                f"column {name!r} of {there.name} is generated, and the model brings values for it",
                mend="leave it out with `columns:`",
            )
        if condition := _fitting(name, column, incoming):
            conditions[name] = condition
    _check_values(cur, new, there, standing, conditions)
    required = [name for name in new.columns if standing[name].is_required]
    for name in _find_nulls(cur, new, required):
        raise refuse_nulls(there.name, name, standing[name].declared, new.columns[name])
    _check_constraints(cur, new, there, standing)


def _describe_columns(cur: Cursor[Any], table: Relation) -> dict[str, _Column]:
    cur.execute(
        "SELECT a.attname,\n"
        "  CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)\n"
        "    ELSE format_type(a.atttypid, a.atttypmod) END,\n"
        "  format_type(a.atttypid, a.atttypmod),\n"
        "  a.attnotnull OR t.typnotnull,\n"
        "  a.attgenerated <> '',\n"
        "  coalesce(b.typtype, t.typtype) = 'e'\n"
        "FROM pg_attribute a\n"
        "JOIN pg_type t ON t.oid = a.atttypid\n"
        "LEFT JOIN pg_type b ON b.oid = t.typbasetype\n"
        "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped\n"
        "ORDER BY a.attnum",
        [table.oid],
    )
    return {name: _Column(*row) for name, *row in cur.fetchall()}


def _fitting(name: str, column: _Column, incoming: str) -> sql.Composable | None:
    """What is true for a staged value that fits; None where each does."""
    value, existing = sql.Identifier(name), column.type
    kept = _keeps(value, column, incoming)
    if column.declared != existing:  # a domain: the cast to it is what its checks are asked by
        asked = sql.SQL("(CAST(CAST({0} AS {1}) AS {2}) IS NULL) = ({0} IS NULL)").format(
            value, sql.SQL(existing), sql.SQL(column.declared)
        )
        return asked if kept is None else sql.SQL("{} AND {}").format(kept, asked)
    return kept


def _keeps(value: sql.Composable, column: _Column, incoming: str) -> sql.Composable | None:
    existing = column.type
    if wider(existing, incoming) == existing:
        return None
    there, new = (base(type_.removesuffix("[]")) for type_ in (existing, incoming))
    by_text = there in TEXTS and new in TEXTS
    if existing.endswith("[]") != incoming.endswith("[]"):
        return sql.SQL("{} IS NULL").format(value)
    if by_text or {there, new} <= _NUMBERS or {there, new} <= _MOMENTS or there == new:
        back = "text[]" if by_text and existing.endswith("[]") else "text" if by_text else incoming
        return sql.SQL("CAST(CAST({0} AS {1}) AS {2}) IS NOT DISTINCT FROM CAST({0} AS {2})").format(
            value, sql.SQL(existing), sql.SQL(back)
        )
    if not existing.endswith("[]") and fits(existing, incoming, is_enum=column.is_enum):
        return sql.SQL("(CAST({0} AS {1}) IS NULL) = ({0} IS NULL)").format(value, sql.SQL(existing))  # or it raises
    return sql.SQL("{} IS NULL").format(value)


def _check_values(
    cur: Cursor[Any],
    new: Relation,
    there: Relation,
    standing: dict[str, _Column],
    conditions: dict[str, sql.Composable],
) -> None:
    """All columns in one pass; where one fails, each by itself, to name it."""
    if not conditions or _holds(cur, new, sql.SQL(" AND ").join(conditions.values())):
        return
    for name, condition in conditions.items():
        declared, incoming = standing[name].declared, new.columns[name]
        try:
            number = _count_unfit(cur, new, condition)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            why = error.diag.message_primary or "a value does not fit"
            raise refuse_values(there.name, name, declared, incoming, why) from error
        if number:
            raise refuse_values(there.name, name, declared, incoming, count_rows(number))


def _holds(cur: Cursor[Any], new: Relation, condition: sql.Composable) -> bool:
    try:
        return _count_unfit(cur, new, condition) == 0
    except (psycopg.DataError, psycopg.IntegrityError):
        return False


def _count_unfit(cur: Cursor[Any], new: Relation, condition: sql.Composable) -> int:
    with cur.connection.transaction():
        cur.execute(sql.SQL("SELECT count(*)\nFROM {}\nWHERE NOT ({})").format(identifier(new.name), condition))
        row = cur.fetchone()
    assert row is not None
    return int(row[0])


def _find_nulls(cur: Cursor[Any], new: Relation, columns: list[str]) -> list[str]:
    """Those of the columns that hold NULL."""
    if not columns:
        return []
    asked = sql.SQL(", ").join(sql.SQL("count(*) - count({})").format(sql.Identifier(c)) for c in columns)
    row = cur.execute(sql.SQL("SELECT {}\nFROM {}").format(asked, identifier(new.name))).fetchone()
    assert row is not None
    return [column for column, nulls in zip(columns, row, strict=True) if nulls]


def _check_constraints(cur: Cursor[Any], new: Relation, there: Relation, standing: dict[str, _Column]) -> None:
    """Ask each check of the table whose columns the rows all bring; others the insert itself asks."""
    cur.execute(
        "SELECT k.conname, pg_get_expr(k.conbin, k.conrelid), pg_get_constraintdef(k.oid),\n"
        "  (SELECT array_agg(a.attname::text) FROM pg_attribute a\n"
        "   WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey))\n"
        "FROM pg_constraint k WHERE k.conrelid = %s AND k.contype = 'c'",
        [there.oid],
    )
    for constraint, expression, definition, columns in cur.fetchall():
        if not columns or not set(columns) <= new.columns.keys():
            continue
        values = sql.SQL(", ").join(
            sql.SQL("CAST({0} AS {1}) AS {0}").format(sql.Identifier(c), sql.SQL(standing[c].declared)) for c in columns
        )
        cur.execute(
            sql.SQL("SELECT count(*)\nFROM (SELECT {} FROM {}) AS {}\nWHERE NOT ({})").format(
                values, identifier(new.name), sql.Identifier(there.name.name), sql.SQL(expression)
            )
        )
        row = cur.fetchone()
        if row is not None and row[0]:
            raise DestinationError(
                f"{there.name} refuses {row[0]} of the rows: {constraint} ({definition}) of"
                f" {', '.join(f'{c!r} ({standing[c].declared}, in the model {new.columns[c]})' for c in columns)}",
                mend="correct the rows in the model, or filter them out",
            )


def refuse_cascades(cur: Cursor[Any], there: Relation, mend: str) -> None:
    """Refuse to delete rows with which rows of other tables would go, or lose their reference.

    Raises:
        DestinationError: names a table that would change, and its constraint.
    """
    cur.execute(
        "SELECT conrelid::regclass::text, conname,\n"
        "  CASE confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END\n"
        "FROM pg_constraint WHERE confrelid = %s AND contype = 'f' AND confdeltype IN ('c', 'n', 'd')\n"
        "ORDER BY 1, 2 LIMIT 1",
        [there.oid],
    )
    row = cur.fetchone()
    if row is not None:
        other, constraint, action = row
        raise DestinationError(
            f"rows of {other} refer to {there.name} with ON DELETE {action} ({constraint}), so deleting its rows would"
            f" change {other}",
            mend=mend,
        )


def tell_refusal(there: Relation, error: psycopg.Error) -> DestinationError | TypeRefused:
    """What the table itself refused while rows were written to it: nothing of them stays."""
    diagnosed = error.diag
    told = diagnosed.message_primary or type(error).__name__
    if isinstance(error, errors.NotNullViolation) and diagnosed.column_name:
        return TypeRefused(
            f"column {diagnosed.column_name!r} of {there.name} is NOT NULL, and new rows would have no value in it",
            mend="bring the column in the model (and in `columns:`), or give it a default at the destination",
        )
    return DestinationError(
        f"{there.name} refuses the rows: {told}", mend="correct the rows in the model, or filter them out"
    )
