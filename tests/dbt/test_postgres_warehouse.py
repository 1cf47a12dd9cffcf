"""A dbt-postgres project: no Python models there, and dbt's views stand on the landing tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

SOURCES = """
sources:
  - name: shop
    schema: shop_landing
    config: {meta: {bridge: {origin: shop_pg, schema: shop, replication: initial_copy}}}
    tables:
      - name: customers
      - name: orders
        config: {meta: {bridge: {replication: incremental, cursor: updated_at}}}
exposures:
  - name: crm_spending
    type: application
    owner: {name: growth}
    depends_on: [ref('spending')]
    config:
      meta:
        bridge: {destination: crm_pg, schema: crm, table: spending, write_disposition: merge, primary_key: customer_id}
"""
MODELS = {
    "stg_orders.sql": "{{ config(materialized='view') }} select * from {{ source('shop', 'orders') }}",
    "stg_customers.sql": "{{ config(materialized='ephemeral') }} select * from {{ source('shop', 'customers') }}",
    "spending.sql": (
        "select c.id as customer_id, sum(o.amount) as spent from {{ ref('stg_customers') }} c"
        " join {{ ref('stg_orders') }} o on o.customer_id = c.id group by c.id"
    ),
}


@pytest.fixture
def project(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dbt project whose origin, warehouse and CRM are schemas of one database. Its URL has no password."""
    to = conninfo_to_dict(database)
    output = {
        "type": "postgres", "host": to["host"], "port": int(str(to["port"])), "user": to["user"], "password": "",
        "dbname": to["dbname"], "schema": "analytics", "threads": 2,
    }  # fmt: skip
    (tmp_path / "models").mkdir()
    (tmp_path / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    (tmp_path / "dbt_project.yml").write_text("{name: shop, profile: shop, version: '1.0', config-version: 2}")
    (tmp_path / "models" / "shop.yml").write_text(SOURCES)
    for name, sql in MODELS.items():
        (tmp_path / "models" / name).write_text(sql)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.setenv("DESTINATION__CRM_PG__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__CRM_PG__CREDENTIALS", database)
    return tmp_path


def built(project: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dbt_bridge", "build", "--json", "--project-dir", str(project),
         "--profiles-dir", str(project)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_two_builds_land_under_dbts_views_and_deliver(project: Path, origin: psycopg.Connection) -> None:
    origin.execute("CREATE SCHEMA shop")
    origin.execute("CREATE TABLE shop.customers (id int PRIMARY KEY, name text, tags text[], born date)")
    origin.execute(
        "CREATE TABLE shop.orders (id int PRIMARY KEY, customer_id int, amount numeric(12,2), updated_at timestamptz)"
    )
    origin.execute("INSERT INTO shop.customers VALUES (1, 'Ada', '{a,b}', 'infinity'), (2, 'Grace', NULL, NULL)")
    origin.execute(
        "INSERT INTO shop.orders"
        " SELECT g, 1 + g % 2, g, now() - (g || ' hours')::interval FROM generate_series(1, 10) g"
    )
    built(project)
    origin.execute("INSERT INTO shop.customers VALUES (3, 'Linus', '{}', '2000-01-01')")
    origin.execute("INSERT INTO shop.orders VALUES (11, 3, 100.50, now())")
    origin.execute("UPDATE shop.orders SET amount = 1000, updated_at = now() WHERE id = 2")

    document = built(project)

    receipts = {receipt["table_name"]: receipt for receipt in document["receipts"]}
    orders = receipts["shop_landing.orders"]
    # Order 1 has the checkpoint's own time, so it is read again; order 2 changed; 11 is new.
    assert (orders["write_disposition"], orders["rows_inserted"], orders["rows_updated"]) == ("merge", 1, 2)
    assert receipts["shop_landing.customers"]["rows_loaded"] == 3
    different = (
        "SELECT o::text, l::text FROM shop.{0} o FULL JOIN shop_landing.{0} l USING (id)"
        " WHERE o::text IS DISTINCT FROM l::text"
    )
    for table in ("customers", "orders"):
        assert origin.execute(different.format(table)).fetchall() == []
    spending = origin.execute("SELECT customer_id, spent::text FROM crm.spending ORDER BY 1").fetchall()
    assert spending == [(1, "1028.00"), (2, "25.00"), (3, "100.50")]
    counted = origin.execute("SELECT count(*) FROM _dbt_bridge.receipts WHERE status = 'success'").fetchone()
    assert counted == (6,)
