"""A real dbt project, read: sources, deliveries, warehouse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbt_bridge.errors import BridgeError, UsageError
from dbt_bridge.nouns.project import DbtOptions, LandingSource, Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.load import load_project, nearest_project
from dbt_bridge.project.sources import default_slot

SOURCES = """
sources:
  - name: shop
    schema: "{{ target.name }}_landing"
    config:
      meta:
        bridge:
          origin: "{{ env_var('SHOP_ORIGIN') }}"
          schema: public
          replication: incremental
          cursor: updated_at
    tables:
      - name: orders
        identifier: Orders
        config: {meta: {bridge: {lag: 10 minutes, types: {payload: text}}}}
      - name: customers
        config: {meta: {bridge: {replication: initial_copy}}}
      - name: payments
  - name: elsewhere
    tables: [{name: loaded_by_others}]
"""
WHOLE = """
sources:
  - name: erp
    schema: "{{ var('erp_schema') }}"
    meta: {bridge: {origin: erp_my, tables: "*", include: ["sales_*"], exclude: sales_tmp, destination: lake}}
"""
FOLLOWED = """
sources:
  - name: "Shop-2"
    schema: followed
    config:
      meta:
        bridge: {origin: shop_pg, replication: cdc, max_wal: 10GB, mask: {email: sha256}, columns: {exclude: [ssn]}}
    tables:
      - name: customers
        config: {meta: {bridge: {deletes: soft, history: true, columns: [id, email, "name_*"]}}}
      - name: events
        config: {meta: {bridge: {write_disposition: append}}}
"""
EXPOSURES = """
models:
  - name: segments
    columns: [{name: id, data_tests: [unique]}]
  - name: base
    columns: [{name: id, data_tests: [not_null]}]
  - name: later
    columns:
      - name: id
        data_tests: [{relationships: {arguments: {to: ref('segments'), field: id}}}]
unit_tests:
  - name: adds_one
    model: segments
    given: [{input: ref('base'), rows: [{id: 1}]}]
    expect: {rows: [{id: 1}]}
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('segments')]
    config:
      meta:
        bridge: {destination: crm_pg, schema: crm, table: people, write_disposition: merge, primary_key: id}
  - name: dashboard
    type: dashboard
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('segments')]
  - name: brief
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('segments')]
    config: {meta: {bridge: {destination: crm_pg, write_disposition: replace}}}
"""


def read(root: Path, **options: object) -> Project:
    return load_project(DbtOptions(root, profiles_dir=root, **options))  # type: ignore[arg-type]


def named(project: Project, name: str) -> LandingSource:
    return next(source for source in project.sources if source.name == name)


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / "models" / name.replace("__", ".")).write_text(text)


@pytest.fixture
def shop(dbt_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything in one project, so that one parse shows it."""
    monkeypatch.setenv("SHOP_ORIGIN", "shop_pg")
    write(dbt_root, sources__yml=SOURCES, whole__yml=WHOLE, exposures__yml=EXPOSURES)
    write(dbt_root, base__sql="select 1 as id from {{ source('shop', 'orders') }}")
    write(dbt_root, segments__sql="select id from {{ ref('base') }}", later__sql="select id from {{ ref('segments') }}")
    (dbt_root / "tests").mkdir()
    (dbt_root / "tests" / "singular.sql").write_text("select 1 from {{ ref('base') }} where id < 0")
    return dbt_root


