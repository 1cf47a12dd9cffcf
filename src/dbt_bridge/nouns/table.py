"""The nouns that the rooms share: a table's name, where dbt has it, its columns and its key.

pyarrow is imported when it is first needed: dbt loads this module at each of its starts, through the plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dbt_bridge.nouns.names import NameRules

if TYPE_CHECKING:
    import pyarrow as pa

GHOST_MARK = "_dbt_bridge_ghost"  # in the text of a view that stands for a source that has not landed


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's name, unquoted and exactly as the database spells it."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """Where dbt reads or builds a table or view.

    Attributes:
        schema, identifier: unquoted, so that what is written under them is what dbt reads.
        database: the same; empty for the one that dbt's profile names.
    """

    schema: str
    identifier: str
    database: str = ""

    @property
    def name(self) -> TableName:
        """Inside its database."""
        return TableName(self.schema, self.identifier)

    def key(self, rules: NameRules) -> tuple[str, str, str]:
        """Equal for relations that are one to the warehouse."""
        return rules.key(self.database), rules.key(self.schema), rules.key(self.identifier)

    def __str__(self) -> str:
        """For people: the database is told where it is not the profile's own."""
        return ".".join(part for part in (self.database, self.schema, self.identifier) if part)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it travels.

    Attributes:
        name: unquoted, exactly as the origin spells it.
        type: the Arrow type that its values travel in, and that the destination maps to its own.
        origin_type: the origin's own name for the type (`numeric(12,2)`), for messages and for a
            destination of the same kind; empty where the origin has none.
        nullable: False only where the origin declares it.
    """

    name: str
    type: pa.DataType
    origin_type: str = ""
    nullable: bool = True

    def as_text(self) -> Column:
        """The same column, travelling as the origin's own text form of its values."""
        import pyarrow as pa

        return replace(self, type=pa.string())


@dataclass(frozen=True, slots=True)
class UnfollowedColumn:
    """A column of the origin whose values its log does not have, so that it cannot land by it.

    Attributes:
        expression: of a generated column, in the origin's SQL; empty where it is another kind.
    """

    name: str
    expression: str = ""

    def __str__(self) -> str:
        how = f"generated as {self.expression}" if self.expression else "which cannot be followed"
        return f"{self.name} ({how}: not in the log)"


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its columns in order, and the columns of its primary key (empty without one)."""

    name: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def arrow_schema(self) -> pa.Schema:
        """The schema of every batch of this table's rows, in column order."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    @classmethod
    def of_schema(cls, name: TableName, schema: pa.Schema, key: tuple[str, ...] = ()) -> Table:
        """The table whose rows have this Arrow schema."""
        return cls(name, tuple(Column(f.name, f.type, nullable=f.nullable) for f in schema), key)

    def with_types(self, types: Mapping[str, pa.DataType]) -> Table:
        """The same table with other Arrow types for some columns."""
        return replace(
            self,
            columns=tuple(replace(c, type=types[c.name]) if c.name in types else c for c in self.columns),
        )


def quote_identifier(identifier: str) -> str:
    """An identifier in SQL's double quotes (Postgres, DuckDB, Snowflake, SQLite)."""
    return '"' + identifier.replace('"', '""') + '"'


def quote_table_name(name: TableName) -> str:
    """A qualified table name in SQL's double quotes."""
    return f"{quote_identifier(name.schema)}.{quote_identifier(name.name)}"


def quote_literal(text: str) -> str:
    """A text as a literal in SQL's single quotes, for statements that take no parameters.

    Right wherever a backslash has no meaning in a literal: DuckDB, SQLite, Delta's SQL, and Postgres with
    `standard_conforming_strings`, which is on since 9.1.
    """
    return "'" + text.replace("'", "''") + "'"
