"""Postgres to Postgres: rows travel undecoded, and are decoded where a type override asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

MakeSource = Callable[..., LandingSource]


@pytest.fixture
def to_postgres(project: Project, database: str) -> Project:
    """The same project with a Postgres warehouse, in the origin's own database."""
    to = conninfo_to_dict(database)
    credentials = {"host": to["host"], "port": to["port"], "user": to["user"], "dbname": to["dbname"]}
    return replace(project, warehouse=WarehouseProfile("postgres", str(to["dbname"]), "public", 2, credentials))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of tables whose rows were decoded, in order: a spy around the origin's real `rows`."""
    names: list[str] = []
    real = PostgresOrigin.rows

    def spy(self: PostgresOrigin, name, *rest, **more):  # type: ignore[no-untyped-def]
        names.append(name.name)
        return real(self, name, *rest, **more)

    monkeypatch.setattr(PostgresOrigin, "rows", spy)
    return names


def test_values_that_arrow_lacks_arrive_and_an_override_is_decoded(
    to_postgres: Project, origin: psycopg.Connection, source: MakeSource, decoded: list[str]
) -> None:
    origin.execute("CREATE TABLE odd (id int PRIMARY KEY, n numeric(12,2), m int[], t timestamp, a inet)")
    origin.execute("INSERT INTO odd VALUES (1, 'NaN', '{{1,2},{3,4}}', 'infinity', '10.0.0.1')")
    origin.execute("CREATE TABLE amounts (id int PRIMARY KEY, amount numeric)")
    origin.execute("INSERT INTO amounts VALUES (1, 1.5)")
    amounts = LandingTable(
        "source.shop.shop.amounts", "amounts", "amounts", replication="initial_copy", types={"amount": "decimal(38,10)"}
    )

    receipts = sync(replace(to_postgres, sources=(source(amounts, every=True),)), SyncOptions(), Silent())

    assert [(r.status, r.rows_loaded, r.error) for r in receipts] == [("success", 1, None)] * 2
    assert decoded == ["amounts"]
    landed = origin.execute("SELECT l::text = o::text FROM shop_landing.odd l, public.odd o").fetchall()
    assert landed == [(True,)]
    type_ = origin.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'shop_landing.amounts'::regclass AND attname = 'amount'"
    ).fetchone()
    assert type_ == ("numeric(38,10)",)


def test_an_increment_is_merged_undecoded(
    to_postgres: Project, origin: psycopg.Connection, source: MakeSource, decoded: list[str]
) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text, version int NOT NULL)")
    origin.execute("INSERT INTO orders VALUES (1, 'a', 1), (2, 'b', 2)")
    orders = LandingTable("source.shop.shop.orders", "orders", "orders", replication="incremental", cursor="version")
    wanted = replace(to_postgres, sources=(source(orders),))
    sync(wanted, SyncOptions(), Silent())
    origin.execute("UPDATE orders SET note = 'B', version = 3 WHERE id = 1")

    (receipt,) = sync(wanted, SyncOptions(), Silent())

    assert (receipt.status, receipt.rows_inserted, receipt.rows_updated) == ("success", 0, 2), receipt.error
    assert origin.execute("SELECT * FROM shop_landing.orders ORDER BY id").fetchall() == [(1, "B", 3), (2, "b", 2)]
    assert decoded == []
