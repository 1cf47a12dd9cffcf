"""The story of `verify` at the other destinations that follow a log, Postgres and Delta, beside a writer and a sync."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from deltalake import DeltaTable
from tests.projects import NODE, table
from tests.prove.spoilt import Shop

from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync

Spoil = Callable[[str, str], None]  # SQL: what is assigned to `note`, and in which rows
WAITS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_try_advisory_xact%'"
)


@pytest.fixture(params=["postgres", "delta"])
def landed(request: pytest.FixtureRequest, origin: psycopg.Connection, warehouse_file: Path) -> tuple[Shop, Spoil]:
    """A source that has landed, and what spoils its orders behind the bridge's back."""
    for name in ("items", "orders"):
        origin.execute(
            f"CREATE TABLE {name} (id int PRIMARY KEY, amount numeric(12,2), note text, made timestamptz)".encode()
        )
        origin.execute(f"INSERT INTO {name} SELECT g, g / 4.0, 'n' || g, now() FROM generate_series(1, 500) g".encode())
    tables = (table("items"), table("orders"))
    if request.param == "postgres":
        project, ask = request.getfixturevalue("there")
        shop = Shop(project, warehouse_file, *tables)
        return shop, lambda value, which: ask(f"UPDATE shop_landing.orders SET note = {value} WHERE {which}")
    folder = request.getfixturevalue("tmp_path") / "lake"
    set_ = request.getfixturevalue("monkeypatch").setenv
    set_("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
    set_("DESTINATION__LAKE__BUCKET_URL", str(folder))
    shop = Shop(request.getfixturevalue("project"), warehouse_file, *tables, destination="lake")

    def spoil(value: str, which: str) -> None:
        DeltaTable(str(folder / "shop_landing" / "orders")).update(updates={"note": value}, predicate=which)

    return shop, spoil


@contextmanager
def writing(url: str) -> Iterator[None]:
    stop, failures = threading.Event(), []

    def write() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                for number in range(501, 1_000_000):
                    if stop.wait(0.002):  # the machine is for the comparison
                        return
                    connection.execute("INSERT INTO orders VALUES (%s, 1, 'w', now())", [number])
                    connection.execute("UPDATE items SET amount = amount + 1, note = 'u' WHERE id = %s", [number % 500])
                    connection.execute("DELETE FROM items WHERE id = %s", [number % 700])
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        assert failures == []


def test_both_ends_are_the_same_at_one_lsn_beside_a_writer_and_a_sync(
    landed: tuple[Shop, Spoil], origin: psycopg.Connection, database: str
) -> None:
    shop, spoil = landed
    synced: list[Receipt] = []
    syncs: list[threading.Thread] = []

    def beside(pair: object, parity: Parity) -> Parity:
        """A sync begins between two tables, and waits: it would move the one that has not been compared."""
        if not syncs:
            thread = threading.Thread(target=lambda: synced.extend(sync(shop.project, SyncOptions(), Silent())))
            thread.start()
            syncs.append(thread)
            while thread.is_alive() and not origin.execute(WAITS).fetchall():
                pass
        return parity

    def verified(**how: Any) -> dict[str, Parity]:
        found = verify(shop.project, VerifyOptions(**how), Silent(), beside)
        return {parity.node.removeprefix(NODE): parity for parity in found}

    with writing(database):
        found = verified()
        assert {name: (p.status, p.error) for name, p in found.items()} == dict.fromkeys(found, ("equal", None))
        assert found["items"].at == found["orders"].at
        syncs[0].join(timeout=180)
        assert {receipt.status for receipt in synced} == {"success"}, "it has gone on"
        spoil("'wrong'", "id = 7")
        for method in ("digests", "values"):
            found = verified(method=method)
            assert (found["items"].status, found["orders"].differences) == ("equal", 1), method
            assert (found["orders"].examples[0].key, found["orders"].columns) == ({"id": "7"}, {"note": 1})
        (receipt,) = shop.repair()
        assert receipt.rows_updated == 1
    assert {parity.status for parity in verified().values()} == {"equal"}


def test_rows_that_a_policy_hides_at_the_destination_do_not_pass_for_absent(
    there: tuple[Project, Callable[[str], Any]], warehouse_file: Path, origin: psycopg.Connection
) -> None:
    """The landing has a row too many, which whoever compares may not see."""
    project, ask = there
    origin.execute("CREATE TABLE items (id int PRIMARY KEY)")
    shop = Shop(project, warehouse_file, table("items"))
    role = f"{project.warehouse.database}_reader"
    for statement in (
        "INSERT INTO shop_landing.items VALUES (500)",
        "ALTER TABLE shop_landing.items ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE shop_landing.items FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON shop_landing.items USING (id < 500)",
        f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data",
        f"GRANT CREATE ON DATABASE {project.warehouse.database} TO {role}",
        f"ALTER SCHEMA _dbt_bridge OWNER TO {role}",
        f"ALTER SCHEMA shop_landing OWNER TO {role}",
        f"ALTER TABLE shop_landing.items OWNER TO {role}",
    ):
        ask(statement)
    for (name,) in ask("SELECT tablename FROM pg_tables WHERE schemaname = '_dbt_bridge'"):
        ask(f"ALTER TABLE _dbt_bridge.{name} OWNER TO {role}")
    credentials = {**project.warehouse.credentials, "user": role, "password": "x"}
    warehouse = replace(project.warehouse, credentials=credentials)
    for method in ("digests", "values"):
        (parity,) = verify(replace(shop.project, warehouse=warehouse), VerifyOptions(method=method), Silent())
        assert parity.status == "failed"
        assert "row-level security" in (parity.error or "") and "BYPASSRLS" in (parity.error or ""), parity.error
    ask(f"REASSIGN OWNED BY {role} TO postgres")
    ask(f"DROP OWNED BY {role}")
    ask(f"DROP ROLE {role}")
