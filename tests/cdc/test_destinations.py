"""The same stories of a cdc source at each kind of destination."""

from __future__ import annotations

import psycopg
import pytest
from tests.cdc.ends import End
from tests.projects import table

from dbt_bridge.nouns.bridge_keys import Columns

COLUMNS = "id, customer, amount, note, doc, made"


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric(12,2), note text, doc jsonb,"
        " made timestamptz DEFAULT '2026-01-01')"
    )
    origin.execute(
        "INSERT INTO orders SELECT g, 'c' || g, g * 1.25, repeat(md5(g::text), 200), jsonb_build_object('n', g)"
        " FROM generate_series(1, 200) g"
    )
    return origin


def same(shop: psycopg.Connection, end: End, columns: str = COLUMNS) -> None:
    text = ", ".join(f"CAST({c} AS text)" if c in ("amount", "doc") else c for c in columns.split(", "))
    theirs = shop.execute(f"SELECT {text} FROM orders ORDER BY 1".encode()).fetchall()  # noqa: S608
    assert end.rows("orders", text) == theirs


def test_copy_then_every_kind_of_change(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders"))
    same(shop, end)
    with shop.transaction():
        shop.execute("UPDATE orders SET amount = amount + 1 WHERE id <= 20")  # the long note is not sent
        shop.execute("UPDATE orders SET id = id + 10000 WHERE id BETWEEN 30 AND 35")
        shop.execute("DELETE FROM orders WHERE id BETWEEN 40 AND 50")
        shop.execute(
            "INSERT INTO orders VALUES (45, 'again', 1, 'short', NULL, NULL), (999, '', NULL, NULL, '[]', NULL)"
        )
    end.sync(table("orders"))
    same(shop, end)
    shop.execute("TRUNCATE orders")
    shop.execute("INSERT INTO orders VALUES (1, 'after', 2, NULL, NULL, now())")
    end.sync(table("orders"))
    same(shop, end)


def test_columns_come_and_change_their_names(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders"))
    shop.execute("ALTER TABLE orders ADD COLUMN tag text")
    shop.execute("UPDATE orders SET tag = 'x' WHERE id < 5")
    end.sync(table("orders"))
    same(shop, end, f"{COLUMNS}, tag")
    shop.execute("ALTER TABLE orders RENAME COLUMN tag TO label")
    shop.execute("UPDATE orders SET label = 'y' WHERE id = 7")
    end.sync(table("orders"))
    same(shop, end, "id, customer, label")


def test_deleted_rows_are_kept_with_the_time(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders", deletes="soft"))
    shop.execute("DELETE FROM orders WHERE id <= 3")
    end.sync(table("orders", deletes="soft"))
    assert [row for (row,) in end.rows("orders", "id")] == list(range(1, 201))
    gone = [id_ for id_, at in end.rows("orders", "id, _deleted_at") if at is not None]
    assert gone == [1, 2, 3]
    shop.execute("INSERT INTO orders (id) VALUES (2)")
    end.sync(table("orders", deletes="soft"))
    assert [id_ for id_, at in end.rows("orders", "id, _deleted_at") if at is not None] == [1, 3]


def test_history_keeps_every_committed_version(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders", history=True))
    shop.execute("UPDATE orders SET customer = 'second' WHERE id = 1")
    shop.execute("UPDATE orders SET customer = 'third' WHERE id = 1")
    shop.execute("DELETE FROM orders WHERE id = 1")
    end.sync(table("orders", history=True))
    versions = [
        row for row in end.rows("orders_history", "id, customer, valid_from, valid_to, length(note)") if row[0] == 1
    ]
    versions.sort(key=lambda row: row[2])
    assert [row[1] for row in versions] == ["c1", "second", "third"]
    assert [row[3] for row in versions[:-1]] == [row[2] for row in versions[1:]]
    assert all(row[3] is not None and row[4] == 6400 for row in versions)
    assert len(end.rows("orders_history", "id")) == 202


def test_a_log_of_changes(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders", write_disposition="append"))
    shop.execute("UPDATE orders SET customer = 'x' WHERE id = 1")
    shop.execute("DELETE FROM orders WHERE id = 2")
    end.sync(table("orders", write_disposition="append"))
    log = end.rows("orders", "_lsn, _change, id, customer")
    changes = [(change, id_, customer) for _, change, id_, customer in log if change != "insert"]
    assert changes == [("update", 1, "x"), ("delete", 2, None)]
    assert len(log) == 202


def test_a_masked_value_never_lands(shop: psycopg.Connection, end: End) -> None:
    masked = table("orders", mask={"customer": "sha256"}, columns=Columns(exclude=("note",)))
    end.sync(masked)
    shop.execute("UPDATE orders SET customer = 'somebody' WHERE id = 5")
    end.sync(masked)
    import hashlib

    assert dict(end.rows("orders", "id, customer"))[5] == hashlib.sha256(b"somebody").hexdigest()
    assert dict(end.rows("orders", "id, customer"))[6] == hashlib.sha256(b"c6").hexdigest()


def test_a_full_refresh_copies_anew(shop: psycopg.Connection, end: End) -> None:
    end.sync(table("orders"))
    shop.execute("DELETE FROM orders WHERE id > 100")
    (receipt,) = [r for r in end.sync(table("orders"), full_refresh=True) if r.hop == "initial_copy"]
    assert receipt.rows_loaded == 100
    shop.execute("UPDATE orders SET note = NULL")
    end.sync(table("orders"))
    same(shop, end)


def test_a_value_that_only_the_origin_can_hold_sets_its_table_aside(shop: psycopg.Connection, end: End) -> None:
    """A year before Christ is no value of a lake: found when it is written, and the other table goes on."""
    shop.execute("CREATE TABLE others (id int PRIMARY KEY)")
    end.sync(table("orders"), table("others"))
    shop.execute("UPDATE orders SET made = '0044-03-15 BC' WHERE id = 1")
    shop.execute("INSERT INTO others VALUES (1)")
    receipts = {r.node.rpartition(".")[2]: r for r in end.sync(table("orders"), table("others"), check=False)}
    assert receipts["others"].status == "success"
    assert [row for (row,) in end.rows("others", "id")] == [1]
    if end.destination == "lake":
        assert receipts["orders"].status == "failed" and "BC" in (receipts["orders"].error or "")
        shop.execute("UPDATE orders SET made = now() WHERE id = 1")
        end.sync(table("orders"), table("others"))
        same(shop, end)
    else:
        assert receipts["orders"].status == "success"
