"""`dbt-bridge init --origin-url`: a project around the tables that the user's own database has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from dbt_bridge.contracts.capabilities import HoldsTables
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.errors import ConnectionFailed, OriginError
from dbt_bridge.nouns.table import Table, TableName, quote_identifier
from dbt_bridge.scaffold.render import render_template
from dbt_bridge.scaffold.template import Answers, render_project, write_files
from dbt_bridge.system.temporary_files import temporary_folder

ORIGIN = "origin_db"
SOURCE = "origin"

# How applications name the time of a row's last change, most telling first.
_CHANGE_TIMES = ("updated_at", "modified_at", "last_modified", "last_update", "last_updated", "changed_at")


@dataclass(frozen=True, slots=True)
class Staged:
    """A table of the origin and the staging model over it.

    Attributes:
        name: of the source table in dbt, unique in the project.
        cursor: the column to land the table's changes by; None to copy it whole.
    """

    table: Table
    name: str
    cursor: str | None

    @property
    def model(self) -> str:
        return f"stg_{self.name}"

    @property
    def identifier(self) -> str | None:
        """The table's own name for dbt's YAML, where the source table has another."""
        own = self.table.name.name
        return None if own == self.name else escape_jinja(own)

    @property
    def columns(self) -> list[str]:
        """The columns in SQL, as dbt shall read it."""
        return [escape_jinja(quote_where_needed(column.name)) for column in self.table.columns]

    @property
    def key(self) -> str | None:
        """The key for dbt's YAML where it is one column, which then is unique and not NULL."""
        return escape_jinja(self.table.key[0]) if len(self.table.key) == 1 else None

    @property
    def key_is_quoted(self) -> bool:
        return quote_where_needed(self.table.key[0]) != self.table.key[0]


def write_own_project(directory: Path, answers: Answers, schema: str | None = None) -> list[Path]:
    """Look at the origin's tables, and write sources, staging models and tests for them.

    Args:
        schema: the origin's schema; its default one when None.

    Raises:
        UsageError: the origin's URL cannot be read, the project's name is none, or a file is there already.
        ConnectionFailed, OriginError: the origin cannot be reached, or the schema has no tables.
    """
    files = render_project("own", answers)
    staged = stage_tables(_read_tables(answers, schema))
    place = {"schema": escape_jinja(schema)} if schema else {}
    bridge = {"origin": ORIGIN, **place, "replication": "initial_copy"}
    values: dict[str, Any] = {"source": SOURCE, "bridge": bridge, "staged": staged}
    staging = Path("models/staging")
    for name in ("_sources.yml", "_staging.yml"):
        files[staging / name] = render_template(f"own_tables/{name}", values)
    for one in staged:
        files[staging / f"{one.model}.sql"] = render_template("own_tables/staging.sql", {**values, "one": one})
    files[Path("models/marts/landed_tables.sql")] = render_template("own_tables/landed_tables.sql", values)
    return write_files(directory, files)


def _read_tables(answers: Answers, schema: str | None) -> list[Table]:
    from dbt_bridge.project.origins import open_origin

    with temporary_folder("init") as folder:  # for this user only, as the origin is opened from dlt's settings
        files = render_project("own", answers)
        write_files(folder, {path: text for path, text in files.items() if path.parts[0] == ".dlt"})
        try:
            with open_origin(ORIGIN, project_root=folder) as origin:
                tables = [_describe(origin, name) for name in origin.tables(schema)]
        except ConnectionFailed as error:  # its mend names a file that is not there yet
            raise ConnectionFailed(error.what, mend="check --origin-url; nothing was written") from error
    tables = [table for table in tables if table.columns]
    if not tables:
        raise OriginError(
            f"the origin has no tables with columns in {f'schema {schema}' if schema else 'its default schema'}",
            mend="name another schema: dbt-bridge init DIR --origin-url URL --origin-schema SCHEMA",
        )
    return tables


def _describe(origin: Origin, name: TableName) -> Table:
    """A table that is held no longer: a schema may have more than the origin's lock table has room for."""
    table = origin.describe(name).table
    if isinstance(origin, HoldsTables):
        origin.let_go(table.name)
    return table


def stage_tables(tables: Iterable[Table]) -> list[Staged]:
    """One staging model per table, under names that dbt takes."""
    staged: list[Staged] = []
    taken: set[str] = set()
    for table in tables:
        stem = re.sub(r"[^a-z0-9]+", "_", table.name.name.lower()).strip("_") or "table"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        staged.append(Staged(table, name, _find_change_time(table)))
    return staged


def _find_change_time(table: Table) -> str | None:
    """The cursor of a table whose changes can be merged: it has a key, and the time of each row's change."""
    if not table.key:
        return None
    times = {c.name for c in table.columns if pa.types.is_timestamp(c.type) and not c.nullable}
    return next((name for name in _CHANGE_TIMES if name in times), None)


def quote_where_needed(column: str) -> str:
    """A column in SQL; in quotes where DuckDB or Postgres would read it otherwise."""
    reserved = _reserved_words()
    is_plain = reserved is not None and re.fullmatch(r"[a-z_][a-z0-9_]*", column) and column not in reserved
    return column if is_plain else quote_identifier(column)


def escape_jinja(text: str) -> str:
    """A text for dbt to read: where it looks like Jinja, an expression whose value it is."""
    return f"{{{{ {text!r} }}}}" if re.search(r"\{[{%#]", text) else text


@cache
def _reserved_words() -> frozenset[str] | None:
    """The words that need quotes as a column's name; None, so that all get them, where DuckDB is not installed.

    sqlglot (29) has Postgres's, some of them under their names in its grammar, like `end_p`; DuckDB, where the project
    is built, knows its own.
    """
    try:
        import duckdb
    except ImportError:
        return None
    from sqlglot.dialects import DuckDB

    with duckdb.connect() as session:
        own = session.execute("SELECT keyword_name, keyword_category FROM duckdb_keywords()").fetchall()
    no_columns = {word for word, category in own if category in ("reserved", "type_function")}
    postgres = ("current_schema", "system_user")  # functions there, as `user` is; those two sqlglot does not have
    return frozenset({*DuckDB.Generator.RESERVED_KEYWORDS, *no_columns, *postgres})
