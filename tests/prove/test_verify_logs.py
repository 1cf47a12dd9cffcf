"""Logs of changes against their origins: with a key, without one, and of a table that is only inserted into.

The oracle is SQL over the log in one engine: what came EXCEPT ALL what went, of which nothing here knows the bridge's
own folding. DBT_BRIDGE_SEED plays one seed again.
"""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.projects import table
from tests.prove.test_verify import SEED, Shop

from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.repair import RepairOptions, repair

Ask = Callable[[str], list[tuple[object, ...]]]
STEPS = max(40, int(os.environ.get("DBT_BRIDGE_RUNS", "0")))
COLUMNS = "what text, amount numeric, lasting interval, big text"
# Values that are equal in some engine and yet are two: 1.0 and 1.00, a month and its 30 days, NULL and ''.
VALUES = [
    "('a', 1.0, '1 mon', NULL)", "('a', 1.00, '30 days', NULL)", "('', NULL, NULL, NULL)", "(NULL, NULL, NULL, NULL)",
    "('b', 'NaN', '1 day 2 hours', repeat('x', 9))",
    "('long', 7, NULL, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400) g))",
]  # fmt: skip


@pytest.fixture
def shop(project: Project, warehouse_file: Path) -> Shop:
    return Shop(project, warehouse_file, table("log", write_disposition="append"))


def change(origin: psycopg.Connection, chance: random.Random) -> None:
    """One change of some row: of equal rows just one."""
    one = f"ctid = (SELECT ctid FROM log ORDER BY md5(ctid::text || '{chance.random()}') LIMIT 1)"
    origin.execute(
        chance.choice(
            [
                f"INSERT INTO log VALUES {chance.choice(VALUES)}",
                f"INSERT INTO log VALUES {chance.choice(VALUES)}",
                f"UPDATE log SET what = 'u' WHERE {one}",  # a large value is not sent again
                f"UPDATE log SET (what, amount, lasting, big) = ROW{chance.choice(VALUES)} WHERE {one}",
                f"UPDATE log SET what = what WHERE {one}",
                f"DELETE FROM log WHERE {one}",
            ]
        ).encode()
    )


