"""Tables that landed by `tables: "*"` and that their origin has no more: nobody keeps what landed of them.

They are no failure, as `*` means what is there. Each sync tells them for as long as their landing tables stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.project import LandingSource
from dbt_bridge.nouns.table import Relation, TableName
from dbt_bridge.sync.ends import Ends


@dataclass(frozen=True, slots=True)
class LeftTable:
    """A table that the origin has no more.

    Attributes:
        point: how far what landed of it had come.
        landing: where that stands.
    """

    point: Checkpoint
    landing: Relation
    schema: str | None

    @property
    def table(self) -> TableName:
        """Its name at the origin."""
        return TableName(self.schema or "", self.landing.identifier)

    @property
    def what(self) -> str:
        gone = f"origin {self.point.origin!r} has no table {self.table} any more"
        return f"{self.landing} is not kept any more: {gone}, and what landed of it stays as it last was"

    @property
    def line(self) -> str:
        """To be told to a person."""
        return f"{self.what}\n  -> {self.mend}"

    @property
    def mend(self) -> str:
        return f"drop {self.landing} when nobody reads it; it lands anew when {self.table} is there again"


def find_left(ends: Ends, source: LandingSource, needs: Callable[[str], bool]) -> list[LeftTable]:
    """Those of a source, as its origin is now.

    Args:
        needs: whether the selection needs the table with a unique_id.
    """
    prefix = source.defaults.node.removesuffix(".") + "."
    declared = {table.node for table in source.tables}
    landed = [
        point
        for point in ends.ledger.checkpoints()
        if point.origin == source.origin and point.node.startswith(prefix) and point.node not in declared
    ]
    there = {name.name for name in ends.origin.tables(source.origin_schema)} if landed else set()
    return [
        LeftTable(point, source.relation_of(replace(source.defaults, identifier=name)), source.origin_schema)
        for point in landed
        if (name := point.node.removeprefix(prefix)) not in there and needs(point.node)
    ]


def make_empty_error(source: LandingSource) -> OriginError:
    """A source for which its origin has no table at all: it may be another schema than was meant, or a privilege."""
    schema = f"schema {source.origin_schema!r}" if source.origin_schema else "the default schema"
    globs = " that `include` and `exclude` let land" if source.include or source.exclude else ""
    return OriginError(
        f"source {source.name} is empty: {schema} of origin {source.origin!r} has no table{globs}",
        mend="correct `schema:`, or grant USAGE on it; or take the source out of the dbt YAML",
    )


def set_left_aside(ends: Ends, source: LandingSource, needs: Callable[[str], bool]) -> list[LeftTable]:
    """Go on without them; answers those that are to be told. One whose landing table is gone too is forgotten."""
    told, aside = [], []
    for left in find_left(ends, source, needs):
        if ends.destination.find_table(left.landing.name) is None:
            ends.ledger.forget(left.point.node)
            continue
        told.append(left)
        if left.point.stands:
            aside.append(left.point.put_aside(left.what))
    if aside:
        ends.ledger.save(aside, [])
    return told
