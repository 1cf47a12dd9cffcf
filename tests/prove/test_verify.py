"""`dbt-bridge verify` from end to end: a real Postgres that is written to, a real DuckDB file, every row named."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest
from tests.chance import SEED
from tests.projects import NODE, landing_source, table
from tests.proxy import Proxy

from dbt_bridge.connectors.postgres.changes.landing_lock import LandingLease
from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import LandingTable, Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
RUNS = max(6, int(os.environ.get("DBT_BRIDGE_RUNS", "0")) // 5)
METHODS = ("digests", "buckets", "values")


class Shop:
    """The source `shop` of a project, landed in DuckDB."""

    def __init__(self, project: Project, file: Path, *tables: LandingTable) -> None:
        self.file = file
        source = landing_source(*tables, slot="dbt_bridge_verify_test")
        self.project = replace(project, sources=(source,))

    def sync(self) -> None:
        receipts = sync(self.project, SyncOptions(), Silent())
        assert [r.error for r in receipts if r.status != "success"] == []

    def verify(self, **options: object) -> dict[str, Parity]:
        parities = verify(self.project, VerifyOptions(**options), Silent())  # type: ignore[arg-type]
        return {parity.node.removeprefix(NODE): parity for parity in parities}

    def spoil(self, *statements: str) -> None:
        """Change the landing behind the bridge's back."""
        with duckdb.connect(str(self.file)) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def filled(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text, mail text, credit numeric(12,2))")
    origin.execute(
        "CREATE TABLE lines (order_id int, line int, what text, seen_at timestamptz, PRIMARY KEY (order_id, line))"
    )
    origin.execute(
        "INSERT INTO customers SELECT g, 'c' || g, 'c' || g || '@x.ch', g * 1.25 FROM generate_series(1, 2000) g"
    )
    origin.execute(
        "INSERT INTO lines SELECT g, l, 'w' || l, '2026-01-01'::timestamptz + g * interval '1 second'"
        " FROM generate_series(1, 700) g, generate_series(1, 3) l"
    )
    return origin


@pytest.fixture
def shop(project: Project, warehouse_file: Path, filled: psycopg.Connection) -> Shop:
    shop = Shop(project, warehouse_file, table("customers"), table("lines"))
    shop.sync()
    return shop


@contextmanager
def writing(url: str) -> Iterator[list[int]]:
    """A writer at full speed, beside what runs in the context; answers its count of transactions."""
    done, stop, failures = [0], threading.Event(), []

    def write() -> None:
        chance = random.Random(SEED)
        try:
            with psycopg.connect(url) as connection:
                while not stop.is_set():
                    one = chance.randrange(1, 2600)
                    connection.execute(
                        "UPDATE customers SET credit = credit + 1, name = name || 'x' WHERE id = %s", [one]
                    )
                    connection.execute("DELETE FROM lines WHERE order_id = %s AND line = 1", [one])
                    connection.execute(
                        "INSERT INTO lines VALUES (%s, 1, 'again', now()) ON CONFLICT DO NOTHING",
                        [chance.randrange(700)],
                    )
                    connection.execute("INSERT INTO customers VALUES (%s, 'new') ON CONFLICT DO NOTHING", [one])
                    connection.commit()
                    done[0] += 1
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
        assert failures == []


def test_equal_tables_are_proven_equal_at_one_lsn(shop: Shop, filled: psycopg.Connection, landed: Ask) -> None:
    filled.execute("UPDATE customers SET name = 'changed' WHERE id <= 10")  # not synced yet: verify catches up
    found = shop.verify()
    assert {name: (p.status, p.rows_origin, p.rows_destination) for name, p in found.items()} == {
        "customers": ("equal", 2000, 2000),
        "lines": ("equal", 2100, 2100),
    }
    assert found["customers"].at == found["lines"].at
    assert found["customers"].at.startswith("LSN ")
    assert landed("SELECT node, status, state FROM _dbt_bridge.parity ORDER BY node") == [
        (f"{NODE}{name}", "equal", found[name].at) for name in ("customers", "lines")
    ]
    left = filled.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
    assert left == [("dbt_bridge_verify_test",)], "the temporary slot is gone"