def test_a_log_of_a_table_without_a_key_is_folded_to_the_rows_that_its_origin_has(
    shop: Shop, origin: psycopg.Connection, landed: Ask
) -> None:
    chance = random.Random(SEED)
    origin.execute(f"CREATE TABLE log ({COLUMNS})".encode())
    origin.execute("ALTER TABLE log REPLICA IDENTITY FULL")
    origin.execute(f"INSERT INTO log VALUES {', '.join(VALUES + VALUES[:2])}".encode())
    shop.sync()
    for part in range(3):
        if part == 1:
            origin.execute("TRUNCATE log")
        for _ in range(STEPS // 3):
            change(origin, chance)
        found = shop.verify(method=chance.choice(["digests", "buckets", "values"]))["log"]
        assert (found.status, found.error) == ("equal", None), f"seed {SEED}"
        rows = origin.execute("SELECT what, amount::text, lasting::text, length(big) FROM log").fetchall()
        assert found.rows_origin == found.rows_destination == len(rows)
    emptied = "(SELECT max(_lsn) FROM shop_landing.log WHERE _change = 'truncate')"
    columns = "what, amount, CAST(lasting AS VARCHAR) AS lasting, length(big) AS big"
    some = f"SELECT {columns} FROM shop_landing.log WHERE _lsn > {emptied}"
    came, went = (f"{some} AND _change {sign} 'delete'" for sign in ("<>", "="))
    left = landed(f"SELECT what, NULL, big, count(*) FROM (({came}) EXCEPT ALL ({went})) GROUP BY ALL")
    ours = Counter((what, big) for what, _, _, big in rows)
    theirs: Counter[tuple[object, ...]] = Counter()
    for what, _, big, times in left:
        theirs[what, big] += int(str(times))
    assert theirs == ours, f"seed {SEED}"


def test_each_row_too_much_or_too_few_is_found_and_repaired(
    shop: Shop, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute(f"CREATE TABLE log ({COLUMNS})".encode())
    origin.execute("ALTER TABLE log REPLICA IDENTITY FULL")
    shop.sync()
    origin.execute(f"INSERT INTO log VALUES {', '.join(VALUES * 3)}".encode())
    origin.execute("DELETE FROM log WHERE what = 'b'")
    shop.sync()
    shop.spoil(
        "DELETE FROM shop_landing.log WHERE rowid = (SELECT min(rowid) FROM shop_landing.log WHERE what = 'long')",
        "INSERT INTO shop_landing.log SELECT * FROM shop_landing.log WHERE what = '' LIMIT 2",
    )
    found = shop.verify()["log"]
    assert (found.status, found.only_in_origin, found.only_in_destination) == ("different", 1, 2)
    done = repair(shop.project, RepairOptions(), Silent())
    assert (done.ok, [r.error for r in done.receipts]) == (True, [None])
    assert shop.verify()["log"].is_equal
    repairs = "SELECT _change, what FROM shop_landing.log WHERE _lsn IS NOT NULL ORDER BY _lsn DESC, _seq LIMIT 3"
    assert sorted(landed(repairs)) == [("delete", ""), ("delete", ""), ("insert", "long")]


def test_a_log_from_which_more_went_than_came_cannot_be_told_a_state(shop: Shop, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE log (what text)")
    origin.execute("ALTER TABLE log REPLICA IDENTITY FULL")
    origin.execute("INSERT INTO log VALUES ('a'), ('b')")
    shop.sync()
    origin.execute("DELETE FROM log WHERE what = 'a'")
    shop.sync()
    shop.spoil("DELETE FROM shop_landing.log WHERE _change = 'insert' AND what = 'a'")
    found = shop.verify()["log"]
    assert found.status == "failed"
    assert "more often than they came" in (found.error or "")
    assert "dbt-bridge sync --full-refresh --select source:shop.log" in (found.error or "")


def test_a_log_of_inserts_alone_is_what_its_origin_has_as_long_as_that_is_only_inserted_into(
    shop: Shop, origin: psycopg.Connection
) -> None:
    """Without a replica identity nothing but inserts is published."""
    origin.execute("CREATE TABLE log (what text)")
    origin.execute("INSERT INTO log VALUES ('a'), ('a'), (NULL)")
    shop.sync()
    origin.execute("INSERT INTO log VALUES ('a'), ('b')")
    found = shop.verify()["log"]
    assert (found.status, found.rows_origin, found.rows_destination) == ("equal", 5, 5)
    origin.execute("DELETE FROM log WHERE what = 'b'")
    found = shop.verify()["log"]
    assert (found.status, found.only_in_destination) == ("different", 1)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_a_row_whose_key_changed_is_in_the_log_under_its_new_key_alone(
    shop: Shop, origin: psycopg.Connection, landed: Ask, identity: str
) -> None:
    origin.execute("CREATE TABLE log (id int PRIMARY KEY, what text)")
    origin.execute(f"ALTER TABLE log REPLICA IDENTITY {identity}".encode())
    origin.execute("INSERT INTO log VALUES (1, 'a'), (2, 'b')")
    shop.sync()
    origin.execute("UPDATE log SET id = id + 10, what = what || '!' WHERE id = 1")
    origin.execute("UPDATE log SET what = what || '?'")
    found = shop.verify()["log"]
    assert (found.status, found.rows_destination) == ("equal", 2)
    assert landed(
        "SELECT _change, id, what FROM shop_landing.log WHERE _lsn IS NOT NULL ORDER BY _lsn, _seq"
    ) == [("delete", 1, None), ("update", 11, "a!"), ("update", 2, "b?"),
          ("update", 11, "a!?")]  # fmt: skip


def test_a_log_that_leaves_its_key_out_is_no_state(
    project: Project, warehouse_file: Path, origin: psycopg.Connection
) -> None:
    origin.execute("CREATE TABLE log (id int PRIMARY KEY, what text)")
    origin.execute("INSERT INTO log VALUES (1, 'a')")
    shop = Shop(project, warehouse_file, table("log", write_disposition="append", columns=Columns(exclude=("id",))))
    shop.sync()
    origin.execute("UPDATE log SET id = 3, what = 'b'")
    found = shop.verify()["log"]
    assert found.status == "failed"
    assert "without its key column 'id'" in (found.error or "")
