"""The delivery `contacts`: the model `marts.m` of a DuckDB warehouse goes to `app.contact`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
from tests.projects import known

from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.deliver import deliver

CONTACTS = Delivery(
    node="exposure.shop.contacts",
    name="contacts",
    model="model.shop.m",
    relation=Relation("marts", "m"),
    ancestors=frozenset({"model.shop.m"}),
    gates=frozenset(),
    destination="crm_pg",
    schema="app",
    table="contact",
    write_disposition="merge",
    primary_key=("id",),
)
Send = Callable[..., Receipt]


def make_send(project: Project, warehouse_file: Path, item: Delivery = CONTACTS) -> Send:
    """What delivers the rows of a query; of the model as it is where there is none."""

    def once(query: str = "", *, dry_run: bool = False, build: str = "", **keys: Any) -> Receipt:
        if query:
            build_model(warehouse_file, query)
        if keys.get("write_disposition", "merge") != "merge":
            keys |= {"primary_key": (), "deletes": "none"}
        built = {node: replace(one, build_id=build) for node, one in known({item.model: "success"}).items()}
        mine = replace(project, deliveries=(replace(item, **keys),))
        (receipt,) = deliver(mine, built, Silent(), dry_run=dry_run)
        return receipt

    return once


def build_model(file: Path, query: str) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS marts")
        connection.execute(f"CREATE OR REPLACE TABLE marts.m AS {query}")
