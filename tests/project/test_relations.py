"""What dbt's own text of a relation means, per engine, and who may write it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.projects import landing_source, table

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns import names
from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.names import NameRules
from dbt_bridge.nouns.table import Relation, TableName
from dbt_bridge.project.claims import Claim, list_claims, refuse_shared_tables
from dbt_bridge.project.reconciliations import parse_relation
from dbt_bridge.project.relations import RelationReader, split_rendered

READERS = {
    "duckdb": RelationReader("duckdb", "wh", names.DUCKDB, holds_databases=True),
    "postgres": RelationReader("postgres", "Shop", names.POSTGRES, holds_databases=False),
    "snowflake": RelationReader("snowflake", "analytics", names.SNOWFLAKE, holds_databases=True),
    "redshift": RelationReader("redshift", "dev", names.LOWER, holds_databases=True),
    "bigquery": RelationReader("bigquery", "my-project", names.BIGQUERY, holds_databases=True),
}


@pytest.mark.parametrize(
    ("adapter", "rendered", "meant"),
    [
        ("duckdb", '"wh"."raw"."orders"', Relation("raw", "orders")),
        ("duckdb", '"WH"."raw"."Orders"', Relation("raw", "Orders")),
        ("duckdb", '"Raw"."a.b"."c d"', Relation("a.b", "c d", "Raw")),
        ("duckdb", "raw.orders", Relation("raw", "orders")),
        ("postgres", '"Shop"."raw".Orders', Relation("raw", "orders")),
        ("postgres", '"Shop".RAW."Orders"', Relation("raw", "Orders")),
        ("postgres", '"Shop"."raw"."É"', Relation("raw", "É")),
        ("postgres", '"Shop"."raw".É', Relation("raw", "É")),  # of a multi-byte encoding it folds ASCII alone
        ("snowflake", "analytics.raw.orders", Relation("raw", "orders")),
        ("snowflake", "lake.raw.orders", Relation("raw", "orders", "lake")),
        ("snowflake", 'analytics.raw."ORDERS"', Relation("raw", "ORDERS")),
        ("redshift", '"dev"."raw"."Orders"', Relation("raw", "Orders")),
        ("bigquery", "`my-project`.`raw`.`Orders`", Relation("raw", "Orders")),
        ("bigquery", "`other-project`.`raw`.`orders`", Relation("raw", "orders", "other-project")),
    ],
)
def test_a_relation_is_what_dbts_text_means_there(adapter: str, rendered: str, meant: Relation) -> None:
    assert READERS[adapter].read(rendered, "source s.t") == meant


@pytest.mark.parametrize(
    ("adapter", "rendered", "why"),
    [
        ("duckdb", "'s3://bucket/orders.parquet'", "external_location"),
        ("duckdb", 'read_csv("orders.csv")', "external_location"),
        ("duckdb", '(select * from "raw"."orders")', "external_location"),
        ("postgres", '"shop"."raw"."orders"', "database"),  # another one than "Shop"
        ("snowflake", 'analytics.raw."orders"', "quoting"),  # dlt writes ORDERS
    ],
)
def test_what_cannot_be_filled_is_refused(adapter: str, rendered: str, why: str) -> None:
    with pytest.raises(UsageError, match=r"source s\.t: ") as refused:
        READERS[adapter].read(rendered, "source s.t")
    assert why in refused.value.mend
    assert READERS[adapter].find(rendered) is None


NAME = st.text(st.characters(exclude_characters='"', exclude_categories=("Cs", "Cc")), min_size=1)


@given(st.lists(NAME, min_size=1, max_size=3))
def test_quoted_parts_are_read_back(parts: list[str]) -> None:
    found = split_rendered(".".join(f'"{part}"' for part in parts))
    assert found is not None
    assert [part.text for part in found] == parts


RULES = [names.EXACT, names.POSTGRES, names.DUCKDB, names.SNOWFLAKE, names.LOWER, names.BIGQUERY, names.UNKNOWN]


@given(st.sampled_from(RULES), NAME)
def test_what_is_stored_is_one_name_with_itself(rules: NameRules, name: str) -> None:
    """Whatever is written under a name is found under it again, and folding settles."""
    assert rules.key(rules.stored(name)) == rules.key(name)
    assert rules.bare(rules.bare(name)) == rules.bare(name)
    assert names.find_twins([name, name], rules.same) == (name, name)


@pytest.mark.parametrize(
    ("said", "origin", "meant"),
    [
        ("orders", None, (TableName("", "orders"), "")),
        ("shop.orders", None, (TableName("shop", "orders"), "")),
        ("legacy.shop.orders", None, (TableName("shop", "orders"), "legacy")),
        ("shop.orders.2024", "erp", (TableName("shop", "orders.2024"), "")),
        (".orders", None, (TableName("", ".orders"), "")),
    ],
)
def test_a_legacy_relation_of_the_warehouse_may_name_its_database(
    said: str, origin: str | None, meant: tuple[TableName, str]
) -> None:
    assert parse_relation(said, origin) == meant


SHOP, SHOUTED = Relation("raw", "orders"), Relation("RAW", "Orders")


def lands(owner: str, relation: Relation, to: str | None = None) -> Claim:
    return Claim(owner, "lands", to, relation)


def test_names_are_compared_as_the_engine_does() -> None:
    both = [lands("source.p.a.orders", SHOP), lands("source.p.b.orders", SHOUTED)]
    refuse_shared_tables(both, lambda _: names.POSTGRES)
    with pytest.raises(UsageError, match=r"both land in raw\.orders and RAW\.Orders, which are one table"):
        refuse_shared_tables(both, lambda _: names.DUCKDB)
    apart = [both[0], lands("source.p.b.orders", replace(SHOP, database="lake"))]
    refuse_shared_tables(apart, lambda _: names.DUCKDB)


def test_two_appends_may_share_a_table_and_nothing_else_may() -> None:
    def delivered(owner: str, *, appends: bool, to: str = "crm") -> Claim:
        return Claim(owner, "is delivered", to, SHOP, appends)

    def rules_of(_: str | None) -> NameRules:
        return names.POSTGRES

    refuse_shared_tables([delivered("a", appends=True), delivered("b", appends=True)], rules_of)
    with pytest.raises(UsageError, match=r"a and b are both delivered to crm: raw\.orders"):
        refuse_shared_tables([delivered("a", appends=True), delivered("b", appends=False)], rules_of)
    elsewhere = [delivered("a", appends=False), delivered("b", appends=False, to="crm_2")]
    refuse_shared_tables(elsewhere, rules_of)
    with pytest.raises(UsageError, match="which are one table"):
        refuse_shared_tables(elsewhere, rules_of, lambda _: "one server")


def test_what_dbt_builds_is_no_landing_table() -> None:
    shop = landing_source(table("orders", history=True))
    relation = '"wh"."SHOP_landing"."{}"'
    nodes = {
        f"seed.shop.{name}": Node(f"seed.shop.{name}", "seed", name, "shop", "", relation_name=relation.format(name))
        for name in ("orders", "orders_history", "others")
    }
    for name in ("orders", "orders_history"):
        claims = list_claims([shop], [], Graph("shop", "duckdb", "", {f"seed.shop.{name}": nodes[f"seed.shop.{name}"]}),
                             READERS["duckdb"], lambda _: names.DUCKDB)  # fmt: skip
        with pytest.raises(UsageError, match=rf"{name}.*seed\.shop\.{name} is built into.*the same table"):
            refuse_shared_tables(claims, lambda _: names.DUCKDB)
    others = Graph("shop", "duckdb", "", {"seed.shop.others": nodes["seed.shop.others"]})
    claims = list_claims([shop], [], others, READERS["duckdb"], lambda _: names.DUCKDB)
    refuse_shared_tables(claims, lambda _: names.DUCKDB)
