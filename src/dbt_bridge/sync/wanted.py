"""The tables that a run is to land, and what their origin says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from dbt_bridge.contracts.origin import Described, Origin
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.names import is_own_name
from dbt_bridge.nouns.project import LandingSource, LandingTable
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Relation, TableName


@dataclass(frozen=True, slots=True)
class Wanted:
    """One table that is to land."""

    source: LandingSource
    table: LandingTable
    receipt: Receipt

    @property
    def relation(self) -> Relation:
        """Where it lands."""
        return self.source.relation_of(self.table)

    @property
    def landing(self) -> TableName:
        """The same inside its database."""
        return self.relation.name

    @property
    def place(self) -> str:
        """The same, told apart from the place of that name at another destination."""
        return f"{self.source.destination}: {self.relation}" if self.source.destination else str(self.relation)


def list_wanted_tables(
    source: LandingSource, origin: Origin | None, needs: Callable[[str], bool], load_id: str
) -> list[Wanted]:
    """The tables of a source that this run lands: the declared ones and, with `tables: "*"`, all others.

    Args:
        origin: None when it could not be opened; then only the declared tables are known.
        needs: whether the selection needs the table with a unique_id (`Project.needs`).
    """
    tables = list(source.tables)
    if source.every_table and origin is not None:
        names = [table.name for table in origin.tables(source.origin_schema) if not is_own_name(table.name)]
        taken = {name for name in names if _matches(name, source)}
        tables = [table for table in tables if table.identifier not in names or table.identifier in taken]
        tables += _list_undeclared(source, taken - {table.identifier for table in tables})
    return [Wanted(source, table, _start_receipt(source, table, load_id)) for table in tables if needs(table.node)]


def group_by_database(wanted: Iterable[Wanted]) -> dict[str, list[Wanted]]:
    """The tables of each database, in their order."""
    groups: dict[str, list[Wanted]] = {}
    for item in wanted:
        groups.setdefault(item.relation.database, []).append(item)
    return groups


def _list_undeclared(source: LandingSource, names: Iterable[str]) -> list[LandingTable]:
    """The origin's tables that dbt does not know.

    Raises:
        UsageError: dbt knows another one under the name of one of them.
    """
    prefix = source.defaults.node.removesuffix(".")
    known = {table.name: table.identifier for table in source.tables}
    if both := sorted(known.keys() & set(names)):
        raise UsageError(
            f"source {source.name}: the origin has a table {both[0]!r}, and the declared table {both[0]!r} is its"
            f" {known[both[0]]!r}",
            mend=f"declare {both[0]!r} under another name, or leave the origin's out: exclude: [{both[0]}]",
        )
    return [replace(source.defaults, node=f"{prefix}.{name}", name=name, identifier=name) for name in sorted(names)]


def _matches(name: str, source: LandingSource) -> bool:
    included = not source.include or any(fnmatchcase(name, glob) for glob in source.include)
    return included and not any(fnmatchcase(name, glob) for glob in source.exclude)


def _start_receipt(source: LandingSource, table: LandingTable, load_id: str) -> Receipt:
    return record.start_receipt(
        load_id,
        table.replication,
        table.node,
        origin=source.origin,
        destination=source.destination or "warehouse",
        table_name=str(source.relation_of(table)),
        write_disposition="replace",
    )


def describe_wanted(origin: Origin, wanted: Wanted) -> Described:
    """The origin's description of a table; names the nearest when there is none."""
    schema, name = wanted.source.origin_schema or "", wanted.table.identifier
    try:
        return origin.describe(TableName(schema, name))
    except OriginError as error:
        try:
            others = [table.name for table in origin.tables(wanted.source.origin_schema)]
        except OriginError:  # the origin is gone, and the first error says where it went
            raise error from None
        nearest = get_close_matches(name, others, n=1)
        if name in others or not nearest:
            raise
        raise OriginError(error.what, mend=f"did you mean {nearest[0]!r}? {error.mend}".strip()) from error
