"""Who writes which table: one table is written by one, or each would undo what the other one wrote."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Literal

from dbt_bridge.contracts.connector import ANY, DeliveryKind
from dbt_bridge.contracts.destination import name_history
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.names import OWN_NAMES, NameRules, is_own_name
from dbt_bridge.nouns.project import Delivery, LandingSource, LandingTable, Project
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.connectors import DESTINATIONS, WAREHOUSES, registry
from dbt_bridge.project.destinations import destination_settings
from dbt_bridge.project.relations import RelationReader

_SPOKEN = {"lands": "lands in", "is built": "is built into", "is delivered": "is delivered to"}


@dataclass(frozen=True, slots=True)
class Claim:
    """One who writes a table.

    Attributes:
        owner: dbt's unique_id.
        destination: its name; None for dbt's warehouse.
        appends: it takes nothing away from what others wrote.
    """

    owner: str
    how: Literal["lands", "keeps its history", "is built", "is delivered"]
    destination: str | None
    relation: Relation
    appends: bool = False

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.destination}: {self.relation}" if self.destination else str(self.relation)


RulesOf = Callable[[str | None], NameRules]
"""How the warehouse (None), or a destination by its name, reads names."""


def claim_landing(source: LandingSource, table: LandingTable, rules_of: RulesOf) -> Iterator[Claim]:
    """What a source table writes."""
    relation = source.relation_of(table)
    yield Claim(table.node, "lands", source.destination, relation)
    if table.history:
        history = name_history(relation.name, rules_of(source.destination)).name
        yield Claim(table.node, "keeps its history", source.destination, replace(relation, identifier=history))


def list_claims(
    sources: Iterable[LandingSource],
    deliveries: Iterable[Delivery],
    graph: Graph,
    reader: RelationReader,
    rules_of: RulesOf,
) -> list[Claim]:
    """All of a project, as far as dbt knows the tables."""
    return [
        *(claim for source in sources for table in source.tables for claim in claim_landing(source, table, rules_of)),
        *list_built(graph, reader),
        *(
            Claim(d.node, "is delivered", d.destination, Relation(d.schema, d.table), d.write_disposition == "append")
            for d in deliveries
        ),
    ]


def list_built(graph: Graph, reader: RelationReader) -> Iterator[Claim]:
    """What dbt builds."""
    for node in graph.list_nodes("model", "seed", "snapshot"):
        if node.relation_name and (relation := reader.find(node.relation_name)) is not None:
            yield Claim(node.unique_id, "is built", None, relation)


def find_aliases(sources: Iterable[LandingSource], graph: Graph, reader: RelationReader) -> dict[str, str]:
    """Source tables without a `bridge` block that are another name of one that lands: unique_id -> that one's."""
    tables = [(source, table) for source in sources for table in source.tables]
    landed = {s.relation_of(t).key(reader.rules): t.node for s, t in tables if not s.destination}
    known = {table.node for _, table in tables}
    others = [node for node in graph.list_nodes("source") if node.unique_id not in known]
    named = [(node.unique_id, reader.find(node.relation_name)) for node in others]
    found = [(node, landed.get(relation.key(reader.rules))) for node, relation in named if relation is not None]
    return {node: table for node, table in found if table is not None}


def refuse_shared_tables(
    claims: Iterable[Claim],
    rules_of: RulesOf,
    identify: Callable[[str | None], Hashable] = lambda destination: destination,
) -> None:
    """Refuse two who write one table, unless both only append to it, and who writes what is the bridge's own. What dbt
    alone builds is dbt's to refuse.

    Args:
        rules_of: how a destination reads names; asked only of those whose names are alike.
        identify: what tells a destination's database from others; asked as rarely.

    Raises:
        UsageError: names both.
    """
    alike: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        _refuse_own_name(claim)
        key = claim.relation.schema.casefold(), claim.relation.identifier.casefold()
        alike.setdefault(key, []).append(claim)
    for group in alike.values():
        for one, other in combinations(group, 2):
            if (one.appends and other.appends) or {one.how, other.how} == {"is built"}:
                continue
            rules = rules_of(one.destination)
            if one.relation.key(rules) == other.relation.key(rules) and (
                one.destination == other.destination or identify(one.destination) == identify(other.destination)
            ):
                raise _shared(one, other)


