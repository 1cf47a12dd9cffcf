"""Transactions that rotate keys: two rows have one key for a moment, and the origin looks at the end."""

from __future__ import annotations

import random

import psycopg
import pytest
from tests.cdc.ends import End
from tests.chance import SEED
from tests.projects import table

STEPS = 300


@pytest.fixture
def queue(origin: psycopg.Connection) -> psycopg.Connection:
    """Ten rows in places that are exchanged."""
    origin.execute("CREATE TABLE queue (place int PRIMARY KEY DEFERRABLE, name text, note text)")
    origin.execute("ALTER TABLE queue REPLICA IDENTITY FULL")
    origin.execute("ALTER TABLE queue ALTER note SET STORAGE EXTERNAL")
    origin.execute("INSERT INTO queue SELECT i, 'n' || i, repeat(chr(64 + i), 3000) FROM generate_series(1, 10) i")
    return origin


def same(origin: psycopg.Connection, end: End) -> None:
    columns = "place, name, md5(note)"
    assert end.rows("queue", columns) == origin.execute(f"SELECT {columns} FROM queue ORDER BY 1".encode()).fetchall()  # noqa: S608


@pytest.mark.parametrize(
    "rotation",
    [
        "UPDATE queue SET place = 3 - place WHERE place < 3",
        "UPDATE queue SET place = 2 WHERE place = 1; UPDATE queue SET place = 1 WHERE place = 2 AND name = 'n2'",
        "UPDATE queue SET place = place % 10 + 1",
        "UPDATE queue SET place = 2 WHERE place = 1; UPDATE queue SET place = 30 WHERE name = 'n1'",
        "INSERT INTO queue VALUES (4, 'new', 'x'); DELETE FROM queue WHERE name = 'n4'",
        "INSERT INTO queue VALUES (4, 'new', 'x'); DELETE FROM queue WHERE name = 'new'",
        "INSERT INTO queue VALUES (4, 'n4', repeat(chr(68), 3000)); DELETE FROM queue WHERE ctid = (SELECT min(ctid)"
        " FROM queue WHERE place = 4)",
        "UPDATE queue SET place = 5, name = 'x' WHERE place = 6; UPDATE queue SET name = 'y' WHERE name = 'x';"
        " DELETE FROM queue WHERE name = 'n5'; INSERT INTO queue VALUES (6, 'z', NULL)",
    ],
)
def test_a_rotation_is_applied(queue: psycopg.Connection, end: End, rotation: str) -> None:
    if end.kind != "duckdb" and "%" not in rotation:
        pytest.skip("one of them is enough where it does not depend on the destination")
    end.sync(table("queue"))
    with queue.transaction():
        queue.execute("SET CONSTRAINTS ALL DEFERRED")
        queue.execute(rotation.encode())
    end.sync(table("queue"))
    same(queue, end)


def test_a_row_that_is_deleted_in_the_place_of_another_one_is_kept_under_its_own(
    queue: psycopg.Connection, end: End
) -> None:
    """Where it was deleted last stands the other one; what is kept of it is what it was before."""
    if end.kind != "duckdb":
        pytest.skip("it does not depend on the destination")
    landing = table("queue", deletes="soft")
    end.sync(landing)
    with queue.transaction():
        queue.execute("SET CONSTRAINTS ALL DEFERRED")
        queue.execute("UPDATE queue SET place = 2 WHERE place = 1; DELETE FROM queue WHERE name = 'n1'")
        queue.execute("UPDATE queue SET place = 4 WHERE place = 3; UPDATE queue SET place = 30 WHERE name = 'n3'")
    end.sync(landing)
    found = end.rows("queue", "place, name, _deleted_at IS NULL")
    assert found[:3] == [(1, "n1", False), (2, "n2", True), (4, "n4", True)]
    assert found[-1] == (30, "n3", True), "one that goes on has no mark anywhere"


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_any_transactions_are_applied(queue: psycopg.Connection, end: End, deletes: str) -> None:
    """By chance; what leaves two rows with one key is rolled back by the origin."""
    if deletes == "soft" and end.kind == "lake":
        pytest.skip("Delta with hard deletes is enough")
    seed = SEED
    print(f"seed {seed}")
    chance = random.Random(seed)
    landing = table("queue", deletes=deletes, history=True)
    end.sync(landing)
    for _ in range(2):
        _change(queue, chance)
        end.sync(landing)
        alive = "_deleted_at IS NULL" if deletes == "soft" else "true"
        found = [row[1:] for row in end.rows("queue", f"{alive}, place, name, md5(note)") if row[0]]
        assert sorted(found) == queue.execute("SELECT place, name, md5(note) FROM queue ORDER BY 1").fetchall()
        history = end.rows("queue_history", "valid_to IS NULL, place, name, md5(note)")
        assert sorted(row[1:] for row in history if row[0]) == sorted(found), "the open versions are the rows"


def _change(origin: psycopg.Connection, chance: random.Random) -> None:
    for number in range(STEPS // 6):
        steps = []
        for step in range(chance.randrange(1, 6)):
            one, other = chance.randrange(1, 9), chance.randrange(1, 9)
            row = f"(SELECT ctid FROM queue WHERE place = {one} ORDER BY ctid LIMIT 1 OFFSET {chance.randrange(2)})"  # noqa: S608
            every = (
                f"INSERT INTO queue VALUES ({one}, 'i{number}-{step}', repeat('{number % 10}', {one * 1000}))",  # noqa: S608
                f"UPDATE queue SET place = {other} WHERE ctid = {row}",  # noqa: S608
                f"UPDATE queue SET place = {other} WHERE place = {one}",  # noqa: S608
                f"UPDATE queue SET name = 'u{number}-{step}' WHERE ctid = {row}",  # noqa: S608
                f"DELETE FROM queue WHERE ctid = {row}",  # noqa: S608
                f"UPDATE queue SET place = {one} + {other} - place WHERE place IN ({one}, {other})",  # noqa: S608
            )
            steps.append(chance.choice(every))
        try:
            with origin.transaction():
                origin.execute("SET CONSTRAINTS ALL DEFERRED")
                origin.execute("; ".join(steps).encode())
        except psycopg.errors.UniqueViolation:
            continue
