"""What dbt's own text of a relation means in the warehouse: which database, which schema, which name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.names import NameRules
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.connectors import WAREHOUSES, registry

_PART = re.compile(r'"(?P<double>[^"]+)"|`(?P<back>[^`]+)`|\[(?P<square>[^\]]+)\]|(?P<bare>[^\s."`\[\](){}\',;]+)')


@dataclass(frozen=True, slots=True)
class RenderedName:
    """One part of a relation, as dbt writes it in SQL."""

    text: str
    is_quoted: bool


def split_rendered(rendered: str) -> tuple[RenderedName, ...] | None:
    """The parts of a relation in dbt's SQL; None for what is no name of a table: a file, a function, a query."""
    parts: list[RenderedName] = []
    place = 0
    while found := _PART.match(rendered, place):
        parts.append(RenderedName(str(found[found.lastgroup or 0]), found.lastgroup != "bare"))
        place = found.end()
        if place == len(rendered):
            return tuple(parts) if len(parts) <= 3 else None
        if rendered[place] != ".":
            return None
        place += 1
    return None


@dataclass(frozen=True, slots=True)
class RelationReader:
    """Reads the relations of one warehouse.

    Attributes:
        database: the one of dbt's profile.
        holds_databases: whether others can be reached.
    """

    adapter: str
    database: str
    rules: NameRules
    holds_databases: bool

    @classmethod
    def of_profile(cls, profile: WarehouseProfile) -> RelationReader:
        connector = registry().find(WAREHOUSES, profile.adapter)
        rules = registry().find_name_rules(WAREHOUSES, profile.adapter)
        return cls(profile.adapter, profile.database, rules, connector.holds_databases)

    def read(self, rendered: str, where: str) -> Relation:
        """A relation as dbt reads or builds it.

        Args:
            rendered: dbt's own text of it (`relation_name` in its manifest).
            where: for messages.

        Raises:
            UsageError: it is no table or view, one of a database that the bridge does not reach, or one whose quoted
                name the bridge cannot write.
        """
        parts = split_rendered(rendered)
        if parts is None:
            raise UsageError(
                f"{where}: dbt reads it as {rendered}, which is no table or view of the warehouse",
                mend="take `external_location` out of it, or the `bridge` block",
            )
        names = [self._mean(part, rendered, where) for part in parts]
        identifier, schema, database = (*reversed(names), "", "")[:3]
        return Relation(schema, identifier, self.read_database(database, where))

    def find(self, rendered: str) -> Relation | None:
        """A relation as the warehouse holds it; None for what is no table, or out of reach."""
        try:
            return self.read(rendered, "")
        except UsageError:
            return None

    def read_parts(self, database: str | None, schema: str, quoting: Mapping[str, bool | None], where: str) -> Relation:
        """Where tables are that dbt does not know, from what is said of their source; the identifier is empty.

        Raises:
            UsageError: as `read`.
        """
        names = {
            part: self._mean(RenderedName(text, self._quotes(quoting.get(part))), text, where)
            for part, text in (("database", database), ("schema", schema))
            if text
        }
        return Relation(names["schema"], "", self.read_database(names.get("database"), where))

    def read_database(self, name: str | None, where: str) -> str:
        """A database as in `Relation`.

        Raises:
            UsageError: it is another than the profile's, and the warehouse reaches that alone.
        """
        if not name or self.rules.key(name) == self.rules.key(self.database):
            return ""
        if not self.holds_databases:
            raise UsageError(
                f"{where}: it is in the database {name!r}, and a connection to {self.adapter} reaches that of the"
                f" profile alone, {self.database!r}",
                mend="take its `database:` out, or let the dbt profile name that database",
            )
        return name

    def _quotes(self, declared: bool | None) -> bool:
        return self.rules.is_quoted_by_dbt if declared is None else declared

    def _mean(self, part: RenderedName, rendered: str, where: str) -> str:
        """The name under which the bridge writes what dbt reads: as it was declared, where that is so."""
        meant = self.rules.meant(part.text, is_quoted=part.is_quoted)
        for name in (part.text, meant):
            if self.rules.stored(name) == meant:
                return name
        raise UsageError(
            f"{where}: dbt reads it as {rendered}, with {meant!r} in quotes, and the bridge writes"
            f" {self.rules.stored(meant)!r} there",
            mend="take its `quoting:` out, or write the name as the warehouse keeps it",
        )
