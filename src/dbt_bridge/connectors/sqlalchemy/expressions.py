"""Pieces of SQLAlchemy's SQL: names that are always quoted, and queries that a person wrote."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dbt_bridge.nouns.table import TableName


def make_identifier(name: str) -> sa.quoted_name:
    """A name that SQLAlchemy always quotes."""
    return sa.quoted_name(name, quote=True)


def make_column(name: str, kind: Any = None) -> sa.ColumnClause[Any]:
    return sa.column(make_identifier(name), kind)


def make_table(name: TableName) -> sa.TableClause:
    return sa.table(make_identifier(name.name), schema=make_identifier(name.schema) if name.schema else None)


def make_text(sql: str) -> sa.TextClause:
    """SQL that a person wrote: its colons name no parameters."""
    return sa.text(sql.replace(":", "\\:"))
