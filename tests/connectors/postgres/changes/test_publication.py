"""Publications: ours are kept exactly as they must be, somebody else's are left alone and looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

A, B, LOG, PARTS = (TableName("public", name) for name in ("a", 'b"é', "log", "parts"))


def _published(connection: psycopg.Connection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, table in connection.execute("SELECT pubname, tablename FROM pg_publication_tables"):
        found.setdefault(name, set()).add(table)
    return found


@pytest.fixture
def tables(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        _create(connection)
        yield connection


def _create(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
    connection.execute('CREATE TABLE "b""é" (id int PRIMARY KEY)')
    connection.execute("CREATE TABLE log (line text)")
    connection.execute("CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id)")
    connection.execute("CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1)")


@pytest.fixture
def replication(database: str):
    with Replication("shop", database) as opened:
        yield opened


def test_each_version_publishes_what_is_asked_for(each_database: str) -> None:
    with psycopg.connect(each_database, autocommit=True) as tables, Replication("shop", each_database) as replication:
        _create(tables)
        first = publication.ensure(replication, "shop", [A, PARTS], [])
        assert first.names == ("shop", "shop_inserts")
        assert (first.added, first.removed, first.is_new) == ((A, PARTS), (), True)
        assert _published(tables) == {"shop": {"a", "parts"}}
        flags = (
            "SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication ORDER BY 1"
        )
        assert tables.execute(flags).fetchall() == [
            ("shop", True, True, True, True, True),
            ("shop_inserts", True, False, False, True, True),
        ]
        again = publication.ensure(replication, "shop", [A, PARTS], [])
        assert (again.added, again.removed, again.is_new, again.statements) == ((), (), False, ())
        more = publication.ensure(replication, "shop", [A, B], [LOG])
        assert (set(more.added), more.removed) == ({B, LOG}, (PARTS,))
        assert _published(tables) == {"shop": {"a", 'b"é'}, "shop_inserts": {"log"}}
        tables.execute("ALTER TABLE log REPLICA IDENTITY FULL")
        moved = publication.ensure(replication, "shop", [A, B, LOG], [])
        assert (moved.added, moved.removed) == ((LOG,), ())
        assert _published(tables) == {"shop": {"a", 'b"é', "log"}}
        assert publication.drop(replication, "shop") == ["shop", "shop_inserts"]
        assert publication.drop(replication, "shop") == []


def test_ours_is_put_right_when_somebody_changed_it(replication: Replication, tables: psycopg.Connection) -> None:
    publication.ensure(replication, "shop", [A], [])
    tables.execute("ALTER PUBLICATION shop SET (publish = 'insert', publish_via_partition_root = false)")
    assert publication.ensure(replication, "shop", [A], []).added == (A,), "something of it was not sent"
    flags = "SELECT pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = 'shop'"
    assert tables.execute(flags).fetchall() == [(True, True, True, True)]
    for change in ("SET TABLE a WHERE (id > 5)", "SET TABLE a (id)", "DROP TABLE a"):
        tables.execute(f"ALTER PUBLICATION shop {change}".encode())
        assert publication.ensure(replication, "shop", [A], []).added == (A,)
        assert publication.ensure(replication, "shop", [A], []).statements == ()
    assert tables.execute("SELECT rowfilter FROM pg_publication_tables").fetchall() == [(None,)]


def test_a_table_without_identity_can_still_be_updated_at_the_origin(
    replication: Replication, tables: psycopg.Connection
) -> None:
    publication.ensure(replication, "shop", [A], [LOG])
    tables.execute("INSERT INTO log VALUES ('x')")
    tables.execute("UPDATE log SET line = 'y'")
    tables.execute("DELETE FROM log")


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE bad (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE bad (id int) PARTITION BY LIST (id); ALTER TABLE bad REPLICA IDENTITY FULL;"
        "CREATE TABLE badpart PARTITION OF bad FOR VALUES IN (1)",
    ],
)
def test_a_table_whose_updates_would_fail_is_never_published_with_them(
    replication: Replication, tables: psycopg.Connection, ddl: str
) -> None:
    tables.execute(ddl.encode())
    bad = TableName("public", "bad")
    with pytest.raises(OriginError, match="no replica identity") as raised:
        publication.ensure(replication, "shop", [A, bad], [])
    assert _published(tables) == {}
    tables.execute("INSERT INTO bad VALUES (1)")
    tables.execute("UPDATE bad SET id = 1")
    tables.execute(raised.value.mend.split(" or ")[0].encode())
    publication.ensure(replication, "shop", [A, bad], [])
    tables.execute("UPDATE bad SET id = 1")


@pytest.mark.parametrize(
    ("ddl", "what"),
    [
        ("CREATE PUBLICATION shop FOR TABLE log", "lacks public.a$"),
        ("CREATE PUBLICATION shop FOR TABLE a, parts", "partitions under their own names"),
        (
            "CREATE PUBLICATION shop FOR TABLE a, parts WITH (publish = 'insert, update', publish_via_partition_root)",
            "does not publish delete, truncate",
        ),
        (
            "CREATE PUBLICATION shop FOR TABLE a WHERE (id > 5), parts WITH (publish_via_partition_root)",
            "leaves out rows of public.a",
        ),
        (
            "CREATE PUBLICATION shop FOR TABLE a (id), parts WITH (publish_via_partition_root)",
            "leaves out columns of public.a",
        ),
    ],
)
def test_a_publication_of_somebody_else_is_looked_at_and_its_mend_mends(
    replication: Replication, tables: psycopg.Connection, ddl: str, what: str
) -> None:
    tables.execute(ddl.encode())
    with pytest.raises(OriginError, match=f"(?m){what}") as raised:
        publication.ensure(replication, "shop", [A, PARTS], [])
    for _ in range(3):  # one fault may hide another
        tables.execute(raised.value.mend.encode())
        try:
            found = publication.ensure(replication, "shop", [A, PARTS], [])
            break
        except OriginError as error:
            raised.value.mend = error.mend
    assert (found.names, found.statements) == (("shop",), ())


@pytest.mark.parametrize("scope", ["ALL TABLES", "TABLES IN SCHEMA public"])
def test_a_publication_of_everything_covers_the_tables(
    replication: Replication, tables: psycopg.Connection, scope: str
) -> None:
    tables.execute(f"CREATE PUBLICATION shop FOR {scope} WITH (publish_via_partition_root)".encode())
    found = publication.ensure(replication, "shop", [A, B, PARTS], [])
    assert (found.names, found.statements) == (("shop",), ())
    assert publication.drop(replication, "shop") == [], "it is not ours to drop"


def test_a_change_is_made_whole_or_not_at_all(replication: Replication, tables: psycopg.Connection) -> None:
    with pytest.raises(OriginError, match="does not exist"):
        publication.ensure(replication, "shop", [A, TableName("public", "absent")], [])
    assert tables.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]
    publication.ensure(replication, "shop", [A], [])


def test_a_table_that_somebody_locks_does_not_stop_it_for_ever(
    database: str, tables: psycopg.Connection, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "LOCK_TIMEOUT", "200ms")
    with (
        Replication("shop", database) as replication,
        psycopg.connect(database) as holder,
        pytest.raises(OriginError, match="locked"),
    ):
        holder.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        publication.ensure(replication, "shop", [A], [])