def test_a_project_is_read_as_it_was_written(shop: Path) -> None:
    project = read(shop, vars={"erp_schema": "erp_raw"})

    assert (project.name, project.root) == ("shop", shop)
    warehouse = project.warehouse
    assert (warehouse.adapter, warehouse.database, warehouse.schema, warehouse.threads) == (
        "duckdb", "warehouse", "main", 2,
    )  # fmt: skip
    assert warehouse.credentials["path"] == str(shop / "warehouse.duckdb")

    assert {source.name for source in project.sources} == {"shop", "erp"}
    source = named(project, "shop")
    assert (source.origin, source.origin_schema, source.landing_schema) == ("shop_pg", "public", "dev_landing")
    orders, customers, payments = source.tables
    assert (orders.node, orders.name, orders.identifier) == ("source.shop.shop.orders", "orders", "Orders")
    assert (orders.replication, orders.cursor, orders.lag) == ("incremental", "updated_at", 600)
    assert orders.types == {"payload": "text"}
    assert customers.replication == "initial_copy"
    assert (payments.replication, payments.cursor, payments.lag) == ("incremental", "updated_at", 0)

    erp = named(project, "erp")  # dbt knows none of its tables, and so nothing of it
    assert (erp.every_table, erp.include, erp.exclude, erp.tables) == (True, ("sales_*",), ("sales_tmp",), ())
    assert (erp.landing_schema, erp.landing_database, erp.destination) == ("erp_raw", "", "lake")

    brief, delivery = project.deliveries
    assert (brief.schema, brief.table, brief.write_disposition) == ("main", "brief", "replace")
    assert (delivery.node, delivery.model) == ("exposure.shop.crm", "model.shop.segments")
    assert delivery.relation == Relation("main", "segments")
    assert (delivery.schema, delivery.table, delivery.write_disposition) == ("crm", "people", "merge")
    assert delivery.ancestors == {"model.shop.segments", "model.shop.base", "source.shop.shop.orders"}
    assert {gate.split(".")[2] for gate in delivery.gates} == {
        "unique_segments_id",
        "not_null_base_id",
        "singular",
        "segments",
    }
    assert not any("relationships" in gate for gate in delivery.gates), "a later model's test guards the later model"

    assert project.needed is None
    assert project.needs("source.shop.shop.orders")
    assert project.needs("source.shop.erp.sales_2026")


def test_a_followed_source_has_a_slot_of_its_own_for_each_target(dbt_root: Path) -> None:
    write(dbt_root, followed__yml=FOLLOWED)
    source = named(read(dbt_root), "Shop-2")
    assert re.fullmatch(r"dbt_bridge_shop_shop_2_dev_[0-9a-f]{8}", source.slot)
    assert source.max_wal == 10 << 30
    customers, events = source.tables
    assert (customers.replication, customers.deletes, customers.history) == ("cdc", "soft", True)
    assert (customers.columns.include, customers.columns.exclude) == (("id", "email", "name_*"), ("ssn",))
    assert (customers.mask, customers.of_source) == ({"email": "sha256"}, {"email", "ssn"})
    assert (events.write_disposition, events.deletes, events.history) == ("append", "hard", False)


