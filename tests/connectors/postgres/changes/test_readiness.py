"""What doctor finds of an origin that is to be followed; each mend is run and mends."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.readiness import Readiness, Wish, check_readiness
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

ITEMS, LOG = TableName("public", "items"), TableName("public", "log")


def found(url: str, wish: Wish, *, only: str = "fault") -> dict[str, Readiness]:
    with Replication("shop", url) as replication:
        return {f.subject: f for f in check_readiness(replication, wish) if f.status == only or not only}


@pytest.fixture
def tables(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
    origin.execute("CREATE TABLE log (line text)")
    return origin


@pytest.fixture
def clerk(server: Server, database: str, tables: psycopg.Connection) -> Iterator[str]:
    """The URL of a role that may nothing yet."""
    tables.execute("CREATE ROLE clerk LOGIN")
    yield database.replace("postgres@", "clerk@", 1)
    tables.execute("DROP OWNED BY clerk")
    tables.execute("DROP ROLE clerk")


def test_all_is_well_where_it_is(database: str, tables: psycopg.Connection) -> None:
    wish = Wish("well", (ITEMS, LOG), frozenset({LOG}), max_wal=1 << 30)
    told = found(database, wish, only="")
    assert {f.status for f in told.values()} == {"ok"}
    assert told["slot well"].what == "will be made by the first sync"
    with Replication("shop", database) as replication:
        publication.ensure(replication, "well", [ITEMS], [LOG])
        with replication.create_slot("well"):
            pass
    told = found(database, wish, only="")
    assert {f.status for f in told.values()} == {"ok"}
    assert told["publication well"].what == "publishes all 2 tables"


def test_a_role_without_privileges_is_told_the_grants_and_they_suffice(
    database: str, tables: psycopg.Connection, clerk: str
) -> None:
    wish = Wish("clerks", (ITEMS,), max_wal=1 << 30)
    told = found(clerk, wish)
    assert told["server"].mend.startswith('ALTER ROLE "clerk" REPLICATION;')
    tables.execute(told["server"].mend.split(" (")[0].encode())
    told = found(clerk, wish)
    assert set(told) == {"publication clerks"}
    tables.execute(told["publication clerks"].mend.split(" or as an administrator")[0].encode())  # GRANT CREATE
    told = found(clerk, wish)
    assert "clerk does not own public.items" in told["publication clerks"].what
    with Replication("shop", clerk) as replication:
        with pytest.raises(OriginError, match="must be owner of table items") as raised:
            publication.ensure(replication, "clerks", [ITEMS], [])
        assert raised.value.mend == told["publication clerks"].mend
        tables.execute(raised.value.mend.split(": ", 1)[1].encode())
        assert found(clerk, wish) == {}
        ensured = publication.ensure(replication, "clerks", [ITEMS], [])
        assert (ensured.statements, ensured.added) == ((), ())
        tables.execute("GRANT SELECT ON items TO clerk")
        with replication.create_slot("clerks"):
            assert replication.current_lsn() > 0


def test_the_log_mark_may_be_forbidden(database: str, tables: psycopg.Connection, clerk: str) -> None:
    tables.execute("ALTER ROLE clerk REPLICATION")
    functions = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message'"
    names = [row[0] for row in tables.execute(functions).fetchall()]
    for name in names:
        tables.execute(f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC".encode())
    told = found(clerk, Wish("marked", (ITEMS,)))["server"]
    assert "may not write a mark" in told.what
    with Replication("shop", clerk) as replication, pytest.raises(OriginError, match="permission denied") as raised:
        replication.current_lsn()
    assert raised.value.mend.replace("<the origin's user>", '"clerk"') == told.mend
    tables.execute(told.mend.encode())
    assert "server" not in found(clerk, Wish("marked", (ITEMS,)))
    with Replication("shop", clerk) as replication:
        assert replication.current_lsn() > 0


@pytest.mark.parametrize(
    ("ddl", "what"),
    [
        ("CREATE TABLE bad (a int)", "no replica identity: public.bad"),
        ("CREATE TABLE bad (a int PRIMARY KEY DEFERRABLE)", "no replica identity: public.bad"),
        ("CREATE TABLE bad (a int PRIMARY KEY); ALTER TABLE bad REPLICA IDENTITY NOTHING", "no replica identity"),
        (
            "CREATE TABLE bad (a int) PARTITION BY LIST (a); CREATE TABLE good_part PARTITION OF bad FOR VALUES IN (1);"
            "ALTER TABLE good_part REPLICA IDENTITY FULL; CREATE TABLE bad_part PARTITION OF bad FOR VALUES IN (2)",
            "no replica identity: public.bad_part",
        ),
        ("CREATE UNLOGGED TABLE bad (a int PRIMARY KEY)", "unlogged"),
        ("CREATE VIEW bad AS SELECT 1 AS a", "no table"),
        ("CREATE TABLE bad (a int PRIMARY KEY); CREATE TABLE heir () INHERITS (bad)", "other tables inherit"),
    ],
)
def test_tables_that_cannot_be_followed(database: str, origin: psycopg.Connection, ddl: str, what: str) -> None:
    origin.execute(ddl.encode())
    told = found(database, Wish("tables", (TableName("public", "bad"),), max_wal=1 << 30))
    assert list(told) == ["table public.bad"]
    assert what in told["table public.bad"].what


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE good (a int PRIMARY KEY)",
        "CREATE TABLE good (a int NOT NULL UNIQUE); ALTER TABLE good REPLICA IDENTITY USING INDEX good_a_key",
        "CREATE TABLE good (a int); ALTER TABLE good REPLICA IDENTITY FULL",
        "CREATE TABLE good (a int PRIMARY KEY) PARTITION BY LIST (a);"
        "CREATE TABLE part PARTITION OF good FOR VALUES IN (1)",
        "CREATE TABLE good (a int) PARTITION BY LIST (a)",
    ],
)
def test_tables_that_can_be_followed(database: str, origin: psycopg.Connection, ddl: str) -> None:
    origin.execute(ddl.encode())
    assert found(database, Wish("tables", (TableName("public", "good"),), max_wal=1 << 30)) == {}


def test_what_a_slot_retains_is_held_against_its_bounds(database: str, tables: psycopg.Connection) -> None:
    with Replication("shop", database) as replication, replication.create_slot("kept"):
        pass
    tables.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000)) FROM generate_series(1, 3)")
    assert "nothing bounds it" in found(database, Wish("kept", (ITEMS,)), only="note")["slot kept"].what
    over = found(database, Wish("kept", (ITEMS,), max_wal=1_000_000))["slot kept"]
    assert "max_wal is 1.0 MB" in over.what and "dbt-bridge slots drop kept" in over.mend
    assert "slot kept" in found(database, Wish("kept", (ITEMS,), max_wal=3_500_000), only="note")
    assert "slot kept" in found(database, Wish("kept", (ITEMS,), max_wal=10_000_000), only="ok")


def test_a_server_that_is_not_set_up_for_it() -> None:
    server = postgres.start(
        settings={"fsync": "off", "wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}
    )
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE items (id int PRIMARY KEY)")
            connection.execute("SELECT pg_create_physical_replication_slot('standby')")
        told = found(server.url(), Wish("shop", (ITEMS,)))
        assert told["server"].mend.startswith("ALTER SYSTEM SET wal_level = logical;")
        assert "none is left" in told["max_replication_slots"].what
        with Replication("shop", server.url()) as replication:
            with pytest.raises(OriginError, match="does not hold row changes"), replication.create_slot("shop"):
                pass
            assert replication.slot("shop") is None
    finally:
        postgres.remove(server)
