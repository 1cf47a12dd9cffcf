"""Transactions that are made at an origin: exactly so many, valid, and the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.cli import run_command
from dbt_bridge.demo import shop
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.simulate.mix import Mix, simulate


def rows(origin: psycopg.Connection, table: str) -> list[tuple[object, ...]]:
    return origin.execute(f"TABLE {table} ORDER BY 1".encode()).fetchall()


@pytest.fixture
def filled(origin: psycopg.Connection, database: str) -> str:
    shop.fill(database, shop.Sizes.of_scale(0.01))
    return database


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0.5, 50),
    st.floats(0.5, 20),
    st.integers(0, 9),
)
def test_a_rate_over_a_time_is_a_number_in_proportion(
    i: int, u: int, d: int, rate: float, time: float, seed: int
) -> None:
    if not i + u + d:
        return
    mix = Mix(i, u, d, rate, time, seed)
    wanted, counts = round(rate * time), mix.counts()
    assert sum(counts.values()) == wanted
    for count, part in zip(counts.values(), (i, u, d), strict=True):
        assert abs(count - wanted * part / (i + u + d)) < 1
    assert Counter(mix.order()) == Counter(counts)
    assert mix.order() == mix.order()


def test_without_both_the_numbers_are_as_given() -> None:
    assert list(Mix(3, 2, 1, rate=5).counts().values()) == [3, 2, 1]
    assert Mix(3, 2, 1, seconds=12).pace() == 2
    assert (Mix(3, 2, 1, rate=5).pace(), Mix(1, 0, 0).pace()) == (0.2, None)
    with pytest.raises(UsageError, match="all three numbers are 0"):
        Mix(0, 0, 0).counts()


def test_the_shop_does_so_much_business_and_its_books_are_right(filled: str, origin: psycopg.Connection) -> None:
    orders = len(rows(origin, "shop.orders"))
    made = simulate(filled, Mix(40, 60, 20, seed=7))
    assert (made.inserts, made.updates, made.deletes) == (40, 60, 20)
    assert len(rows(origin, "shop.orders")) == orders + 40 - 20
    assert made.rows["shop.orders"]["insert"] == 40
    assert made.rows["shop.orders"]["delete"] == 20
    assert sum(made.rows[f"shop.{table}"]["update"] for table in ("orders", "customers", "products")) == 60
    wrong = origin.execute("""
        SELECT o.order_id FROM shop.orders o
        LEFT JOIN shop.order_items i USING (order_id)
        GROUP BY o.order_id
        HAVING o.total_amount IS DISTINCT FROM sum(round(i.quantity * i.unit_price * (1 - i.discount), 2))
        UNION ALL
        SELECT o.order_id FROM shop.orders o JOIN shop.payments p USING (order_id)
        WHERE NOT p.refunded
        GROUP BY o.order_id
        HAVING sum(p.amount) > o.total_amount
    """).fetchall()
    assert wrong == []


def test_every_transaction_is_one_commit_with_the_rows_that_are_told(filled: str, origin: psycopg.Connection) -> None:
    both = "SELECT xmin FROM shop.orders UNION ALL SELECT xmin FROM shop.order_items"
    xids = f"SELECT count(DISTINCT xmin::text) FROM ({both}) t"  # noqa: S608
    before = origin.execute(xids).fetchall()[0][0]  # type: ignore[call-overload]
    lines = len(rows(origin, "shop.order_items"))
    made = simulate(filled, Mix(25, 0, 0))
    assert origin.execute(xids).fetchall()[0][0] == before + 25  # type: ignore[call-overload]
    assert len(rows(origin, "shop.order_items")) == lines + made.rows["shop.order_items"]["insert"]


def test_the_same_seed_makes_the_same_choices(filled: str, origin: psycopg.Connection) -> None:
    chosen = []
    for seed in (1, 1, 2):
        origin.execute("DROP SCHEMA shop CASCADE")
        shop.fill(filled, shop.Sizes.of_scale(0.01))
        simulate(filled, Mix(10, 10, 5, seed=seed))
        books = "SELECT order_id, customer_id, address_id, status, total_amount, note FROM shop.orders ORDER BY 1"
        chosen.append(
            (origin.execute(books).fetchall(), rows(origin, "shop.order_items"), rows(origin, "shop.products"))
        )
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_shop_that_is_sold_out_says_so(filled: str, origin: psycopg.Connection) -> None:
    origin.execute("TRUNCATE shop.orders CASCADE")
    with pytest.raises(OriginError, match="no order left"):
        simulate(filled, Mix(0, 0, 1))


TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS int CHECK (value IS NOT NULL);
CREATE TABLE country (code char(2) PRIMARY KEY, name varchar(20) NOT NULL UNIQUE);
INSERT INTO country VALUES ('AT', 'Austria'), ('DE', 'Germany');
CREATE TABLE person (
    id int PRIMARY KEY, country char(2) NOT NULL REFERENCES country, boss int REFERENCES person,
    "Full Name" text, mood mood, moods mood[], born date, at timestamptz, paid numeric(6,2), big numeric, ratio float8,
    tags text[], doc jsonb, raw bytea, token uuid UNIQUE, span interval, ip inet, flag bool, shape point,
    upper_name text GENERATED ALWAYS AS (upper("Full Name")) STORED
);
CREATE TABLE visit (
    person int REFERENCES person, n bigint GENERATED ALWAYS AS IDENTITY, note text, PRIMARY KEY (person, n)
);
CREATE TABLE log (at timestamp NOT NULL, what text);
CREATE TABLE event (id bigint, day date NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE event_all PARTITION OF event DEFAULT;
"""


