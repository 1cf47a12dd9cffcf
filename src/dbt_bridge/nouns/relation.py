"""A relation of dbt's warehouse: database, schema and identifier, as dbt means them."""

from __future__ import annotations

from dataclasses import dataclass

from dbt_bridge.nouns.names import NameRules
from dbt_bridge.nouns.table import TableName


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