@pytest.mark.parametrize("method", METHODS)
def test_every_difference_is_found_and_named(shop: Shop, method: str) -> None:
    shop.spoil(
        "UPDATE shop_landing.customers SET credit = credit + 0.01 WHERE id = 7",
        "UPDATE shop_landing.customers SET name = NULL, mail = 'z' WHERE id = 8",
        "DELETE FROM shop_landing.customers WHERE id IN (9, 10)",
        "INSERT INTO shop_landing.customers (id, name) VALUES (5000, 'ghost')",
        "UPDATE shop_landing.lines SET seen_at = seen_at + INTERVAL '1 microsecond' WHERE order_id = 3 AND line = 2",
    )
    found = shop.verify(method=method)
    customers, lines = found["customers"], found["lines"]
    assert customers.status == "different"
    assert customers.method == method or (method == "buckets" and "bucket" in customers.why), customers.why
    assert (customers.different, customers.only_in_origin, customers.only_in_destination) == (2, 2, 1)
    assert dict(customers.columns) == {"credit": 1, "name": 1, "mail": 1}
    told = {(d.kind, d.key["id"]): d for d in customers.examples}
    assert sorted(told) == [
        ("different", "7"), ("different", "8"), ("only_in_destination", "5000"),
        ("only_in_origin", "10"), ("only_in_origin", "9"),
    ]  # fmt: skip
    assert (told["different", "7"].origin["credit"], told["different", "7"].destination["credit"]) == ("8.75", "8.76")
    assert (told["different", "8"].origin["name"], told["different", "8"].destination["name"]) == ("c8", None)
    assert (lines.different, lines.differences, dict(lines.columns)) == (1, 1, {"seen_at": 1})
    assert lines.examples[0].key == {"order_id": "3", "line": "2"}


def test_a_writer_at_full_speed_raises_no_false_alarm(shop: Shop, database: str) -> None:
    with writing(database) as done:
        for number in range(RUNS):
            before = done[0]
            found = shop.verify(method=METHODS[number % 3])
            assert [(p.node, p.status, p.error) for p in found.values() if not p.is_equal] == [], f"seed {SEED}"
            assert done[0] > before, "the writer wrote meanwhile"


def test_one_corrupted_row_is_found_each_time_under_the_writer(shop: Shop, database: str) -> None:
    chance = random.Random(SEED)
    with writing(database):
        for number in range(RUNS):
            column, value = chance.choice(
                [("what", "what || chr(1)"), ("seen_at", "seen_at + INTERVAL '1 microsecond'")]
            )
            order = chance.randrange(1, 700)  # lines 2 and 3, which the writer leaves alone
            spoilt = f"UPDATE shop_landing.lines SET {column} = {{}} WHERE order_id = {order} AND line = 3"
            shop.spoil(spoilt.format(value))
            found = shop.verify(method=METHODS[number % 3])
            assert found["customers"].is_equal, f"seed {SEED}"
            assert (found["lines"].different, found["lines"].differences) == (1, 1), f"seed {SEED}"
            assert found["lines"].examples[0].key == {"order_id": str(order), "line": "3"}
            back = "left(what, -1)" if column == "what" else "seen_at - INTERVAL '1 microsecond'"
            shop.spoil(spoilt.format(back))


@pytest.mark.parametrize("change", ["TRUNCATE {}", "ALTER TABLE {} RENAME {} TO other"])
def test_a_table_that_is_not_as_it_was_when_its_turn_comes_is_compared_at_a_later_point(
    shop: Shop, filled: psycopg.Connection, change: str
) -> None:
    """In the snapshot of the point it would look empty. And whoever was compared is not locked any more."""
    points: dict[str, str] = {}

    def meanwhile(pair: object, parity: Parity) -> Parity:
        name = parity.node.removeprefix(NODE)
        other = {"customers": "lines", "lines": "customers"}[name]
        filled.execute("SET lock_timeout = '20s'")
        column = {"customers": "name", "lines": "what"}[other]
        filled.execute((f"ALTER TABLE {other} ADD late int" if points else change.format(other, column)).encode())
        points[name] = parity.at
        return parity

    parities = verify(shop.project, VerifyOptions(), Silent(), meanwhile)
    assert [(p.status, p.error) for p in parities] == [("equal", None)] * 2
    assert len(set(points.values())) == 2
    assert change != "TRUNCATE {}" or sorted(p.rows_origin or 0 for p in parities)[0] == 0
    assert {p.status for p in shop.verify().values()} == {"equal"}