def test_a_slots_name_is_valid_and_apart_from_all_others() -> None:
    assert default_slot("shop", "orders", "prod") == "dbt_bridge_shop_orders_prod"
    names = [default_slot("p" * 60, source, "prod") for source in ("one", "two")]
    names += [default_slot("shop", source, "prod") for source in ("Orders", "orders", "or-ders", "or_ders")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{1,55}", name) for name in names)


def test_env_var_that_is_missing_is_dbts_error(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_ORIGIN")
    with pytest.raises(UsageError, match="SHOP_ORIGIN") as failed:
        read(shop, vars={"erp_schema": "erp_raw"})
    assert failed.value.mend.startswith("dbt ")


@pytest.mark.parametrize(
    ("yaml", "what", "mend"),
    [
        (
            "sources: [{name: shop, config: {meta: {bridge: {origin: x}}}, tables: [{name: orders, "
            "config: {meta: {bridge: {curser: id}}}}]}]",
            "source shop.orders (models/sources.yml): `bridge` has no key 'curser'",
            "did you mean 'cursor'?",
        ),
        (
            "sources: [{name: shop, config: {meta: {bridge: {origin: x, tables: '*', replication: incremental}}}}]",
            "source shop (models/sources.yml): replication: incremental needs a cursor",
            "cursor: <column>",
        ),
        (
            "sources: [{name: a, config: {meta: {bridge: {origin: x, replication: cdc, slot: one}}}, "
            "tables: [{name: t}]}, "
            "{name: b, config: {meta: {bridge: {origin: x, replication: cdc, slot: one}}}, tables: [{name: u}]}]",
            "the sources a and b share the slot 'one' of the origin x",
            "give one of them another `slot:`",
        ),
        (
            "sources: [{name: a, config: {meta: {bridge: {origin: x, replication: cdc, slot: one}}}, "
            "tables: [{name: t}]}, {name: b, "
            "config: {meta: {bridge: {origin: x, replication: cdc, slot: one_inserts}}}, tables: [{name: u}]}]",
            "the slot 'one_inserts' of the source b has the name of the second publication of 'one', the slot of a",
            "give one of them another `slot:`",
        ),
        (
            "sources: [{name: shop, config: {meta: {bridge: {origin: x, slot: one}}}, tables: [{name: t}]}]",
            "source shop (models/sources.yml): `slot` needs replication: cdc",
            "add `replication: cdc`",
        ),
        (
            "exposures: [{name: crm, type: application, owner: {name: a, email: a@b.c}, "
            "config: {meta: {bridge: {destination: x, write_disposition: replace}}}}]",
            "exposure crm (models/sources.yml): it depends on no model",
            "depends_on: [ref('your_model')]",
        ),
        (
            "exposures: [{name: crm, type: application, owner: {name: a, email: a@b.c}, "
            "depends_on: [ref('one'), ref('two')], "
            "config: {meta: {bridge: {destination: x, write_disposition: replace}}}}]",
            "exposure crm (models/sources.yml): it depends on several models (one, two)",
            "say which with `model: ...`",
        ),
        (
            "exposures: [{name: crm, type: application, owner: {name: a, email: a@b.c}, "
            "depends_on: [ref('one'), ref('two')], "
            "config: {meta: {bridge: {destination: x, write_disposition: replace, model: tow}}}}]",
            "exposure crm (models/sources.yml): `model: tow` is not among what it depends on",
            "did you mean 'two'?",
        ),
    ],
)
def test_a_wrong_block_is_named_with_its_file(dbt_root: Path, yaml: str, what: str, mend: str) -> None:
    write(dbt_root, sources__yml=yaml, one__sql="select 1 as id", two__sql="select 2 as id")
    with pytest.raises(UsageError) as refused:
        read(dbt_root)
    assert what in refused.value.what
    assert mend in refused.value.mend


def test_no_project_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dbt_project\.yml") as refused:
        read(tmp_path)
    assert "--project-dir" in refused.value.mend


def test_an_unknown_target_is_dbts_error(dbt_root: Path) -> None:
    with pytest.raises(UsageError, match="does not have a target named 'prod'"):
        read(dbt_root, target="prod")


def test_what_dbt_renders_too_early_and_a_state_that_is_nowhere_have_their_mend(dbt_root: Path) -> None:
    with pytest.raises(UsageError, match="no comparison manifest") as failed:
        read(dbt_root, select=("state:modified",))
    assert "--state FOLDER" in failed.value.mend
    query = "select 1 from {{ ref('orders') }}"
    block = f'{{reconcile: {{metrics: [{{name: n, legacy: select 1, new: "{query}"}}]}}}}'
    write(
        dbt_root,
        orders__sql="select 1 as id",
        m__yml=f"models: [{{name: orders, config: {{meta: {{bridge: {block}}}}}}}]",
    )
    with pytest.raises(UsageError, match="'ref' is undefined") as failed:
        read(dbt_root)
    assert "single braces" in failed.value.mend


def test_sql_that_dbt_cannot_parse_is_named(dbt_root: Path) -> None:
    write(dbt_root, broken__sql="select * from {{ ref('nowhere') }}")
    with pytest.raises(BridgeError, match="nowhere"):
        read(dbt_root)


def test_the_project_is_found_from_a_folder_inside_it(dbt_root: Path) -> None:
    assert nearest_project(dbt_root / "models") == dbt_root
    assert nearest_project(dbt_root.parent) == dbt_root.parent


PLACES = """
sources:
  - name: here
    database: WAREHOUSE
    schema: raw
    config: {meta: {bridge: {origin: shop_pg}}}
    tables: [{name: orders}]
  - name: there
    database: lake
    schema: raw
    quoting: {identifier: false}
    config: {meta: {bridge: {origin: shop_pg}}}
    tables: [{name: orders, identifier: Orders_v2}]
  - {name: every, database: lake, schema: all, config: {meta: {bridge: {origin: shop_pg, tables: "*"}}}}
  - name: at_destination
    database: elsewhere
    schema: raw
    config: {meta: {bridge: {origin: shop_pg, destination: lake}}}
    tables: [{name: orders}]
models:
  - name: dim
    latest_version: 2
    versions: [{v: 1}, {v: 2, config: {alias: people}}]
exposures:
"""
EXPOSED = """
  - name: to_{0}
    type: application
    owner: {{name: g, email: g@example.com}}
    depends_on: [ref('{0}')]
    config: {{meta: {{bridge: {{destination: crm_pg, table: t_{0}, write_disposition: replace}}}}}}
"""


def test_relations_have_the_three_parts_that_dbt_renders(dbt_root: Path) -> None:
    names = ("plain", "renamed", "dim", "snap", "rows")
    write(dbt_root, places__yml=PLACES + "".join(map(EXPOSED.format, names)), plain__sql="select 1 as id")
    write(dbt_root, dim_v1__sql="select 1 as id", dim_v2__sql="select 2 as id")
    write(dbt_root, renamed__sql="{{ config(database='marts', schema='x', alias='Other') }} select 1 as id")
    macro = (
        "{% macro generate_database_name(custom_database_name, node) %}"
        "{{ custom_database_name or ('snaps' if node.resource_type == 'snapshot' else target.database) }}{% endmacro %}"
    )
    others = {
        "macros/names.sql": macro,
        "seeds/rows.csv": "id\n1\n",
        "snapshots/snap.yml": "snapshots: [{name: snap, relation: ref('plain'),"
        " config: {unique_key: id, strategy: check, check_cols: all, schema: kept}}]",
    }
    for name, text in others.items():
        (dbt_root / name).parent.mkdir(exist_ok=True)
        (dbt_root / name).write_text(text)

    project = read(dbt_root)

    landing = {source.name: source.relations for source in project.sources}
    assert landing == {
        "here": (Relation("raw", "orders"),),
        "there": (Relation("raw", "Orders_v2", "lake"),),
        "every": (Relation("all", "", "lake"),),
        "at_destination": (Relation("raw", "orders"),),
    }
    assert {delivery.name: delivery.relation for delivery in project.deliveries} == {
        "to_plain": Relation("main", "plain"),
        "to_renamed": Relation("main_x", "Other", "marts"),
        "to_dim": Relation("main", "people"),
        "to_snap": Relation("main_kept", "snap", "snaps"),
        "to_rows": Relation("main", "rows"),
    }


def test_two_writers_of_one_table_are_refused_by_every_command(dbt_root: Path) -> None:
    bridge = "config: {meta: {bridge: {origin: shop_pg}}}, tables: [{name: o}]"
    two = f"sources:\n  - {{name: a, schema: raw, {bridge}}}\n  - {{name: b, schema: RAW, {bridge}}}\n"
    write(dbt_root, places__yml=two)
    with pytest.raises(UsageError, match=r"source\.shop\.a\.o and source\.shop\.b\.o both land in raw\.o and RAW\.o"):
        read(dbt_root)
    write(dbt_root, places__yml=two.partition("  - {name: b")[0], m__sql="{{ config(alias='O') }} select 1 as id")
    (dbt_root / "macros").mkdir(exist_ok=True)
    name = "{% macro generate_schema_name(custom_schema_name, node) %}raw{% endmacro %}"
    (dbt_root / "macros" / "schema.sql").write_text(name)
    with pytest.raises(UsageError, match=r"lands in raw\.o, and model\.shop\.m is built into raw\.O"):
        read(dbt_root)


def test_no_table_has_a_name_of_the_bridges_own(dbt_root: Path) -> None:
    """Staging tables are dropped by their names, and audit tables are written by theirs."""
    for schema, table in (("raw", "_DBT_BRIDGE_stage_1"), ("_dbt_bridge", "checkpoints")):
        bridge = f"config: {{meta: {{bridge: {{origin: shop_pg}}}}}}, tables: [{{name: {table}}}]"
        write(dbt_root, places__yml=f"sources:\n  - {{name: a, schema: {schema}, {bridge}}}\n")
        with pytest.raises(UsageError, match=rf"source\.shop\.a\.{table} lands in {schema}\.{table}: .*own"):
            read(dbt_root)


ALIASED = """
sources:
  - {name: shop, schema: raw, config: {meta: {bridge: {origin: shop_pg}}}, tables: [{name: orders}, {name: others}]}
  - {name: old_name, schema: RAW, tables: [{name: sales, identifier: Orders}]}
exposures:
  - name: out
    type: application
    owner: {name: g, email: g@example.com}
    depends_on: [ref('m')]
    config: {meta: {bridge: {destination: crm_pg, write_disposition: replace}}}
"""


def test_what_reads_a_landing_table_under_another_name_needs_it(dbt_root: Path) -> None:
    write(dbt_root, aliased__yml=ALIASED, m__sql="select * from {{ source('old_name', 'sales') }}")
    project = read(dbt_root, select=("m",))
    assert (project.needs("source.shop.shop.orders"), project.needs("source.shop.shop.others")) == (True, False)
    (delivery,) = project.deliveries
    assert "source.shop.shop.orders" in delivery.ancestors