def test_any_tables_get_single_rows_that_keep_their_keys(origin: psycopg.Connection, database: str) -> None:
    origin.execute(TABLES)
    made = simulate(database, Mix(200, 80, 60, seed=3), ["person", "public.visit", "log", "event"])
    assert (made.inserts, made.updates, made.deletes) == (200, 80, 60)
    totals = {what: sum(counts[what] for counts in made.rows.values()) for what in ("insert", "update", "delete")}
    assert totals == {"insert": 200, "update": 80, "delete": 60}
    assert set(made.rows) == {"public.person", "public.visit", "public.log", "public.event"}
    for table, counts in made.rows.items():
        assert len(rows(origin, table)) == counts["insert"] - counts["delete"], table
    assert len(rows(origin, "country")) == 2, "a table that was not named is left alone"
    assert made.rows["public.event"]["update"] == 0, "it has no columns outside of its key"


def test_the_same_seed_goes_on_after_itself(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE token (id uuid PRIMARY KEY, name text UNIQUE)")
    for _ in range(2):
        simulate(database, Mix(10, 0, 0, seed=1), ["token"])
    assert len(rows(origin, "token")) == 20


def test_globs_name_tables_and_a_slip_names_what_there_is(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE a_one (id int PRIMARY KEY); CREATE TABLE b_two (id int PRIMARY KEY)")
    assert set(simulate(database, Mix(5, 0, 0), ["public.a_*"]).rows) == {"public.a_one"}
    with pytest.raises(UsageError, match="--tables c_one") as refused:
        simulate(database, Mix(5, 0, 0), ["c_one"])
    assert "public.a_one, public.b_two" in refused.value.mend
    with pytest.raises(OriginError, match="update: not possible"):
        simulate(database, Mix(0, 1, 0), ["a_one"])
    with pytest.raises(UsageError, match="no schema `shop`"):
        simulate(database, Mix(1, 0, 0))


def test_a_pace_is_kept(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE t (id int PRIMARY KEY)")
    made = simulate(database, Mix(2, 0, 0, rate=40, seconds=0.5), ["t"])
    assert (made.inserts, len(rows(origin, "t"))) == (20, 20)
    assert 0.47 <= made.seconds < 60


def test_the_command_prints_what_it_did(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(["simulate", "3", "2", "1", "--url", filled, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)["simulated"]
    assert (done["inserts"], done["updates"], done["deletes"]) == (3, 2, 1)
    assert run_command(["simulate", "3", "2", "1", "--url", filled]) == 0
    assert "6 transactions in" in capsys.readouterr().out
    assert run_command(["simulate", "0", "0", "0", "--url", filled]) == 2


def test_an_origin_that_is_no_demo_is_not_written_to_unasked(
    filled: str, origin: psycopg.Connection, dbt_root, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(dbt_root)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", filled)
    before = rows(origin, "shop.orders")
    assert run_command(["simulate", "1", "0", "0", "--json"]) == 2
    assert rows(origin, "shop.orders") == before
    assert run_command(["simulate", "1", "0", "0", "--yes"]) == 0
    (dbt_root / ".dbt-bridge-demo.json").write_text("{}")
    assert run_command(["simulate", "1", "0", "0"]) == 0
    assert len(rows(origin, "shop.orders")) == len(before) + 2