def test_what_was_compared_before_the_origin_broke_off_stays(
    shop: Shop, filled: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = shop.project.sources
    shop.project = replace(
        shop.project, sources=(replace(source, tables=(*source.tables, table("more", "initial_copy"))),)
    )
    filled.execute("CREATE TABLE more (id int PRIMARY KEY)")
    shop.sync()
    port = urlsplit(database).port or 5432
    proxy = Proxy("127.0.0.1", port)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database.replace(f":{port}/", f":{proxy.port}/"))

    def cut(pair: object, parity: Parity) -> Parity:
        proxy.reset()
        while filled.execute("SELECT 1 FROM pg_replication_slots WHERE temporary").fetchall():
            pass  # the server sees it in a moment, and the snapshot ends
        return parity

    try:
        first, second, other = verify(shop.project, VerifyOptions(), Silent(), cut)
        assert (first.status, second.status) == ("equal", "failed")
        assert other.status == "equal", "it needs no snapshot of the slot, and has a connection of its own"
        assert {p.status for p in shop.verify().values()} == {"equal"}, "the same command again"
    finally:
        proxy.close()
    left = filled.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
    assert left == [("dbt_bridge_verify_test",)]


def test_whoever_follows_another_source_has_the_duckdb_file_and_lets_go_too(shop: Shop, database: str) -> None:
    (source,) = shop.project.sources
    other = replace(
        source, name="more", slot="dbt_bridge_verify_other",
        tables=(replace(table("customers", "initial_copy"), node="source.shop.more.customers"),),
        landing_schema="more", defaults=replace(source.defaults, node="source.shop.more"),
    )  # fmt: skip
    shop.project = replace(shop.project, sources=(source, other))
    shop.sync()
    lease, asked = LandingLease("shop", "shop_pg", database, source.slot), []
    assert lease.take()

    def follow() -> None:
        while not lease.is_wanted():
            pass
        asked.append(lease.source)
        lease.let_go()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    shop.project = replace(shop.project, needed=frozenset({"source.shop.more.customers"}))
    (parity,) = verify(shop.project, VerifyOptions(), Silent())
    assert (parity.status, asked) == ("equal", ["shop"])
    thread.join()


def test_no_lock_is_taken_that_a_writer_waits_for(shop: Shop, filled: psycopg.Connection) -> None:
    """While both sides are compared, rows change and nobody waits."""
    seen: list[str] = []

    def meanwhile(pair: object, parity: Parity) -> Parity:
        filled.execute("SET lock_timeout = '20s'")
        filled.execute("UPDATE customers SET name = 'meanwhile' WHERE id = 1")
        filled.execute("ALTER TABLE lines ALTER what SET STATISTICS 50")
        seen.append(parity.node)
        return parity

    parities = verify(shop.project, VerifyOptions(), Silent(), meanwhile)
    assert [p.status for p in parities] == ["equal", "equal"]
    assert len(seen) == 2
    assert shop.verify()["customers"].is_equal


def test_tables_that_follow_no_log_are_compared_now_without_rows_in_flight(
    project: Project, warehouse_file: Path, filled: psycopg.Connection
) -> None:
    filled.execute("ALTER TABLE customers ADD updated_at timestamptz NOT NULL DEFAULT '2026-01-01'")
    shop = Shop(
        project, warehouse_file, table("customers", "incremental", cursor="updated_at"), table("lines", "initial_copy")
    )
    shop.sync()
    filled.execute("UPDATE customers SET name = 'newer', updated_at = now() WHERE id <= 5")
    filled.execute("INSERT INTO customers VALUES (9000, 'new', NULL, NULL, now())")
    filled.execute("INSERT INTO lines VALUES (9000, 1, 'new', NULL)")
    found = shop.verify()
    assert (found["customers"].status, found["customers"].in_flight) == ("equal", 6)
    assert "updated_at <= 2026-01-01" in found["customers"].at
    assert (found["lines"].status, found["lines"].only_in_origin, found["lines"].at) == ("different", 1, "now")
    everything = shop.verify(bound="none")["customers"]
    assert (everything.status, everything.different, everything.only_in_origin) == ("different", 5, 1)