def _refuse_own_name(claim: Claim) -> None:
    """Raises UsageError: under such a name the bridge itself makes tables, and takes them away."""
    relation = claim.relation
    if not is_own_name(relation.identifier) and relation.schema.casefold() != AUDIT_SCHEMA:
        return
    raise UsageError(
        f"{claim.owner} {_SPOKEN.get(claim.how, 'keeps its history in')} {claim.place}: the schema {AUDIT_SCHEMA} and"
        f" names that begin with {OWN_NAMES} are dbt-bridge's own",
        mend="give it another schema or name",
    )


def _shared(one: Claim, other: Claim) -> UsageError:
    where = one.place if one.place == other.place else f"{one.place} and {other.place}, which are one table"
    if one.how == other.how == "lands":
        mend = "give one of the sources another `schema:`"
        if one.owner.rpartition(".")[0] == other.owner.rpartition(".")[0]:  # of one source
            mend = "declare the table once, and let models read it under that name"
            if one.relation != other.relation:
                mend = f"leave one of them out: take it out of `tables:`, or exclude: [{other.relation.identifier}]"
        return UsageError(f"{one.owner} and {other.owner} both land in {where}", mend=mend)
    if one.how == other.how == "is delivered":
        mend = "give one of them another `table:` or `schema:`, or let both `write_disposition: append`"
        return UsageError(f"{one.owner} and {other.owner} are both delivered to {where}", mend=mend)
    one_does, other_does = (_SPOKEN.get(claim.how, "keeps its history in") for claim in (one, other))
    return UsageError(
        f"{one.owner} {one_does} {one.place}, and {other.owner} {other_does} {other.place}, which is the same table",
        mend="give one of them another schema or name",
    )


def refuse_shared_databases(project: Project) -> None:
    """The same, also where two names of destinations, or one and dbt's warehouse, lead to one database.

    Raises:
        UsageError: names both.
    """
    reader = RelationReader.of_profile(project.warehouse)
    rules_of = make_rules_of(project)
    claims = list_claims(project.sources, project.deliveries, project.graph, reader, rules_of)
    refuse_shared_tables(claims, rules_of, make_identify(project))


def refuse_impossible(project: Project) -> None:
    """Refuse a delivery that its destination cannot take, before anything moves.

    Raises:
        UsageError: names the exposure, the destination and what it cannot.
    """
    for item in project.deliveries:
        if item.write_disposition != "merge" or not project.selects(item.node):
            continue
        settings = destination_settings(item.destination, project_root=project.root)
        connector = registry().find(DESTINATIONS, settings.destination_type)
        if not settings.find_setting("destination_type") and ANY in connector.destination_types:
            continue  # it may not be configured: whoever opens it says so
        kind = DeliveryKind(item.write_disposition, item.deletes, settings.find_setting)
        if why := connector.find_refusal(kind):
            asked = "`deletes: own`" if item.deletes == "own" else f"`write_disposition: {item.write_disposition}`"
            raise UsageError(
                f"{item.node}: {asked} is not for the destination {item.destination!r}: {why}",
                mend="deliver to PostgreSQL, DuckDB or Delta, or with "
                + ("`deletes: none`" if item.deletes == "own" else "`write_disposition: replace`"),
            )


def make_rules_of(project: Project) -> RulesOf:
    """See `RulesOf`."""

    @cache
    def rules_of(destination: str | None) -> NameRules:
        if destination is None:
            return registry().find_name_rules(WAREHOUSES, project.warehouse.adapter)
        settings = destination_settings(destination, project_root=project.root)
        return registry().find_name_rules(DESTINATIONS, settings.destination_type)

    return rules_of


def make_identify(project: Project) -> Callable[[str | None], Hashable]:
    """What tells the database of the warehouse (None), or of a destination, from others; its own name where its
    connector does not say."""

    @cache
    def identify(destination: str | None) -> Hashable:
        if destination is None:
            connector = registry().find(WAREHOUSES, project.warehouse.adapter)
            return connector.identify_warehouse(project.warehouse)
        settings = destination_settings(destination, project_root=project.root)
        try:
            found = registry().find(DESTINATIONS, settings.destination_type).identify_destination(settings)
        except UsageError:  # it is not configured: whoever opens it says so
            found = None
        return destination if found is None else found

    return identify


def refuse_undeclared(project: Project, landings: Iterable[tuple[LandingSource, LandingTable]]) -> None:
    """Refuse what two of these write, or one of them and dbt: tables that only their origin knows among them.

    Raises:
        UsageError: names both.
    """
    built = list_built(project.graph, RelationReader.of_profile(project.warehouse))
    rules_of = make_rules_of(project)
    landed = [claim for source, table in landings for claim in claim_landing(source, table, rules_of)]
    refuse_shared_tables([*landed, *built], rules_of)
