"""Tables are locked while they are read, and not for longer: the locks of thousands would fill the server's table."""

from __future__ import annotations

import psycopg
import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.nouns.table import TableName

TABLES = [TableName("public", f"t{number}") for number in range(70)]
LOCKED = """
SELECT count(DISTINCT l.relation)
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation
WHERE c.relkind = 'r' AND c.relname ~ '^t[0-9]'
"""
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dbt-bridge'"
)


def test_a_lock_ends_with_its_table_and_the_snapshot_stays(origin: psycopg.Connection, database: str) -> None:
    for name in TABLES:
        origin.execute(f"CREATE TABLE {name.name} (id int PRIMARY KEY); INSERT INTO {name.name} VALUES (1)".encode())  # noqa: S608
    with PostgresOrigin("shop_pg", database) as shop:
        shop.tables("public")
        origin.execute("INSERT INTO t69 VALUES (2)")
        most = 0
        for name in TABLES:
            found = shop.describe(name)
            assert shop.newest(name, "id") == "1"
            assert shop.rows(name, found.table.columns).read_all().num_rows == 1, "as of the snapshot"
            ((locked,),) = origin.execute(LOCKED).fetchall()
            most = max(most, locked)
            shop.let_go(name)
        assert most == 1
        assert origin.execute(LOCKED).fetchall() == [(0,)]
        assert origin.execute(SESSIONS).fetchall() <= [(4,)]
        origin.execute("DROP TABLE t0")


def test_tables_that_nobody_lets_go_of_stay_locked(origin: psycopg.Connection, database: str) -> None:
    for name in TABLES[:40]:
        origin.execute(f"CREATE TABLE {name.name} (id int PRIMARY KEY)".encode())
    with PostgresOrigin("shop_pg", database) as shop:
        for name in TABLES[:40]:
            shop.describe(name)
        shop.let_go(TABLES[1])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            origin.execute("SET lock_timeout = '10ms'; DROP TABLE t39")
        for name in TABLES[:32]:
            shop.let_go(name)
        assert origin.execute(LOCKED).fetchall() == [(8,)], "those of a session end together"
    assert origin.execute(LOCKED).fetchall() == [(0,)]