def test_soft_deletes_histories_logs_and_masks_hold_what_the_origin_has(
    project: Project, warehouse_file: Path, filled: psycopg.Connection
) -> None:
    for name in ("soft", "kept", "log", "masked"):
        filled.execute(f"CREATE TABLE {name} (LIKE customers INCLUDING ALL)".encode())
        filled.execute(f"INSERT INTO {name} SELECT * FROM customers WHERE id <= 50".encode())
    shop = Shop(
        project, warehouse_file,
        table("soft", deletes="soft"), table("kept", history=True), table("log", write_disposition="append"),
        table("masked", mask={"mail": "sha256"}, columns=Columns(exclude=("credit",))),
    )  # fmt: skip
    shop.sync()
    for name in ("soft", "kept", "log", "masked"):
        filled.execute(f"DELETE FROM {name} WHERE id > 40".encode())
        filled.execute(f"UPDATE {name} SET mail = 'm' || id, name = NULL WHERE id < 20".encode())
        filled.execute(f"INSERT INTO {name} VALUES (45, 'back', 'b', 1)".encode())
    found = shop.verify()
    assert {name: (p.status, p.rows_destination, p.error) for name, p in found.items()} == dict.fromkeys(
        ("soft", "kept", "log", "masked"), ("equal", 41, None)
    )
    shop.spoil("UPDATE shop_landing.masked SET mail = 'secret' WHERE id = 3")
    masked = shop.verify()["masked"]
    assert (masked.different, dict(masked.columns)) == (1, {"mail": 1})
    assert "mail" not in masked.examples[0].origin and "secret" not in str(masked.as_json())


def test_what_could_not_be_compared_is_a_failure(shop: Shop, filled: psycopg.Connection) -> None:
    tables = (table("customers"), table("nowhere"), table("lines", "initial_copy"))
    shop.project = replace(
        shop.project,
        sources=(replace(shop.project.sources[0], tables=tables),),
    )  # fmt: skip
    shop.spoil("DROP TABLE shop_landing.lines")
    found = shop.verify()
    assert found["customers"].is_equal
    assert found["nowhere"].status == "failed" and "nowhere" in (found["nowhere"].error or "")
    assert found["lines"].status == "failed" and "dbt-bridge sync" in (found["lines"].error or "")


def test_a_search_path_with_things_of_the_users_own_shadows_nothing(shop: Shop, filled: psycopg.Connection) -> None:
    """Settings that are looked up by name, and functions that take numbers more exactly than the server's own."""
    filled.execute(
        """
        CREATE SCHEMA own
        CREATE VIEW pg_settings AS SELECT * FROM pg_catalog.pg_settings WHERE false;
        CREATE FUNCTION own.hash_record_extended(record, int) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
        CREATE FUNCTION own.float8send(float8) RETURNS bytea LANGUAGE sql RETURN ''::bytea;
        CREATE FUNCTION own.below(numeric, int) RETURNS boolean LANGUAGE sql RETURN true;
        CREATE OPERATOR own.< (LEFTARG = numeric, RIGHTARG = int, FUNCTION = own.below);
        """
    )
    for setting in ("search_path = own, pg_catalog, public", "DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kolkata'"):
        filled.execute(f"ALTER DATABASE {filled.info.dbname} SET {setting}".encode())
    for method in METHODS:
        assert {p.status for p in shop.verify(method=method).values()} == {"equal"}, method
    shop.spoil("UPDATE shop_landing.customers SET credit = -credit WHERE id = 7")
    assert [shop.verify(method=method)["customers"].different for method in METHODS] == [1, 1, 1]


def test_tables_that_only_the_origin_knows_are_a_failure_where_it_is_gone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that passes for want of an origin is none."""
    (source,) = shop.project.sources
    shop.project = replace(shop.project, sources=(replace(source, tables=(), every_table=True),))
    assert {p.status for p in shop.verify().values()} == {"equal"}
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", "postgresql://nobody@127.0.0.1:1/nowhere")
    (failed,) = shop.verify().values()
    assert (failed.status, failed.node, failed.origin) == ("failed", f"{NODE}*", "shop_pg: public.*")
    assert "127.0.0.1:1" in (failed.error or "")


@pytest.mark.parametrize("level", ["counts", "aggregates"])
def test_the_lighter_levels_see_what_they_can(shop: Shop, level: str) -> None:
    assert {p.status for p in shop.verify(level=level).values()} == {"equal"}
    shop.spoil("DELETE FROM shop_landing.customers WHERE id = 7")
    found = shop.verify(level=level)
    assert (found["customers"].status, found["lines"].status) == ("different", "equal")
    assert (found["customers"].rows_origin, found["customers"].rows_destination) == (2000, 1999)
    if level == "aggregates":
        wrong = {(a.column, a.what) for a in found["customers"].aggregates if not a.same}
        assert ("credit", "sum") in wrong
